"""ggml's allocator: how many bytes the tensors of a graph take when each is placed as ggml places it.

ggml places every tensor once, before anything is computed: into the smallest gap that holds it, or at the end; the
buffer is as large as the furthest end. Source: ggml 0.26 ``ggml/src/ggml-alloc.c``.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

ENDLESS: Final = 1 << 62


class Graph:
    """Tensors in the order in which they are computed. ``kept`` are held beside them from beginning to end.

    A tensor is named by its number. ``sources`` are the tensors that it is computed from, once per use; ``over`` those
    of them that it may overwrite if nothing else needs them any more.
    """

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self.sources: list[tuple[int, ...]] = []
        self.over: list[tuple[int, ...]] = []
        self.kept: list[int] = []

    def add(self, size: int, *sources: int) -> int:
        """A tensor of ``size`` bytes computed from ``sources``; its number."""
        self.bytes.append(size)
        self.sources.append(sources)
        self.over.append(())
        return len(self.bytes) - 1

    def change(self, size: int, source: int, *others: int) -> int:
        """An elementwise operation on ``source``, done in place where it can be."""
        self.bytes.append(size)
        self.sources.append((source, *others))
        self.over.append((source,))
        return len(self.bytes) - 1

    def total(self, size: int, left: int, right: int) -> int:
        """The sum of two tensors, written over one of them where it can be."""
        self.bytes.append(size)
        self.sources.append((left, right))
        self.over.append((left, right))
        return len(self.bytes) - 1

    def use(self, *sources: int) -> None:
        """A use that leaves nothing in this buffer: a write into the KV cache, a copy to another device."""
        self.bytes.append(0)
        self.sources.append(sources)
        self.over.append(())


Steps = tuple[tuple[int, int], ...]
"""When tensors take and release their places, whatever their sizes: (place, tensor), ``~tensor`` where its bytes are
released. A place has the number of the first tensor in it."""


def steps_of(graph: Graph) -> Steps:
    """The order of a graph's allocations; a tensor without bytes takes no place."""
    return _steps(tuple(graph.sources), tuple(graph.over), tuple([size != 0 for size in graph.bytes]))


@lru_cache(maxsize=256)
def _steps(
    sources: tuple[tuple[int, ...], ...], over: tuple[tuple[int, ...], ...], has_bytes: tuple[bool, ...]
) -> Steps:
    uses = [0] * len(sources)
    for used in sources:
        for source in used:
            uses[source] += 1
    places = [-1] * len(uses)
    steps: list[tuple[int, int]] = []
    for number, used in enumerate(sources):
        for parent in over[number]:
            if uses[parent] == 1 and places[parent] >= 0:
                places[number], places[parent] = places[parent], -1
                break
        else:
            if has_bytes[number]:
                places[number] = number
                steps.append((number, number))
        for source in used:
            uses[source] -= 1
            if not uses[source] and places[source] >= 0:
                steps.append((places[source], ~source))
    return tuple(steps)


class Peak(NamedTuple):
    """The furthest end of a graph that has tensors of one open size, for every such size from ``low`` to ``high``.

    It is ``end`` at the size ``at``, and grows by ``slope`` for each byte of it.
    """

    low: int
    high: int
    at: int
    end: int
    slope: int

    def bytes_for(self, size: int) -> int:
        """The furthest end at that size."""
        return self.end + self.slope * (size - self.at)


