"""A whole decode layer as one graph of llama.cpp's operations on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .blocks import activations
from .ggml_api import F16, F32, I32, PATTERN_ROWS, Ggml, Handle, Pattern, pattern
from .layers import EPSILON, Sizes, feed_forward, latent_attention, sizes_of
from .memory import reference_reader
from .routing import Router, Slots, slots_needed
from .serve import CannotRun, Series
from .timing import Options, Prepared, relative_error

BOUND = 0.1
"""Roundings of seven matrices after each other, two of them before a softmax."""
PREC_F32 = 10
EXPERTS = ("gate_exps", "up_exps", "down_exps")


class _Weights:
    """The matrices of a layer: those of the experts once, the others in as many copies as stay out of the cache."""

    def __init__(self, ggml: Ggml, sizes: Sizes, kinds: tuple[int, int], options: Options) -> None:
        self.ggml, self.sizes = ggml, sizes
        of_experts, of_rest = kinds
        self.patterns = {
            name: pattern(ggml, of_rest, columns, at + 3) for at, (name, (_, columns)) in enumerate(
                sizes.shapes().items()
            )
        }  # fmt: skip
        self.wide, self.narrow = pattern(ggml, of_experts, sizes.hidden, 1), pattern(ggml, of_experts, sizes.inter, 2)
        self.router = pattern(ggml, F32, sizes.hidden, 9)
        size = 2 * sizes.inter * self.wide.stored.shape[1] + sizes.hidden * self.narrow.stored.shape[1]
        rest = sum(rows * self.patterns[name].stored.shape[1] for name, (rows, _) in sizes.shapes().items())
        count = -(-4 * options.cache_bytes // rest)
        room = options.memory_bytes - count * rest
        self.slots = slots_needed(size, sizes.top_k, sizes.experts, Options(**{**vars(options), "memory_bytes": room}))
        self.copies = [self._rest(of_rest) for _ in range(count)]
        self.experts = [
            self._matrix(of_experts, source, rows, self.slots, first=at & 1)
            for at, (source, rows) in enumerate(
                ((self.wide, sizes.inter), (self.wide, sizes.inter), (self.narrow, sizes.hidden))
            )
        ]

    def _rest(self, kind: int) -> dict[str, Handle]:
        sizes = self.sizes
        found = {
            name: self._matrix(kind, self.patterns[name], rows) for name, (rows, _) in sizes.shapes().items()
            if name not in ("k_b", "v_b")
        }  # fmt: skip
        for name, each in (("k_b", sizes.kv_lora), ("v_b", sizes.v)):
            found[name] = self._matrix(kind, self.patterns[name], each, sizes.heads)
        return {**found, "router": self._matrix(F32, self.router, sizes.experts)}

    def _matrix(self, kind: int, source: Pattern, rows: int, times: int = 1, *, first: int = 0) -> Handle:
        ggml, context = self.ggml, self.ggml.context()
        tensor = ggml.tensor(context, kind, source.values.shape[1], rows, times)
        memory = ggml.plain if kind == F32 else ggml.weight_memory(kind, source.values.shape[1], rows, by_id=times > 1)
        # A matrix for each head is multiplied by ggml_mul_mat, whose other layouts are of one matrix only.
        memory = ggml.plain if times == self.sizes.heads else memory
        ggml.allocate(context, memory)
        ggml.set_rows(tensor, source, rows * times, first=first, whole=memory != ggml.plain)
        return tensor


def build(ggml: Ggml, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights of a layer."""
    if dims["gpu"]:
        raise CannotRun("ggml on a CPU has no layer of a GPU")
    sizes = sizes_of(dims)
    experts, _, rest = quantization.partition("+")
    weights = _Weights(ggml, sizes, (ggml.type_number(experts), ggml.type_number(rest)), options)
    slots = Slots(weights.slots, options.seed)
    router = Router(sizes.experts, sizes.experts, sizes.top_k, options)
    reader = reference_reader(options.cache_bytes, options.threads)

    def prepare(batch: int, cells: int) -> Prepared:
        if cells < 1:
            raise CannotRun("attention needs cached tokens")
        inputs = ggml.context()
        tokens = ggml.tensor(inputs, F32, sizes.hidden, batch)
        ids = ggml.tensor(inputs, I32, sizes.top_k, batch)
        shares = ggml.tensor(inputs, F32, 1, sizes.top_k, batch)
        mask = ggml.tensor(inputs, F16, cells, 1, 1, batch)
        keys = [ggml.tensor(inputs, F16, sizes.head, cells, 1, batch) for _ in weights.copies]
        ggml.allocate(inputs)
        source = cached_rows(sizes.head)
        for key in keys:
            ggml.set(key, source.fill(cells * batch))
        values = activations((batch, sizes.hidden), options.seed)
        given = np.full((batch, sizes.top_k), 1 / sizes.top_k, dtype=np.float32)
        ggml.set(tokens, values)
        ggml.set(shares, given)
        ggml.set(mask, np.zeros((batch, cells), dtype=np.float16))
        results, graphs = [], []
        for copy, key in zip(weights.copies, keys, strict=True):
            work = ggml.context()
            after = _attention(ggml, work, sizes, copy, tokens, key, mask, cells, batch)
            chosen, result = _experts(ggml, work, sizes, copy, weights.experts, after, ids, shares, batch)
            ggml.allocate(work)
            results.append(result)
            graphs.append(ggml.graph(work, [chosen, result]))
        turn = 0
        prepared: Prepared

        def next_step() -> Callable[[], object]:
            nonlocal turn
            placed, distinct, busiest = slots.place(router.draw(batch))
            prepared.distinct.append(distinct)
            prepared.busiest.append(busiest)
            ggml.set(ids, np.ascontiguousarray(placed))
            turn += 1
            graph = graphs[turn % len(graphs)]
            return lambda: ggml.compute(graph)

        def error() -> float:
            placed, _, _ = slots.place(router.draw(batch))
            ggml.set(ids, np.ascontiguousarray(placed))
            ggml.compute(graphs[0])
            patterns = {name: one.values for name, one in weights.patterns.items()}
            cache = source.values[np.arange(cells * batch) % len(source.values)].reshape(batch, cells, sizes.head)
            exact = values.astype(np.float64)
            after = exact + latent_attention(sizes, patterns, exact, cache)
            added = feed_forward(sizes, patterns, weights.wide.values, weights.narrow.values, after, placed, given)
            found = ggml.get(results[0], (batch, sizes.hidden)).astype(np.float64)
            return relative_error(found - exact, after + added - exact)

        note = f"one graph, {len(graphs)} copies of what is not an expert"
        prepared = Prepared(next_step, error, BOUND, reference=reader, note=note)
        return prepared

    return prepare


