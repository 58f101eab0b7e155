"""Where llama.cpp's layers go: contiguous runs on the GPUs, in order, and the experts of the first layers in RAM.

Equal GPUs are filled alike. Of unequal ones each layer goes where a token is quickest: first the fewest experts in RAM,
which is slower than any GPU, then the least time to read what a token reads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf
from operator import add
from typing import Final, NamedTuple

EVENING_FACTORS: Final = (1.02, 1.05, 1.1, 1.2, 1.4, 1.8, 2.5)
"""How much more than the average a GPU may be filled, tried in order: layers do not divide at will."""


EVENNESS: Final = 1e-6
"""Share of a token's time that filling GPUs of equal speed alike is worth."""


class Placement(NamedTuple):
    """Layers on each GPU, and how many of the first layers keep their routed experts in RAM.

    ``seconds`` is the time in which unequal GPUs read what a token reads.
    """

    layers: tuple[int, ...]
    on_cpu: int
    seconds: float = 0.0


class Sums(NamedTuple):
    """Bytes of the first layers, for every number of them: without routed experts, of those, and together."""

    always: list[float]
    experts: list[float]
    both: list[float]


def sums_of(always: Iterable[float], experts: Iterable[float]) -> Sums:
    """Running totals of bytes per layer."""
    fixed, routed = list(accumulate(always, initial=0.0)), list(accumulate(experts, initial=0.0))
    return Sums(fixed, routed, list(map(add, fixed, routed)))


class Space(NamedTuple):
    """Layers that have room on the GPUs with the experts of the first ``on_cpu`` ones in RAM.

    ``caps`` are the bytes each GPU has for layers, ``head`` is what the last one holds beside them. One device that
    shares its memory with the CPU has no ``caps``: it takes all layers.
    """

    sums: Sums
    on_cpu: int
    caps: Sequence[float]
    head: float


def fewest_in_ram(sums: Sums, first_routed: int, caps: Sequence[float], head: float) -> Space | None:
    """The fewest layers' experts in RAM, at least those of the first layer that has any.

    None when not even all experts in RAM would do.
    """
    low, high = first_routed + 1, len(sums.always) - 1
    if low > high or _fill(sums, high, caps, head) is None:
        return None
    while low < high:
        middle = (low + high) // 2
        if _fill(sums, middle, caps, head) is None:
            low = middle + 1
        else:
            high = middle
    return Space(sums, high, caps, head)


def space_with(sums: Sums, on_cpu: int, caps: Sequence[float], head: float) -> Space | None:
    """With the experts of the first ``on_cpu`` layers in RAM; None without room."""
    return None if _fill(sums, on_cpu, caps, head) is None else Space(sums, on_cpu, caps, head)


def placement_in(space: Space, reads: Reads | None = None) -> Placement:
    """GPUs filled alike, or where ``reads`` says what a token reads and they are unequal, as a token is quickest."""
    sums, on_cpu, caps, head = space
    if not caps:
        return Placement((len(sums.always) - 1,), on_cpu)
    if reads is None:
        return Placement(_even(sums, on_cpu, caps, head), on_cpu)
    layers = quickest(sums, on_cpu, caps, head, reads) if len(set(reads.rates)) > 1 else None
    layers = layers or _even(sums, on_cpu, caps, head)
    return Placement(layers, on_cpu, reads.seconds(layers, on_cpu))


class Reads(NamedTuple):
    """What a token reads of layers and head, in bytes, and how fast each GPU reads; ``head`` is on the last GPU."""

    always: list[float]
    experts: list[float]
    head: float
    rates: Sequence[float]

    def seconds(self, layers: Sequence[int], on_cpu: int) -> float:
        """Time that the GPUs take for a token, one after another."""
        stops = list(accumulate(layers, initial=0))
        spans = zip(stops, stops[1:], self.rates, strict=False)
        return sum([self.span(*span, on_cpu) for span in spans]) + self.head / self.rates[-1]

    def span(self, start: int, stop: int, rate: float, on_cpu: int) -> float:
        """Time of a run of layers at a rate."""
        first = max(start, on_cpu)
        experts = self.experts[stop] - self.experts[first] if stop > first else 0.0
        return (self.always[stop] - self.always[start] + experts) / rate


