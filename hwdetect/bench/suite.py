"""Runs a list of cases: each series in a worker of its own, each case by the first provider that really runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from formulas.roofline import roofline_s
from hwdetect.bench.case import KernelCase
from hwdetect.bench.providers import PROVIDERS, Provider
from hwdetect.bench.result import BenchRow, Correctness, NotMeasured, NotRun, RoutingResult, doubt, doubted, quartiles
from hwdetect.bench.worker import Cancelled, Worker, WorkerDied
from hwdetect.nvidia import ClockState, clocks

START_S: Final = 180.0
"""For an import: the first one of a CUDA library from a cold disk takes minutes."""
SETTING_UP_S: Final = 240.0
"""For loading and checking weights, beyond the seconds that are measured."""
SMALLEST_TIMEOUT_S: Final = 60.0

WATCH_S: Final = 0.1
CLOCK_FALL: Final = 0.9
SLOWED: Final = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")

Ended = Literal["done", "out_of_time", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Somebody who looks on from another thread.

    ``begins`` is told of a case and the provider that it is handed to, ``found`` of everything so far, as soon as there
    is more of it; ``cancelled`` ends the run as Ctrl-C does.
    """

    begins: Callable[[KernelCase, str], None] = lambda case, provider: None
    found: Callable[[Outcome], None] = lambda outcome: None
    cancelled: Callable[[], bool] = lambda: False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure. ``pythons`` are tried in order; the last one is this program's own.

    ``budget_s`` bounds the whole run, None does not. ``nominal_bytes_per_s`` and ``nominal_flops_per_s`` are the
    datasheet's of the GPU, where it is known. ``warm`` takes the same experts each time, which then lie in the cache,
    to show what the rotation of weights changes. ``slowest_s`` is the longest that one iteration may take, as far as
    the case before tells.
    """

    pythons: tuple[str, ...]
    engine_pythons: tuple[str, ...] = ()
    threads: int = 1
    seconds: float = 1.5
    cache_bytes: int = 32 << 20
    memory_bytes: int = 4 << 30
    routing: Literal["uniform", "power_law", "replay"] = "uniform"
    trace: str | None = None
    library: str | None = None
    path: str | None = None
    warm: bool = False
    budget_s: float | None = None
    slowest_s: float = 20.0
    nominal_bytes_per_s: float | None = None
    nominal_flops_per_s: float | None = None
    watch: Watch = Watch()

    def options(self, largest: int) -> dict[str, Any]:
        """What a worker is told; ``largest`` is the largest batch of the series."""
        return {
            "threads": self.threads, "seconds": self.seconds, "cache_bytes": self.cache_bytes,
            "memory_bytes": self.memory_bytes, "routing": self.routing, "trace": self.trace, "library": self.library,
            "path": self.path, "largest_batch": largest, "warm": self.warm,
        }  # fmt: skip


@dataclass
class Outcome:
    """What a run has found so far; complete at every moment, so that an interruption loses the case at hand only."""

    rows: list[BenchRow] = field(default_factory=list)
    missing: list[NotMeasured] = field(default_factory=list)
    ended: Ended = "done"
    started: float = field(default_factory=time.monotonic)


def run(
    cases: Sequence[KernelCase],
    settings: Settings,
    *,
    done: Sequence[BenchRow] = (),
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Measure ``cases``; rows of ``done`` stand for theirs. ``keep`` is called after each new row.

    Ctrl-C, and ``cancelled`` of the watch, end the run with what there is. No failure of a worker is raised: it is a
    reason in ``missing``.
    """
    outcome = Outcome(rows=[row for row in done if any(row.is_of(case) for case in cases)])
    left = [case for case in dict.fromkeys(cases) if not any(row.is_of(case) for row in outcome.rows)]
    absent: dict[tuple[str, str], str] = {}
    finished = len(outcome.rows)
    try:
        for series in _by_series(left):
            for found in _series(series, settings, outcome, absent):
                if isinstance(found, BenchRow):
                    outcome.rows.append(found)
                else:
                    outcome.missing.append(found)
                finished += 1
                settings.watch.found(outcome)
                if keep is not None:
                    keep(outcome)
                if progress is not None:
                    progress(finished, finished + len(left) - (finished - len(done)))
                if settings.watch.cancelled():
                    raise Cancelled
    except (KeyboardInterrupt, Cancelled):
        outcome.ended = "interrupted"
    outcome.rows = doubted(outcome.rows)
    return outcome


