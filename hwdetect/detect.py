"""This machine as an inventory."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from hwdetect import (
    amd,
    apple,
    disks,
    host_cpu,
    host_memory,
    host_system,
    kernel_log,
    model_folder,
    nvidia,
    smbios,
    software,
)
from hwdetect.facts import known, printable
from hwdetect.inventory import Cpu, Gpu, GpuStatus, HostMemory, Inventory, Node, NumaNode, OperatingSystem

DEVICE_VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"),
    *("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
)

T = TypeVar("T")


def detect(
    root: Path = Path("/"), *, engine_python: str | None = None, model_directory: str | None = None
) -> Inventory:
    """Look at this machine. Takes well under a second, allocates nothing on a GPU, and never raises.

    What could not be read is missing with its reason; a part that failed as a whole is a note. root: the
    directory that stands for "/" when /proc, /sys, /dev, /var and /etc are read; NVML, disks, programs and the
    scheduler's affinity always are those of this machine. engine_python: interpreter of an engine's environment.
    model_directory: where models are kept, instead of the usual cache.
    """
    notes: list[str] = []
    failed = nvidia.Scan(GpuStatus(code="error", detail="the scan failed, see the notes"))
    scan = _part("NVIDIA GPUs", lambda: nvidia.scan(root), failed, notes)
    gpus = scan.gpus + _renumbered(_part("other GPUs", lambda: _other_gpus(root), (), notes), len(scan.gpus))
    no_nodes: tuple[NumaNode, ...] = ()
    numa = _part("NUMA nodes", lambda: host_memory.numa_nodes(root, _gpu_nodes(gpus)), no_nodes, notes)
    in_total, of_it_free = _gpu_memory_bytes(numa), _gpu_free_bytes(numa)
    memory = _part("memory", lambda: host_memory.host_memory(root, in_total, of_it_free), HostMemory(), notes)
    notes.extend(_conflicts(memory, numa))
    hostname = _part("host name", lambda: printable(platform.node()), "", notes)
    node = Node(
        name=hostname or "localhost",
        gpus=gpus,
        gpu_status=_status(scan.status, gpus),
        driver_version=scan.driver_version,
        cuda_driver_version=scan.cuda_driver_version,
        cpu=_part("processors", lambda: host_cpu.cpu(root, host_cpu.process_affinity()), Cpu(), notes),
        memory=memory,
        numa=numa,
        disks=_part("disks", disks.disks, (), notes),
        os=_part("operating system", lambda: host_system.operating_system(root), OperatingSystem(), notes),
        environment={name: printable(os.environ[name]) for name in DEVICE_VARIABLES if name in os.environ},
        network=_part("network", lambda: host_system.network(root), None, notes),
        bus_gpus=_part("PCI bus", lambda: host_system.nvidia_on_bus(root), None, notes),
        memory_modules=_part("memory modules", lambda: smbios.memory_modules(root), None, notes),
        kernel_log=_part("kernel log", lambda: kernel_log.kernel_log(root), None, notes),
        software=_part("software", lambda: software.software(engine_python), (), notes),
        model_folder=_part("model folder", lambda: model_folder.model_folder(model_directory), None, notes),
        container=_part("container", lambda: host_system.container(root), None, notes),
    )
    return Inventory(
        collected_at=datetime.now(UTC).replace(microsecond=0),
        hostname=hostname or None,
        nodes=(node,),
        notes=tuple(notes),
    )


def _other_gpus(root: Path) -> tuple[Gpu, ...]:
    return apple.scan() if sys.platform == "darwin" else amd.scan(root)


def _renumbered(gpus: tuple[Gpu, ...], first: int) -> tuple[Gpu, ...]:
    """Indices are unique in a node; each vendor's own tools count from 0."""
    return tuple(gpu.model_copy(update={"index": first + gpu.index}) for gpu in gpus) if first else gpus


def _status(nvidia_status: GpuStatus, gpus: tuple[Gpu, ...]) -> GpuStatus:
    """What NVML says, unless another vendor's GPUs are there and no NVIDIA one is missed."""
    others = [gpu for gpu in gpus if gpu.vendor != "nvidia"]
    if not others or nvidia_status.code not in ("no_library", "no_devices"):
        return nvidia_status
    return GpuStatus(code="ok", detail=f"{len(others)} GPU(s)")


def _part(name: str, read: Callable[[], T], fallback: T, notes: list[str]) -> T:
    try:
        return read()
    except Exception as error:  # one broken part must not hide the others
        notes.append(printable(f"{name}: {type(error).__name__}: {error}"))
        return fallback


def _gpu_nodes(gpus: tuple[Gpu, ...]) -> dict[int, int]:
    nodes = {gpu.index: known(gpu.memory_numa_node) for gpu in gpus}
    return {node: index for index, node in nodes.items() if node is not None}


def _gpu_memory_bytes(numa: tuple[NumaNode, ...]) -> int:
    return sum(known(node.memory_total_bytes) or 0 for node in numa if node.gpu_index is not None)


def _gpu_free_bytes(numa: tuple[NumaNode, ...]) -> int:
    return sum(known(node.memory_free_bytes) or 0 for node in numa if node.gpu_index is not None)


def _conflicts(memory: HostMemory, numa: tuple[NumaNode, ...]) -> list[str]:
    """A virtual machine with a balloon promises more memory than its nodes hold."""
    total = known(memory.total_bytes)
    sizes = [known(node.memory_total_bytes) for node in numa]
    present = [size for size in sizes if size is not None]
    if total is None or not present or len(present) < len(sizes) or sum(present) >= 0.95 * total:
        return []
    return [
        f"/proc/meminfo says {total / 2**30:.1f} GiB, the NUMA nodes hold {sum(present) / 2**30:.1f} GiB: "
        "a hypervisor may be holding the rest back"
    ]
