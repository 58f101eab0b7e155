"""This project's own Triton kernels on a GPU: experts with INT4, FP8 or bf16 weights, and absorbed MLA decode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .blocks import GROUP
from .gpu import INTERPRETED, Device, device_name, torch_version
from .gpu_experts import Buffers, Layer, Matrices, int4_nibbles, repeated, series
from .routing import Array
from .serve import CannotRun, Provider, Series
from .timing import Options, Prepared, relative_error

BLOCK_N = 64
SILU_BLOCK = 1024
FP8_BLOCK = 128
MLA_BOUND = 0.01
HEADS_TOGETHER = 16
CELLS_TOGETHER = 32
MOST_SPLITS = 64
CHECKED_HEADS = 4


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights of a series."""
    if kernel == "grouped_moe":
        return series(quantization, dims, options, lambda device, count, _: _experts(quantization, dims, device, count))
    if kernel == "mla_decode":
        return _mla(quantization, dims, options)
    raise CannotRun(f"no Triton kernel of ours is a {kernel}")


def _block_m(pairs: int, experts: int) -> int:
    """Rows of a block: no more than an expert has in the mean, within what a tensor core takes."""
    mean = pairs / max(min(pairs, experts), 1)
    return 16 if mean <= 16 else 32 if mean <= 32 else 64


def _experts(quantization: str, dims: dict[str, int], device: Device, count: int) -> tuple[Layer, Matrices]:
    import triton
    import triton.language as tl

    from . import triton_kernels as kernels

    torch = device.torch
    hidden, inter, top_k = dims["hidden"], dims["inter"], dims["top_k"]
    dot = tl.float32 if INTERPRETED else tl.bfloat16
    load = {"bf16": _bf16, "fp8_block128": _fp8}.get(quantization, _int4)
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
    torch = device.torch
    kind = torch.float32 if INTERPRETED else torch.bfloat16
    wide, narrow = _rows(hidden, 1, torch), _rows(inter, 2, torch)
    both, down = _stacked(wide.to(device.name).to(kind), narrow.to(device.name).to(kind), hidden, inter, count, torch)
    none = torch.zeros(1, device=device.name)
    return both, none, down, none, Matrices(wide.double().numpy(), narrow.double().numpy())


def _fp8(hidden: int, inter: int, device: Device, count: int) -> tuple[Any, Any, Any, Any, Matrices]:
    torch = device.torch
    if hidden % FP8_BLOCK or inter % FP8_BLOCK:
        raise CannotRun(f"{hidden} and {inter} are no multiples of the {FP8_BLOCK} of a block")
    wide, narrow = (_rows(size, seed, torch) * size**0.5 for size, seed in ((hidden, 1), (inter, 2)))
    stored = [one.to(device.name).to(torch.float8_e4m3fn) for one in (wide, narrow)]
    both, down = _stacked(stored[0], stored[1], hidden, inter, count, torch)
    scales = [
        torch.full((count, rows // FP8_BLOCK, columns // FP8_BLOCK), columns**-0.5, device=device.name)
        for rows, columns in ((2 * inter, hidden), (hidden, inter))
    ]
    exact = [(one.cpu().double() * one.shape[1] ** -0.5).numpy() for one in stored]
    return both, scales[0], down, scales[1], Matrices(exact[0], exact[1])


def _rows(columns: int, seed: int, torch: Any) -> Any:
    """Pattern rows that bf16 holds exactly."""
    values = np.random.default_rng(seed).standard_normal((13, columns)) / columns**0.5
    return torch.from_numpy(values).to(torch.bfloat16).float()


def _stacked(wide: Any, narrow: Any, hidden: int, inter: int, count: int, torch: Any) -> tuple[Any, Any]:
    both = torch.stack(
        [
            torch.cat([repeated(wide, slot, inter, 0, torch), repeated(wide, slot, inter, 1, torch)])
            for slot in range(count)
        ]
    )
    return both, torch.stack([repeated(narrow, slot, hidden, 0, torch) for slot in range(count)])


def _mla(quantization: str, dims: dict[str, int], options: Options) -> Series:
    if quantization != "bf16":
        raise CannotRun(f"our MLA kernel reads a bf16 cache, not {quantization}")
    import triton
    import triton.language as tl

    from . import triton_kernels as kernels

    device = Device()
    torch, own = device.torch, device.options(options)
    heads, lora, rope = dims["heads"], dims["kv_lora"], dims["rope"]
    dot = tl.float32 if INTERPRETED else tl.bfloat16
    kind = torch.float32 if INTERPRETED else torch.bfloat16
    reference = device.copy_reference()

    def prepare(batch: int, context: int) -> Prepared:
        if context < 1:
            raise CannotRun("attention needs cached tokens")
        size = batch * context * (lora + rope) * kind.itemsize
        if size > own.memory_bytes:
            raise MemoryError(f"the KV cache needs {size / 1e9:.1f} GB")
        copies = int(max(1, min(-(-4 * own.cache_bytes // size), own.memory_bytes // size, 64)))
        caches = [torch.randn((batch, context, lora + rope), device=device.name, dtype=kind) for _ in range(copies)]
        queries = (3 * torch.randn((batch, heads, lora + rope), device=device.name)).to(kind)
        # Enough parts to fill the GPU, each of whole blocks.
        splits = max(1, min(MOST_SPLITS, -(-264 // (batch * -(-heads // HEADS_TOGETHER))), context // CELLS_TOGETHER))
        length = triton.cdiv(triton.cdiv(context, splits), CELLS_TOGETHER) * CELLS_TOGETHER
        partial = torch.zeros((batch, heads, splits, lora), device=device.name)
        largest, weight = (torch.zeros((batch, heads, splits), device=device.name) for _ in range(2))
        output = torch.zeros((batch, heads, lora), device=device.name, dtype=kind)
        scale = (lora + rope) ** -0.5

        def over(cache: Any) -> Callable[[], object]:
            def compute() -> None:
                kernels.mla_split[(batch, triton.cdiv(heads, HEADS_TOGETHER), splits)](
                    queries, cache, partial, largest, weight, context, scale, heads, lora, rope, splits, length,
                    HEADS_TOGETHER, CELLS_TOGETHER, dot,
                )  # fmt: skip
                kernels.mla_join[(batch * heads, triton.cdiv(lora, 128))](
                    partial, largest, weight, output, lora, splits, triton.next_power_of_2(splits), 128
                )

            return compute

        replays = [device.captured(over(cache)) for cache in caches]
        turn = 0

        def next_step() -> Callable[[], object]:
            nonlocal turn
            turn += 1
            return replays[turn % len(replays)]

        def error() -> float:
            replays[0]()
            asked = queries[-1, :CHECKED_HEADS].double().cpu().numpy()
            rows = caches[0][-1].double().cpu().numpy()
            scores = asked @ rows.T * scale
            chances = np.exp(scores - scores.max(axis=1, keepdims=True))
            wanted = chances / chances.sum(axis=1, keepdims=True) @ rows[:, :lora]
            return relative_error(output[-1, :CHECKED_HEADS].double().cpu().numpy(), wanted)

        note = f"{splits} parts, rotated over {copies} KV caches"
        return Prepared(
            next_step, error, MLA_BOUND, reference=reference, clock="device", seconds_of=device.seconds_of, note=note
        )

    return prepare


PROVIDER = Provider(torch_version("triton"), build, device_name)