def _by_series(cases: Sequence[KernelCase]) -> list[list[KernelCase]]:
    """Cases of one series together, small batches first: a case that is too slow spares the larger ones."""
    groups: dict[str, list[KernelCase]] = {}
    for case in cases:
        groups.setdefault(case.series, []).append(case)
    return [sorted(group, key=lambda case: (case.batch, case.context)) for group in groups.values()]


def _series(
    cases: list[KernelCase], settings: Settings, outcome: Outcome, absent: dict[tuple[str, str], str]
) -> Iterator[BenchRow | NotMeasured]:
    """Results of one series. A case that fails with one provider is given to the next."""
    refused: dict[KernelCase, list[NotRun]] = {case: [] for case in cases}
    providers = PROVIDERS.get(cases[0].kernel, ())
    waiting = list(cases)
    for provider in providers:
        for python in _interpreters(provider, settings):
            if waiting:
                yield from _attempt(provider, python, waiting, refused, settings, outcome, absent)
    for case in waiting:
        reasons = refused[case] or [NotRun(provider="-", reason=f"no provider for {case.kernel} is known")]
        yield _missing(case, reasons)


def _missing(case: KernelCase, reasons: Sequence[NotRun]) -> NotMeasured:
    return NotMeasured(series=case.series, batch=case.batch, context=case.context, reasons=tuple(reasons))


def _interpreters(provider: Provider, settings: Settings) -> tuple[str, ...]:
    if provider.where == "engine":
        return settings.engine_pythons or settings.pythons
    return tuple(dict.fromkeys((*settings.engine_pythons, *settings.pythons)))


def _attempt(
    provider: Provider,
    python: str,
    waiting: list[KernelCase],
    refused: dict[KernelCase, list[NotRun]],
    settings: Settings,
    outcome: Outcome,
    absent: dict[tuple[str, str], str],
) -> Iterator[BenchRow | NotMeasured]:
    """Measure what of ``waiting`` this provider can; what it measures leaves the list."""

    def refuse(cases: Sequence[KernelCase], reason: str) -> None:
        for case in cases:
            if not any((one.provider, one.reason) == (provider.name, reason) for one in refused[case]):
                refused[case].append(NotRun(provider=provider.name, reason=reason))

    def out_of_time() -> bool:
        return settings.budget_s is not None and time.monotonic() - outcome.started > settings.budget_s

    known = absent.get((provider.name, python))
    if known is not None:
        refuse(waiting, known)
        return
    if out_of_time():
        outcome.ended = "out_of_time"
        refuse(waiting, "the time of the run was up")
        return
    options = settings.options(max(case.batch for case in waiting))
    pace: float | None = None
    settings.watch.begins(waiting[0], provider.name)
    try:
        with Worker(python, provider.name, threads=settings.threads, cancelled=settings.watch.cancelled) as worker:
            hello = worker.ask({"options": options}, START_S)
            if "version" not in hello:
                reason = str(hello.get("cannot_run") or hello.get("failed") or "gave no version")
                absent[provider.name, python] = reason
                refuse(waiting, reason)
                return
            for case in tuple(waiting):
                if out_of_time():
                    outcome.ended = "out_of_time"
                    refuse(list(waiting), "the time of the run was up")
                    return
                work = case.work() if case.kernel != "decode_layer" else None
                if pace is not None and work is not None and pace * max(work.bytes, work.flops) > settings.slowest_s:
                    seconds = pace * max(work.bytes, work.flops)
                    refuse([case], f"one iteration would take {seconds:.0f} s, to judge by the batch before")
                    continue
                asked = {
                    "kernel": case.kernel, "quantization": case.quantization, "dims": dict(case.dims),
                    "batch": case.batch, "context": case.context, "options": options,
                }  # fmt: skip
                settings.watch.begins(case, provider.name)
                timeout = max(SMALLEST_TIMEOUT_S, SETTING_UP_S + 3 * settings.seconds + 30 * settings.slowest_s)
                with _watched(provider) as states:
                    answer = worker.ask(asked, timeout)
                failure = _failure(answer)
                if failure is not None:
                    refuse([case], failure)
                    continue
                row = _row(case, provider, hello, answer, states, tuple(refused[case]), settings, python)
                if work is not None:
                    pace = row.median_s / max(work.bytes, work.flops)
                waiting.remove(case)
                yield row
    except WorkerDied as death:
        refuse(list(waiting), str(death))


