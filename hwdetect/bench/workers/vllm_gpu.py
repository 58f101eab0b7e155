"""Kernels of an installed vLLM, in its own interpreter: Marlin and Triton experts, FlashMLA decode, FlashAttention.

Written against vLLM 0.19 and 0.33, whose signatures differ; what differs in other versions fails the check against
float64 or is reported as the error it raises. Not yet run on a GPU by this project.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from .blocks import GROUP
from .gpu import Device, device_name, torch_version
from .gpu_attention import Attend, Shape, Tensors, starts
from .gpu_attention import series as attention_series
from .gpu_experts import (
    FP8_BLOCK,
    Buffers,
    Layer,
    Matrices,
    fp8_experts,
    local_ids,
    marlin_words,
    plain_experts,
    series,
)
from .routing import Array
from .serve import CannotRun, Provider, Series
from .timing import Options

PAGE = 64
ATTENTION_PAGE = 16
FP8_BOUND = 0.08
"""vLLM rounds the activations to FP8, too: 4-6 % after two products and what multiplies between them."""


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights or caches of a series."""
    if kernel == "grouped_moe":
        if quantization == f"int4_g{GROUP}":
            return series(quantization, dims, options, lambda device, count, _: marlin(dims, device, count))
        bound = FP8_BOUND if quantization == f"fp8_block{FP8_BLOCK}" else 0.01
        return series(
            quantization, dims, options, lambda device, count, _: fused(quantization, dims, device, count), bound=bound
        )
    if kernel == "mla_decode":
        from vllm.v1.attention.ops import flashmla

        supported, reason = flashmla.is_flashmla_dense_supported()
        if not supported:
            raise CannotRun(str(reason))
        return flash_mla(flashmla, quantization, dims, options)
    if kernel in ("mla_prefill", "gqa_decode", "gqa_prefill"):
        page = ATTENTION_PAGE if kernel == "gqa_decode" else 1
        return attention_series(kernel, quantization, dims, options, flash_attention, page=page)
    raise CannotRun(f"vLLM is not asked for {kernel}")


def _fused_marlin() -> Callable[..., Any]:
    for name in ("experts.marlin_moe", "fused_marlin_moe"):
        try:
            module = importlib.import_module(f"vllm.model_executor.layers.fused_moe.{name}")
        except ImportError:
            continue
        found: Callable[..., Any] = module.fused_marlin_moe
        return found
    raise CannotRun("this vLLM has no fused Marlin experts")


def marlin(dims: dict[str, int], device: Device, count: int) -> tuple[Layer, Matrices]:
    """INT4 weights as Marlin lays them out, and its fused layer."""
    from vllm import _custom_ops as ops
    from vllm.model_executor.layers.quantization.utils.marlin_utils import (
        marlin_make_workspace_new,
        marlin_moe_permute_scales,
    )
    from vllm.scalar_type import scalar_types

    torch, fused_marlin_moe = device.torch, _fused_marlin()

    def laid_out(words: Any, scales: Any, columns: int, rows: int) -> tuple[Any, Any]:
        order = []
        if "perm" in inspect.signature(ops.gptq_marlin_moe_repack).parameters:
            order.append(torch.empty((count, 0), dtype=torch.int32, device=device.name))
        packed = ops.gptq_marlin_moe_repack(words, *order, columns, rows, 4)
        return packed, marlin_moe_permute_scales(scales, columns, rows, GROUP)

    both, down, matrices = marlin_words(dims, device, count, laid_out)
    experts, mapped = local_ids(dims, device, count)
    workspace = marlin_make_workspace_new(torch.device("cuda", 0), 4)

    def layer(buffers: Buffers) -> tuple[Callable[[], object], Callable[[Array], None]]:
        ids, renew = experts(buffers)

        def compute() -> None:
            result = fused_marlin_moe(
                buffers.tokens, both[0], down[0], None, None, both[1], down[1], topk_weights=buffers.shares,
                topk_ids=ids, quant_type_id=scalar_types.uint4b8.id, global_num_experts=count + (mapped is not None),
                expert_map=mapped, workspace=workspace,
            )  # fmt: skip
            buffers.output.copy_(result)

        return compute, renew

    return layer, matrices


