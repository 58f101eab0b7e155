"""Main memory, its limits, and the NUMA nodes it lies in.

`root` is the directory that stands for "/": another one reads a recorded /proc and /sys.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from hwdetect import cgroups
from hwdetect.facts import IntFact, TextFact, known, printable
from hwdetect.inventory import HostMemory, NumaNode

MAX_CPUS = 1 << 16


def meminfo(root: Path = Path("/")) -> dict[str, int]:
    """/proc/meminfo: bytes where the kernel prints kB (which are KiB), plain counts elsewhere.

    Raises OSError where there is none.
    """
    return _parse_meminfo((root / "proc/meminfo").read_text(errors="replace"))


def host_memory(root: Path = Path("/"), gpu_memory_bytes: int = 0, gpu_free_bytes: int = 0) -> HostMemory:
    """What this host has and what this process may fill of it.

    gpu_memory_bytes: GPU memory that the kernel counts as its own NUMA nodes, and so in MemTotal (Grace
    Hopper); it is not main memory, and its free part (gpu_free_bytes) is not available as such.
    """
    rows, unread = _rows(root)
    total, available, swap_total, swap_free = _totals(rows, unread)
    huge_total, huge_free, huge_size, hugetlb = (
        _row(rows, unread, name) for name in ("HugePages_Total", "HugePages_Free", "Hugepagesize", "Hugetlb")
    )
    limit = cgroups.memory_limit(root)
    shm_total, shm_free = _shm(root)
    return HostMemory(
        total_bytes=total,
        available_bytes=_available(available, cgroups.memory_available(root), gpu_free_bytes),
        cgroup_limit_bytes=limit,
        cgroup_used_bytes=cgroups.memory_used(root),
        usable_bytes=_usable(total, limit, known(hugetlb) or 0, gpu_memory_bytes),
        swap_total_bytes=swap_total,
        swap_free_bytes=swap_free,
        cgroup_swap_limit_bytes=cgroups.swap_limit(root),
        hugepages_total=huge_total,
        hugepages_free=huge_free,
        hugepage_size_bytes=huge_size,
        hugetlb_bytes=hugetlb,
        transparent_hugepages=_transparent_hugepages(root),
        memlock_bytes=_soft_limit("MEMLOCK"),
        overcommit=_overcommit(root),
        open_files=_soft_limit("NOFILE"),
        shm_total_bytes=shm_total,
        shm_free_bytes=shm_free,
    )


def numa_nodes(root: Path = Path("/"), gpu_of_node: Mapping[int, int] | None = None) -> tuple[NumaNode, ...]:
    """The memory nodes the kernel lists; none where it was built without NUMA.

    gpu_of_node: node -> index of the GPU whose memory it is.
    """
    names = re.compile("node[0-9]{1,6}")
    directories = (path for path in (root / "sys/devices/system/node").glob("node[0-9]*") if names.fullmatch(path.name))
    nodes = (_numa_node(root, path, gpu_of_node or {}) for path in directories)
    return tuple(sorted(nodes, key=lambda node: node.index))


def cpu_numbers(text: str) -> frozenset[int]:
    """The kernel's CPU list format. Raises ValueError on anything else.

    >>> sorted(cpu_numbers("0-2,8"))
    [0, 1, 2, 8]
    """
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        bounds = part.strip().split("-")
        if len(bounds) > 2 or not all(each.isascii() and each.isdigit() and len(each) < 7 for each in bounds):
            raise ValueError(f"not a list of CPUs: {part[:40]!r}")
        first, last = int(bounds[0]), int(bounds[-1])
        if not first <= last < MAX_CPUS:
            raise ValueError(f"not a range of CPUs: {part[:40]!r}")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def _parse_meminfo(text: str) -> dict[str, int]:
    rows = re.findall(r"^(?:Node [0-9]+ )?([^:\n]+):\s+([0-9]{1,15})( kB)?$", text, re.MULTILINE)
    return {name: int(number) * (1024 if unit else 1) for name, number, unit in rows}


def _rows(root: Path) -> tuple[dict[str, int], str]:
    """/proc/meminfo and, where it could not be read, why."""
    try:
        return meminfo(root), ""
    except OSError as error:
        return {}, printable(str(error))


def _row(rows: dict[str, int], unread: str, name: str) -> IntFact:
    source = f"/proc/meminfo {name}"
    if name in rows:
        return IntFact.reported(rows[name], source)
    return IntFact.missing(source, unread or "the kernel does not list it")


def _totals(rows: dict[str, int], unread: str) -> tuple[IntFact, IntFact, IntFact, IntFact]:
    if not rows and sys.platform != "linux":
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        return (
            IntFact.reported(memory.total, "psutil.virtual_memory().total"),
            IntFact.reported(memory.available, "psutil.virtual_memory().available"),
            IntFact.reported(swap.total, "psutil.swap_memory().total"),
            IntFact.reported(swap.free, "psutil.swap_memory().free"),
        )
    names = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    total, available, swap_total, swap_free = (_row(rows, unread, name) for name in names)
    return total, available, swap_total, swap_free


def _usable(total: IntFact, limit: IntFact, hugetlb_bytes: int, gpu_memory_bytes: int) -> IntFact:
    """Huge pages set aside are out of reach for ordinary allocations, though MemTotal counts them."""
    if total.value is None:
        return IntFact.missing(total.source, total.reason or "unknown")
    host_bytes = max(0, total.value - hugetlb_bytes - gpu_memory_bytes)
    if limit.value is not None and limit.value < host_bytes:
        return IntFact.reported(limit.value, limit.source)
    less = [("Hugetlb", hugetlb_bytes), ("GPU memory nodes", gpu_memory_bytes)]
    return IntFact.reported(host_bytes, " - ".join([total.source, *(name for name, size in less if size)]))


def _available(available: IntFact, in_group: IntFact, gpu_free_bytes: int) -> IntFact:
    """The least of what the host has left and what the control group does."""
    if available.value is None:
        return available
    size = max(0, available.value - gpu_free_bytes)
    if in_group.value is not None and in_group.value < size:
        return in_group
    return IntFact.reported(size, available.source + (" - free GPU memory nodes" if gpu_free_bytes else ""))


def _transparent_hugepages(root: Path) -> TextFact:
    source = "/sys/kernel/mm/transparent_hugepage/enabled"
    try:
        text = (root / source.lstrip("/")).read_text(errors="replace").strip()
    except OSError as error:
        return TextFact.missing(source, printable(str(error.strerror)))
    chosen = re.search(r"\[(\w+)\]", text)
    return TextFact.reported(chosen.group(1), source) if chosen else TextFact.missing(source, "no choice marked")


def _soft_limit(name: str) -> IntFact:
    source = f"RLIMIT_{name} (soft)"
    if sys.platform == "win32":
        return IntFact.missing(source, "Windows has no such limit")
    import resource

    soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    return IntFact.no_limit(source) if soft == resource.RLIM_INFINITY else IntFact.reported(soft, source)


# Linux Documentation/admin-guide/sysctl/vm.rst, overcommit_memory.
_OVERCOMMIT = {"0": "heuristic", "1": "always", "2": "never"}


def _overcommit(root: Path) -> TextFact:
    source = "/proc/sys/vm/overcommit_memory"
    try:
        text = (root / source.lstrip("/")).read_text(errors="replace").strip()
    except OSError as error:
        return TextFact.missing(source, printable(str(error.strerror)))
    if text not in _OVERCOMMIT:
        return TextFact.missing(source, "not a mode that is known", printable(text))
    return TextFact.reported(_OVERCOMMIT[text], source, text)


def _shm(root: Path) -> tuple[IntFact, IntFact]:
    source = "/dev/shm"
    try:
        usage = os.statvfs(root / "dev/shm")
    except (OSError, AttributeError) as error:
        missing = IntFact.missing(source, printable(str(error)))
        return missing, missing
    return (
        IntFact.reported(usage.f_blocks * usage.f_frsize, source),
        IntFact.reported(usage.f_bavail * usage.f_frsize, source),
    )


def _numa_node(root: Path, path: Path, gpu_of_node: Mapping[int, int]) -> NumaNode:
    index = int(path.name.removeprefix("node"))
    shown = "/" + str(path.relative_to(root))
    try:
        cpus = (path / "cpulist").read_text(errors="replace").strip()
        cpu_list = TextFact.reported(printable(cpus), f"{shown}/cpulist")
        cpu_count = IntFact.reported(len(cpu_numbers(cpus)), f"{shown}/cpulist")
    except (OSError, ValueError) as error:
        cpu_list = TextFact.missing(f"{shown}/cpulist", printable(str(error)))
        cpu_count = IntFact.missing(f"{shown}/cpulist", printable(str(error)))
    return NumaNode(
        index=index,
        cpus=cpu_list,
        cpu_count=cpu_count,
        memory_total_bytes=_node_memory(path, shown, "MemTotal"),
        memory_free_bytes=_node_memory(path, shown, "MemFree"),
        distances=_distances(path),
        gpu_index=gpu_of_node.get(index),
    )


def _node_memory(path: Path, shown: str, name: str) -> IntFact:
    source = f"{shown}/meminfo {name}"
    try:
        return IntFact.reported(_parse_meminfo((path / "meminfo").read_text(errors="replace"))[name], source)
    except KeyError:
        return IntFact.missing(source, "the kernel does not list it")
    except (OSError, ValueError) as error:
        return IntFact.missing(source, printable(str(error)))


def _distances(path: Path) -> tuple[int, ...]:
    try:
        numbers = (path / "distance").read_text(errors="replace").split()
    except OSError:
        return ()
    # The kernel has a byte for each.
    return (
        tuple(map(int, numbers)) if all(each.isascii() and each.isdigit() and len(each) < 4 for each in numbers) else ()
    )
