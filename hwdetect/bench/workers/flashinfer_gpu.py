"""flashinfer's kernels: bf16 experts, paged MLA and GQA decode, prefill.

Written against flashinfer 0.7.2. Not yet run on a GPU by this project.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .gpu import Device, device_name, torch_version
from .gpu_attention import Attend, Shape, Tensors, starts
from .gpu_attention import series as attention_series
from .gpu_experts import Buffers, Layer, Matrices, plain_experts, series
from .serve import CannotRun, Provider, Series
from .timing import Options

PAGE = 64
WORKSPACE_BYTES = 256 << 20


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights or caches of a series."""
    if kernel == "grouped_moe":
        if quantization != "bf16":
            raise CannotRun(f"flashinfer is asked for bf16 experts, not {quantization}")
        if dims["experts"] != dims["experts_total"]:
            raise CannotRun("flashinfer is asked for all experts of a layer only")
        return series(quantization, dims, options, lambda device, count, _: cutlass(dims, device, count))
    makers = {"mla_decode": mla, "gqa_decode": gqa, "mla_prefill": prefill, "gqa_prefill": prefill}
    if kernel not in makers:
        raise CannotRun(f"flashinfer is not asked for {kernel}")
    page = PAGE if kernel.endswith("decode") else 1
    return attention_series(kernel, quantization, dims, options, makers[kernel], page=page)


def cutlass(dims: dict[str, int], device: Device, count: int) -> tuple[Layer, Matrices]:
    """The fused layer of CUTLASS, whose first matrix holds up before gate."""
    from flashinfer.fused_moe import cutlass_fused_moe

    torch = device.torch
    both, down, matrices = plain_experts(dims["hidden"], dims["inter"], device, count)
    both = torch.cat([both[:, dims["inter"] :], both[:, : dims["inter"]]], dim=1).contiguous()

    def layer(buffers: Buffers) -> tuple[Callable[[], object], None]:
        def compute() -> None:
            cutlass_fused_moe(
                buffers.tokens, buffers.slots, buffers.shares, both, down, torch.bfloat16, [], output=buffers.output
            )

        return compute, None

    return layer, matrices


def _pages(device: Device, shape: Shape, stored: int) -> tuple[Any, Any]:
    torch, each = device.torch, stored // PAGE
    return starts(shape.sequences, each, device), torch.arange(
        shape.sequences * each, dtype=torch.int32, device=device.name
    )


def mla(device: Device, shape: Shape, stored: int) -> Attend:
    """The planned wrapper of paged MLA, its plan made before the CUDA graph."""
    from flashinfer.mla import BatchMLAPagedAttentionWrapper

    torch, rope = device.torch, shape.head - shape.v
    first_page, pages = _pages(device, shape, stored)
    first_query = starts(shape.sequences, 1, device)
    lengths = torch.full((shape.sequences,), shape.cells, dtype=torch.int32, device=device.name)
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device.name)
    wrapper = BatchMLAPagedAttentionWrapper(
        workspace, use_cuda_graph=True, qo_indptr=first_query.clone(), kv_indptr=first_page.clone(),
        kv_indices=pages.clone(), kv_len_arr=lengths.clone(),
    )  # fmt: skip
    wrapper.plan(
        qo_indptr=first_query, kv_indptr=first_page, kv_indices=pages, kv_len_arr=lengths, num_heads=shape.heads,
        head_dim_ckv=shape.v, head_dim_kpe=rope, page_size=PAGE, causal=False, sm_scale=shape.scale,
        q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16,
    )  # fmt: skip

    def attend(given: Tensors) -> Callable[[], Any]:
        queries = given.queries.view(-1, shape.heads, shape.head)
        keys = given.keys.view(-1, PAGE, shape.head)
        return lambda: wrapper.run(
            q_nope=queries[..., : shape.v], q_pe=queries[..., shape.v :], ckv_cache=keys[..., : shape.v],
            kpe_cache=keys[..., shape.v :],
        )  # fmt: skip

    return attend


def gqa(device: Device, shape: Shape, stored: int) -> Attend:
    """The planned wrapper of paged decode."""
    from flashinfer.decode import BatchDecodeWithPagedKVCacheWrapper

    torch = device.torch
    if shape.head != shape.v:
        raise CannotRun("flashinfer's decode takes keys and values of one width")
    first_page, pages = _pages(device, shape, stored)
    last = torch.full((shape.sequences,), (shape.cells - 1) % PAGE + 1, dtype=torch.int32, device=device.name)
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device.name)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(
        workspace, use_cuda_graph=True, use_tensor_cores=shape.heads // shape.kv_heads >= 4,
        paged_kv_indptr_buffer=first_page.clone(), paged_kv_indices_buffer=pages.clone(),
        paged_kv_last_page_len_buffer=last.clone(),
    )  # fmt: skip
    wrapper.plan(
        first_page, pages, last, shape.heads, shape.kv_heads, shape.head, PAGE, q_data_type=torch.bfloat16,
        kv_data_type=torch.bfloat16, sm_scale=shape.scale,
    )  # fmt: skip

    def attend(given: Tensors) -> Callable[[], Any]:
        queries = given.queries.view(-1, shape.heads, shape.head)
        keys = given.keys.view(-1, PAGE, shape.kv_heads, shape.head)
        values = given.values.view(-1, PAGE, shape.kv_heads, shape.v)
        return lambda: wrapper.run(queries, (keys, values))

    return attend


def prefill(device: Device, shape: Shape, stored: int) -> Attend:
    """One prompt, causal."""
    from flashinfer.prefill import single_prefill_with_kv_cache

    def attend(given: Tensors) -> Callable[[], Any]:
        queries, keys, values = (one[0] for one in given)
        return lambda: single_prefill_with_kv_cache(queries, keys, values, causal=True, sm_scale=shape.scale)

    return attend


PROVIDER = Provider(torch_version("flashinfer"), build, device_name)
