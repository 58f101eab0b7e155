"""How a prepared kernel is measured: checked first, then timed with the bandwidth reference in between.

Each iteration is set up (fresh routing, the next weights) outside of what is timed. A single thread is timed by its
CPU time, which other load on the machine hardly changes; several threads by the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

MIN_SAMPLES = 7
MAX_SAMPLES = 400
REFERENCE_EVERY_S = 0.25
WARM_UP = 2
PULSE_ROUNDS = 200
"""Of reading a first-level cache's worth of numbers: a millisecond, short against what is measured."""


@dataclass(frozen=True)
class Options:
    """How to measure, the same for every case of a run.

    ``seconds`` are spent on one case, ``cache_bytes`` is the last-level cache, ``memory_bytes`` what a worker may use,
    ``trace`` a ``.npy`` of recorded expert ids (tokens, top_k) when ``routing`` is ``replay``, ``library`` a shared
    library that the user names, ``path`` a file or folder for disk reads, ``largest_batch`` that of the series.
    ``warm`` takes the same experts and weights each time, so that they lie in the cache as far as it holds them.
    """

    threads: int = 1
    seconds: float = 1.5
    cache_bytes: int = 32 << 20
    memory_bytes: int = 4 << 30
    routing: str = "uniform"
    trace: str | None = None
    library: str | None = None
    path: str | None = None
    largest_batch: int = 1
    warm: bool = False
    seed: int = 1


@dataclass
class Prepared:
    """A kernel at one batch and context.

    ``next_step`` sets an iteration up and returns what is timed. ``error`` runs the kernel once and returns its
    largest relative error against float64; at most ``bound`` is accepted. ``reference`` reads memory once and returns
    bytes per second, ``repeats`` says how often a step runs the kernel, ``clock`` overrides the choice of clock,
    ``seconds_of`` replaces timing where the device has a clock of its own. ``distinct`` and ``busiest`` are filled by
    the routing of each step.
    """

    next_step: Callable[[], Callable[[], object]]
    error: Callable[[], float]
    bound: float
    repeats: int = 1
    reference: Callable[[], float] | None = None
    clock: str | None = None
    seconds_of: Callable[[Callable[[], object]], float] | None = None
    note: str = ""
    distinct: list[int] = field(default_factory=list)
    busiest: list[int] = field(default_factory=list)


class Sample(NamedTuple):
    """Wall and CPU seconds of one iteration."""

    wall_s: float
    cpu_s: float


def measure(kernel: Prepared, options: Options) -> dict[str, Any]:
    """The answer of one case: samples, reference, correctness. A kernel that computes wrongly is not timed."""
    error = kernel.error()
    # A comparison with NaN is false, so that what is not a number fails here too.
    if not error <= kernel.bound:
        return {"incorrect": {"max_relative_error": float(error), "bound": kernel.bound}}
    kernel.distinct.clear()
    kernel.busiest.clear()
    samples: list[Sample] = []
    pulses: list[float] = []
    references: list[float] = []
    for _ in range(WARM_UP):
        _timed(kernel)
    kernel.distinct.clear()
    kernel.busiest.clear()
    started = last_reference = time.perf_counter()
    if kernel.reference is not None:
        references.append(kernel.reference())
    while len(samples) < MAX_SAMPLES and (
        len(samples) < MIN_SAMPLES or time.perf_counter() - started < options.seconds
    ):
        if kernel.seconds_of is None:
            pulses.append(pulse_s())
        samples.append(_timed(kernel))
        if kernel.reference is not None and time.perf_counter() - last_reference > REFERENCE_EVERY_S:
            references.append(kernel.reference())
            last_reference = time.perf_counter()
    clock = kernel.clock or ("cpu" if options.threads == 1 else "wall")
    return {
        "clock": clock,
        "samples_s": [sample.cpu_s if clock == "cpu" else sample.wall_s for sample in samples],
        "wall_median_s": float(np.median([sample.wall_s for sample in samples])),
        "distinct_experts": float(np.mean(kernel.distinct)) if kernel.distinct else None,
        "max_tokens_per_expert": float(np.mean(kernel.busiest)) if kernel.busiest else None,
        "reference_bytes_per_s": float(np.median(references)) if references else None,
        "pulse_s": float(np.median(pulses)) if pulses else None,
        "correctness": {"max_relative_error": float(error), "bound": kernel.bound},
        "note": kernel.note,
    }


def _timed(kernel: Prepared) -> Sample:
    step = kernel.next_step()
    if kernel.seconds_of is not None:
        seconds = kernel.seconds_of(step)
        return Sample(seconds / kernel.repeats, seconds / kernel.repeats)
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Sample(wall / kernel.repeats, cpu / kernel.repeats)


_NEAR = np.ones(4096, dtype=np.int32)


def pulse_s() -> float:
    """CPU seconds of a fixed piece of work in the first-level cache: how fast the core itself is just now."""
    began = time.process_time()
    for _ in range(PULSE_ROUNDS):
        _NEAR.max()
    return time.process_time() - began


def relative_error(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    """Norm of the difference over the norm of what is wanted, in float64.

    >>> round(relative_error(np.array([1.0, 2.0]), np.array([1.0, 2.1])), 3)
    0.043
    """
    difference = np.linalg.norm(found.astype(np.float64) - wanted)
    return float(difference / np.linalg.norm(wanted))
