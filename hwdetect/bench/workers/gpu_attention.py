"""Attention on a GPU, whoever's kernel computes it: caches, queries, the check and the CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .gpu import Device
from .serve import CannotRun, Series
from .timing import Options, Prepared, relative_error

BOUND = 0.01
MOST_CACHES = 64
SHARPNESS = 3.0
"""Of the queries: over random keys a softmax would be nearly flat, and a wrong one would hardly show."""


class Shape(NamedTuple):
    """The last ``queries`` tokens of each of ``sequences`` over its ``cells`` cached ones, causal.

    Of ``latent`` attention the values are the first ``v`` columns of the keys.
    """

    sequences: int
    queries: int
    cells: int
    heads: int
    kv_heads: int
    head: int
    v: int
    latent: bool

    @property
    def scale(self) -> float:
        """By which scores are multiplied."""
        return float(self.head**-0.5)


class Tensors(NamedTuple):
    """Queries (sequences, queries, heads, head), keys and values (sequences, stored cells, kv_heads, width)."""

    queries: Any
    keys: Any
    values: Any


Attend = Callable[[Tensors], Callable[[], Any]]
"""From tensors to what computes the output, (sequences, queries, heads, v) in any grouping of the first two."""


def shape_of(kernel: str, dims: dict[str, int], batch: int, context: int) -> Shape:
    """What a kernel computes at a batch and context. Raises ``CannotRun``.

    >>> dims = {"heads": 64, "kv_lora": 512, "rope": 64, "nope": 128, "v": 128}
    >>> shape_of("mla_decode", dims, 8, 1000)[2:]
    (1000, 64, 1, 576, 512, True)
    >>> shape_of("mla_prefill", dims, 256, 1000)[:7]
    (1, 256, 1256, 64, 64, 192, 128)
    """
    if kernel == "mla_decode":
        lora, rope = dims["kv_lora"], dims["rope"]
        found = Shape(batch, 1, context, dims["heads"], 1, lora + rope, lora, latent=True)
    elif kernel == "mla_prefill":
        width, heads = dims["nope"] + dims["rope"], dims["heads"]
        found = Shape(1, batch, context + batch, heads, heads, width, dims["v"], latent=False)
    elif kernel == "gqa_decode":
        found = Shape(batch, 1, context, dims["heads"], dims["kv_heads"], dims["head"], dims["v"], latent=False)
    elif kernel == "gqa_prefill":
        cells = context + batch
        found = Shape(1, batch, cells, dims["heads"], dims["kv_heads"], dims["head"], dims["v"], latent=False)
    else:
        raise CannotRun(f"{kernel} is no attention")
    if found.cells < 1:
        raise CannotRun("attention needs cached tokens")
    return found


def series(
    kernel: str,
    quantization: str,
    dims: dict[str, int],
    options: Options,
    make: Callable[[Device, Shape, int], Attend],
    *,
    page: int = 1,
) -> Series:
    """A series whose kernel ``make`` gives for a shape and the cells stored of a sequence, whole pages of them."""
    if quantization != "bf16":
        raise CannotRun(f"attention on a GPU is asked for a bf16 cache, not for {quantization}")
    device = Device()
    torch, own = device.torch, device.options(options)
    kind = torch.float32 if device.name == "cpu" else torch.bfloat16
    reference = device.copy_reference()

    def prepare(batch: int, context: int) -> Prepared:
        shape = shape_of(kernel, dims, batch, context)
        stored = -(-shape.cells // page) * page
        width = shape.head + (0 if shape.latent else shape.v)
        size = shape.sequences * stored * shape.kv_heads * width * kind.itemsize
        if size > own.memory_bytes:
            raise MemoryError(f"the KV cache needs {size / 1e9:.1f} GB")
        copies = int(max(1, min(-(-4 * own.cache_bytes // size), own.memory_bytes // size, MOST_CACHES)))
        attend = make(device, shape, stored)
        asked = SHARPNESS * torch.randn((shape.sequences, shape.queries, shape.heads, shape.head), device=device.name)
        queries = asked.to(kind)

        def cache() -> Tensors:
            rows = (shape.sequences, stored, shape.kv_heads)
            keys = torch.randn((*rows, shape.head), device=device.name, dtype=kind)
            if shape.latent:
                return Tensors(queries, keys, keys[..., : shape.v])
            return Tensors(queries, keys, torch.randn((*rows, shape.v), device=device.name, dtype=kind))

        caches = [cache() for _ in range(copies)]
        computes = [attend(one) for one in caches]
        replays = [device.captured(compute) for compute in computes]
        turn = 0

        def next_step() -> Callable[[], object]:
            nonlocal turn
            turn += 1
            return replays[turn % len(replays)]

        def error() -> float:
            outer = (shape.sequences, shape.queries, shape.heads, shape.v)
            return wrong_by(computes[0]().reshape(outer), caches[0], shape)

        note = f"rotated over {copies} KV caches" + (f", pages of {page}" if page > 1 else "")
        return Prepared(
            next_step, error, BOUND, reference=reference, clock="device", seconds_of=device.seconds_of, note=note
        )

    return prepare


def wrong_by(found: Any, given: Tensors, shape: Shape) -> float:
    """Relative error of the last sequence's first and last query, at the first and the last head."""

    def plain(tensor: Any) -> Any:
        return tensor.double().cpu().numpy()

    wanted, computed = [], []
    for query in sorted({0, shape.queries - 1}):
        seen = shape.cells - shape.queries + query + 1
        for head in sorted({0, shape.heads - 1}):
            group = head // (shape.heads // shape.kv_heads)
            scores = plain(given.keys[-1, :seen, group]) @ plain(given.queries[-1, query, head]) * shape.scale
            chances = np.exp(scores - scores.max())
            wanted.append(chances / chances.sum() @ plain(given.values[-1, :seen, group]))
            computed.append(plain(found[-1, query, head]))
    return relative_error(np.concatenate(computed), np.concatenate(wanted))


def starts(count: int, step: int, device: Device) -> Any:
    """Where each of ``count`` parts of ``step`` rows begins, and where the last ends, int32."""
    return device.torch.arange(0, (count + 1) * step, step, dtype=device.torch.int32, device=device.name)
