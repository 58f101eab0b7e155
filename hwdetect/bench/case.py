"""A kernel at one shape: what the planner sums over, what the benchmark measures, the key of speed evidence.

The planner hands its list of ``KernelCase`` to the benchmark, which measures them on a machine; the results are looked
up again under ``KernelCase.series``, whatever the provider.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from formulas.kv_cache import vector_bytes
from formulas.moe import expected_distinct_experts
from formulas.roofline import attention_flops, mla_decode_flops
from formulas.storage import storage_format, tensor_bytes

Kernel = Literal[
    "grouped_moe",
    "cpu_moe",
    "dense",
    "cpu_dense",
    "router",
    "cpu_router",
    "mla_decode",
    "mla_prefill",
    "gqa_decode",
    "gqa_prefill",
    "cpu_attention",
    "all_reduce",
    "all_to_all",
    "memory_read",
    "host_to_device",
    "gpu_to_gpu",
    "disk_read",
    "decode_layer",
]
"""``grouped_moe`` and ``cpu_moe`` are gate-up, SiLU-mul and down over the routed experts of one layer; ``dense`` one
projection; ``*_decode`` attention of one new token a sequence, ``*_prefill`` of many; ``decode_layer`` all of them."""


class Work(NamedTuple):
    """What a kernel has to move and compute: bytes read and written, floating-point operations."""

    bytes: float
    flops: float


class KernelCase(NamedTuple):
    """One kernel at the shape that one rank runs.

    ``quantization`` is the storage format of the weights (``formulas.storage``), for attention the KV dtype, for
    collectives and copies ``bf16``. ``dims`` are the sharded dimensions, sorted by name:

    grouped_moe, cpu_moe  experts (on this rank), experts_total, top_k, hidden, inter (per rank)
    dense, cpu_dense      out, in
    router, cpu_router    experts, hidden, top_k
    mla_*                 heads, kv_lora, rope, nope, v
    gqa_*, cpu_attention  heads, kv_heads, head, v
    all_reduce/_to_all    hidden, ranks
    copies and reads      bytes; of memory also node (a NUMA node) or nodes (so many at once)

    ``batch`` is the tokens of the step (for decode attention the sequences, for copies 1); ``context`` the cached
    tokens of each sequence, for attention only.
    """

    kernel: Kernel
    quantization: str
    dims: tuple[tuple[str, int], ...]
    batch: int = 1
    context: int = 0

    @property
    def series(self) -> str:
        """The key of speed evidence: kernel, format and shape, without batch and context.

        >>> kernel_case("dense", "bf16", batch=8, out=1536, in_=7168).series
        'dense/bf16/in7168.out1536'
        """
        return f"{self.kernel}/{self.quantization}/" + ".".join([f"{name}{size}" for name, size in self.dims])

    def dim(self, name: str) -> int:
        """One dimension. Raises ``KeyError`` when this kernel has none of that name."""
        for known, size in self.dims:
            if known == name:
                return size
        raise KeyError(f"{self.kernel} has no dimension {name!r}")

    def work(self, distinct_experts: float | None = None) -> Work:
        """Bytes moved and operations done, activations in bf16.

        ``distinct_experts`` of this rank are hit (measured, or expected under uniform routing when None).

        >>> work = kernel_case("grouped_moe", "int4_g32", batch=1, experts=384, experts_total=384, top_k=8, hidden=7168,
        ...                    inter=2048).work()
        >>> round(work.bytes / 1e6, 1), round(work.flops / 1e9, 2)              # 8 K2.5 experts
        (198.2, 0.7)
        """
        return _WORK[self.kernel](self, distinct_experts)


def kernel_case(kernel: Kernel, quantization: str, batch: int = 1, context: int = 0, **dims: int) -> KernelCase:
    """A case with its dimensions in order; a trailing underscore of a name (``in_``) is dropped."""
    named = sorted((name.rstrip("_"), size) for name, size in dims.items())
    return KernelCase(kernel, quantization, tuple(named), batch, context)


def _moe(case: KernelCase, distinct: float | None) -> Work:
    experts, total, top_k = case.dim("experts"), case.dim("experts_total"), case.dim("top_k")
    hidden, inter = case.dim("hidden"), case.dim("inter")
    if distinct is None:
        distinct = expected_distinct_experts(total, top_k, case.batch) * experts / total
    fmt = storage_format(case.quantization)
    expert = 2 * tensor_bytes(fmt, (inter, hidden)) + tensor_bytes(fmt, (hidden, inter))
    copies = case.batch * top_k * experts / total
    return Work(distinct * expert + 2 * 2 * case.batch * hidden, 6 * copies * hidden * inter)


def _dense(case: KernelCase, _: float | None) -> Work:
    out, columns = case.dim("out"), case.dim("in")
    weights = tensor_bytes(storage_format(case.quantization), (out, columns))
    return Work(weights + 2 * case.batch * (out + columns), 2 * case.batch * out * columns)


def _router(case: KernelCase, _: float | None) -> Work:
    experts, hidden = case.dim("experts"), case.dim("hidden")
    weights = tensor_bytes(storage_format(case.quantization), (experts, hidden))
    return Work(weights + 2 * case.batch * hidden + 4 * case.batch * experts, 2 * case.batch * experts * hidden)


def _mla_decode(case: KernelCase, _: float | None) -> Work:
    heads, lora, rope = case.dim("heads"), case.dim("kv_lora"), case.dim("rope")
    cached = case.batch * case.context
    moved = cached * vector_bytes(lora + rope, case.quantization) + 2 * case.batch * heads * (2 * lora + rope)
    return Work(moved, mla_decode_flops(heads, lora, rope, cached))


def _gqa_decode(case: KernelCase, _: float | None) -> Work:
    heads, kv_heads, head, v = case.dim("heads"), case.dim("kv_heads"), case.dim("head"), case.dim("v")
    cached = case.batch * case.context
    each = kv_heads * (vector_bytes(head, case.quantization) + vector_bytes(v, case.quantization))
    return Work(cached * each + 2 * case.batch * heads * (head + v), attention_flops(heads, head, v, cached))


def _mla_prefill(case: KernelCase, _: float | None) -> Work:
    """Expanded to heads, causal over the new tokens and whole over the cached ones."""
    heads, nope, rope, v = case.dim("heads"), case.dim("nope"), case.dim("rope"), case.dim("v")
    pairs = case.batch * (case.context + (case.batch + 1) / 2)
    moved = 2 * heads * ((case.batch + case.context) * (nope + rope + v) + case.batch * (nope + rope + v))
    return Work(moved, attention_flops(heads, nope + rope, v, pairs))


def _gqa_prefill(case: KernelCase, _: float | None) -> Work:
    heads, kv_heads, head, v = case.dim("heads"), case.dim("kv_heads"), case.dim("head"), case.dim("v")
    pairs = case.batch * (case.context + (case.batch + 1) / 2)
    moved = 2 * (kv_heads * (case.batch + case.context) + heads * case.batch) * (head + v)
    return Work(moved, attention_flops(heads, head, v, pairs))


def _message(case: KernelCase, _: float | None) -> Work:
    """Bytes of one rank's message; what of it crosses a link is the collective's own matter."""
    return Work(2 * case.batch * case.dim("hidden"), 0)


def _copy(case: KernelCase, _: float | None) -> Work:
    return Work(case.dim("bytes") * case.batch, 0)


def _no_work(case: KernelCase, _: float | None) -> Work:
    raise KeyError(f"{case.kernel} is the sum of its parts and has no work of its own")


_WORK = {
    "grouped_moe": _moe,
    "cpu_moe": _moe,
    "dense": _dense,
    "cpu_dense": _dense,
    "router": _router,
    "cpu_router": _router,
    "mla_decode": _mla_decode,
    "mla_prefill": _mla_prefill,
    "gqa_decode": _gqa_decode,
    "gqa_prefill": _gqa_prefill,
    "cpu_attention": _gqa_decode,
    "all_reduce": _message,
    "all_to_all": _message,
    "memory_read": _copy,
    "host_to_device": _copy,
    "gpu_to_gpu": _copy,
    "disk_read": _copy,
    "decode_layer": _no_work,
}
