"""Which GPUs of a node an engine can take: whole ones that answer, else one part of a split one."""

from __future__ import annotations

from typing import Final

from hwdetect.accelerators import Gpu, GpuMemory, MigDevice
from hwdetect.facts import FloatFact, known
from hwdetect.inventory import Node
from profiles.gpus import load_gpu, match_reported

MIG_COMPUTE_SLICES: Final = 7
"""Of a whole GPU (NVIDIA Multi-Instance GPU User Guide, "Supported MIG Profiles")."""


def usable_gpus(node: Node, notes: list[str]) -> tuple[Gpu, ...]:
    """The GPUs of a node that an engine can take, whole ones before parts; what is left out is noted.

    A split GPU has no memory to give but that of its MIG devices, and a process sees one of these at a time, without
    NVLink to others (NVIDIA Multi-Instance GPU User Guide, "CUDA Device Enumeration"): at most one of them is usable.
    """
    whole: list[Gpu] = []
    parts: list[Gpu] = []
    for gpu in node.gpus:
        if gpu.status != "ok":
            notes.append(f"{node.name}: GPU {gpu.index} is {gpu.status} and is left out")
        elif gpu.visible is not None and gpu.visible.value is False:
            notes.append(f"{node.name}: GPU {gpu.index} is hidden by CUDA_VISIBLE_DEVICES and is left out")
        elif known(gpu.mig):
            parts += [_mig_gpu(gpu, device) for device in gpu.mig_devices if known(device.visible) is not False]
            if not gpu.mig_devices:
                notes.append(f"{node.name}: GPU {gpu.index} is in MIG mode without a MIG device and is left out")
        else:
            whole.append(gpu)
    if parts and whole:
        notes.append(f"{node.name}: {len(parts)} MIG devices are left out: whole GPUs are used")
    if whole or not parts:
        return tuple(whole)
    largest = max(parts, key=lambda part: (known(part.memory.free_bytes) or 0) if part.memory else 0)
    if len(parts) > 1:
        notes.append(f"{node.name}: one of {len(parts)} MIG devices is used: a process sees one at a time")
    return (largest,)


def _mig_gpu(gpu: Gpu, device: MigDevice) -> Gpu:
    """A MIG device as a GPU of its own: its memory, the share of bandwidth that goes with it, and PCIe alone."""
    facts_key = gpu.key or match_reported(known(gpu.name) or "", _mib(gpu.memory))
    bandwidth = None
    total, part = (known(one.total_bytes) if one else None for one in (gpu.memory, device.memory))
    if facts_key is not None and total and part:
        bandwidth = FloatFact(
            value=load_gpu(facts_key).bandwidth_bytes_per_s * part / total,
            source=f"profiles/hardware/gpu/{facts_key}.toml x memory of the MIG device / of the GPU",
            provenance="assumed",
        )
    return gpu.model_copy(
        update={
            "key": facts_key,
            "name": device.name if known(device.name) else gpu.name,
            "memory": device.memory,
            "bandwidth_bytes_per_s": bandwidth,
            "link_kind": "pcie",
            "mig_devices": (device,),
        }
    )


def _mib(memory: GpuMemory | None) -> int | None:
    total = known(memory.total_bytes) if memory else None
    return total >> 20 if total else None


def compute_share(gpu: Gpu) -> float:
    """The part of a GPU's compute that a MIG device has: its slices of seven (NVIDIA MIG User Guide, profiles)."""
    slices = known(gpu.mig_devices[0].compute_slices) if known(gpu.mig) and len(gpu.mig_devices) == 1 else None
    return min(1.0, slices / MIG_COMPUTE_SLICES) if slices else 1.0
