"""NCCL between the GPUs of this machine, by PyTorch. Not yet run on GPUs by this project."""

from __future__ import annotations

from .collectives import series
from .gpu import Device, device_name
from .serve import CannotRun, Provider, Series
from .timing import Options


def _version(_: Options) -> str:
    torch = Device().torch
    if not torch.distributed.is_nccl_available():
        raise CannotRun("this PyTorch has no NCCL")
    return f"NCCL {'.'.join(str(part) for part in torch.cuda.nccl.version())}, torch {torch.__version__}"


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Start the ranks of a series."""
    return series("nccl", kernel, quantization, dims, options, Device().torch.cuda.device_count())


PROVIDER = Provider(_version, build, device_name)
