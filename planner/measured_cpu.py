"""Time of a step on a CPU from kernels that were measured on it: the sum of the series that a calibration holds.

Between measured batches the rate, bytes over seconds, is interpolated in logarithms. Below the smallest batch the rate
in bytes is held, above the largest the rate in operations, since that is what large batches are bound by.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import ceil, exp, hypot, log, sqrt
from typing import TYPE_CHECKING, Final, NamedTuple

from hwdetect.bench.case import KernelCase
from hwdetect.bench.measured import is_of_one_node
from planner.budget import Term, merged
from planner.cases import Use, at, is_attention, uses_of
from planner.engines.base import Priced
from planner.request import PricedRelease, Request

if TYPE_CHECKING:
    from hwdetect.bench.measured import MeasuredPoint, MeasuredSeries

CPU_KERNELS: Final = frozenset(("cpu_moe", "cpu_dense", "cpu_attention"))
LEAST_SPREAD: Final = 1.05
"""Two runs of one CPU kernel differ by this even when each is steady."""
SCALED_SPREAD: Final = 1.5
ENGINE_PROVIDERS: Final[dict[str, tuple[str, ...]]] = {
    "llama.cpp": ("ggml",),
    "ktransformers": ("kt_kernel",),
}
"""Whose kernels an engine runs: a library's time says nothing about an engine that does not use it."""


class Measured(NamedTuple):
    """Seconds of a kernel with the factor by which they may be off either way, and where they come from."""

    seconds: float
    spread: float
    source: str


class CpuEvidence:
    """Measured series by name; of several counts of threads the one nearest to what is wanted."""

    def __init__(self, series: Iterable[MeasuredSeries], engine: str, threads: int | None) -> None:
        providers = ENGINE_PROVIDERS.get(engine, ())
        self._threads = threads
        self._series: dict[str, MeasuredSeries] = {}
        self._memory_bytes_per_s: float | None = None
        for one in series:
            if one.series.startswith("memory_read/") and not is_of_one_node(one.series):
                rates = [point.bytes / point.median_s for point in one.counted]
                self._memory_bytes_per_s = max([self._memory_bytes_per_s or 0.0, *rates]) or None
            if one.provider not in providers or one.threads is None:
                continue
            best = self._series.get(one.series)
            if best is None or _distance(one, threads) < _distance(best, threads):
                self._series[one.series] = one

    def measured(self, case: KernelCase) -> Measured | None:
        """The time of a case; None where its series was not measured."""
        series = self._series.get(case.series)
        points = series.counted if series is not None else ()
        if series is None or not points:
            return None
        source = series.said
        seconds, spread = interpolated(case, points), _spread(points)
        if self._threads is None or not series.threads or series.threads == self._threads:
            return Measured(seconds, spread, source)
        # More threads share what one takes, as far as the memory allows; how well they do is not known.
        source = f"{source} with {series.threads} threads, scaled to {self._threads}"
        scaled = seconds * series.threads / self._threads
        if self._memory_bytes_per_s is not None:
            scaled = max(scaled, case.work().bytes / self._memory_bytes_per_s)
        return Measured(scaled, spread * SCALED_SPREAD, source)


def _distance(series: MeasuredSeries, threads: int | None) -> float:
    return abs(log(series.threads / threads)) if series.threads and threads else 0.0


def _spread(points: Sequence[MeasuredPoint]) -> float:
    return max([LEAST_SPREAD, *[sqrt(point.high_s / point.low_s) for point in points if point.low_s > 0]])


def interpolated(case: KernelCase, points: Sequence[MeasuredPoint]) -> float:
    """Seconds of ``case`` from measured points of its series.

    >>> from hwdetect.bench.case import kernel_case
    >>> from hwdetect.bench.measured import MeasuredPoint
    >>> case = kernel_case("cpu_dense", "Q8_0", batch=2, in_=7168, out=2112)
    >>> def point(batch: int, seconds: float) -> MeasuredPoint:
    ...     work = case._replace(batch=batch).work()
    ...     return MeasuredPoint(batch=batch, median_s=seconds, low_s=seconds, high_s=seconds, bytes=work.bytes,
    ...                          flops=work.flops)
    >>> [round(1e3 * interpolated(case._replace(batch=batch), [point(1, 1e-3), point(4, 4e-3)]), 1) for batch in (1, 2, 8)]
    [1.0, 2.0, 8.0]
    """  # noqa: E501
    rates = sorted((_axis(case, point), log(point.bytes / point.median_s), point) for point in points)
    work = case.work()
    x = log(max(case.batch * max(case.context, 1), 1))
    axis = [rate[0] for rate in rates]
    if x > axis[-1] and work.flops:
        last = rates[-1][2]
        return last.median_s * work.flops / last.flops if last.flops else work.bytes / exp(rates[-1][1])
    if x <= axis[0]:
        return work.bytes / exp(rates[0][1])
    right = bisect_left(axis, x)
    left = rates[right - 1]
    share = (x - left[0]) / (axis[right] - left[0])
    return work.bytes / exp(left[1] + share * (rates[right][1] - left[1]))


def _axis(case: KernelCase, point: MeasuredPoint) -> float:
    return log(max(point.batch * max(point.context, 1), 1))


class StepRow(NamedTuple):
    """One kernel of a measured step: how often it runs and the seconds of all of them; None where not measured."""

    what: str
    case: KernelCase
    times: int
    seconds: float | None
    spread: float
    source: str


def step_rows(uses: Iterable[Use], evidence: CpuEvidence, batch: int, context: int) -> list[StepRow]:
    """The CPU kernels of a decode step of ``batch`` sequences with ``context`` cached tokens each."""
    rows = []
    for use in uses:
        if use.phase == "prefill" or use.case.kernel not in CPU_KERNELS:
            continue
        kept = max(int(use.states(context)), 1) if is_attention(use.case) else 0
        case = at(use, batch, kept)
        found = evidence.measured(case)
        # Attention on a CPU is bound by its operations, which the bytes of the cache's scales do not change.
        scale = 1.0 if is_attention(case) else use.scale
        seconds = None if found is None else use.times * scale * found.seconds
        spread, source = (1.0, "") if found is None else (found.spread, found.source)
        rows.append(StepRow(use.what, case, use.times, seconds, spread, source))
    return rows


def step_terms(
    request: Request, release: PricedRelease, priced: Priced, batch: float, context: float
) -> list[Term] | None:
    """The CPU's part of a decode step, measured; None unless every kernel of it was.

    A fraction of a sequence, which an average may have, counts as a whole one.
    """
    if not request.kernels:
        return None
    config = priced.config
    node = request.machine.nodes[config.group.nodes[0] if config.group is not None else 0]
    evidence = CpuEvidence(request.kernels, config.engine, round(node.host.cores) if node.host.cores else None)
    rows = step_rows(uses_of(request, release, config), evidence, max(1, ceil(batch)), round(context))
    if total(rows) is None:
        return None
    terms = [Term(row.what, row.seconds or 0.0, "CPU", row.spread, row.source, measured=True) for row in rows]
    return list(merged(terms))


def total(rows: Sequence[StepRow]) -> tuple[float, float] | None:
    """Seconds of a step and the factor by which they may be off; None where a kernel was not measured.

    Errors of different kernels are independent, so that their squares add.
    """
    if not rows or any(row.seconds is None for row in rows):
        return None
    seconds = sum([row.seconds or 0.0 for row in rows])
    off = hypot(*[(row.seconds or 0.0) * (row.spread - 1) for row in rows])
    return seconds, 1 + off / seconds