def cached_rows(columns: int) -> Pattern:
    """Rows of a cache in half precision, large enough for attention to count in the sum."""
    rows = np.random.default_rng(11).standard_normal((PATTERN_ROWS, columns)).astype(np.float16)
    return Pattern(rows.view(np.uint8), rows.astype(np.float64))


def _attention(
    ggml: Ggml, work: Handle, sizes: Sizes, matrix: dict[str, Handle], tokens: Handle, key: Handle, mask: Handle,
    cells: int, batch: int,
) -> Handle:  # fmt: skip
    call = ggml.call
    wide = call.ggml_mul_mat(work, matrix["qkv_a"], call.ggml_rms_norm(work, tokens, EPSILON))
    step = 4 * (sizes.q_lora + sizes.head)
    low = call.ggml_cont(work, call.ggml_view_2d(work, wide, sizes.q_lora, batch, step, 0))
    queries = call.ggml_mul_mat(work, matrix["q_b"], call.ggml_rms_norm(work, low, EPSILON))
    each = 4 * (sizes.nope + sizes.rope)
    line = each * sizes.heads
    # Tokens before heads, as the matrix of each head takes them.
    plain = call.ggml_view_4d(work, queries, sizes.nope, batch, sizes.heads, 1, line, each, line * batch, 0)
    turned = call.ggml_view_4d(
        work, queries, sizes.rope, batch, sizes.heads, 1, line, each, line * batch, 4 * sizes.nope
    )
    latent = call.ggml_mul_mat(work, matrix["k_b"], call.ggml_cont(work, plain))
    asked = call.ggml_concat(work, latent, call.ggml_cont(work, turned), 0)
    # Sequences in the last dimension, one query each.
    asked = call.ggml_cont(work, call.ggml_permute(work, asked, 0, 3, 2, 1))
    row = call.ggml_row_size(F16, sizes.head)
    value = call.ggml_view_4d(
        work, key, sizes.kv_lora, cells, 1, batch, row, row * cells, row * cells, 0
    )  # fmt: skip
    mixed = call.ggml_flash_attn_ext(work, asked, key, value, mask, sizes.head**-0.5, 0.0, 0.0)
    call.ggml_flash_attn_ext_set_prec(mixed, PREC_F32)
    mixed = call.ggml_cont(work, call.ggml_permute(work, mixed, 0, 2, 3, 1))
    found = call.ggml_mul_mat(work, matrix["v_b"], mixed)
    found = call.ggml_cont(work, call.ggml_permute(work, found, 0, 2, 1, 3))
    found = call.ggml_reshape_4d(work, found, sizes.heads * sizes.v, batch, 1, 1)
    return Handle(call.ggml_add(work, call.ggml_mul_mat(work, matrix["o"], found), tokens))


def _experts(
    ggml: Ggml, work: Handle, sizes: Sizes, matrix: dict[str, Handle], experts: list[Handle], after: Handle,
    ids: Handle, shares: Handle, batch: int,
) -> tuple[Handle, Handle]:  # fmt: skip
    """The experts that the router would choose (others are drawn, so that none comes back too soon), and the output."""
    call = ggml.call
    given = call.ggml_rms_norm(work, after, EPSILON)
    chances = call.ggml_sigmoid(work, call.ggml_mul_mat(work, matrix["router"], given))
    chosen = call.ggml_cont(work, call.ggml_argsort_top_k(work, chances, sizes.top_k))
    lines = call.ggml_reshape_4d(work, given, sizes.hidden, 1, batch, 1)
    gate, up = (call.ggml_mul_mat_id(work, experts[at], lines, ids) for at in (0, 1))
    down = call.ggml_mul_mat_id(work, experts[2], call.ggml_swiglu_split(work, gate, up), ids)
    weighted = call.ggml_mul(work, down, shares)
    row = 4 * sizes.hidden
    total = call.ggml_view_2d(work, weighted, sizes.hidden, batch, row * sizes.top_k, 0)
    for each in range(1, sizes.top_k):
        part = call.ggml_view_2d(work, weighted, sizes.hidden, batch, row * sizes.top_k, row * each)
        total = call.ggml_add(work, total, part)
    if sizes.shared:
        both = call.ggml_mul_mat(work, matrix["gate_up"], given)
        half, step = 4 * sizes.shared, 8 * sizes.shared
        gate, up = (
            call.ggml_cont(work, call.ggml_view_2d(work, both, sizes.shared, batch, step, at)) for at in (0, half)
        )
        inner = call.ggml_swiglu_split(work, gate, up)
        total = call.ggml_add(work, total, call.ggml_mul_mat(work, matrix["down"], inner))
    return Handle(chosen), Handle(call.ggml_add(work, total, after))