def peak_bytes(graph: Graph, alignment: int) -> int:
    """The furthest end that any tensor reaches, all of them placed as ggml places them."""
    sizes = [-(-size // alignment) * alignment for size in graph.bytes]
    return furthest_end(steps_of(graph), sizes, sum([-(-size // alignment) * alignment for size in graph.kept]))


def furthest_end(steps: Steps, sizes: Sequence[int], start: int) -> int:
    """The furthest end that any tensor reaches, placed from ``start`` on; ``sizes`` are whole alignments."""
    gaps, lengths = [start], [ENDLESS]
    places = [0] * len(sizes)
    furthest = start
    for place, number in steps:
        if number >= 0:
            # Into the smallest gap that holds it (the later of equals), else at the end.
            size, best, least = sizes[number], -1, ENDLESS
            for gap, length in enumerate(lengths):
                if size <= length <= least:
                    best, least = gap, length
            at = places[place] = gaps[best]
            if least == size:
                del gaps[best], lengths[best]
            else:
                gaps[best] = at + size
                lengths[best] = least - size
            if at + size > furthest:
                furthest = at + size
            continue
        # Back to the gaps, joined with those beside it.
        at, size = places[place], sizes[~number]
        after = bisect(gaps, at)
        joins_next = after < len(gaps) and at + size == gaps[after]
        if after and gaps[after - 1] + lengths[after - 1] == at:
            lengths[after - 1] += size
            if joins_next:
                lengths[after - 1] += lengths[after]
                del gaps[after], lengths[after]
        elif joins_next:
            gaps[after] = at
            lengths[after] += size
        else:
            gaps.insert(after, at)
            lengths.insert(after, size)
    return furthest


def peak_around(steps: Steps, sizes: Sequence[int], start: int, opened: Collection[int], size: int) -> Peak:
    """``furthest_end`` with ``size`` for the ``opened`` tensors, and the sizes for which all go to the same places.

    Beside every number runs its slope: what it grows by for each byte of that size. A comparison of numbers with other
    slopes bounds the sizes for which it comes out the same.
    """
    gaps, gap_slopes, lengths, slopes = [start], [0], [ENDLESS], [0]
    places = [(0, 0)] * len(sizes)
    furthest = furthest_slope = 0
    low, high = 0, ENDLESS

    def holds(less: int, less_slope: int, more: int, more_slope: int) -> None:
        """Keep to sizes for which ``less <= more``, as it is."""
        nonlocal low, high
        faster = less_slope - more_slope
        if faster > 0:
            high = min(high, size + (more - less) // faster)
        elif faster < 0:
            low = max(low, size - (more - less) // -faster)

    for place, number in steps:
        own = ~number if number < 0 else number
        taken, slope = (size, 1) if own in opened else (sizes[own], 0)
        if number < 0:
            at, at_slope = places[place]
            after = bisect(gaps, at)
            joins_next = after < len(gaps) and at + taken == gaps[after]
            joins_last = after > 0 and gaps[after - 1] + lengths[after - 1] == at
            if joins_last:
                lengths[after - 1] += taken
                slopes[after - 1] += slope
                if joins_next:
                    lengths[after - 1] += lengths[after]
                    slopes[after - 1] += slopes[after]
                    del gaps[after], gap_slopes[after], lengths[after], slopes[after]
            elif joins_next:
                gaps[after], gap_slopes[after] = at, at_slope
                lengths[after] += taken
                slopes[after] += slope
            else:
                gaps.insert(after, at)
                gap_slopes.insert(after, at_slope)
                lengths.insert(after, taken)
                slopes.insert(after, slope)
            continue
        best = len(gaps) - 1
        for gap in range(best):
            length = lengths[gap]
            if taken > length:
                holds(length + 1, slopes[gap], taken, slope)
            elif length > lengths[best]:
                holds(lengths[best] + 1, slopes[best], length, slopes[gap])
            else:
                holds(taken, slope, length, slopes[gap])
                holds(length, slopes[gap], lengths[best], slopes[best])
                best = gap
        at, at_slope = places[place] = gaps[best], gap_slopes[best]
        if lengths[best] == taken:
            if slopes[best] != slope:
                low = high = size
            del gaps[best], gap_slopes[best], lengths[best], slopes[best]
        else:
            holds(taken + 1, slope, lengths[best], slopes[best])
            gaps[best] += taken
            gap_slopes[best] += slope
            lengths[best] -= taken
            slopes[best] -= slope
        end, end_slope = at + taken, at_slope + slope
        if end > furthest:
            holds(furthest, furthest_slope, end, end_slope)
            furthest, furthest_slope = end, end_slope
        else:
            holds(end, end_slope, furthest, furthest_slope)
    return Peak(low, high, size, max(furthest, start), furthest_slope)
