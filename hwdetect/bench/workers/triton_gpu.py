"""This project's own Triton kernels on a GPU: experts with INT4, FP8 or bf16 weights, absorbed MLA, GQA, prefill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .blocks import GROUP
from .gpu import INTERPRETED, Device, device_name, torch_version
from .gpu_attention import Attend, Shape, Tensors
from .gpu_attention import series as attention_series
from .gpu_experts import FP8_BLOCK, Buffers, Layer, Matrices, fp8_experts, int4_nibbles, plain_experts, repeated, series
from .routing import Array
from .serve import CannotRun, Provider, Series
from .timing import Options

BLOCK_N = 64
SILU_BLOCK = 1024
HEADS_TOGETHER = 16
CELLS_TOGETHER = 32
MOST_SPLITS = 64
PROGRAMS = 264
"""Enough to fill a GPU."""
ROWS_TOGETHER = 64


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights of a series."""
    if kernel == "grouped_moe":
        return series(quantization, dims, options, lambda device, count, _: experts(quantization, dims, device, count))
    if kernel == "mla_decode":
        return attention_series(kernel, quantization, dims, options, mla)
    if kernel == "decode_layer":
        from . import triton_layer

        return triton_layer.build(quantization, dims, options)
    if kernel in ("mla_prefill", "gqa_decode", "gqa_prefill"):
        return attention_series(kernel, quantization, dims, options, attention)
    raise CannotRun(f"no Triton kernel of ours is a {kernel}")


def _block_m(pairs: int, experts: int) -> int:
    """Rows of a block: no more than an expert has in the mean, within what a tensor core takes."""
    mean = pairs / max(min(pairs, experts), 1)
    return 16 if mean <= 16 else 32 if mean <= 32 else 64


