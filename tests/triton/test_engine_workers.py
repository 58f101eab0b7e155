"""The workers of the engines' kernels with stand-ins for these, which compute what the real ones are documented to.

No GPU is here. What the engines' functions are named and take is checked against their wheels in tests/conformance;
here it is that the workers hand them weights, routing and caches in the layout that they say.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hwdetect.bench.workers import deep_gemm_gpu, flash_mla_gpu, flashinfer_gpu, sglang_gpu, vllm_gpu
from hwdetect.bench.workers.serve import CannotRun
from hwdetect.bench.workers.timing import Options, measure

OPTIONS = Options(seconds=0.0, cache_bytes=1 << 10, memory_bytes=1 << 28, largest_batch=8)
EXPERTS = {"experts": 6, "experts_total": 6, "top_k": 2, "hidden": 256, "inter": 128}
SOME = {**EXPERTS, "experts": 4}
LATENT = {"heads": 4, "kv_lora": 64, "rope": 32, "nope": 32, "v": 32}
GROUPED = {"heads": 4, "kv_heads": 2, "head": 32, "v": 32}
ATTENTION = [("mla_decode", LATENT), ("mla_prefill", LATENT), ("gqa_decode", GROUPED), ("gqa_prefill", GROUPED)]


def attended(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Causal attention of the last queries (queries, heads, head) over (cells, kv_heads, width)."""
    asked, cells = len(queries), len(keys)
    group = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,chd->hqc", queries, keys) * scale
    late = torch.arange(cells)[None] > torch.arange(asked)[:, None] + cells - asked
    return torch.einsum("hqc,chv->qhv", scores.masked_fill(late, -torch.inf).softmax(-1), values)


def paged(cache: Tensor, table: Tensor, length: int) -> Tensor:
    """The cells of one sequence from pages (pages, page, kv_heads, width)."""
    return cache[table.long()].flatten(0, 1)[:length]


def experts_of(
    tokens: Tensor, gate: Tensor, up: Tensor, down: Tensor, shares: Tensor, ids: Tensor, mapped: Tensor = None
) -> Tensor:
    """A layer of experts whose matrices are (experts, rows, columns)."""
    out = torch.zeros_like(tokens)
    for token, chosen in enumerate(ids.tolist()):
        for at, one in enumerate(chosen):
            expert = one if mapped is None else int(mapped[one])
            if expert >= 0:
                inner = torch.nn.functional.silu(gate[expert] @ tokens[token]) * (up[expert] @ tokens[token])
                out[token] += shares[token, at] * (down[expert] @ inner)
    return out


def unpacked(words: Tensor, scales: Tensor) -> Tensor:
    """(experts, rows, columns) from GPTQ's words (experts, columns / 8, rows) and scales (experts, groups, rows)."""
    nibbles = torch.stack([words >> shift & 15 for shift in range(0, 32, 4)], dim=2).flatten(1, 2)
    return ((nibbles - 8).float() * scales.float().repeat_interleave(32, 1)).transpose(1, 2)


