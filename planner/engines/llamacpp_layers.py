"""Layers of llama.cpp's graphs: the tensors of attention and of feed-forward networks, in the order of computation.

Sizes are bytes. Activations are F32; the attention mask is F16 with flash attention. Source: llama.cpp 0.6.0
``src/models`` and ``src/llama-graph.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from planner.engines.llamacpp_allocator import Graph

F32: Final = 4
F16: Final = 2
OFFLOAD_MIN_TOKENS: Final = 32
"""Batches from this many tokens on take experts in RAM to the GPU (``ggml-cuda.cu``; llama.cpp issue 22319)."""

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


class CacheInputs(NamedTuple):
    """Inputs of one kind of attention layer: ``cells`` that a sequence sees; numbers of the tensors that say where keys
    and values go and what is seen, and of the rotations."""

    cells: int
    keys: int
    values: int | None
    mask: int
    rotations: tuple[int | None, ...]


def swiglu(graph: Graph, norm: int, tokens: int, ffn: int, hidden: int) -> int:
    gate, up = graph.add(ffn * F32 * tokens, norm), graph.add(ffn * F32 * tokens, norm)
    return graph.add(hidden * F32 * tokens, graph.add(ffn * F32 * tokens, gate, up))


def routed_experts(
    graph: Graph,
    shape: GraphShape,
    where: Experts,
    copied_bytes: int,
    norm: int,
    tokens: int,
    begin_next: Callable[[], None],
) -> int | None:
    """The weighted sum over the chosen experts; None where it is left to the first GPU.

    ``begin_next`` places the inputs of the piece of the graph that begins here when the experts are elsewhere.
    """
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
        begin_next()
        return None
    if where == "host":
        graph.use(norm, ranked)
        down = graph.add(outer)
        begin_next()
    else:

        def weight() -> tuple[int, ...]:
            return (graph.add(copied_bytes),) if where == "copied" else ()

        gate = graph.add(inner, norm, ranked, *weight())
        up = graph.add(inner, norm, ranked, *weight())
        product = graph.add(inner, gate, up)
        copied = weight()
        if copied:
            begin_next()
        down = graph.add(outer, product, ranked, *copied)
    weighted = graph.change(outer, down, weights)
    out = graph.add(width, weighted, weighted)
    for _ in range(shape.top_k - 2):
        out = graph.change(width, out, weighted)
    return out


def latent_attention(
    graph: Graph, shape: GraphShape, batch: Batch, cache: CacheInputs, positions: int, norm: int
) -> int:
    """Attention over the latent: queries are absorbed into it, so that the cache is read as it is."""
    row, cells = F32 * batch.tokens, cache.cells * batch.streams
    if shape.q_lora:
        query = graph.change(shape.q_lora * row, graph.change(shape.q_lora * row, graph.add(shape.q_lora * row, norm)))
        query = graph.add(shape.heads * shape.head * row, query)
    else:
        query = graph.add(shape.heads * shape.head * row, norm)
    absorbed = graph.add(shape.heads * shape.latent * row, query)
    rotary = graph.add(shape.heads * shape.rope * row, query, positions)
    query = graph.add(shape.heads * (shape.latent + shape.rope) * row, absorbed, rotary)
    compressed = graph.add((shape.latent + shape.rope) * row, norm)
    latent = graph.change(shape.latent * row, graph.add(shape.latent * row, compressed))
    rotary = graph.add(shape.rope * row, compressed, positions)
    graph.use(graph.add((shape.latent + shape.rope) * row, latent, rotary), cache.keys)
    if batch.flash:
        casts = [
            graph.add(width * F16 * cells) for width in (shape.latent + shape.rope, shape.latent) if batch.casts[0]
        ]
        widened = (shape.latent + shape.rope) * F16 * cells if batch.widens[0] else 0
        seen = graph.add(shape.heads * shape.latent * row + widened, query, cache.mask, *casts)
    else:
        values = graph.add(shape.latent * F16 * cells)
        seen = graph.add(shape.heads * shape.latent * row, values, _softmax(graph, shape, batch, query, cache))
    return graph.add(shape.heads * shape.v_head * row, graph.add(shape.heads * shape.v_head * row, seen))


def grouped_attention(
    graph: Graph, shape: GraphShape, batch: Batch, cache: CacheInputs, positions: int, norm: int
) -> int:
    row, cells = F32 * batch.tokens, cache.cells * batch.streams
    keys_bytes, values_bytes = shape.kv_heads * shape.head * row, shape.kv_heads * shape.v_head * row
    key_rotation, value_rotation = cache.rotations

    def project(size: int, rotary: bool, rotation: int | None) -> int:
        made = graph.add(size, norm)
        if shape.biased:
            made = graph.change(size, made)
        if rotary and shape.normalised_queries:
            made = graph.change(size, graph.change(size, graph.add(size, made)), positions)
        elif rotary:
            made = graph.add(size, made, positions)
        return made if rotation is None else graph.add(size, made, rotation)

    query = project(shape.heads * shape.head * row, True, key_rotation)
    if shape.biased:
        keys, values = project(keys_bytes, True, key_rotation), project(values_bytes, False, value_rotation)
    else:
        values, keys = project(values_bytes, False, value_rotation), project(keys_bytes, True, key_rotation)
    graph.use(keys, cache.keys)
    graph.use(values, *[cache.values] if cache.values is not None else [])
    out = shape.heads * shape.v_head * row
    if batch.flash:
        widths = (shape.kv_heads * shape.head, shape.kv_heads * shape.v_head)
        casts = [graph.add(width * F16 * cells) for width, cast in zip(widths, batch.casts, strict=True) if cast]
        widened = sum([width * F16 * cells for width, widen in zip(widths, batch.widens, strict=True) if widen])
        seen = graph.add(out + widened, query, cache.mask, *casts)
    else:
        seen = graph.add(out, graph.add(out, _softmax(graph, shape, batch, query, cache)))
    return seen if value_rotation is None else graph.add(out, seen, value_rotation)


def _softmax(graph: Graph, shape: GraphShape, batch: Batch, query: int, cache: CacheInputs) -> int:
    size = shape.heads * cache.cells * F32 * batch.tokens
    return graph.change(size, graph.add(size, query), cache.mask)