def experts(quantization: str, dims: dict[str, int], device: Device, count: int) -> tuple[Layer, Matrices]:
    """Both grouped products with what lies between, for so many slots."""
    import triton
    import triton.language as tl

    from . import triton_kernels as kernels

    torch = device.torch
    hidden, inter, top_k = dims["hidden"], dims["inter"], dims["top_k"]
    dot = tl.float32 if INTERPRETED else tl.bfloat16
    load = {"bf16": _bf16, "fp8_block128": fp8_experts}.get(quantization, _int4)
    both, both_scales, down, down_scales, matrices = load(hidden, inter, device, count)

    def gemm(
        given: Any, weights: Any, scales: Any, shares: Any, out: Any, plan: Any, rows: int, per_token: int
    ) -> None:
        pair_of_row, expert_of_block, block_m = plan
        columns, wide = given.shape[1], out.shape[1]
        grid = (len(expert_of_block), wide // BLOCK_N)
        weigh = per_token == 1
        if quantization == f"int4_g{GROUP}":
            kernels.grouped_int4[grid](
                given, weights, scales, shares, out, pair_of_row, expert_of_block, rows, columns, wide, per_token,
                weigh, block_m, BLOCK_N, dot,
            )  # fmt: skip
        else:
            scaled = quantization == "fp8_block128"
            kernels.grouped_plain[grid](
                given, weights, scales, shares, out, pair_of_row, expert_of_block, rows, columns, wide, per_token,
                weigh, scaled, block_m, BLOCK_N, FP8_BLOCK if scaled else 64, dot,
            )  # fmt: skip

    def layer(buffers: Buffers) -> tuple[Callable[[], object], Callable[[Array], None]]:
        batch = buffers.tokens.shape[0]
        pairs, kind = batch * top_k, buffers.tokens.dtype
        block_m = _block_m(pairs, count)
        rows, blocks = kernels.blocks_of(np.zeros((batch, top_k), dtype=np.int32), block_m, count)
        pair_of_row, expert_of_block = rows.to(device.name), blocks.to(device.name)
        gate_up = torch.zeros((pairs, 2 * inter), dtype=kind, device=device.name)
        inner = torch.zeros((pairs, inter), dtype=kind, device=device.name)
        spread = torch.zeros((pairs, hidden), dtype=kind, device=device.name)
        plan = pair_of_row, expert_of_block, block_m

        def compute() -> None:
            gemm(buffers.tokens, both, both_scales, buffers.shares, gate_up, plan, pairs, top_k)
            kernels.silu_mul[(triton.cdiv(pairs * inter, SILU_BLOCK),)](
                gate_up, inner, pairs * inter, inter, SILU_BLOCK
            )
            gemm(inner, down, down_scales, buffers.shares, spread, plan, pairs, 1)
            torch.sum(spread.view(batch, top_k, hidden), dim=1, out=buffers.output)

        def renew(placed: Array) -> None:
            new_rows, new_blocks = kernels.blocks_of(placed, block_m, count)
            pair_of_row.copy_(new_rows)
            expert_of_block.copy_(new_blocks)
            # What belongs to experts of another rank is written by nobody.
            spread.zero_()

        return compute, renew

    return layer, matrices


def _int4(hidden: int, inter: int, device: Device, count: int) -> tuple[Any, Any, Any, Any, Matrices]:
    from . import triton_kernels as kernels

    torch = device.torch
    wide, narrow = int4_nibbles(hidden, 1), int4_nibbles(inter, 2)
    parts: list[list[Any]] = [[], [], [], []]
    sources = [[torch.from_numpy(one).to(device.name) for one in rows[:2]] for rows in (wide, narrow)]
    for slot in range(count):
        both = [
            torch.cat([repeated(one, slot, inter, 0, torch), repeated(one, slot, inter, 1, torch)])
            for one in sources[0]
        ]
        down = [repeated(one, slot, hidden, 0, torch) for one in sources[1]]
        for at, (nibbles, scales) in enumerate((both, down)):
            tiles, per_tile = kernels.tiled(nibbles[None].contiguous(), scales[None].contiguous(), BLOCK_N)
            parts[2 * at].append(tiles)
            parts[2 * at + 1].append(per_tile)
    loaded = [torch.cat(part) for part in parts]
    return loaded[0], loaded[1], loaded[2], loaded[3], Matrices(wide[2], narrow[2])


def _bf16(hidden: int, inter: int, device: Device, count: int) -> tuple[Any, Any, Any, Any, Matrices]:
    both, down, matrices = plain_experts(hidden, inter, device, count)
    none = device.torch.zeros(1, device=device.name)
    return both, none, down, none, matrices


def mla(device: Device, shape: Shape, stored: int) -> Attend:
    """Absorbed MLA decode, split over the cached tokens."""
    import triton
    import triton.language as tl

    from . import triton_kernels as kernels

    torch = device.torch
    batch, heads, lora, rope = shape.sequences, shape.heads, shape.v, shape.head - shape.v
    dot = tl.float32 if INTERPRETED else tl.bfloat16
    kind = torch.float32 if INTERPRETED else torch.bfloat16
    # Enough parts to fill the GPU, each of whole blocks.
    splits = -(-PROGRAMS // (batch * -(-heads // HEADS_TOGETHER)))
    splits = max(1, min(MOST_SPLITS, splits, shape.cells // CELLS_TOGETHER))
    length = triton.cdiv(triton.cdiv(shape.cells, splits), CELLS_TOGETHER) * CELLS_TOGETHER
    partial = torch.zeros((batch, heads, splits, lora), device=device.name)
    largest, weight = (torch.zeros((batch, heads, splits), device=device.name) for _ in range(2))
    output = torch.zeros((batch, heads, lora), device=device.name, dtype=kind)

    def attend(given: Tensors) -> Callable[[], Any]:
        def compute() -> Any:
            kernels.mla_split[(batch, triton.cdiv(heads, HEADS_TOGETHER), splits)](
                given.queries, given.keys, partial, largest, weight, shape.cells, shape.scale, heads, lora, rope,
                splits, length, HEADS_TOGETHER, CELLS_TOGETHER, dot,
            )  # fmt: skip
            kernels.mla_join[(batch * heads, triton.cdiv(lora, 128))](
                partial, largest, weight, output, lora, splits, triton.next_power_of_2(splits), 128
            )
            return output

        return compute

    return attend


def attention(device: Device, shape: Shape, stored: int) -> Attend:
    """Causal attention with keys and values of their own. Raises ``CannotRun`` for widths that it has not."""
    import triton
    import triton.language as tl

    from . import triton_kernels as kernels

    torch = device.torch
    wide = 1 << (shape.head.bit_length() - 1)
    rest = shape.head - wide
    if shape.v != triton.next_power_of_2(shape.v) or wide < 16 or (rest and (rest < 16 or rest & (rest - 1))):
        raise CannotRun(f"no Triton kernel of ours has keys of {shape.head} and values of {shape.v}")
    kind = torch.float32 if INTERPRETED else torch.bfloat16
    dot = tl.float32 if INTERPRETED else tl.bfloat16
    asked = shape.queries * (shape.heads // shape.kv_heads)
    together = ROWS_TOGETHER if asked > HEADS_TOGETHER else HEADS_TOGETHER
    grid = shape.sequences * shape.kv_heads, triton.cdiv(asked, together)
    splits = max(1, min(MOST_SPLITS, -(-PROGRAMS // (grid[0] * grid[1])), shape.cells // CELLS_TOGETHER))
    length = triton.cdiv(triton.cdiv(shape.cells, splits), CELLS_TOGETHER) * CELLS_TOGETHER
    lines = shape.sequences * shape.queries * shape.heads
    parts = lines * splits if splits > 1 else 1
    partial = torch.zeros((parts, shape.v), device=device.name)
    largest, weight = (torch.zeros(parts, device=device.name) for _ in range(2))
    output = torch.zeros((lines, shape.v), device=device.name, dtype=kind)

    def attend(given: Tensors) -> Callable[[], Any]:
        def compute() -> Any:
            kernels.attention_split[(*grid, splits)](
                given.queries, given.keys, given.values, output, partial, largest, weight, shape.cells, stored,
                shape.scale, shape.queries, shape.heads, shape.kv_heads, wide, rest, shape.v, splits, length,
                together, CELLS_TOGETHER, dot,
            )  # fmt: skip
            if splits > 1:
                kernels.mla_join[(lines, triton.cdiv(shape.v, 128))](
                    partial, largest, weight, output, shape.v, splits, triton.next_power_of_2(splits), 128
                )
            return output

        return compute

    return attend


PROVIDER = Provider(torch_version("triton"), build, device_name)
