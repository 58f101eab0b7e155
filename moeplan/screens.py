"""What the screens of ``tui`` are handed: every callable that they ask, and every text that they show of a plan.

Modules that read facts are imported where they are needed: the first screen is drawn before any of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moeplan.launch import FORMATS
from moeplan.text_safe import printable
from planner.errors import BadRequest, Undetermined
from planner.options import Options
from tui.knobs import KNOBS
from tui.program import (
    Alive,
    Answer,
    Choice,
    Curve,
    DeviceBar,
    LaunchFiles,
    Machine,
    Part,
    Program,
    Refused,
    Row,
    Values,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hwdetect.inventory import Inventory
    from moeplan.pipeline import Source
    from planner.plan import Candidate, DeviceMemory, Memory, Plan, Rejection, Verdict
    from tui.bench_program import BenchProgram
    from tui.compare_program import CompareProgram

COLUMNS: Final = (
    ">#", "verdict", ">free GiB", ">tok/s each", "engine, layout", "weights", ">tok/s in total", ">KV tokens",
    ">first token s", ">ms a token", ">USD/M tokens", "bound by",
)  # fmt: skip
TOP: Final = 10
MAX_REASONS: Final = 12
_FLAG: Final = re.compile(r"--([a-z][a-z-]*)\b")
_COUNT: Final = re.compile(r"\s*(\d{1,4})\s*[xX*]")


def program() -> Program:
    """The real one, on this machine."""
    return Program(
        columns=COLUMNS,
        formats=FORMATS,
        replan=replan,
        described=described,
        choices=choices,
        detect=_detect,
        machine_view=_machine_view,
        check=_check,
        launch_files=_launch_files,
        save=_save,
        save_plan=_save_plan,
        save_report=_save_report,
        curves=_curves,
        bench=_bench,
        compare=_compare,
    )


@contextmanager
def refusals(knob: str | None = None) -> Iterator[None]:
    """Errors that a request may cause as ``Refused``, of the knob whose flag the message begins with."""
    from profiles.config_reader import BadConfig, UnknownFamily
    from profiles.headers.errors import BadModelFile
    from profiles.names import AmbiguousName, UnknownName

    try:
        yield
    except (BadRequest, Undetermined, UnknownFamily, UnknownName, AmbiguousName, BadConfig, BadModelFile) as error:
        raise _refused(str(error), knob) from None
    except OSError as error:
        raise _refused(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), knob) from None


def _refused(message: str, knob: str | None) -> Refused:
    flag = _FLAG.match(message)
    name = flag[1].replace("-", "_") if flag else None
    return Refused(printable(message), name if name in KNOBS else knob)


def options_of(values: Values) -> Options:
    """The knobs as the command line's flags."""
    fields: dict[str, Any] = {name: text for name, text in values.items() if name not in ("model", "gpu")}
    gpus = tuple(part.strip() for part in values.get("gpu", "").split(",") if part.strip())
    return Options(values.get("model", ""), gpu=gpus, top=str(TOP), **fields)


def described(values: Values) -> bool:
    """Whether the knobs describe hardware, which switches detection off."""
    return options_of(values).describes_hardware


def replan(values: Values, machine: Machine | None, alive: Alive) -> Answer:
    """The plan of the knobs. Raises ``Refused``."""
    from moeplan.pipeline import plan_calibrated, read_model

    if not values.get("model"):
        raise Refused("a model is needed: Enter lists them", "model")
    options = options_of(values)
    with refusals("model"):
        model = read_model(options.model, alive)
    with refusals():
        return answer_of(plan_calibrated(options, model, *hardware_of(options, machine), progress=alive))


def hardware_of(options: Options, machine: Machine | None) -> tuple[Inventory, Source]:
    """This machine, or the one that is described."""
    from moeplan.pipeline import read_inventory

    return (machine, "detected") if machine is not None else read_inventory(options)


