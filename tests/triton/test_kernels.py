"""This project's Triton kernels against float64, in Triton's interpreter: `tests/triton/run`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton.language as tl

from hwdetect.bench.workers import triton_gpu, triton_kernels
from hwdetect.bench.workers.serve import CannotRun
from hwdetect.bench.workers.timing import Options, measure

OPTIONS = Options(seconds=0.0, cache_bytes=1 << 10, memory_bytes=1 << 28, largest_batch=8)
DOTS = pytest.mark.parametrize(("dot", "bound"), [(tl.float32, 1e-6), (tl.float16, 1e-3)], ids=["fp32", "fp16"])


def close(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def routed(tokens: int, experts: int, top_k: int) -> np.ndarray:
    random = np.random.default_rng(1)
    return np.stack([random.permutation(experts)[:top_k] for _ in range(tokens)]).astype(np.int32)


@DOTS
@pytest.mark.parametrize("block_m", [16, 32])
def test_int4_experts(dot: object, bound: float, block_m: int) -> None:
    random, (experts, rows, columns, top_k) = np.random.default_rng(0), (4, 128, 128, 2)
    nibbles = torch.from_numpy(random.integers(0, 16, (experts, rows, columns)).astype(np.uint8))
    scales = torch.from_numpy(random.random((experts, rows, columns // 32)).astype(np.float32))
    tokens, placed = torch.randn(21, columns), routed(21, experts, top_k)
    placed[3, 1] = -1
    tiles, per_tile = triton_kernels.tiled(nibbles, scales, 64)
    pair_of_row, expert_of_block = triton_kernels.blocks_of(placed, block_m, experts)
    out, shares = torch.zeros(placed.size, rows), torch.full((placed.size,), 0.5)
    triton_kernels.grouped_int4[(len(expert_of_block), rows // 64)](
        tokens, tiles, per_tile, shares, out, pair_of_row, expert_of_block, placed.size, columns, rows, top_k, True,
        block_m, 64, dot,
    )  # fmt: skip
    weights = (nibbles.double() - 8) * scales.double().repeat_interleave(32, 2)
    wanted = torch.stack(
        [
            weights[expert] @ tokens[token].double() * 0.5 if expert >= 0 else torch.zeros(rows).double()
            for token in range(21)
            for expert in placed[token]
        ]
    )
    assert close(out, wanted) < bound


@DOTS
def test_mla_decode_over_parts_that_end_early(dot: object, bound: float) -> None:
    batch, heads, context, lora, rope, splits, length = 2, 20, 77, 64, 32, 3, 32
    queries, cache = torch.randn(batch, heads, lora + rope), torch.randn(batch, context, lora + rope)
    partial, out = torch.zeros(batch, heads, splits, lora), torch.zeros(batch, heads, lora)
    largest, weight = torch.zeros(batch, heads, splits), torch.zeros(batch, heads, splits)
    triton_kernels.mla_split[(batch, 2, splits)](
        queries, cache, partial, largest, weight, context, 0.1, heads, lora, rope, splits, length, 16, 16, dot
    )
    triton_kernels.mla_join[(batch * heads, 1)](partial, largest, weight, out, lora, splits, 4, 64)
    scores = torch.einsum("bhw,bsw->bhs", queries.double(), cache.double()) * 0.1
    assert close(out, torch.softmax(scores, -1) @ cache[:, :, :lora].double()) < bound


@pytest.mark.parametrize("quantization", ["int4_g32", "bf16", "fp8_block128"])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_whole_layer_of_experts(quantization: str, batch: int) -> None:
    dims = {"experts": 6, "experts_total": 8, "top_k": 2, "hidden": 256, "inter": 128}
    answer = measure(triton_gpu.build("grouped_moe", quantization, dims, OPTIONS)(batch, 0), OPTIONS)
    assert answer["correctness"]["max_relative_error"] < 1e-6
    assert answer["clock"] == "device" and "interpreted" in answer["note"]


def test_a_whole_mla_decode() -> None:
    dims = {"heads": 20, "kv_lora": 64, "rope": 32, "nope": 32, "v": 32}
    answer = measure(triton_gpu.build("mla_decode", "bf16", dims, OPTIONS)(2, 100), OPTIONS)
    assert answer["correctness"]["max_relative_error"] < 1e-6


def test_what_is_not_ours_is_refused() -> None:
    with pytest.raises(CannotRun, match="none of bf16"):
        triton_gpu.build("grouped_moe", "nvfp4", {}, OPTIONS)
    with pytest.raises(CannotRun, match="bf16 cache"):
        triton_gpu.build("mla_decode", "fp8", {}, OPTIONS)


def test_blocks_hold_one_expert_each() -> None:
    placed = routed(40, 5, 2)
    pair_of_row, expert_of_block = triton_kernels.blocks_of(placed, 16, 5)
    seen = []
    for block, expert in enumerate(expert_of_block.tolist()):
        pairs = [pair for pair in pair_of_row[block * 16 : block * 16 + 16].tolist() if pair < placed.size]
        assert all(placed.reshape(-1)[pair] == expert for pair in pairs)
        seen += pairs
    assert sorted(seen) == list(range(placed.size))
