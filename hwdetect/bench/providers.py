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
FLASH_MLA: Final = _provider("flash_mla_gpu", "gpu")
TRITON: Final = _provider("triton_gpu", "gpu", ours=True)
TORCH_GPU: Final = _provider("torch_gpu", "gpu")

PROVIDERS: Final[dict[Kernel, tuple[Provider, ...]]] = {
    "cpu_moe": (KT_KERNEL, GGML, ONNXRUNTIME, TORCH_CPU),
    "cpu_dense": (GGML, ONNXRUNTIME, TORCH_CPU),
    "cpu_attention": (GGML,),
    "memory_read": (NUMPY,),
    "disk_read": (NUMPY,),
    "grouped_moe": (VLLM, TRITON),
    "mla_decode": (VLLM, FLASH_MLA, TRITON),
    "mla_prefill": (GGML,),
    "dense": (TORCH_GPU,),
    "router": (TORCH_GPU,),
    "host_to_device": (TORCH_GPU,),
}
"""Kernels that are missing here have no provider yet, and a case of them says so."""