def halves(both: Tensor) -> tuple[Tensor, Tensor]:
    return both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a module with these names, and its packages, where an import finds them."""

    def put(name: str, **names: object) -> None:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            place = ".".join(parts[:count])
            if place not in sys.modules:
                made = ModuleType(place)
                made.__path__ = []
                monkeypatch.setitem(sys.modules, place, made)
                if count > 1:
                    setattr(sys.modules[".".join(parts[: count - 1])], parts[count - 1], made)
        for key, value in names.items():
            monkeypatch.setattr(sys.modules[name], key, value, raising=False)

    return put


def right(worker: Tensor, kernel: str, quantization: str, dims: dict[str, int], *, bound: float = 0.006) -> None:
    """Three tokens or sequences over 70 cached ones are computed rightly."""
    context = 0 if kernel in ("grouped_moe", "dense") else 70
    answer = measure(worker.build(kernel, quantization, dims, OPTIONS)(3, context), OPTIONS)
    assert "correctness" in answer, answer
    assert answer["correctness"]["max_relative_error"] < bound


@pytest.mark.parametrize("dims", [EXPERTS, SOME], ids=["all experts", "some"])
def test_marlin_of_vllm(dims: dict[str, int], module: Callable[..., None]) -> None:
    def fused(
        tokens: Tensor,
        both: Tensor,
        down: Tensor,
        bias: Tensor,
        bias2: Tensor,
        scales: Tensor,
        scales2: Tensor,
        **more: Tensor,
    ) -> Tensor:
        assert bias is None and bias2 is None and more["quant_type_id"] == 7
        gate, up = halves(unpacked(both, scales))
        return experts_of(
            tokens, gate, up, unpacked(down, scales2), more["topk_weights"], more["topk_ids"], more["expert_map"]
        )

    module("vllm._custom_ops", gptq_marlin_moe_repack=lambda words, columns, rows, bits: words)
    utils = "vllm.model_executor.layers.quantization.utils.marlin_utils"
    module(
        utils, marlin_make_workspace_new=lambda *_: None,
        marlin_moe_permute_scales=lambda scales, columns, rows, group: scales,
    )  # fmt: skip
    module("vllm.scalar_type", scalar_types=SimpleNamespace(uint4b8=SimpleNamespace(id=7)))
    module("vllm.model_executor.layers.fused_moe.experts.marlin_moe", fused_marlin_moe=fused)
    right(vllm_gpu, "grouped_moe", "int4_g32", dims)


@pytest.mark.parametrize("quantization", ["bf16", "fp8_block128"])
@pytest.mark.parametrize("dims", [EXPERTS, SOME], ids=["all experts", "some"])
def test_fused_experts_of_vllm(quantization: str, dims: dict[str, int], module: Callable[..., None]) -> None:
    def config(*, w1_scale: Tensor, w2_scale: Tensor, block_shape: list[int]) -> Tensor:
        assert block_shape == [128, 128]
        return w1_scale, w2_scale

    def plain(weight: Tensor, scale: Tensor) -> Tensor:
        return weight.float() * scale.repeat_interleave(128, 1).repeat_interleave(128, 2)

    def fused(tokens: Tensor, both: Tensor, down: Tensor, shares: Tensor, ids: Tensor, **more: Tensor) -> Tensor:
        if more["quant_config"] is not None:
            both, down = plain(both, more["quant_config"][0]), plain(down, more["quant_config"][1])
        return experts_of(tokens, *halves(both), down, shares, ids, more["expert_map"])

    module("vllm.model_executor.layers.fused_moe.config", fp8_w8a8_moe_quant_config=config)
    module("vllm.model_executor.layers.fused_moe.fused_moe", fused_experts=fused)
    right(vllm_gpu, "grouped_moe", quantization, dims)


@pytest.mark.parametrize("dims", [EXPERTS, SOME], ids=["all experts", "some"])
def test_marlin_of_sglang(dims: dict[str, int], module: Callable[..., None]) -> None:
    def fused(
        tokens: Tensor,
        both: Tensor,
        down: Tensor,
        scales: Tensor,
        scales2: Tensor,
        gating: Tensor,
        *rest: Tensor,
        **more: Tensor,
    ) -> Tensor:
        assert len(gating) == len(tokens) and more["num_bits"] == 4
        gate, up = halves(unpacked(both, scales))
        return experts_of(tokens, gate, up, unpacked(down, scales2), rest[0], rest[1], more["expert_map"])

    module(
        "sglang.kernels.ops.quantization.gptq_marlin_repack",
        gptq_marlin_repack=lambda words, order, columns, rows, bits: words,
    )
    module("sglang.srt.layers.moe.fused_moe_triton.fused_marlin_moe", fused_marlin_moe=fused)
    module(
        "sglang.srt.layers.quantization.marlin_utils",
        marlin_moe_permute_scales=lambda scales, columns, rows, group: scales,
    )
    right(sglang_gpu, "grouped_moe", "int4_g32", dims)


@pytest.mark.parametrize(("kernel", "dims"), ATTENTION)
def test_attention_of_sglang(kernel: str, dims: dict[str, int], module: Callable[..., None]) -> None:
    def cached(*, q: Tensor, k_cache: Tensor, v_cache: Tensor, qv: Tensor = None, **more: Tensor) -> Tensor:
        starts, lengths = more["cu_seqlens_q"].tolist(), more["cache_seqlens"].tolist()
        found = []
        for at, length in enumerate(lengths):
            keys, values = (paged(one, more["page_table"][at], length) for one in (k_cache, v_cache))
            asked = q[starts[at] : starts[at + 1]]
            if qv is not None:
                asked, keys = torch.cat([qv[starts[at] : starts[at + 1]], asked], -1), torch.cat([values, keys], -1)
            found.append(attended(asked, keys, values, more["softmax_scale"]))
        return torch.cat(found)

    def whole(
        *, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_k: Tensor, softmax_scale: float, causal: bool, **_: Tensor
    ) -> Tensor:
        assert causal and cu_seqlens_k.tolist() == [0, len(k)]
        return attended(q, k, v, softmax_scale)

    module("sglang.kernels.ops.attention.flash_attention", flash_attn_with_kvcache=cached, flash_attn_varlen_func=whole)
    right(sglang_gpu, kernel, "bf16", dims)


@pytest.mark.parametrize(("kernel", "dims"), ATTENTION[1:])
def test_attention_of_vllm(kernel: str, dims: dict[str, int], module: Callable[..., None]) -> None:
    def varlen(
        q: Tensor, k: Tensor, v: Tensor, asked: int, starts: Tensor, cells: int, *rest: Tensor, **more: Tensor
    ) -> Tensor:
        assert more["causal"] and more["fa_version"] == 3
        if rest:
            return attended(q, k, v, more["softmax_scale"])
        tables = zip(more["block_table"], more["seqused_k"].tolist(), q.split(asked), strict=True)
        return torch.cat(
            [attended(one, paged(k, at, n), paged(v, at, n), more["softmax_scale"]) for at, n, one in tables]
        )

    module(
        "vllm.vllm_flash_attn.flash_attn_interface", flash_attn_varlen_func=varlen,
        is_fa_version_supported=lambda version: True,
    )  # fmt: skip
    right(vllm_gpu, kernel, "bf16", dims)


def flash_mla_names() -> dict[str, Any]:
    meta = object()

    def with_cache(
        q: Tensor, cache: Tensor, table: Tensor, lengths: Tensor, v: int, given: Tensor, splits: Tensor, **more: Tensor
    ) -> Tensor:
        assert given is meta and splits is None and not more["causal"]
        found = []
        for at, length in enumerate(lengths.tolist()):
            keys = paged(cache, table[at], length)
            found.append(attended(q[at], keys, keys[..., :v], more["softmax_scale"]))
        return torch.stack(found), None

    return {"get_mla_metadata": lambda *_: (meta, None), "flash_mla_with_kvcache": with_cache}


def test_flash_mla_by_itself_and_in_vllm(module: Callable[..., None]) -> None:
    module("flash_mla", **flash_mla_names())
    right(flash_mla_gpu, "mla_decode", "bf16", LATENT)
    module("vllm.v1.attention.ops.flashmla", is_flashmla_dense_supported=lambda: (True, None), **flash_mla_names())
    right(vllm_gpu, "mla_decode", "bf16", LATENT)
    module("vllm.v1.attention.ops.flashmla", is_flashmla_dense_supported=lambda: (False, "only on Hopper"))
    with pytest.raises(CannotRun, match="only on Hopper"):
        vllm_gpu.build("mla_decode", "bf16", LATENT, OPTIONS)


@pytest.mark.parametrize(("kernel", "dims"), ATTENTION)
def test_attention_of_flashinfer(kernel: str, dims: dict[str, int], module: Callable[..., None]) -> None:
    class Planned:
        def __init__(self, workspace: Tensor, **_: Tensor) -> None:
            self.asked: tuple[Any, ...] = ()

    class Latent(Planned):
        def plan(
            self, *, kv_indptr: Tensor, kv_indices: Tensor, kv_len_arr: Tensor, sm_scale: float, **_: Tensor
        ) -> None:
            self.asked = kv_indptr.tolist(), kv_indices, kv_len_arr.tolist(), sm_scale

        def run(self, *, q_nope: Tensor, q_pe: Tensor, ckv_cache: Tensor, kpe_cache: Tensor) -> Tensor:
            first, pages, lengths, scale = self.asked
            found = []
            for at, length in enumerate(lengths):
                table = pages[first[at] : first[at + 1]]
                values, rope = (paged(one[:, :, None], table, length) for one in (ckv_cache, kpe_cache))
                asked = torch.cat([q_nope[at : at + 1], q_pe[at : at + 1]], -1)
                found.append(attended(asked, torch.cat([values, rope], -1), values, scale))
            return torch.cat(found)

    class Grouped(Planned):
        def plan(self, first: Tensor, pages: Tensor, last: Tensor, *sizes: int, sm_scale: float, **_: Tensor) -> None:
            assert sizes == (dims["heads"], dims["kv_heads"], dims["head"], flashinfer_gpu.PAGE)
            self.asked = first.tolist(), pages, last.tolist(), sm_scale

        def run(self, queries: Tensor, cache: tuple[Tensor, Tensor]) -> Tensor:
            first, pages, last, scale = self.asked
            found = []
            for at, end in enumerate(last):
                table = pages[first[at] : first[at + 1]]
                length = (len(table) - 1) * flashinfer_gpu.PAGE + end
                keys, values = (paged(one, table, length) for one in cache)
                found.append(attended(queries[at : at + 1], keys, values, scale))
            return torch.cat(found)

    def prefill(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool, sm_scale: float) -> Tensor:
        assert causal
        return attended(queries, keys, values, sm_scale)

    module("flashinfer.mla", BatchMLAPagedAttentionWrapper=Latent)
    module("flashinfer.decode", BatchDecodeWithPagedKVCacheWrapper=Grouped)
    module("flashinfer.prefill", single_prefill_with_kv_cache=prefill)
    right(flashinfer_gpu, kernel, "bf16", dims)


def test_experts_of_flashinfer(module: Callable[..., None]) -> None:
    def fused(
        tokens: Tensor, ids: Tensor, shares: Tensor, both: Tensor, down: Tensor, *_: Tensor, output: Tensor
    ) -> None:
        up, gate = halves(both)
        output.copy_(experts_of(tokens, gate, up, down, shares, ids))

    module("flashinfer.fused_moe", cutlass_fused_moe=fused)
    right(flashinfer_gpu, "grouped_moe", "bf16", EXPERTS)
    with pytest.raises(CannotRun, match="all experts"):
        flashinfer_gpu.build("grouped_moe", "bf16", SOME, OPTIONS)


@pytest.mark.parametrize("dims", [EXPERTS, SOME], ids=["all experts", "some"])
def test_grouped_products_of_deep_gemm(dims: dict[str, int], module: Callable[..., None]) -> None:
    def plain(pair: tuple[Tensor, Tensor], rows: int) -> Tensor:
        scales = pair[1].repeat_interleave(rows, -2).repeat_interleave(128, -1)
        return pair[0].float() * scales[: len(pair[0])]

    def grouped(given: Tensor, weights: Tensor, out: Tensor, expert_of_row: Tensor) -> None:
        scales = weights[1].repeat_interleave(128, 1).repeat_interleave(128, 2)
        matrices, rows = weights[0].float() * scales, plain(given, 1)
        for row in torch.nonzero(expert_of_row >= 0)[:, 0].tolist():
            out[row] = matrices[expert_of_row[row]] @ rows[row]

    def gemm(given: Tensor, weight: Tensor, out: Tensor) -> None:
        out.copy_(plain(given, 1) @ plain(weight, 128).T)

    module("deep_gemm", m_grouped_fp8_gemm_nt_contiguous=grouped, fp8_gemm_nt=gemm)
    right(deep_gemm_gpu, "grouped_moe", "fp8_block128", dims, bound=deep_gemm_gpu.BOUND)
    right(deep_gemm_gpu, "dense", "fp8_block128", {"in": 256, "out": 192}, bound=deep_gemm_gpu.BOUND)
