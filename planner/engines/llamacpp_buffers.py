"""Bytes of llama.cpp's compute buffers: its graphs played through ggml's allocator.

ggml places every tensor of a graph once, before anything is computed: into the smallest gap that holds it, or at the
end; the buffer is as large as the furthest end. Source: ggml 0.26 ``ggml/src/ggml-alloc.c``.
"""

from __future__ import annotations

from bisect import bisect
from functools import lru_cache
from itertools import groupby
from typing import Final

from planner.engines.llamacpp_graph import Batch, Graph, GraphShape, Layer, Share, host_experts, host_inputs, micro_batch

GPU_ALIGNMENT: Final = 128
HOST_ALIGNMENT: Final = 32
REPEATED_LAYERS: Final = 4
"""After so many equal layers the gaps that they leave repeat, so that more of them take no more."""
ENDLESS: Final = 1 << 62


@lru_cache(maxsize=4096)
def compute_bytes(shape: GraphShape, batch: Batch, share: Share) -> int:
    """Bytes of the compute buffer of one device.

    >>> from planner.engines.llamacpp_graph import GraphShape
    >>> k25 = GraphShape(7168, 163840, 64, 0, 192, 128, 512, 64, 1536, 18432, 384, 8, 2048, 2048, False, False)
    >>> layers = (Layer("none"), *[Layer("here")] * 60)
    >>> compute_bytes(k25, Batch(512, 4, 8192), Share(layers, alone=True))
    299907104
    """
    graph = micro_batch(shape, batch, share._replace(layers=_without_repeats(share.layers)))
    return peak_bytes(graph, HOST_ALIGNMENT if share.alone else GPU_ALIGNMENT)


@lru_cache(maxsize=4096)
def host_bytes(shape: GraphShape, batch: Batch, copies: int = 1, computes_experts: bool = False) -> int:
    """Bytes of the host's compute buffer beside GPUs, for ``copies`` of every input."""
    if computes_experts:
        return peak_bytes(host_experts(shape, batch), HOST_ALIGNMENT)
    filled, rows = host_inputs(shape, batch)
    graph = Graph()
    graph.kept += [*filled * copies, *rows]
    return peak_bytes(graph, HOST_ALIGNMENT)


def _without_repeats(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers with long runs of equal ones cut short; the last stays, since it alone computes the outputs."""
    runs = [(kind, len(list(run))) for kind, run in groupby(layers)]
    return tuple([kind for kind, length in runs for _ in range(min(length, REPEATED_LAYERS + 1))])


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