def answer_of(plan: Plan) -> Answer:
    """A plan in the words of the plan screen."""
    from moeplan.text_numbers import plural
    from moeplan.text_rejections import reasons

    search, work = plan.search, plan.workload
    counts = (
        f"{search.fitting:,} fit, {search.tight:,} tight, {search.rejected:,} do not; objective {plan.objective}. "
        f"{plural(work.concurrency, 'request')} of {work.input_tokens:,} + {work.output_tokens:,} tokens, "
        f"context {work.context:,}"
    )
    rejected = reasons(plan.rejected, by_quantization=False)[:MAX_REASONS]
    rows = [_row(candidate, plan) for candidate in plan.candidates]
    rows += [_rejected_row(reason.nearest, reason.count) for reason in rejected]
    return Answer(
        plan=plan,
        title=printable(f"{plan.model.name} on {plan.hardware.description}"),
        counts=counts,
        rows=tuple(rows),
        in_force={
            "workload": work.name,
            "context": str(work.context),
            "concurrency": str(work.concurrency),
            "input_tokens": str(work.input_tokens),
            "output_tokens": str(work.output_tokens),
            "objective": plan.objective,
            "nodes": str(plan.hardware.nodes),
            "images": str(work.images),
        },
    )


def _row(candidate: Candidate, plan: Plan) -> Row:
    from moeplan.text_ledger import tightest
    from moeplan.text_numbers import gib_span, plural, span, span_of
    from moeplan.text_plan import candidate_view, layout, release_name

    device, speed, cost = tightest(candidate.memory), candidate.performance, candidate.cost
    tokens = cost.usd_per_million_output_tokens if cost is not None else None
    name, release = f"{candidate.engine.name} {layout(candidate)}", release_name(candidate)
    cells = (
        str(candidate.rank),
        candidate.verdict,
        gib_span(device.free_low_bytes, device.free_high_bytes) if device is not None else "",
        span_of(speed.decode_tokens_per_s_per_request),
        name,
        release,
        span_of(speed.decode_tokens_per_s_total),
        f"{candidate.kv_cache.tokens:,}",
        span_of(speed.ttft_s),
        span_of(speed.tpot_s, 1e3),
        span(tokens.low, tokens.high) if tokens is not None else "",
        speed.bound_by,
    )
    warned = f" {plural(len(candidate.warnings), 'warning')}: Enter shows." if candidate.warnings else ""
    cache = candidate.kv_cache
    return Row(
        key=printable(f"{name}, {release}, {cache.dtype} KV"),
        cells=tuple(printable(cell) for cell in cells),
        verdict=candidate.verdict,
        summary=printable(f"{name}, {release}, {cache.dtype} {cache.layout} KV: {candidate.why}.{warned}"),
        details=partial(candidate_view, candidate, plan),
        bars=_bars(candidate.memory),
        candidate=candidate,
    )


def _rejected_row(rejection: Rejection, count: int) -> Row:
    from moeplan.text_numbers import gib
    from moeplan.text_plan import ranks

    split = ranks(rejection.parallel) if rejection.parallel is not None else ""
    short = f"-{gib(rejection.short_by_bytes)}" if rejection.short_by_bytes else ""
    name = f"{rejection.engine} {split}".strip()
    cells = ("", "no", short, "", name, rejection.quantization, *("" for _ in COLUMNS[7:]), rejection.reason)
    others = f" ({count:,} configurations)" if count > 1 else ""
    where = f", {gib(rejection.short_by_bytes)} GiB short" if rejection.short_by_bytes else ""
    place = f" on {rejection.device}" if where and rejection.device else ""
    remedy = f" What helps: {rejection.remedy}." if rejection.remedy else ""
    return Row(
        key=printable(f"{name}, {rejection.quantization}: {rejection.reason}"),
        cells=tuple(printable(cell) for cell in cells),
        verdict="no",
        summary=printable(f"{name}, {rejection.quantization}: {rejection.reason}{where}{place}{others}.{remedy}"),
        details=partial(_rejection_view, rejection, count),
        bars=_bars(rejection.memory) if rejection.memory is not None else (),
    )


