"""This machine as an inventory."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from hwdetect import disks, host_cpu, host_memory, nvidia
from hwdetect.facts import known, printable
from hwdetect.inventory import Cpu, Gpu, GpuStatus, HostMemory, Inventory, Node, NumaNode, OperatingSystem

DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")

T = TypeVar("T")


def detect(root: Path = Path("/")) -> Inventory:
    """Look at this machine. Takes well under a second, allocates nothing on a GPU, and never raises.

    What could not be read is missing with its reason; a part that failed as a whole is a note. root: the
    directory that stands for "/" when /proc, /sys and /etc are read; NVML, disks and the scheduler's
    affinity always are those of this machine.
    """
    notes: list[str] = []
    failed = nvidia.Scan(GpuStatus(code="error", detail="the scan failed, see the notes"))
    scan = _part("NVIDIA GPUs", lambda: nvidia.scan(root), failed, notes)
    no_nodes: tuple[NumaNode, ...] = ()
    numa = _part("NUMA nodes", lambda: host_memory.numa_nodes(root, _gpu_nodes(scan.gpus)), no_nodes, notes)
    memory = _part("memory", lambda: host_memory.host_memory(root, _gpu_memory_bytes(numa)), HostMemory(), notes)
    notes.extend(_conflicts(memory, numa))
    hostname = _part("host name", lambda: printable(platform.node()), "", notes)
    node = Node(
        name=hostname or "localhost",
        gpus=scan.gpus,
        gpu_status=scan.status,
        driver_version=scan.driver_version,
        cuda_driver_version=scan.cuda_driver_version,
        cpu=_part("processors", lambda: host_cpu.cpu(root, host_cpu.process_affinity()), Cpu(), notes),
        memory=memory,
        numa=numa,
        disks=_part("disks", disks.disks, (), notes),
        os=_part("operating system", lambda: _operating_system(root), OperatingSystem(), notes),
        environment={name: printable(os.environ[name]) for name in DEVICE_VARIABLES if name in os.environ},
    )
    return Inventory(
        collected_at=datetime.now(UTC).replace(microsecond=0),
        hostname=hostname or None,
        nodes=(node,),
        notes=tuple(notes),
    )


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


def _operating_system(root: Path) -> OperatingSystem:
    name = platform.uname()
    return OperatingSystem(
        system=printable(name.system) or None,
        kernel=printable(name.release) or None,
        architecture=printable(name.machine) or None,
        distribution=_distribution(root),
    )


def _distribution(root: Path) -> str | None:
    try:
        lines = (root / "etc/os-release").read_text(errors="replace").splitlines()
    except OSError:
        return None
    named = (line.removeprefix("PRETTY_NAME=") for line in lines if line.startswith("PRETTY_NAME="))
    return next((printable(name.strip("\"' ")) for name in named), None)