def quickest(sums: Sums, on_cpu: int, caps: Sequence[float], head: float, reads: Reads) -> tuple[int, ...] | None:
    """The layers on each GPU, one at least, that take a token the least time where there is room; None without room.

    GPUs that read equally fast share their layers as evenly as their room allows.

    >>> sums = sums_of([1.0] * 6, [9.0] * 6)
    >>> quickest(sums, 2, [40.0, 80.0], 5.0, Reads(sums.always, sums.experts, 5.0, (1.0, 2.0)))
    (1, 5)
    >>> quickest(sums, 2, [40.0, 80.0], 5.0, Reads(sums.always, sums.experts, 5.0, (2.0, 1.0)))
    (5, 1)
    """
    layers, last = len(sums.always) - 1, len(caps) - 1
    rooms = [cap - (head if gpu == last else 0.0) for gpu, cap in enumerate(caps)]
    # Bytes before every layer, and what a token reads of them: both count experts from ``on_cpu`` on.
    held = [size + sums.experts[max(at, on_cpu)] for at, size in enumerate(sums.always)]
    read = [size + reads.experts[max(at, on_cpu)] for at, size in enumerate(reads.always)]
    furthest = [0]
    for room in rooms[:-1]:
        furthest.append(bisect_right(held, held[furthest[-1]] + room) - 1)
    scale = read[-1] / min(reads.rates) * EVENNESS
    # For every layer that the GPUs from ``gpu`` on may begin with: the least cost, and the layers of each.
    best: dict[int, tuple[float, tuple[int, ...]]] = {layers: (0.0, ())}
    for gpu in range(last, -1, -1):
        room, rate = rooms[gpu], reads.rates[gpu]
        found: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start in range(gpu, furthest[gpu] + 1):
            least, full = inf, held[start] + room
            counts: tuple[int, ...] = ()
            for stop, (cost, after) in best.items():
                if stop > start and held[stop] <= full:
                    fill = (held[stop] - held[start]) / room
                    cost += (read[stop] - read[start]) / rate + scale * fill * fill
                    if cost < least:
                        least, counts = cost, (stop - start, *after)
            if counts:
                found[start] = (least, counts)
        best = found
    return best[0][1] if 0 in best else None


def balanced(
    always: Sequence[float], experts: Sequence[float], on_cpu: int, caps: Sequence[float], head: float
) -> tuple[int, ...] | None:
    """Layers per GPU such that all are filled alike and none above its cap; None if that is impossible.

    >>> balanced([1.0] * 6, [9.0] * 6, 2, [40.0, 80.0], 5.0)
    (3, 3)
    """
    space = space_with(sums_of(always, experts), min(on_cpu, len(always)), caps, head)
    return placement_in(space).layers if space else None


def spread(layers: int, gpus: int) -> tuple[int, ...]:
    """Equal shares, for what fits nowhere.

    >>> spread(61, 3)
    (21, 21, 19)
    """
    share = -(-layers // gpus)
    return tuple([max(0, min(share, layers - share * gpu)) for gpu in range(gpus)])


def _fill(sums: Sums, on_cpu: int, caps: Sequence[float], head: float) -> list[int] | None:
    """As many layers on each GPU as it holds, from the first on."""
    counts = []
    start, last = 0, len(caps) - 1
    for gpu, cap in enumerate(caps):
        room = cap - head if gpu == last else cap
        if room < 0 and gpu == last:
            return None
        stop = start
        if start < on_cpu:
            stop = min(bisect_right(sums.always, sums.always[start] + room) - 1, on_cpu)
        if start >= on_cpu or stop == on_cpu:
            in_ram = sums.experts[max(start, on_cpu)]
            stop = max(stop, bisect_right(sums.both, sums.always[start] + in_ram + room) - 1)
        stop = max(start, stop)
        counts.append(stop - start)
        start = stop
    return counts if start == len(sums.always) - 1 else None


def _even(sums: Sums, on_cpu: int, caps: Sequence[float], head: float) -> tuple[int, ...]:
    """The placement at the smallest common fill of the GPUs that is found possible; at their full memory it is."""
    total, room = sums.both[-1] - sums.experts[on_cpu] + head, sum([cap for cap in caps if cap > 0])
    least = total / room if room else 1.0
    for factor in EVENING_FACTORS if len(caps) > 1 else ():
        if least * factor < 1.0:
            counts = _fill(sums, on_cpu, [cap * least * factor for cap in caps], head)
            if counts is not None:
                return tuple(counts)
    full = _fill(sums, on_cpu, caps, head)
    assert full is not None
    return tuple(full)
