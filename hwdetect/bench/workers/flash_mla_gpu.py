"""DeepSeek's flash-mla package. Not yet run on a GPU by this project."""

from __future__ import annotations

from .gpu import device_name, torch_version
from .serve import CannotRun, Provider, Series
from .timing import Options
from .vllm_gpu import flash_mla


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the caches of a series."""
    if kernel != "mla_decode" or quantization != "bf16":
        raise CannotRun(f"flash-mla is asked for MLA decode over a bf16 cache, not for {kernel} in {quantization}")
    import flash_mla as library

    return flash_mla(library, dims, options)


PROVIDER = Provider(torch_version("flash_mla"), build, device_name)
