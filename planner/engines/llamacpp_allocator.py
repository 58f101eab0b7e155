"""ggml's allocator: how many bytes the tensors of a graph take when each is placed as ggml places it.

ggml places every tensor once, before anything is computed: into the smallest gap that holds it, or at the end; the
buffer is as large as the furthest end. Source: ggml 0.26 ``ggml/src/ggml-alloc.c``.
"""

from __future__ import annotations

from bisect import bisect
from typing import Final

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
        return self._write(size, sources, ())

    def change(self, size: int, source: int, *others: int) -> int:
        """An elementwise operation on ``source``, done in place where it can be."""
        return self._write(size, (source, *others), (source,))

    def total(self, size: int, left: int, right: int) -> int:
        """The sum of two tensors, written over one of them where it can be."""
        return self._write(size, (left, right), (left, right))

    def use(self, *sources: int) -> None:
        """A use that leaves nothing in this buffer: a write into the KV cache, a copy to another device."""
        self._write(0, sources, ())

    def _write(self, size: int, sources: tuple[int, ...], over: tuple[int, ...]) -> int:
        self.bytes.append(size)
        self.sources.append(sources)
        self.over.append(over)
        return len(self.bytes) - 1


def peak_bytes(graph: Graph, alignment: int) -> int:
    """The furthest end that any tensor reaches, all of them placed as ggml places them."""
    sizes = [-(-size // alignment) * alignment for size in graph.bytes]
    uses = [0] * len(sizes)
    for sources in graph.sources:
        for source in sources:
            uses[source] += 1
    start = sum([-(-size // alignment) * alignment for size in graph.kept])
    gaps, lengths = [start], [ENDLESS]
    places = [-1] * len(sizes)
    furthest = start
    for number, size in enumerate(sizes):
        for parent in graph.over[number]:
            if uses[parent] == 1 and places[parent] >= 0:
                places[number], places[parent] = places[parent], -1
                break
        else:
            if size:
                places[number] = _take(gaps, lengths, size)
                furthest = max(furthest, places[number] + size)
        for source in graph.sources[number]:
            uses[source] -= 1
            if not uses[source] and places[source] >= 0:
                _release(gaps, lengths, places[source], sizes[source])
    return furthest


def _take(gaps: list[int], lengths: list[int], size: int) -> int:
    """Places ``size`` bytes into the smallest gap that holds them (the later of equals), else at the end."""
    best = len(gaps) - 1
    for number in range(len(gaps) - 1):
        if size <= lengths[number] <= lengths[best]:
            best = number
    place = gaps[best]
    if lengths[best] == size:
        del gaps[best], lengths[best]
    else:
        gaps[best] += size
        lengths[best] -= size
    return place


def _release(gaps: list[int], lengths: list[int], place: int, size: int) -> None:
    """Returns bytes to the gaps, joined with those beside them."""
    after = bisect(gaps, place)
    joins_next = after < len(gaps) and place + size == gaps[after]
    joins_last = after > 0 and gaps[after - 1] + lengths[after - 1] == place
    if joins_last and joins_next:
        lengths[after - 1] += size + lengths[after]
        del gaps[after], lengths[after]
    elif joins_last:
        lengths[after - 1] += size
    elif joins_next:
        gaps[after] = place
        lengths[after] += size
    else:
        gaps.insert(after, place)
        lengths.insert(after, size)
