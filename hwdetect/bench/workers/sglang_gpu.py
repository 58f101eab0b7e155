"""Kernels of an installed SGLang, in its own interpreter: Marlin experts in INT4, FlashAttention 3.

Written against SGLang 0.5.23. Not yet run on a GPU by this project: what differs in other versions fails the check
against float64 or is reported as the error it raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .blocks import GROUP
from .gpu import Device, device_name, torch_version
from .gpu_attention import Attend, Shape, Tensors, starts
from .gpu_attention import series as attention_series
from .gpu_experts import Buffers, Layer, Matrices, local_ids, marlin_words, series
from .routing import Array
from .serve import CannotRun, Provider, Series
from .timing import Options


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights or caches of a series."""
    if kernel == "grouped_moe":
        if quantization != f"int4_g{GROUP}":
            raise CannotRun(f"SGLang is asked for INT4 in groups of {GROUP}, not {quantization}")
        return series(quantization, dims, options, lambda device, count, _: marlin(dims, device, count))
    if kernel in ("mla_decode", "mla_prefill", "gqa_decode", "gqa_prefill"):
        return attention_series(kernel, quantization, dims, options, flash_attention)
    raise CannotRun(f"SGLang is not asked for {kernel}")


def marlin(dims: dict[str, int], device: Device, count: int) -> tuple[Layer, Matrices]:
    """INT4 weights as Marlin lays them out, and SGLang's fused layer."""
    from sglang.kernels.ops.quantization.gptq_marlin_repack import gptq_marlin_repack
    from sglang.srt.layers.moe.fused_moe_triton.fused_marlin_moe import fused_marlin_moe
    from sglang.srt.layers.quantization.marlin_utils import marlin_moe_permute_scales

    torch = device.torch
    order = torch.empty(0, dtype=torch.int32, device=device.name)

    def laid_out(words: Any, scales: Any, columns: int, rows: int) -> tuple[Any, Any]:
        packed = [gptq_marlin_repack(one, order, columns, rows, 4) for one in words]
        return torch.stack(packed), marlin_moe_permute_scales(scales, columns, rows, GROUP)

    both, down, matrices = marlin_words(dims, device, count, laid_out)
    experts, mapped = local_ids(dims, device, count)

    def layer(buffers: Buffers) -> tuple[Callable[[], object], Callable[[Array], None]]:
        ids, renew = experts(buffers)

        def compute() -> None:
            # Of the gate's output only the number of rows is used.
            result = fused_marlin_moe(
                buffers.tokens, both[0], down[0], both[1], down[1], buffers.shares, buffers.shares, ids,
                global_num_experts=count + (mapped is not None), expert_map=mapped, num_bits=4,
            )  # fmt: skip
            buffers.output.copy_(result)

        return compute, renew

    return layer, matrices


def flash_attention(device: Device, shape: Shape, stored: int) -> Attend:
    """FlashAttention 3 over a cache in pages of one token, as SGLang keeps it by default, or over a whole prompt."""
    from sglang.kernels.ops.attention.flash_attention import flash_attn_varlen_func, flash_attn_with_kvcache

    torch = device.torch
    first_query = starts(shape.sequences, shape.queries, device)
    table = torch.arange(shape.sequences * stored, dtype=torch.int32, device=device.name).view(shape.sequences, stored)
    lengths = torch.full((shape.sequences,), shape.cells, dtype=torch.int32, device=device.name)
    first_cell = starts(shape.sequences, shape.cells, device)

    def attend(given: Tensors) -> Callable[[], Any]:
        queries = given.queries.reshape(-1, shape.heads, shape.head)
        keys = given.keys.reshape(-1, 1, shape.kv_heads, shape.head)
        if shape.latent:
            return lambda: flash_attn_with_kvcache(
                q=queries[..., shape.v :], qv=queries[..., : shape.v], k_cache=keys[..., shape.v :],
                v_cache=keys[..., : shape.v], page_table=table, cache_seqlens=lengths, cu_seqlens_q=first_query,
                cu_seqlens_k_new=first_cell, max_seqlen_q=shape.queries, softmax_scale=shape.scale, causal=True,
            )  # fmt: skip
        values = given.values.reshape(-1, 1, shape.kv_heads, shape.v)
        if shape.queries == 1:
            return lambda: flash_attn_with_kvcache(
                q=queries, k_cache=keys, v_cache=values, page_table=table, cache_seqlens=lengths,
                cu_seqlens_q=first_query, cu_seqlens_k_new=first_cell, max_seqlen_q=1, softmax_scale=shape.scale,
                causal=True,
            )  # fmt: skip
        return lambda: flash_attn_varlen_func(
            q=queries, k=keys[:, 0], v=values[:, 0], cu_seqlens_q=first_query, cu_seqlens_k=first_cell,
            max_seqlen_q=shape.queries, max_seqlen_k=shape.cells, softmax_scale=shape.scale, causal=True,
        )  # fmt: skip

    return attend


PROVIDER = Provider(torch_version("sglang"), build, device_name)
