"""DeepSeek's flash-mla package, which SGLang brings as sgl-flash-mla. Not yet run on a GPU by this project."""

from __future__ import annotations

from .gpu import device_name, torch_version
from .serve import CannotRun, Provider, Series
from .timing import Options
from .vllm_gpu import flash_mla


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the caches of a series."""
    if kernel != "mla_decode":
        raise CannotRun(f"flash-mla is asked for MLA decode, not for {kernel}")
    import flash_mla as library

    return flash_mla(library, quantization, dims, options)


PROVIDER = Provider(torch_version("flash_mla"), build, device_name)
