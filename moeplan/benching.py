"""``moeplan bench``: from a target to measured rows, a calibration, and a run that can be taken up again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ValidationError

from hwdetect.bench.case import KernelCase
from hwdetect.bench.layer import layer_sums
from hwdetect.bench.limits import last_level_cache_bytes, memory_allowance_bytes
from hwdetect.bench.result import BenchRow
from hwdetect.bench.suite import Outcome, Settings, Watch, run
from hwdetect.facts import known
from hwdetect.rates import disk_of
from moeplan.bench_cases import (
    MEMORY_CASE,
    candidate_cases,
    decode_only,
    is_plan,
    memory_cases,
    model_cases,
    read_plan,
    swept,
    with_machine,
)
from moeplan.bench_report import BenchReport, BenchSettings, measured_series
from moeplan.calibration import fingerprint, now, store_kernels
from moeplan.calibrations import AUTO, data_folder, place_of
from moeplan.cli.output import write_whole
from moeplan.pipeline import GENERATED_BY, read_model
from planner.errors import BadRequest
from planner.options import Options

if TYPE_CHECKING:
    from hwdetect.inventory import Inventory
    from planner.plan import Plan

Progress = Callable[[int, int], None]
Routing = Literal["uniform", "power_law", "replay"]
DEFAULT_MODEL: Final = "kimi-k2.5"
SECONDS: Final = 1.5
QUICK_SECONDS: Final = 0.4
QUICK_BUDGET_S: Final = 40.0
"""The case at hand when it is over may take some seconds more."""
TAKE_UP_WITHIN: Final = timedelta(days=1)
ROUTINGS: Final[tuple[Routing, ...]] = ("uniform", "power_law", "replay")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What ``moeplan bench`` was asked. ``trace`` makes the routing a replay; ``disk`` is a folder to read from.

    ``can_resume`` keeps what was measured so far for the next run of this machine. ``watch`` is who looks on.
    """

    quick: bool = False
    threads: int | None = None
    routing: Routing = "uniform"
    trace: str | None = None
    engine_pythons: tuple[str, ...] = ()
    library: str | None = None
    disk: str | None = None
    calibration: str = AUTO
    can_resume: bool = True
    watch: Watch = field(default_factory=Watch, repr=False, compare=False)


def bench(
    target: str | None,
    chosen: BenchOptions,
    *,
    plan: Plan | None = None,
    engine: str | None = None,
    quant: str | None = None,
    progress: Progress | None,
) -> BenchReport:
    """Measure the kernels of a plan, of a model's best configurations here, or of the default model.

    ``plan`` is one that was read already; ``target`` then only names it. Raises ``BadRequest``; what fails while
    measuring is in the report.
    """
    from hwdetect.detect import detect

    inventory = detect()
    name = target or DEFAULT_MODEL
    if plan is None and is_plan(name):
        plan = read_plan(Path(name))
    if plan is not None:
        found: dict[KernelCase, None] = {}
        for candidate in plan.candidates:
            found.update(dict.fromkeys(candidate_cases(candidate)))
        cases = list(found)
    else:
        cases = model_cases(Options(name, engine=engine, quant=quant), inventory, read_model(name))
    if not cases:
        raise BadRequest(f"{name}: the plan has no candidate, and so nothing to measure")
    cases = decode_only(cases) if chosen.quick else swept(cases)
    gpus = max(len(node.gpus) for node in inventory.nodes)
    whole = with_machine(cases, disk=chosen.disk is not None, gpus=gpus, numa=_numa(inventory))
    return measure(whole, inventory, chosen, progress)


def measure(
    cases: Sequence[KernelCase], inventory: Inventory, chosen: BenchOptions, progress: Progress | None
) -> BenchReport:
    """Measure cases on this machine and keep them in its calibration. Raises ``BadRequest``."""
    settings, notes = settings_of(chosen, inventory)
    machine, words = fingerprint(inventory), description(inventory)
    stated = BenchSettings(
        quick=chosen.quick, threads=settings.threads, seconds=settings.seconds, routing=settings.routing,
        cache_bytes=settings.cache_bytes, memory_bytes=settings.memory_bytes,
        pythons=(*settings.engine_pythons, *settings.pythons),
    )  # fmt: skip
    unfinished = data_folder() / "bench" / f"{machine}.json"
    done = _taken_up(unfinished, stated, notes) if chosen.can_resume else ()
    troubles: set[str] = set()
    # What one core and all of them read says where more threads stop to help.
    memory_alone: list[BenchRow] = []

    def report_of(outcome: Outcome) -> BenchReport:
        return BenchReport(
            schema="moeplan.bench/1", generated_by=GENERATED_BY, date=now(), fingerprint=machine, machine=words,
            settings=stated, ended=outcome.ended,
            rows=tuple([_placed(row, chosen, inventory) for row in (*outcome.rows, *memory_alone)]),
            not_measured=tuple(outcome.missing), layers=layer_sums(outcome.rows), notes=(*notes, *sorted(troubles)),
        )  # fmt: skip

    def keep(outcome: Outcome) -> None:
        if not chosen.can_resume:
            return
        try:
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            write_whole(unfinished, report_of(outcome).to_json() + "\n", "results so far")
        except (OSError, BadRequest) as error:
            # A full disk must not cost what is still to be measured.
            troubles.add(f"an interrupted run could not be taken up again: {error}")

    outcome = run(cases, settings, done=done, progress=progress, keep=keep)
    for threads in sorted({1, _cores(inventory)} - {settings.threads}):
        if outcome.ended != "interrupted":
            unseen = replace(settings.watch, found=lambda outcome: None)
            wanted = [MEMORY_CASE] if threads == 1 else memory_cases(_numa(inventory))
            read = run(wanted, replace(settings, threads=threads, budget_s=None, watch=unseen))
            memory_alone += read.rows
            outcome.ended = "interrupted" if read.ended == "interrupted" else outcome.ended
    if outcome.ended == "done" and chosen.can_resume:
        with suppress(OSError):
            unfinished.unlink()
    return stored(report_of(outcome), chosen.calibration)