def fused(quantization: str, dims: dict[str, int], device: Device, count: int) -> tuple[Layer, Matrices]:
    """The fused Triton experts in bf16, or in FP8 with one scale a block."""
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config
    from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts

    config = None
    if quantization == "bf16":
        both, down, matrices = plain_experts(dims["hidden"], dims["inter"], device, count)
    else:
        both, scales, down, down_scales, matrices = fp8_experts(dims["hidden"], dims["inter"], device, count)
        config = fp8_w8a8_moe_quant_config(
            w1_scale=scales, w2_scale=down_scales, block_shape=[FP8_BLOCK, FP8_BLOCK]
        )  # fmt: skip
    experts, mapped = local_ids(dims, device, count)

    def layer(buffers: Buffers) -> tuple[Callable[[], object], Callable[[Array], None]]:
        ids, renew = experts(buffers)

        def compute() -> None:
            result = fused_experts(
                buffers.tokens, both, down, buffers.shares, ids, global_num_experts=count + (mapped is not None),
                expert_map=mapped, quant_config=config,
            )  # fmt: skip
            buffers.output.copy_(result)

        return compute, renew

    return layer, matrices


def flash_mla(library: Any, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """FlashMLA's decode over a paged bf16 cache, by whoever ``library`` has it from."""

    def make(device: Device, shape: Shape, stored: int) -> Attend:
        torch, pages = device.torch, stored // PAGE
        table = torch.arange(shape.sequences * pages, dtype=torch.int32, device=device.name)
        table = table.view(shape.sequences, pages)
        lengths = torch.full((shape.sequences,), shape.cells, dtype=torch.int32, device=device.name)
        # Newer ones fill what this returns at the first call, which comes before the CUDA graph.
        metadata = library.get_mla_metadata(lengths, shape.heads, 1)

        def attend(given: Tensors) -> Callable[[], Any]:
            cache = given.keys.view(-1, PAGE, 1, shape.head)
            return lambda: library.flash_mla_with_kvcache(
                given.queries, cache, table, lengths, shape.v, metadata[0], metadata[1], softmax_scale=shape.scale,
                causal=False,
            )[0]  # fmt: skip

        return attend

    return attention_series("mla_decode", quantization, dims, options, make, page=PAGE)


def flash_attention(device: Device, shape: Shape, stored: int) -> Attend:
    """FlashAttention as vLLM carries it, of the version that it prefers on this GPU: paged decode, whole prompts."""
    from vllm.vllm_flash_attn.flash_attn_interface import flash_attn_varlen_func, is_fa_version_supported

    torch = device.torch
    version = next((one for one in (3, 2) if is_fa_version_supported(one)), None)
    if version is None:
        raise CannotRun("vLLM has FlashAttention for no GPU like this")
    first_query = starts(shape.sequences, shape.queries, device)
    if shape.queries > 1:
        first_cell = starts(shape.sequences, shape.cells, device)
        return lambda given: lambda: flash_attn_varlen_func(
            given.queries[0], given.keys[0], given.values[0], shape.queries, first_query, shape.cells, first_cell,
            softmax_scale=shape.scale, causal=True, fa_version=version,
        )  # fmt: skip
    pages = stored // ATTENTION_PAGE
    table = torch.arange(shape.sequences * pages, dtype=torch.int32, device=device.name).view(shape.sequences, pages)
    lengths = torch.full((shape.sequences,), shape.cells, dtype=torch.int32, device=device.name)

    def attend(given: Tensors) -> Callable[[], Any]:
        queries = given.queries.view(-1, shape.heads, shape.head)
        keys = given.keys.view(-1, ATTENTION_PAGE, shape.kv_heads, shape.head)
        values = given.values.view(-1, ATTENTION_PAGE, shape.kv_heads, shape.v)
        return lambda: flash_attn_varlen_func(
            queries, keys, values, 1, first_query, shape.cells, seqused_k=lengths, block_table=table,
            softmax_scale=shape.scale, causal=True, fa_version=version,
        )  # fmt: skip

    return attend


PROVIDER = Provider(torch_version("vllm"), build, device_name)