def _rejection_view(rejection: Rejection, count: int) -> RenderableType:
    from moeplan.text import pairs
    from moeplan.text_numbers import gib, plural

    short = f"{gib(rejection.short_by_bytes)} GiB" if rejection.short_by_bytes else ""
    return pairs(
        (
            ("engine", rejection.engine),
            ("weights", rejection.quantization),
            ("reason", rejection.reason),
            ("device", rejection.device or ""),
            ("short by", short),
            ("what helps", rejection.remedy),
            ("the same", f"{plural(count, 'configuration')}; this is the nearest miss" if count > 1 else ""),
        )
    )


def _bars(memory: Memory) -> tuple[DeviceBar, ...]:
    from moeplan.text_ledger import alike

    return tuple(_bar(place, device) for place, device in alike(memory))


def _bar(place: str, device: DeviceMemory) -> DeviceBar:
    from moeplan.text_numbers import gib_span

    parts = (
        Part("weights", device.weights_bytes),
        Part("KV cache", device.kv_cache_bytes),
        Part("compute", device.compute_bytes),
        Part("overhead", device.overhead_bytes),
    )
    free = f"{gib_span(device.free_low_bytes, device.free_high_bytes)} GiB free"
    verdict: Verdict = "fits" if device.free_low_bytes >= 0 else "tight" if device.free_high_bytes >= 0 else "no"
    return DeviceBar(printable(place), parts, device.usable_bytes, free, verdict)


def choices(name: str, values: Values) -> tuple[Choice, ...]:
    """What a knob can be; empty where any text may be meant."""
    if name == "quant":
        return _releases(values.get("model", ""))
    listed = _LISTS.get(name)
    return listed(values) if listed is not None else ()


def _models(values: Values) -> tuple[Choice, ...]:
    del values
    from profiles.cards import user_card_ids
    from profiles.library import model_ids

    return (*(Choice(name, "") for name in model_ids()), *(Choice(name, "a card of yours") for name in user_card_ids()))


def _releases(model: str) -> tuple[Choice, ...]:
    """Published weights of a built-in model; others would have to be read first."""
    from moeplan.text_numbers import gib
    from profiles.library import built_in_id, load_model

    if built_in_id(model) is None:
        return ()
    published = [release for release in load_model(model).releases if release.status == "published"]
    return tuple(
        Choice(
            f"{release.publisher}/{release.quantization}",
            f"{gib(release.published_bytes)} GiB" if release.published_bytes is not None else "",
        )
        for release in published
    )


def _engines(values: Values) -> tuple[Choice, ...]:
    del values
    from profiles.engines import engine_names

    return tuple(Choice(name, "") for name in engine_names())


def _kv_dtypes(values: Values) -> tuple[Choice, ...]:
    del values
    from formulas.kv_cache import KV_DTYPES

    return tuple(Choice(name, "") for name in KV_DTYPES)


def _gpus(values: Values) -> tuple[Choice, ...]:
    """Every known GPU, as many as the knob says now, or eight."""
    from moeplan.text_numbers import gib
    from profiles.gpus import gpu_keys, load_gpu

    found = _COUNT.match(values.get("gpu", ""))
    count = found[1] if found else "8"
    facts = [load_gpu(key) for key in gpu_keys()]
    named = (Choice(f"{count}x{one.key}", f"{gib(one.capacity_bytes)} GiB  {one.reported_name}") for one in facts)
    return (Choice("none", "a machine without GPUs"), *named)


def _cpus(values: Values) -> tuple[Choice, ...]:
    """Every known CPU, as many as the knob says now, or two; no more than a board takes."""
    from profiles.cpus import cpu_keys, load_cpu

    found = _COUNT.match(values.get("cpu", ""))
    count = int(found[1]) if found else 2
    facts = [load_cpu(key) for key in cpu_keys()]
    return tuple(Choice(f"{min(count, one.max_sockets)}x{one.key}", one.memory or "") for one in facts)


def _links(values: Values) -> tuple[Choice, ...]:
    del values
    from planner.hardware import LINKS

    return tuple(Choice(name, "") for name in LINKS)


