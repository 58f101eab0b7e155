"""The graph of one micro-batch on one device, as llama.cpp builds and cuts it, and the bytes of its compute buffer.

Every device holds what it computes and copies of what it takes from others. Source: llama.cpp 0.6.0 ``src/models`` and
the scheduler of ``ggml/src/ggml-backend.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from itertools import groupby
from typing import Final, NamedTuple

from planner.engines.llamacpp_allocator import ENDLESS, Graph, Peak, furthest_end, peak_around, peak_bytes, steps_of
from planner.engines.llamacpp_layers import (
    F16,
    F32,
    Batch,
    CacheInputs,
    Experts,
    GraphShape,
    grouped_attention,
    latent_attention,
    routed_experts,
    swiglu,
)
from profiles.model import KvGroup, ModelSpec, Role

INT64: Final = 8
GPU_ALIGNMENT: Final = 128
HOST_ALIGNMENT: Final = 32
REPEATED_LAYERS: Final = 5
"""After so many equal layers the gaps that they leave repeat, so that more of them take no more."""


class Layer(NamedTuple):
    """One layer of a share: where its routed experts are computed, and whether its attention is windowed."""

    experts: Experts
    windowed: bool = False


class Share(NamedTuple):
    """What one device computes. ``first`` begins with the embedded tokens, ``last`` ends with the logits.

    Pipeline parallelism keeps ``copies`` of every input (else 1). ``copied_bytes`` is the largest tensor of routed
    experts that is copied from RAM. ``alone``: there is no other device whose results would have to be copied.
    """

    layers: tuple[Layer, ...]
    first: bool = True
    last: bool = True
    copies: int = 1
    copied_bytes: int = 0
    alone: bool = False


MODELLED_ROLES: Final[frozenset[Role]] = frozenset(
    (
        "embedding", "lm_head", "norm", "router", "router_bias", "q_a", "q_b", "kv_a", "kv_b", "q", "k", "v", "o",
        "attention_bias", "attention_sink", "dense_gate", "dense_up", "dense_down", "shared_gate", "shared_up",
        "shared_down", "expert_gate", "expert_up", "expert_down", "expert_bias", "k_b", "v_b",
    )
)  # fmt: skip
"""What a layer may consist of for its graph to be one of those built here."""


def is_modelled(model: ModelSpec) -> bool:
    """Whether every tensor of the text model has a role that the graph knows."""
    text = [group for group in model.tensors if group.tensor_class not in ("vision", "mtp")]
    return all(group.role in MODELLED_ROLES for group in text)


def graph_shape(model: ModelSpec) -> GraphShape:
    """The widths of a model's graph, from its tensors and the layers that cache most."""
    text = [group for group in model.tensors if group.tensor_class not in ("vision", "mtp")]
    rows = {group.role: group.shape[-2] for group in text if len(group.shape) > 1}
    cache = max(model.kv_groups, key=_cached_width)
    latent = cache.layout == "mla"
    moe = model.moe
    return GraphShape(
        hidden=model.hidden,
        vocab=model.vocab,
        heads=model.heads,
        kv_heads=cache.n_kv_heads,
        head=model.q_head_dim if latent else cache.head_dim,
        v_head=model.v_head_dim if latent else cache.v_head_dim,
        latent=cache.kv_lora_rank,
        rope=cache.rope_dim,
        q_lora=rows.get("q_a", 0),
        dense_ffn=model.dense_ffn,
        experts=moe.experts if moe else 0,
        top_k=moe.top_k if moe else 0,
        expert_ffn=moe.expert_ffn if moe else 0,
        shared_ffn=rows.get("shared_gate", 0),
        normalised_queries=not latent and any(group.role == "norm" and "q_norm" in group.name for group in text),
        biased=any(group.role == "attention_bias" for group in text),
    )


def _cached_width(group: KvGroup) -> int:
    return group.kv_lora_rank + group.rope_dim + group.n_kv_heads * (group.head_dim + group.v_head_dim)


