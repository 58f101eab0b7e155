"""What a benchmark says: one row a case with its raw samples, and what was not measured and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from hwdetect.bench.case import KernelCase
from hwdetect.facts import Model

UNSTABLE_CPU: Final = 0.10
UNSTABLE_GPU: Final = 0.05
"""Interquartile range over median from which a result doubts itself."""
SLOW_CORE: Final = "the core itself ran"
SLOW_MEMORY: Final = "memory gave"
BUSY_RATIO: Final = 1.3
"""Wall over CPU time of one thread from which other load is named as the reason."""


class NotRun(Model):
    """A provider that came before the one used, and why it did not run."""

    provider: str
    reason: str


class RoutingResult(Model):
    """Experts that the tokens of an iteration went to, means over the iterations."""

    distribution: Literal["uniform", "power_law", "replay"]
    distinct_experts: float
    max_tokens_per_expert: float


class Correctness(Model):
    """Norm of the difference from float64 over the norm of the result, and what was allowed."""

    max_relative_error: float
    bound: float


class BenchRow(Model):
    """One kernel at one shape and batch. ``clock`` is ``cpu`` (one thread), ``wall`` or ``device``.

    ``pulse_s`` is the CPU time of a fixed piece of work between the samples, null on a GPU.
    ``reference_bytes_per_s`` is memory read in between the samples; ``fraction_of_roofline`` the time that the bytes
    would take at that rate (on a GPU with known peaks: or the operations at the peak) over the median,
    ``fraction_of_nominal`` the same against the datasheet, null where there is none. ``python`` is the interpreter that
    ran it.
    """

    provider: str
    version: str
    ours: bool
    device: str
    kernel: str
    quantization: str
    series: str
    shape: dict[str, int]
    batch: int
    context: int
    threads: int | None
    routing: RoutingResult | None
    clock: Literal["cpu", "wall", "device"]
    samples_s: tuple[float, ...]
    median_s: float
    low_s: float
    high_s: float
    iqr_s: float
    wall_median_s: float
    bytes: float
    flops: float
    reference_bytes_per_s: float | None
    pulse_s: float | None
    fraction_of_roofline: float | None
    fraction_of_nominal: float | None
    stable: bool
    unstable_because: str | None
    correctness: Correctness
    not_run: tuple[NotRun, ...]
    note: str
    date: str
    python: str | None = None

    def is_of(self, case: KernelCase) -> bool:
        """Whether this measures ``case``."""
        return (self.series, self.batch, self.context) == (case.series, case.batch, case.context)


class NotMeasured(Model):
    """A case without a result, and why: one reason of each provider that was tried."""

    series: str
    batch: int
    context: int
    reasons: tuple[NotRun, ...]


def doubted(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """The rows of a run, those in doubt that were measured while the core or the memory was slower than for others.

    What is slow all through one case has steady samples, and only the other cases of the run show it.
    """
    pulses = [row.pulse_s for row in rows if row.pulse_s]
    reads: dict[int | None, float] = {}
    for row in rows:
        if row.reference_bytes_per_s:
            reads[row.threads] = max(reads.get(row.threads, 0.0), row.reference_bytes_per_s)
    found = []
    for row in rows:
        # A run that was taken up again has its doubts from fewer cases; they are weighed anew.
        own = (row.unstable_because or "").split("; ")
        reasons = [reason for reason in own if reason and not reason.startswith((SLOW_CORE, SLOW_MEMORY))]
        if row.pulse_s and row.pulse_s > (1 + UNSTABLE_CPU) * min(pulses):
            slower = row.pulse_s / min(pulses) - 1
            reasons.append(f"{SLOW_CORE} {100 * slower:.0f} % slower than for the fastest case of the run")
        if row.reference_bytes_per_s and row.reference_bytes_per_s < (1 - UNSTABLE_CPU) * reads[row.threads]:
            less = 1 - row.reference_bytes_per_s / reads[row.threads]
            reasons.append(f"{SLOW_MEMORY} {100 * less:.0f} % less than for the best case of the run")
        text = "; ".join(reasons) or None
        found.append(row if text == row.unstable_because else row.model_copy(
            update={"stable": text is None, "unstable_because": text}
        ))  # fmt: skip
    return found


def quartiles(samples: tuple[float, ...]) -> tuple[float, float, float]:
    """First quartile, median and third, interpolated.

    >>> quartiles((4.0, 1.0, 2.0, 3.0, 5.0))
    (2.0, 3.0, 4.0)
    """
    ordered = sorted(samples)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return at(0.25), at(0.5), at(0.75)


def doubt(samples: tuple[float, ...], *, gpu: bool, busy: float, throttled: str | None) -> str | None:
    """Why a result is unstable, or None. ``busy`` is wall over CPU time.

    >>> doubt((1.0, 1.0, 1.01, 1.02), gpu=False, busy=2.0, throttled=None)
    >>> doubt((1.0, 1.0, 1.3, 1.4), gpu=False, busy=2.0, throttled=None)
    'the middle half of the samples spreads over 28 % of the median (10 % is allowed); other load: the wall clock is 2.0x the CPU time'
    """  # noqa: E501
    low, median, high = quartiles(samples)
    limit = UNSTABLE_GPU if gpu else UNSTABLE_CPU
    spread = (high - low) / median
    reasons = []
    if spread > limit:
        reasons.append(
            f"the middle half of the samples spreads over {spread:.0%} of the median ({limit:.0%} is allowed)".replace(
                "%", " %"
            )
        )
        if busy > BUSY_RATIO:
            reasons.append(f"other load: the wall clock is {busy:.1f}x the CPU time")
    if throttled:
        reasons.append(throttled)
    return "; ".join(reasons) or None
