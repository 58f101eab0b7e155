"""Who can run which kernel, best first; nothing is taken silently, and what is ours is called ours."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from hwdetect.bench.case import Kernel


class Provider(NamedTuple):
    """A worker module. ``where`` is the interpreter it belongs in: an engine's own, or any that has the library."""

    name: str
    device: Literal["cpu", "gpu"]
    where: Literal["engine", "any"] = "any"
    ours: bool = False


def _provider(name: str, device: Literal["cpu", "gpu"], *, engine: bool = False, ours: bool = False) -> Provider:
    return Provider(name, device, "engine" if engine else "any", ours)


KT_KERNEL: Final = _provider("kt_kernel", "cpu")
GGML: Final = _provider("ggml", "cpu")
ONNXRUNTIME: Final = _provider("onnxruntime_cpu", "cpu")
TORCH_CPU: Final = _provider("torch_cpu", "cpu")
NUMPY: Final = _provider("machine", "cpu", ours=True)
VLLM: Final = _provider("vllm_gpu", "gpu", engine=True)
SGLANG: Final = _provider("sglang_gpu", "gpu", engine=True)
FLASHINFER: Final = _provider("flashinfer_gpu", "gpu")
FLASH_MLA: Final = _provider("flash_mla_gpu", "gpu")
DEEP_GEMM: Final = _provider("deep_gemm_gpu", "gpu")
TRITON: Final = _provider("triton_gpu", "gpu", ours=True)
TORCH_GPU: Final = _provider("torch_gpu", "gpu")
NCCL: Final = _provider("nccl_gpu", "gpu")
GLOO: Final = _provider("gloo_cpu", "cpu")

PROVIDERS: Final[dict[Kernel, tuple[Provider, ...]]] = {
    "cpu_moe": (KT_KERNEL, GGML, ONNXRUNTIME, TORCH_CPU),
    "cpu_dense": (GGML, ONNXRUNTIME, TORCH_CPU),
    "cpu_attention": (GGML,),
    "cpu_router": (GGML, ONNXRUNTIME, TORCH_CPU),
    "memory_read": (NUMPY,),
    "disk_read": (NUMPY,),
    "grouped_moe": (VLLM, SGLANG, FLASHINFER, DEEP_GEMM, TRITON),
    "mla_decode": (VLLM, SGLANG, FLASHINFER, FLASH_MLA, TRITON),
    "mla_prefill": (VLLM, SGLANG, FLASHINFER, TORCH_GPU, TRITON, GGML),
    "gqa_decode": (VLLM, SGLANG, FLASHINFER, TRITON, TORCH_GPU),
    "gqa_prefill": (VLLM, SGLANG, FLASHINFER, TORCH_GPU, TRITON),
    "dense": (DEEP_GEMM, TORCH_GPU),
    "router": (TORCH_GPU,),
    "host_to_device": (TORCH_GPU,),
    "gpu_to_gpu": (TORCH_GPU,),
    "all_reduce": (NCCL, GLOO),
    "all_to_all": (NCCL, GLOO),
    "decode_layer": (TRITON, GGML),
}
"""A kernel that is missing here has no provider, and a case of it says so."""