class _LayerInputs:
    """Inputs that layers share, placed with the first piece of the graph that uses them.

    Experts computed elsewhere cut the graph into pieces: a piece begins within the layer that has them.
    """

    def __init__(self, place: Callable[[int], int], shape: GraphShape, batch: Batch, share: Share) -> None:
        self._place, self._shape, self._batch, self._share = place, shape, batch, share
        self._caches: dict[bool, CacheInputs] = {}
        self.outputs: int | None = None
        self.begin_piece(0)

    def begin_piece(self, first: int) -> None:
        """Place what layers from ``first`` to the next cut need, and the outputs' places if the last is one of them."""
        layers = self._share.layers
        for number in range(first, len(layers)):
            self.cache(windowed=layers[number].windowed)
            if number == len(layers) - 1 and self._share.last:
                self.outputs = self._place(F32 * self._batch.outputs)
            if layers[number].experts not in ("none", "here"):
                return

    def cache(self, *, windowed: bool) -> CacheInputs:
        """The inputs of that kind of attention layer."""
        found = self._caches.get(windowed)
        if found is None:
            place, shape, batch = self._place, self._shape, self._batch
            cells = batch.window_cells if windowed else batch.cells
            rotations = tuple([place(side * side * F32) if side else None for side in _rotation_sides(shape, batch)])
            size = _value_places_bytes(shape, batch)
            keys, values = place(INT64 * batch.tokens), place(size) if size else None
            found = CacheInputs(cells, keys, values, place(_mask_bytes(batch, cells)), rotations)
            self._caches[windowed] = found
        return found


class _Inputs(NamedTuple):
    """Numbers of the inputs of a share; ``norm`` is None where the share normalises its first input itself."""

    hidden: int
    norm: int | None
    positions: int
    layers: _LayerInputs


def micro_batch(shape: GraphShape, batch: Batch, share: Share) -> Graph:
    """The graph of ``share`` for one micro-batch."""
    graph = Graph()
    if not share.layers:
        return _head_alone(graph, shape, batch, share)
    inputs = _own_inputs(graph, shape, batch, share) if share.alone else _copied_inputs(graph, shape, batch, share)
    hidden, norm = inputs.hidden, inputs.norm
    attention = latent_attention if shape.latent else grouped_attention
    tokens, width = batch.tokens, shape.hidden * F32 * batch.tokens
    for number, layer in enumerate(share.layers, 1):
        norm = graph.change(width, graph.add(width, hidden) if norm is None else norm)
        cache = inputs.layers.cache(windowed=layer.windowed)
        result = graph.add(width, attention(graph, shape, batch, cache, inputs.positions, norm))
        if shape.biased:
            result = graph.change(width, result)
        if number == len(share.layers) and (outputs := inputs.layers.outputs) is not None:
            tokens, width = batch.outputs, shape.hidden * F32 * batch.outputs
            result, hidden = graph.add(width, result, outputs), graph.add(width, hidden, outputs)
        residual = graph.total(width, result, hidden)
        norm = graph.change(width, graph.add(width, residual))
        if layer.experts == "none":
            out = swiglu(graph, norm, tokens, shape.dense_ffn, shape.hidden)
        else:
            begin_next = partial(inputs.layers.begin_piece, number)
            routed = routed_experts(graph, shape, layer.experts, share.copied_bytes, norm, tokens, begin_next)
            if routed is None and not shape.shared_ffn:
                # Without a shared expert to bring it back, the sum and the next norm stay on the first GPU too.
                graph.use(residual)
                norm, hidden = graph.add(width), graph.add(width)
                continue
            out = graph.add(width) if routed is None else routed
            if shape.shared_ffn:
                out = graph.total(width, out, swiglu(graph, norm, tokens, shape.shared_ffn, shape.hidden))
        hidden, norm = graph.total(width, out, residual), None
    if share.last:
        width = shape.hidden * F32 * batch.outputs
        graph.add(shape.vocab * F32 * batch.outputs, graph.change(width, graph.change(width, hidden)))
    else:
        # The norm that opens the next layer has no weights and stays with its input, so both cross.
        graph.use(graph.add(width, hidden), hidden)
    return graph


