"""gloo between processes of this machine, by PyTorch: the same ranks without a GPU, whose times say nothing of one."""

from __future__ import annotations

from .collectives import series
from .serve import CannotRun, Provider, Series, cpu_device
from .timing import Options

MOST_RANKS = 16
"""Of processes that share the cores of one machine."""


def _version(_: Options) -> str:
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        raise CannotRun("this PyTorch has no gloo")
    return f"gloo of torch {torch.__version__}"


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Start the ranks of a series."""
    if dims["ranks"] > MOST_RANKS:
        raise CannotRun(f"{dims['ranks']} processes are too many for one machine, {MOST_RANKS} at most")
    return series("gloo", kernel, quantization, dims, options, MOST_RANKS)


PROVIDER = Provider(_version, build, cpu_device)