def _workloads(values: Values) -> tuple[Choice, ...]:
    del values
    from profiles.workloads import load_workload, workload_names

    loads = [load_workload(name) for name in workload_names()]
    return tuple(
        Choice(one.name, f"{one.concurrency:,} x ({one.input_tokens:,} + {one.output_tokens:,}) tokens")
        for one in loads
    )


def _objectives(values: Values) -> tuple[Choice, ...]:
    del values
    from planner.request import OBJECTIVES

    return tuple(Choice(name, "") for name in OBJECTIVES)


def _suites(values: Values) -> tuple[Choice, ...]:
    """Suites that measured a KL divergence of a built-in model's weights."""
    from planner.quality import quality_view
    from profiles.library import built_in_id, load_model

    model = values.get("model", "")
    if built_in_id(model) is None:
        return ()
    suites = [suite for suite in quality_view(load_model(model)).suites if "kl" in suite.metric.casefold()]
    return tuple(Choice(suite.suite, f"{len(suite.rows)} measured, {suite.metric}") for suite in suites)


_LISTS: Final = {
    "model": _models,
    "engine": _engines,
    "kv_dtype": _kv_dtypes,
    "gpu": _gpus,
    "cpu": _cpus,
    "link": _links,
    "workload": _workloads,
    "objective": _objectives,
    "quality_suite": _suites,
}


def _detect() -> Machine:
    from moeplan.pipeline import read_inventory

    with refusals():
        return read_inventory(Options(""))[0]


def _machine_view(machine: Machine) -> RenderableType:
    from moeplan.text_machine import inventory_view

    return inventory_view(machine)


def _check(machine: Machine, plan: Plan | None, rank: int) -> RenderableType:
    from moeplan.pipeline import GENERATED_BY
    from moeplan.text_check import check_view
    from planner.check import check

    with refusals():
        report = check(machine, plan, rank=rank, generated_by=GENERATED_BY)
    return check_view(report)


def _launch_files(plan: Plan, candidate: Candidate, kind: str) -> LaunchFiles:
    from moeplan.launch import launch_files
    from moeplan.launch.deployment import Wish, deployment_of, remarks

    wish = Wish()
    with refusals():
        files = launch_files(plan, candidate, kind, wish)
        return LaunchFiles(files, tuple(remarks(deployment_of(plan, candidate, wish))))


def _save(folder: str, files: dict[str, str], overwrite: bool) -> str:
    from moeplan.cli.launch import save_files

    place = Path(folder).expanduser()
    _keep(overwrite, {place / name: name for name in files})
    with refusals():
        stale = save_files(place, files, "folder", force=overwrite)
    rest = f"; {len(stale)} of an earlier launch are still there" if stale else ""
    return printable(f"{len(files)} files are in {place}{rest}")


def _save_plan(path: str, plan: Plan, overwrite: bool) -> str:
    from moeplan.cli.output import write_whole

    place = Path(path).expanduser()
    _keep(overwrite, {place: str(place)})
    with refusals():
        write_whole(place, plan.to_json() + "\n", "file")
    return printable(f"The plan is in {place}")


def _save_report(path: str, plan: Plan, rank: int, overwrite: bool) -> str:
    from moeplan.report import write_report

    place = Path(path).expanduser()
    _keep(overwrite, {place: str(place)})
    with refusals():
        write_report(place, plan, rank=rank, overwrite=overwrite)
    return printable(f"The report is in {place}")


def _curves(values: Values, machine: Machine | None, candidate: Candidate, alive: Alive) -> tuple[Curve, ...]:
    from moeplan.screens_curves import curves

    return curves(values, machine, candidate, alive)


def _bench() -> BenchProgram:
    from moeplan.screens_bench import bench_program

    return bench_program()


def _compare() -> CompareProgram:
    from moeplan.screens_compare import compare_program

    return compare_program()


def _keep(overwrite: bool, files: Mapping[Path, str]) -> None:
    there = [name for path, name in files.items() if path.exists()]
    if there and not overwrite:
        raise Refused(printable(f"{there[0]} is there already; Ctrl+O overwrites it"))