def _placed(row: BenchRow, chosen: BenchOptions, inventory: Inventory) -> BenchRow:
    """A row about a disk names the disk, as its mount point."""
    if row.kernel != "disk_read" or chosen.disk is None:
        return row
    disk = disk_of(Path(chosen.disk), inventory.nodes[0].disks)
    return row.model_copy(update={"device": disk.mount}) if disk is not None else row


def settings_of(chosen: BenchOptions, inventory: Inventory) -> tuple[Settings, list[str]]:
    """How to measure on this machine, and what is to be said about it. Raises ``BadRequest``."""
    node = inventory.nodes[0]
    usable = known(node.memory.usable_bytes)
    cache, is_known = last_level_cache_bytes()
    notes = [] if is_known else ["the size of the last-level cache is not known: 64 MiB are assumed"]
    threads = chosen.threads if chosen.threads is not None else _cores(inventory)
    if threads < 1:
        raise BadRequest(f"--threads {threads}: a whole number from 1 is needed")
    if (chosen.routing == "replay") != (chosen.trace is not None):
        raise BadRequest("--routing replay and --trace FILE belong together")
    for python in chosen.engine_pythons:
        if not Path(python).is_file():
            raise BadRequest(f"--engine-python {python}: no such interpreter")
    nominal, peak = _nominal(inventory)
    settings = Settings(
        pythons=(sys.executable,), engine_pythons=chosen.engine_pythons, threads=threads,
        seconds=QUICK_SECONDS if chosen.quick else SECONDS, cache_bytes=cache,
        memory_bytes=memory_allowance_bytes(usable), routing=chosen.routing, trace=chosen.trace,
        library=chosen.library, path=chosen.disk, budget_s=QUICK_BUDGET_S if chosen.quick else None,
        slowest_s=2.0 if chosen.quick else 20.0, nominal_bytes_per_s=nominal, nominal_flops_per_s=peak,
        watch=chosen.watch,
    )  # fmt: skip
    return settings, notes


def _cores(inventory: Inventory) -> int:
    """Physical cores that this process may use, at least one."""
    return max(int(known(inventory.nodes[0].cpu.usable_cores) or 1), 1)


def _numa(inventory: Inventory) -> list[int]:
    """NUMA nodes with CPUs and memory of this machine."""
    return [node.index for node in inventory.nodes[0].numa if known(node.cpu_count) and node.gpu_index is None]


def _nominal(inventory: Inventory) -> tuple[float | None, float | None]:
    """The datasheet's memory bandwidth and bf16 rate of the GPUs, where they are all of one known kind."""
    from profiles.gpus import load_gpu

    keys = {gpu.key for node in inventory.nodes for gpu in node.gpus}
    only = keys.pop() if len(keys) == 1 else None
    if only is None:
        return None, None
    facts = load_gpu(only)
    return facts.bandwidth_bytes_per_s, facts.dense_flops_per_s.get("bf16")


def description(inventory: Inventory) -> str:
    """The machine in a few words, without its name."""
    node = inventory.nodes[0]
    gpus = [known(gpu.name) or "GPU" for gpu in node.gpus]
    parts = [f"{gpus.count(name)}x {name}" for name in dict.fromkeys(gpus)]
    model = known(node.cpu.model)
    if model is not None:
        parts.append(model)
    return ", ".join(parts) or "unknown machine"


def _taken_up(path: Path, settings: BenchSettings, notes: list[str]) -> tuple[BenchRow, ...]:
    """Rows of a run with the same settings that did not come to its end within the last day."""
    try:
        before = BenchReport.model_validate_json(path.read_bytes())
        age = datetime.now(UTC) - datetime.fromisoformat(before.date)
    except (OSError, ValueError, ValidationError):
        return ()
    same = before.settings.model_copy(update={"memory_bytes": settings.memory_bytes}) == settings
    if not same or before.generated_by != GENERATED_BY or age > TAKE_UP_WITHIN or not before.rows:
        return ()
    notes.append(f"{len(before.rows)} results of a run that ended early at {before.date} are taken up: see {path}")
    return tuple([row for row in before.rows if row.threads in (None, settings.threads)])


def stored(report: BenchReport, choice: str) -> BenchReport:
    """The report with what it measured kept in the calibration that ``choice`` means; a note where that failed."""
    path = place_of(choice, report.fingerprint)
    series = measured_series(report.rows)
    if path is None or not series:
        return report
    try:
        store_kernels(
            path, series, machine=report.fingerprint, description=report.machine, generated_by=GENERATED_BY,
            make_folder=choice == AUTO,
        )  # fmt: skip
    except BadRequest as error:
        # What was measured is still to be printed.
        return report.model_copy(update={"notes": (*report.notes, f"not stored: {error}")})
    return report.model_copy(update={"calibration": str(path)})
