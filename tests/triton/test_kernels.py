"""This project's Triton kernels against float64, in Triton's interpreter: `tests/triton/run`."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
import triton.language as tl

from hwdetect.bench.workers import deep_gemm_gpu, torch_cpu, torch_gpu, triton_gpu, triton_kernels
from hwdetect.bench.workers.gpu import Device
from hwdetect.bench.workers.gpu_experts import Buffers, local_ids
from hwdetect.bench.workers.routing import Slots
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


SHAPES = {
    "gqa_decode": ({"heads": 12, "kv_heads": 2, "head": 64, "v": 64}, 3, 100),
    "gqa_decode of one head a key": ({"heads": 2, "kv_heads": 2, "head": 32, "v": 32}, 2, 33),
    "gqa_prefill": ({"heads": 6, "kv_heads": 2, "head": 64, "v": 32}, 20, 13),
    "mla_prefill": ({"heads": 3, "kv_lora": 64, "rope": 16, "nope": 32, "v": 32}, 40, 0),
}


@pytest.mark.parametrize("module", [triton_gpu, torch_gpu], ids=["triton", "torch"])
@pytest.mark.parametrize("name", SHAPES)
def test_attention_with_keys_and_values(name: str, module: ModuleType) -> None:
    dims, batch, context = SHAPES[name]
    answer = measure(module.build(name.split()[0], "bf16", dims, OPTIONS)(batch, context), OPTIONS)
    assert answer["correctness"]["max_relative_error"] < 1e-5
    assert answer["clock"] == "device"


def test_a_prompt_that_sees_later_tokens_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    dims, batch, context = SHAPES["gqa_prefill"]
    monkeypatch.setattr("torch.nn.attention.bias.causal_lower_right", lambda *_: None)
    answer = measure(torch_gpu.build("gqa_prefill", "bf16", dims, OPTIONS)(batch, context), OPTIONS)
    assert "incorrect" in answer


def test_many_parts_are_put_together() -> None:
    dims = {"heads": 4, "kv_heads": 1, "head": 16, "v": 16}
    prepared = triton_gpu.build("gqa_decode", "bf16", dims, OPTIONS)(1, 300)
    assert prepared.error() < 1e-5


@pytest.mark.parametrize("widths", [{"head": 112, "v": 64}, {"head": 64, "v": 48}])
def test_widths_that_our_attention_has_not(widths: dict[str, int]) -> None:
    with pytest.raises(CannotRun, match="no Triton kernel of ours has keys of"):
        triton_gpu.build("gqa_decode", "bf16", {"heads": 4, "kv_heads": 1, **widths}, OPTIONS)(1, 32)


def test_a_cache_in_fp8_is_refused() -> None:
    with pytest.raises(CannotRun, match="bf16 cache, not for fp8"):
        torch_gpu.build("gqa_decode", "fp8", {"heads": 4, "kv_heads": 1, "head": 16, "v": 16}, OPTIONS)


def test_rows_of_grouped_fp8_lie_in_tiles_of_one_expert() -> None:
    placed = routed(40, 5, 2)
    placed[7, 1] = -1
    pair_of_row, expert_of_row, row_of_pair = deep_gemm_gpu.rows_by_expert(placed, 5)
    assert len(pair_of_row) % deep_gemm_gpu.ALIGNMENT == 0
    for pair, expert in enumerate(placed.reshape(-1).tolist()):
        assert expert_of_row[row_of_pair[pair]] == expert
        assert expert < 0 or pair_of_row[row_of_pair[pair]] == pair
    for tile in expert_of_row.reshape(-1, deep_gemm_gpu.ALIGNMENT):
        assert len(set(tile.tolist())) == 1


def test_rounding_to_fp8_keeps_the_size() -> None:
    values = torch.randn(3, 256)
    stored, scales = deep_gemm_gpu.rounded(values, torch)
    back = stored.float().view(3, 2, 128) * scales[:, :, None]
    assert float((back.view(3, 256) - values).norm() / values.norm()) < 0.04


@pytest.mark.parametrize(("held", "ids"), [(6, [[0, 5], [2, 1]]), (4, [[0, 6], [2, 1]])])
def test_experts_elsewhere_are_no_index(held: int, ids: list[list[int]]) -> None:
    # Six slots; of eight experts with four here the second of the first token is elsewhere.
    device = Device()
    make, mapped = local_ids({"experts": held, "experts_total": 6}, device, 6)
    buffers = Buffers(None, torch.zeros((2, 2), dtype=torch.int32), None, None)
    placed = np.array([[0, 5 if held == 6 else -1], [2, 1]], dtype=np.int32)
    found, renew = make(buffers)
    buffers.slots.copy_(torch.from_numpy(placed))
    renew(placed)
    assert found.tolist() == ids
    assert mapped is None if held == 6 else mapped.tolist() == [0, 1, 2, 3, 4, 5, -1]


def test_a_router_on_a_cpu() -> None:
    dims = {"experts": 48, "hidden": 256, "top_k": 8}
    for quantization in ("F32", "bf16"):
        answer = measure(torch_cpu.build("cpu_router", quantization, dims, OPTIONS)(3, 0), OPTIONS)
        assert answer["correctness"]["max_relative_error"] < 0.01


LAYER = {
    "hidden": 256, "heads": 4, "q_lora": 128, "kv_lora": 64, "rope": 32, "nope": 32, "v": 32, "experts": 6, "top_k": 2,
    "inter": 128, "shared": 128, "gpu": 1,
}  # fmt: skip


@pytest.mark.parametrize("quantization", ["int4_g32+bf16", "bf16+bf16"])
@pytest.mark.parametrize("changes", [{}, {"shared": 0}], ids=["shared", "routed alone"])
def test_a_whole_decode_layer(quantization: str, changes: dict[str, int]) -> None:
    answer = measure(triton_gpu.build("decode_layer", quantization, {**LAYER, **changes}, OPTIONS)(3, 70), OPTIONS)
    assert answer["correctness"]["max_relative_error"] < 1e-5
    assert answer["distinct_experts"] >= 2


def test_layers_that_are_not_ours() -> None:
    with pytest.raises(CannotRun, match="no layer of a CPU"):
        triton_gpu.build("decode_layer", "int4_g32+bf16", {**LAYER, "gpu": 0}, OPTIONS)
    with pytest.raises(CannotRun, match="all else in bf16"):
        triton_gpu.build("decode_layer", "int4_g32+fp8", LAYER, OPTIONS)


def test_warm_weights_are_the_same_each_time() -> None:
    slots = Slots(12, 1, warm=True)
    first, second = (slots.place(np.array([[3, 4]]))[0].tolist() for _ in range(2))
    cold = Slots(12, 1)
    assert first == second
    assert cold.place(np.array([[3, 4]]))[0].tolist() != cold.place(np.array([[3, 4]]))[0].tolist()
