"""Kernels of llama.cpp on a CPU, run as llama.cpp runs them: the same operations on weights in the same memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from . import ggml_layer
from .blocks import activations, expert_layer
from .ggml_api import F16, F32, I32, Ggml, Handle, pattern
from .memory import reference_reader
from .routing import Router, Slots, slots_needed
from .serve import CannotRun, Provider, Series, cpu_device
from .timing import Options, Prepared, relative_error

BOUND_QUANTIZED = 0.03
"""Activations are rounded to 8 bits: in blocks of 256 whose largest decides, 2-2.5 % after two projections."""
BOUND_FLOAT = 0.01
HALF_SUM_STEP, HALF_SUM_MOST = 2.0**-15, 0.5
"""Over a cache in half precision ggml sums the values in half precision too: what a token adds is rounded against the
sum of all before it, so that the error grows with their number. A wrong kernel is off by more than the most."""
STEP_BYTES = 64 << 20
"""Weights of one timed step: small matrices are multiplied several to a graph, as a model's graph does."""
OUTPUT_BYTES = 512 << 20
MAX_COPIES = 1024
MAX_CACHES = 64
SMALL_BATCH = 8
PREC_F32 = 10
SHARPNESS = 2.0


@lru_cache(maxsize=1)
def _library(options: Options) -> Ggml:
    return Ggml(options)


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights of a series."""
    makers: dict[str, Callable[[Ggml, str, dict[str, int], Options], Series]] = {
        "cpu_moe": _moe,
        "cpu_dense": _dense,
        "cpu_router": _router,
        "cpu_attention": _attention,
        "mla_prefill": _prefill,
        "decode_layer": ggml_layer.build,
    }
    if kernel not in makers:
        raise CannotRun(f"ggml on a CPU has no {kernel}")
    return makers[kernel](_library(options), quantization, dims, options)


def _bound(ggml: Ggml, kind: int) -> float:
    return BOUND_QUANTIZED if ggml.call.ggml_blck_size(kind) > 1 else BOUND_FLOAT


def _reader(options: Options) -> Callable[[], float]:
    return reference_reader(options.cache_bytes, options.threads)


def _moe(ggml: Ggml, quantization: str, dims: dict[str, int], options: Options) -> Series:
    hidden, inter, top_k = dims["hidden"], dims["inter"], dims["top_k"]
    if dims["experts"] != dims["experts_total"]:
        raise CannotRun("llama.cpp keeps all experts of a layer on one device")
    kind = ggml.type_number(quantization)
    wide, narrow = pattern(ggml, kind, hidden, 1), pattern(ggml, kind, inter, 2)
    size = 2 * inter * wide.stored.shape[1] + hidden * narrow.stored.shape[1]
    count = slots_needed(size, top_k, dims["experts"], options)
    tensors = []
    notes = set()
    for columns, rows, source in ((hidden, inter, wide), (hidden, inter, wide), (inter, hidden, narrow)):
        context = ggml.context()
        tensors.append(ggml.tensor(context, kind, columns, rows, count))
        memory = ggml.weight_memory(kind, columns, rows, by_id=True)
        notes.add("weights repacked for this CPU" if memory != ggml.plain else "weights as stored")
        ggml.allocate(context, memory)
        # Up has gate's rows shifted by one, so that taking one for the other would be noticed.
        ggml.set_rows(tensors[-1], source, rows * count, first=len(tensors) - 1 & 1, whole=memory != ggml.plain)
    slots = Slots(count, options.seed)
    router = Router(dims["experts"], dims["experts_total"], top_k, options)
    reader = _reader(options)

    def prepare(batch: int, _: int) -> Prepared:
        between = 4 * batch * top_k * (2 * hidden + 3 * inter)
        if between > options.memory_bytes // 4:
            raise MemoryError(f"activations of {batch} tokens need {between / 1e9:.1f} GB")
        context = ggml.context()
        tokens = ggml.tensor(context, F32, hidden, 1, batch)
        ids = ggml.tensor(context, I32, top_k, batch)
        shares = ggml.tensor(context, F32, 1, top_k, batch)
        ggml.allocate(context)
        work = ggml.context()
        gate, up = (ggml.call.ggml_mul_mat_id(work, tensors[at], tokens, ids) for at in (0, 1))
        inner = ggml.call.ggml_swiglu_split(work, gate, up)
        down = ggml.call.ggml_mul_mat_id(work, tensors[2], inner, ids)
        weighted = ggml.call.ggml_mul(work, down, shares)
        row = 4 * hidden
        total = ggml.call.ggml_view_2d(work, weighted, hidden, batch, row * top_k, 0)
        for each in range(1, top_k):
            part = ggml.call.ggml_view_2d(work, weighted, hidden, batch, row * top_k, row * each)
            total = ggml.call.ggml_add(work, total, part)
        ggml.allocate(work)
        graph = ggml.graph(work, [total])
        values = activations((batch, hidden), options.seed)
        given = np.full((batch, top_k), 1 / top_k, dtype=np.float32)
        ggml.set(tokens, values)
        ggml.set(shares, given)
        prepared: Prepared

        def next_step() -> Callable[[], object]:
            placed, distinct, busiest = slots.place(router.draw(batch))
            prepared.distinct.append(distinct)
            prepared.busiest.append(busiest)
            ggml.set(ids, np.ascontiguousarray(placed))
            return lambda: ggml.compute(graph)

        def error() -> float:
            placed, _, _ = slots.place(router.draw(batch))
            ggml.set(ids, np.ascontiguousarray(placed))
            ggml.compute(graph)
            checked = min(batch, 4)
            found = ggml.get(total, (batch, hidden))[:checked]
            wanted = expert_layer(wide.values, narrow.values, values[:checked], placed[:checked], given[:checked])
            return relative_error(found, wanted)

        prepared = Prepared(next_step, error, _bound(ggml, kind), reference=reader, note=", ".join(sorted(notes)))
        return prepared

    return prepare


def _dense(ggml: Ggml, quantization: str, dims: dict[str, int], options: Options) -> Series:
    columns, rows = dims["in"], dims["out"]
    kind = ggml.type_number(quantization)
    source = pattern(ggml, kind, columns, 1)
    data = source.fill(rows)
    copies = _copies(data.nbytes, options)
    context = ggml.context()
    weights = [ggml.tensor(context, kind, columns, rows) for _ in range(copies)]
    memory = ggml.weight_memory(kind, columns, rows, by_id=False)
    ggml.allocate(context, memory)
    for weight in weights:
        ggml.set(weight, data)
    note = "weights repacked for this CPU" if memory != ggml.plain else "weights as stored"
    reader = _reader(options)

    def prepare(batch: int, _: int) -> Prepared:
        work = ggml.context()
        tokens = ggml.tensor(work, F32, columns, batch)
        used = weights[: max(1, min(copies, OUTPUT_BYTES // (4 * batch * rows)))]
        results = [ggml.call.ggml_mul_mat(work, weight, tokens) for weight in used]
        ggml.allocate(work)
        values = activations((batch, columns), options.seed)
        ggml.set(tokens, values)
        together = max(1, min(len(used), STEP_BYTES // data.nbytes)) if batch <= SMALL_BATCH else 1

        def error() -> float:
            ggml.compute(graphs[0])
            found = ggml.get(results[0], (batch, rows))
            by_row = values.astype(np.float64) @ source.values.T
            return relative_error(found, by_row[:, np.arange(rows) % by_row.shape[1]])

        graphs, turns = _rotation(ggml, work, results, together)
        return Prepared(turns, error, _bound(ggml, kind), repeats=together, reference=reader, note=note)

    return prepare


def _router(ggml: Ggml, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Logits, their sigmoid, and the ids of the largest, as llama.cpp chooses experts."""
    columns, rows, top_k = dims["hidden"], dims["experts"], dims["top_k"]
    if not hasattr(ggml.call, "ggml_argsort_top_k"):
        raise CannotRun(f"{ggml.path.name} has no ggml_argsort_top_k")
    kind = ggml.type_number(quantization)
    source = pattern(ggml, kind, columns, 1)
    data = source.fill(rows)
    copies = _copies(data.nbytes, options)
    context = ggml.context()
    weights = [ggml.tensor(context, kind, columns, rows) for _ in range(copies)]
    ggml.allocate(context)
    for weight in weights:
        ggml.set(weight, data)
    reader = _reader(options)

    def prepare(batch: int, _: int) -> Prepared:
        work = ggml.context()
        tokens = ggml.tensor(work, F32, columns, batch)
        logits = [ggml.call.ggml_mul_mat(work, weight, tokens) for weight in weights]
        chances = [ggml.call.ggml_sigmoid(work, one) for one in logits]
        chosen = [ggml.call.ggml_cont(work, ggml.call.ggml_argsort_top_k(work, one, top_k)) for one in chances]
        ggml.allocate(work)
        values = activations((batch, columns), options.seed)
        ggml.set(tokens, values)
        together = max(1, min(copies, STEP_BYTES // data.nbytes)) if batch <= SMALL_BATCH else 1

        def error() -> float:
            ggml.compute(graphs[0])
            by_row = values.astype(np.float64) @ source.values.T
            wanted = 1 / (1 + np.exp(-by_row[:, np.arange(rows) % by_row.shape[1]]))
            found = ggml.get(chances[0], (batch, rows))
            ids = ggml.get(chosen[0], (batch, top_k)).view(np.int32)
            # Rows repeat, so that several are equally large: what counts is how large the chosen ones are.
            largest = -np.sort(-found, axis=1)[:, :top_k]
            taken = -np.sort(-np.take_along_axis(found, ids, axis=1), axis=1)
            return relative_error(found, wanted) + relative_error(taken, largest.astype(np.float64))

        graphs, turns = _rotation(ggml, work, chosen, together)
        return Prepared(turns, error, _bound(ggml, kind), repeats=together, reference=reader)

    return prepare


class _Heads(NamedTuple):
    """Attention as ggml sees it; ``latent`` values lie inside the keys."""

    heads: int
    kv_heads: int
    head: int
    v: int
    latent: bool


def _attention(ggml: Ggml, quantization: str, dims: dict[str, int], options: Options) -> Series:
    # One shared head whose values are narrower than its keys is latent attention.
    latent = dims["kv_heads"] == 1 and dims["v"] < dims["head"]
    shape = _Heads(dims["heads"], dims["kv_heads"], dims["head"], dims["v"], latent)
    attend = _attend(ggml, quantization, shape, options)
    return lambda batch, context: attend(batch, 1, context)


def _prefill(ggml: Ggml, quantization: str, dims: dict[str, int], options: Options) -> Series:
    # llama.cpp computes prompts in the absorbed form too, one shared head as wide as the latent and its rope key.
    shape = _Heads(dims["heads"], 1, dims["kv_lora"] + dims["rope"], dims["kv_lora"], latent=True)
    attend = _attend(ggml, quantization, shape, options)
    return lambda batch, context: attend(1, batch, context + batch)


def _attend(ggml: Ggml, quantization: str, shape: _Heads, options: Options) -> Callable[[int, int, int], Prepared]:
    """Prepares attention of ``queries`` last tokens of each of ``sequences`` over ``cells`` cached ones, causal."""
    heads, kv_heads, head, v, latent = shape
    kind = ggml.type_number(quantization)
    keys = pattern(ggml, kind, head, 1)
    values = keys if latent else pattern(ggml, kind, v, 2)
    reader = _reader(options)

    def prepare(sequences: int, queries: int, cells: int) -> Prepared:
        if cells < 1:
            raise CannotRun("attention needs cached tokens")
        rows = cells * kv_heads * sequences
        size = rows * keys.stored.shape[1] * (1 if latent else 2)
        if 2 * size > options.memory_bytes:
            raise MemoryError(f"the KV caches need {2 * size / 1e9:.1f} GB")
        copies = int(max(2, min(MAX_CACHES, 4 * options.cache_bytes // size, options.memory_bytes // size)))
        cache, work = ggml.context(), ggml.context()
        asking = ggml.tensor(work, F32, head, queries, heads, sequences)
        mask = ggml.tensor(work, F16, cells, queries, 1, sequences)
        results, filled = [], []
        for _ in range(copies):
            key = ggml.tensor(cache, kind, head, cells, kv_heads, sequences)
            filled.append((key, keys))
            if latent:
                row = ggml.call.ggml_row_size(kind, head)
                steps = row, row * cells, row * cells * kv_heads
                value = ggml.call.ggml_view_4d(cache, key, v, cells, kv_heads, sequences, *steps, 0)
            else:
                value = ggml.tensor(cache, kind, v, cells, kv_heads, sequences)
                filled.append((value, values))
            result = ggml.call.ggml_flash_attn_ext(work, asking, key, value, mask, head**-0.5, 0.0, 0.0)
            ggml.call.ggml_flash_attn_ext_set_prec(result, PREC_F32)
            results.append(result)
        for place in (cache, work):
            ggml.allocate(place)
        for tensor, source in filled:
            ggml.set(tensor, source.fill(rows))
        asked = activations((sequences, heads, queries, head), options.seed)
        # Sharper than random keys would make it, so that a wrong softmax shows.
        asked *= np.float32(SHARPNESS * head**0.5)
        ggml.set(asking, asked)
        hidden = np.triu(np.ones((queries, cells), dtype=bool), k=cells - queries + 1)
        ggml.set(
            mask, np.broadcast_to(np.where(hidden, -np.inf, 0.0).astype(np.float16), (sequences, queries, cells)).copy()
        )

        def error() -> float:
            ggml.compute(graphs[0])
            found = ggml.get(results[0], (sequences, queries, heads, v))[:, -1]
            wanted = np.empty((sequences, heads, v))
            for sequence in range(sequences):
                for at in range(heads):
                    start = (sequence * kv_heads + at // (heads // kv_heads)) * cells
                    of_row = (start + np.arange(cells)) % len(keys.values)
                    scores = (keys.values @ asked[sequence, at, -1].astype(np.float64))[of_row] * head**-0.5
                    weight = np.exp(scores - scores.max())
                    by_row = np.bincount(of_row, weights=weight / weight.sum(), minlength=len(keys.values))
                    wanted[sequence, at] = by_row @ values.values[:, :v]
            return relative_error(found, wanted)

        graphs, turns = _rotation(ggml, work, results, 1)
        note = f"rotated over {copies} KV caches, {copies * size / options.cache_bytes:.1f} times the cache"
        bound = _bound(ggml, kind)
        if kind == F16:
            bound = min(bound + cells * HALF_SUM_STEP, HALF_SUM_MOST)
        return Prepared(turns, error, bound, reference=reader, note=note)

    return prepare


def _copies(size: int, options: Options) -> int:
    """Copies of a weight that together are four times the cache. Raises ``MemoryError``."""
    wanted = max(-(-4 * options.cache_bytes // size), 2)
    if wanted * size > options.memory_bytes:
        raise MemoryError(f"{wanted * size / 1e9:.1f} GB of weights are needed to stay out of the cache")
    return int(min(wanted, MAX_COPIES))


def _rotation(
    ggml: Ggml, context: Handle, results: list[Handle], together: int
) -> tuple[list[Handle], Callable[[], Callable[[], object]]]:
    """Graphs of ``together`` results each, and what steps through them in a circle."""
    whole = len(results) // together * together
    graphs = [ggml.graph(context, results[at : at + together]) for at in range(0, whole, together)]
    turn = 0

    def next_step() -> Callable[[], object]:
        nonlocal turn
        turn += 1
        graph = graphs[turn % len(graphs)]
        return lambda: ggml.compute(graph)

    return graphs, next_step


def _version(options: Options) -> str:
    return _library(options).version()


PROVIDER = Provider(_version, build, cpu_device)
