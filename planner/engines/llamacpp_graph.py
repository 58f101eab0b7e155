"""The tensors of one micro-batch as llama.cpp computes them on one device: what its compute buffer must hold.

Layers of attention (latent or grouped queries) and of a feed-forward network, dense or routed, in the order of the
graphs that llama.cpp 0.6.0 builds (``src/models``, ``src/llama-graph.cpp`` and the splits of
``ggml/src/ggml-backend.cpp``). Sizes are bytes: activations are F32, the attention mask is F16 with flash attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from profiles.model import KvGroup, ModelSpec, Role

F32: Final = 4
F16: Final = 2
INT64: Final = 8
OFFLOAD_MIN_TOKENS: Final = 32
"""Batches from this many tokens on take experts in RAM to the GPU (``ggml-cuda.cu``, GGML_OP_OFFLOAD_MIN_BATCH)."""

Experts = Literal["none", "here", "copied", "first_gpu", "host"]
"""Where a layer's routed experts are computed: ``here``, with the rest of the layer; on the first GPU, from copies of
tensors in RAM, seen from that GPU (``copied``) or from another (``first_gpu``); by the CPU (``host``). ``none`` is a
dense layer."""


class GraphShape(NamedTuple):
    """Widths in elements. ``latent`` and ``q_lora`` are 0 without latent attention, ``experts`` without routing."""

    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    head: int
    v_head: int
    latent: int
    rope: int
    q_lora: int
    dense_ffn: int
    experts: int
    top_k: int
    expert_ffn: int
    shared_ffn: int
    normalised_queries: bool
    biased: bool


class Batch(NamedTuple):
    """A micro-batch of ``tokens`` tokens, of which ``outputs`` give logits.

    ``cells`` and ``window_cells`` are what one sequence sees of the cache in a full and in a windowed layer (0: there
    are none); ``streams`` sequences have a cache each. A quantized cache is rotated before it is stored
    (``rotates``: keys, values). ``widens``: keys and values are converted to F16 beside the result of flash attention.
    ``casts``: an F32 cache is. ``mixed_inputs``: token numbers and embeddings may come together.
    """

    tokens: int
    outputs: int
    cells: int
    window_cells: int = 0
    streams: int = 1
    flash: bool = True
    rotates: tuple[bool, bool] = (False, False)
    widens: tuple[bool, bool] = (False, False)
    casts: tuple[bool, bool] = (False, False)
    mixed_inputs: bool = True


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
        "shared_down", "expert_gate", "expert_up", "expert_down", "expert_bias",
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


class _Cache(NamedTuple):
    """Numbers of the inputs of one kind of attention layer: where keys and values go, what is seen, rotations."""

    keys: int
    values: int | None
    mask: int
    rotations: tuple[int | None, ...]


class _Inputs(NamedTuple):
    """Numbers of the inputs of a share; ``norm`` is None where the share normalises its first input itself."""

    hidden: int
    norm: int | None
    positions: int
    full: _Cache
    window: _Cache
    outputs: int | None


def micro_batch(shape: GraphShape, batch: Batch, share: Share) -> Graph:
    """The graph of ``share`` for one micro-batch."""
    graph = Graph()
    inputs = _own_inputs(graph, shape, batch) if share.alone else _copied_inputs(graph, shape, batch, share)
    hidden, norm = inputs.hidden, inputs.norm
    attention = _latent_attention if shape.latent else _grouped_attention
    tokens, width = batch.tokens, shape.hidden * F32 * batch.tokens
    for number, layer in enumerate(share.layers, 1):
        norm = graph.change(width, graph.add(width, hidden) if norm is None else norm)
        result = graph.add(width, attention(graph, shape, batch, inputs, layer.windowed, norm))
        if shape.biased:
            result = graph.change(width, result)
        if number == len(share.layers) and inputs.outputs is not None:
            tokens, width = batch.outputs, shape.hidden * F32 * batch.outputs
            result, hidden = graph.add(width, result, inputs.outputs), graph.add(width, hidden, inputs.outputs)
        residual = graph.total(width, result, hidden)
        norm = graph.change(width, graph.add(width, residual))
        if layer.experts == "none":
            out = _swiglu(graph, norm, tokens, shape.dense_ffn, shape.hidden)
        else:
            routed = _routed_experts(graph, shape, layer.experts, share.copied_bytes, norm, tokens)
            if routed is None and not shape.shared_ffn:
                # Without a shared expert to bring it back, the sum and the next norm stay on the first GPU too.
                graph.use(residual)
                norm, hidden = graph.add(width), graph.add(width)
                continue
            out = graph.add(width) if routed is None else routed
            if shape.shared_ffn:
                out = graph.total(width, out, _swiglu(graph, norm, tokens, shape.shared_ffn, shape.hidden))
        hidden, norm = graph.total(width, out, residual), None
    if share.last:
        graph.add(shape.vocab * F32 * tokens, graph.change(width, graph.change(width, hidden)))
    else:
        # The norm that opens the next layer has no weights and stays with its input, so both cross.
        graph.use(graph.add(width, hidden), hidden)
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


def _own_inputs(graph: Graph, shape: GraphShape, batch: Batch) -> _Inputs:
    """Inputs of the only device: they are filled in its buffer, and so are the rows of the embedding."""
    row, width = F32 * batch.tokens, shape.hidden * F32 * batch.tokens
    tokens, _ = graph.add(row), graph.add(width)
    mixed = (graph.add(row), graph.add(INT64 * batch.tokens), graph.add(width)) if batch.mixed_inputs else None
    inputs = _Inputs(0, None, graph.add(row), *_cache_inputs(graph.add, shape, batch), graph.add(F32 * batch.outputs))
    inputs = inputs._replace(hidden=graph.add(width, tokens))
    if mixed:
        mixed_tokens, slots, embeddings = mixed
        _merge(graph, width, graph.add(width, mixed_tokens), slots, embeddings)
    return inputs


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
    caches = _cache_inputs(place, shape, batch)
    hidden, norm = (opening, None) if share.first else (place(width), opening)
    outputs = place(F32 * batch.outputs) if share.last else None
    if mixed:
        _merge(graph, width, merged, slots, embeddings)
    return _Inputs(hidden, norm, positions, *caches, outputs)


def _merge(graph: Graph, width: int, rows: int, slots: int, embeddings: int) -> None:
    """Rows of the embedding are written into a copy of the embeddings that came, which nothing releases."""
    graph.add(width, embeddings)
    graph.use(rows, slots)


def _cache_inputs(place: Callable[[int], int], shape: GraphShape, batch: Batch) -> tuple[_Cache, _Cache]:
    """Inputs of full and of windowed attention layers; the same where there is one kind."""
    kinds = []
    for cells in [batch.cells, batch.window_cells] if batch.window_cells else [batch.cells]:
        rotations = tuple([place(side * side * F32) if side else None for side in _rotation_sides(shape, batch)])
        values = _value_places_bytes(shape, batch)
        keys = place(INT64 * batch.tokens)
        kinds.append(_Cache(keys, place(values) if values else None, place(_mask_bytes(batch, cells)), rotations))
    return kinds[0], kinds[-1]


def _swiglu(graph: Graph, norm: int, tokens: int, ffn: int, hidden: int) -> int:
    gate, up = graph.add(ffn * F32 * tokens, norm), graph.add(ffn * F32 * tokens, norm)
    return graph.add(hidden * F32 * tokens, graph.add(ffn * F32 * tokens, gate, up))


def _routed_experts(
    graph: Graph, shape: GraphShape, where: Experts, copied_bytes: int, norm: int, tokens: int
) -> int | None:
    """The weighted sum over the chosen experts; None where it is left to the first GPU."""
    scores, each = shape.experts * F32 * tokens, shape.top_k * F32 * tokens
    inner, outer, width = each * shape.expert_ffn, each * shape.hidden, shape.hidden * F32 * tokens
    # Small batches are not worth a copy: the CPU computes what it holds.
    if where in ("copied", "first_gpu") and tokens < OFFLOAD_MIN_TOKENS:
        where = "host"
    probabilities = graph.change(scores, graph.add(scores, norm))
    ranked = graph.add(scores, graph.add(scores, probabilities) if shape.latent else probabilities)
    chosen = graph.add(each, probabilities, ranked)
    weights = graph.add(each, chosen, graph.change(F32 * tokens, graph.add(F32 * tokens, chosen)))
    if where == "first_gpu":
        graph.use(norm, ranked)
        graph.use(weights)
        return None
    if where == "host":
        graph.use(norm, ranked)
        down = graph.add(outer)
    else:

        def weight() -> tuple[int, ...]:
            return (graph.add(copied_bytes),) if where == "copied" else ()

        gate = graph.add(inner, norm, ranked, *weight())
        up = graph.add(inner, norm, ranked, *weight())
        product = graph.add(inner, gate, up)
        down = graph.add(outer, product, ranked, *weight())
    weighted = graph.change(outer, down, weights)
    out = graph.add(width, weighted, weighted)
    for _ in range(shape.top_k - 2):
        out = graph.change(width, out, weighted)
    return out


def _latent_attention(
    graph: Graph, shape: GraphShape, batch: Batch, inputs: _Inputs, windowed: bool, norm: int
) -> int:
    """Attention over the latent: queries are absorbed into it, so that the cache is read as it is."""
    row, cache = F32 * batch.tokens, inputs.window if windowed else inputs.full
    if shape.q_lora:
        query = graph.change(shape.q_lora * row, graph.change(shape.q_lora * row, graph.add(shape.q_lora * row, norm)))
        query = graph.add(shape.heads * shape.head * row, query)
    else:
        query = graph.add(shape.heads * shape.head * row, norm)
    absorbed = graph.add(shape.heads * shape.latent * row, query)
    rotary = graph.add(shape.heads * shape.rope * row, query, inputs.positions)
    query = graph.add(shape.heads * (shape.latent + shape.rope) * row, absorbed, rotary)
    compressed = graph.add((shape.latent + shape.rope) * row, norm)
    latent = graph.change(shape.latent * row, graph.add(shape.latent * row, compressed))
    rotary = graph.add(shape.rope * row, compressed, inputs.positions)
    graph.use(graph.add((shape.latent + shape.rope) * row, latent, rotary), cache.keys)
    cells = (batch.window_cells if windowed else batch.cells) * batch.streams
    if batch.flash:
        casts = [graph.add(width * F16 * cells) for width in (shape.latent + shape.rope, shape.latent) if batch.casts[0]]
        widened = (shape.latent + shape.rope) * F16 * cells if batch.widens[0] else 0
        seen = graph.add(shape.heads * shape.latent * row + widened, query, cache.mask, *casts)
    else:
        values = graph.add(shape.latent * F16 * cells)
        seen = graph.add(shape.heads * shape.latent * row, values, _softmax(graph, shape, batch, query, cache, windowed))
    return graph.add(shape.heads * shape.v_head * row, graph.add(shape.heads * shape.v_head * row, seen))


def _grouped_attention(
    graph: Graph, shape: GraphShape, batch: Batch, inputs: _Inputs, windowed: bool, norm: int
) -> int:
    row, cache = F32 * batch.tokens, inputs.window if windowed else inputs.full
    keys_bytes, values_bytes = shape.kv_heads * shape.head * row, shape.kv_heads * shape.v_head * row
    key_rotation, value_rotation = cache.rotations

    def project(size: int, rotary: bool, rotation: int | None) -> int:
        made = graph.add(size, norm)
        if shape.biased:
            made = graph.change(size, made)
        if rotary and shape.normalised_queries:
            made = graph.change(size, graph.change(size, graph.add(size, made)), inputs.positions)
        elif rotary:
            made = graph.add(size, made, inputs.positions)
        return made if rotation is None else graph.add(size, made, rotation)

    query = project(shape.heads * shape.head * row, True, key_rotation)
    if shape.biased:
        keys, values = project(keys_bytes, True, key_rotation), project(values_bytes, False, value_rotation)
    else:
        values, keys = project(values_bytes, False, value_rotation), project(keys_bytes, True, key_rotation)
    graph.use(keys, cache.keys)
    graph.use(values, *[cache.values] if cache.values is not None else [])
    cells = (batch.window_cells if windowed else batch.cells) * batch.streams
    out = shape.heads * shape.v_head * row
    if batch.flash:
        widths = (shape.kv_heads * shape.head, shape.kv_heads * shape.v_head)
        casts = [graph.add(width * F16 * cells) for width, cast in zip(widths, batch.casts, strict=True) if cast]
        widened = sum([width * F16 * cells for width, widen in zip(widths, batch.widens, strict=True) if widen])
        seen = graph.add(out + widened, query, cache.mask, *casts)
    else:
        seen = graph.add(out, graph.add(out, _softmax(graph, shape, batch, query, cache, windowed)))
    return seen if value_rotation is None else graph.add(out, seen, value_rotation)


def _softmax(
    graph: Graph, shape: GraphShape, batch: Batch, query: int, cache: _Cache, windowed: bool
) -> int:
    size = shape.heads * (batch.window_cells if windowed else batch.cells) * F32 * batch.tokens
    return graph.change(size, graph.add(size, query), cache.mask)