def _failure(answer: dict[str, Any]) -> str | None:
    """Why an answer holds no samples; None when it does."""
    if "samples_s" in answer:
        return None
    if "incorrect" in answer:
        wrong = answer["incorrect"]
        return (
            f"computes wrongly: relative error {wrong['max_relative_error']:.2g}, at most {wrong['bound']:g} is right"
        )
    if "out_of_memory" in answer:
        return f"out of memory: {answer['out_of_memory']}".rstrip(": ")
    return str(answer.get("cannot_run") or answer.get("failed") or "answered without samples")


def _row(
    case: KernelCase,
    provider: Provider,
    hello: dict[str, Any],
    answer: dict[str, Any],
    states: list[ClockState],
    not_run: tuple[NotRun, ...],
    settings: Settings,
    python: str,
) -> BenchRow:
    samples = tuple(float(sample) for sample in answer["samples_s"])
    low, median, high = quartiles(samples)
    distinct = answer["distinct_experts"]
    gpu = provider.device == "gpu"
    moved, flops = (0.0, 0.0) if case.kernel == "decode_layer" else case.work(distinct)
    reference = answer["reference_bytes_per_s"]
    routing = None
    if distinct is not None:
        routing = RoutingResult(
            distribution=settings.routing, distinct_experts=distinct,
            max_tokens_per_expert=answer["max_tokens_per_expert"],
        )  # fmt: skip
    reason = doubt(
        samples, gpu=gpu, busy=answer["wall_median_s"] / median if answer["clock"] == "cpu" else 1.0,
        throttled=_throttled(states),
    )  # fmt: skip
    nominal = settings.nominal_bytes_per_s if gpu else None
    peak = settings.nominal_flops_per_s if gpu else None
    return BenchRow(
        provider=provider.name, version=hello["version"], ours=provider.ours, device=hello["device"],
        kernel=case.kernel, quantization=case.quantization, series=case.series, shape=dict(case.dims),
        batch=case.batch, context=case.context, threads=None if gpu else settings.threads, routing=routing,
        clock=answer["clock"], samples_s=samples, median_s=median, low_s=low, high_s=high, iqr_s=high - low,
        wall_median_s=answer["wall_median_s"], bytes=moved, flops=flops, reference_bytes_per_s=reference,
        pulse_s=answer["pulse_s"],
        fraction_of_roofline=roofline_s(moved, flops, reference, peak) / median if reference and moved else None,
        fraction_of_nominal=roofline_s(moved, flops, nominal, peak) / median if nominal and moved else None,
        stable=reason is None, unstable_because=reason, correctness=Correctness(**answer["correctness"]),
        not_run=not_run, note=answer["note"], date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), python=python,
    )  # fmt: skip


@contextmanager
def _watched(provider: Provider) -> Iterator[list[ClockState]]:
    """Collects the GPU's state while its kernels are measured: after them it would be idle again."""
    states: list[ClockState] = []
    if provider.device != "gpu":
        yield states
        return
    over = threading.Event()
    with clocks() as read:

        def collect() -> None:
            while read is not None and not over.wait(WATCH_S):
                states.append(read())

        watcher = threading.Thread(target=collect, daemon=True)
        watcher.start()
        try:
            yield states
        finally:
            over.set()
            watcher.join()


def _throttled(states: list[ClockState]) -> str | None:
    """Why a GPU was slowed: heat or its supply, or a clock that fell by over a tenth while it worked."""
    reasons = sorted({reason for state in states for reason in state.throttle if reason in SLOWED})
    busy = [state.sm_mhz for state in states if state.sm_mhz and "gpu_idle" not in state.throttle]
    if busy and min(busy) < CLOCK_FALL * max(busy):
        reasons.append(f"the clock fell from {max(busy)} to {min(busy)} MHz")
    return f"throttled: {', '.join(reasons)}" if reasons else None