def _head_alone(graph: Graph, shape: GraphShape, batch: Batch, share: Share) -> Graph:
    """The head on a GPU without layers: what crosses are the rows of the outputs, normalised where they come from."""
    width = shape.hidden * F32 * batch.outputs
    if share.copies > 1:
        graph.kept += [width] * share.copies
        graph.add(shape.vocab * F32 * batch.outputs, graph.add(width))
    else:
        graph.add(shape.vocab * F32 * batch.outputs, graph.change(width, graph.add(width)))
    return graph


def host_inputs(shape: GraphShape, batch: Batch) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes of each input that llama.cpp fills in host memory beside GPUs, and of the embedding's rows found there.

    First comes the input for embeddings, there even when only token numbers come, and last that of the outputs.
    """
    row, width, places = F32 * batch.tokens, shape.hidden * F32 * batch.tokens, INT64 * batch.tokens
    mixed = [row, places, width] if batch.mixed_inputs else []
    filled = [width, row, *mixed, row]
    for cells in (batch.cells, batch.window_cells):
        if cells:
            filled += [side * side * F32 for side in _rotation_sides(shape, batch)]
            filled += [places, _value_places_bytes(shape, batch), _mask_bytes(batch, cells)]
    return (*filled, F32 * batch.outputs), (width, width)[: 1 + batch.mixed_inputs]


def host_experts(shape: GraphShape, batch: Batch) -> Graph:
    """The routed experts of one layer, computed by the CPU for a GPU that has taken its inputs by then."""
    graph = Graph()
    filled, rows = host_inputs(shape, batch)
    inputs = [graph.add(size) for size in (*filled, *rows)]
    # Nothing releases the input that nothing uses, and the outputs are asked for at the end.
    graph.use(*[number for number in inputs if number not in (0, len(filled) - 1)])
    width, inner = shape.hidden * F32 * batch.tokens, shape.top_k * shape.expert_ffn * F32 * batch.tokens
    norm, chosen = graph.add(width), graph.add(shape.experts * F32 * batch.tokens)
    gate, up = graph.add(inner, norm, chosen), graph.add(inner, norm, chosen)
    graph.use(graph.add(shape.top_k * width, graph.add(inner, gate, up), chosen))
    return graph


def _mask_bytes(batch: Batch, cells: int) -> int:
    return (F16 if batch.flash else F32) * cells * batch.tokens


def _value_places_bytes(shape: GraphShape, batch: Batch) -> int:
    """Where values go: by row, or by element into the transposed cache that flash attention does without."""
    if shape.latent:
        return 0
    return INT64 * batch.tokens * (1 if batch.flash else shape.kv_heads * shape.v_head)


def _rotation_sides(shape: GraphShape, batch: Batch) -> tuple[int, int]:
    """Sides of the square matrices that rotate keys and values before they are quantized; 0 where there is none."""
    if shape.latent:
        return 0, 0
    keys, values = batch.rotates
    return (
        shape.head & -shape.head if keys and shape.head % 64 == 0 else 0,
        64 if values and shape.v_head % 64 == 0 else 0,
    )


def _own_inputs(graph: Graph, shape: GraphShape, batch: Batch, share: Share) -> _Inputs:
    """Inputs of the only device: they are filled in its buffer, and so are the rows of the embedding."""
    row, width = F32 * batch.tokens, shape.hidden * F32 * batch.tokens
    tokens, _ = graph.add(row), graph.add(width)
    mixed = (graph.add(row), graph.add(INT64 * batch.tokens), graph.add(width)) if batch.mixed_inputs else None
    positions = graph.add(row)
    layers = _LayerInputs(graph.add, shape, batch, share)
    hidden = graph.add(width, tokens)
    if mixed:
        mixed_tokens, slots, embeddings = mixed
        _merge(graph, width, graph.add(width, mixed_tokens), slots, embeddings)
    return _Inputs(hidden, None, positions, layers)


def _copied_inputs(graph: Graph, shape: GraphShape, batch: Batch, share: Share) -> _Inputs:
    """Inputs of a GPU: copies of what the host or the GPU before it has computed."""
    row, width = F32 * batch.tokens, shape.hidden * F32 * batch.tokens

    def place(size: int) -> int:
        if share.copies == 1:
            return graph.add(size)
        graph.kept += [size] * share.copies
        return graph.add(0)

    mixed = share.first and batch.mixed_inputs
    embeddings, merged, slots = (place(width), place(width), place(2 * row)) if mixed else (0, 0, 0)
    opening = place(width)
    positions = place(row)
    layers = _LayerInputs(place, shape, batch, share)
    hidden, norm = (opening, None) if share.first else (place(width), opening)
    if mixed:
        _merge(graph, width, merged, slots, embeddings)
    return _Inputs(hidden, norm, positions, layers)


def _merge(graph: Graph, width: int, rows: int, slots: int, embeddings: int) -> None:
    """Rows of the embedding are written into a copy of the embeddings that came, which nothing releases."""
    graph.add(width, embeddings)
    graph.use(rows, slots)


@lru_cache(maxsize=4096)
def compute_bytes(shape: GraphShape, batch: Batch, share: Share) -> int:
    """Bytes of the compute buffer of one device.

    >>> k25 = GraphShape(7168, 163840, 64, 0, 192, 128, 512, 64, 1536, 18432, 384, 8, 2048, 2048, False, False)
    >>> layers = without_repeats([Layer("none"), *[Layer("here")] * 60])
    >>> compute_bytes(k25, Batch(512, 4, 8192), Share(layers, alone=True))
    299907104
    """
    placed = _placed(shape, batch, share._replace(copied_bytes=COPIED) if share.copied_bytes else share)
    return placed.bytes_for(_aligned(share.copied_bytes, placed.alignment))


COPIED: Final = -1
"""Stands for the size of copied experts, in which releases differ that otherwise have the same graph."""


class _Placed:
    """The graph of a share with the peaks that were found of it."""

    def __init__(self, graph: Graph, alignment: int) -> None:
        self.alignment = alignment
        self._steps = steps_of(graph)
        self._copied = frozenset([number for number, size in enumerate(graph.bytes) if size == COPIED])
        self._sizes = [-(-size // alignment) * alignment for size in graph.bytes]
        self._start = sum([_aligned(size, alignment) for size in graph.kept])
        self._peaks: list[Peak] = []

    def bytes_for(self, copied_bytes: int) -> int:
        """The peak with copied experts of that many bytes."""
        for peak in self._peaks:
            if peak.low <= copied_bytes <= peak.high:
                return peak.bytes_for(copied_bytes)
        if self._copied:
            found = peak_around(self._steps, self._sizes, self._start, self._copied, copied_bytes)
        else:
            end = furthest_end(self._steps, self._sizes, self._start)
            found = Peak(0, ENDLESS, 0, end, 0)
        self._peaks = [*self._peaks[-MOST_PEAKS:], found]
        return found.end


MOST_PEAKS: Final = 32
"""Peaks of a graph that are kept, each for a range of sizes; one or two are the rule."""


@lru_cache(maxsize=1024)
def _placed(shape: GraphShape, batch: Batch, share: Share) -> _Placed:
    return _Placed(micro_batch(shape, batch, share), HOST_ALIGNMENT if share.alone else GPU_ALIGNMENT)


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


@lru_cache(maxsize=4096)
def host_bytes(shape: GraphShape, batch: Batch, copies: int = 1, computes_experts: bool = False) -> int:
    """Bytes of the host's compute buffer beside GPUs, for ``copies`` of every input."""
    if computes_experts:
        return peak_bytes(host_experts(shape, batch), HOST_ALIGNMENT)
    filled, rows = host_inputs(shape, batch)
    graph = Graph()
    graph.kept += [*filled * copies, *rows]
    return peak_bytes(graph, HOST_ALIGNMENT)


def without_repeats(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Layers whose compute buffer is that of all: long runs of equal ones are cut short."""
    return tuple([layer for layer, run in groupby(layers) for _ in range(min(len(list(run)), REPEATED_LAYERS))])
