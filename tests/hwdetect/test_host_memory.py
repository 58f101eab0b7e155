from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from hwdetect.host_memory import cpu_numbers, host_memory, meminfo, numa_nodes
from hwdetect.inventory import known
from tests.hwdetect.conftest import WriteTree

KIB, GIB = 1024, 2**30
MEMINFO = """MemTotal:       536870912 kB
MemFree:        500000000 kB
MemAvailable:   520000000 kB
SwapTotal:        8388604 kB
SwapFree:         8388600 kB
HugePages_Total:      64
HugePages_Free:       60
Hugepagesize:    1048576 kB
Hugetlb:        67108864 kB
"""
NO_HUGE = {"proc/meminfo": "MemTotal: 536870912 kB\nMemAvailable: 1 kB\nHugetlb: 0 kB\n"}


def cgroup(limit_bytes: int) -> dict[str, str]:
    return {
        "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "proc/self/cgroup": "0::/box\n",
        "sys/fs/cgroup/box/memory.max": f"{limit_bytes}\n",
    }


def test_meminfo_in_bytes_and_counts(write_tree: WriteTree) -> None:
    memory = host_memory(write_tree({"proc/meminfo": MEMINFO}))
    assert known(memory.total_bytes) == 512 * GIB
    assert known(memory.available_bytes) == 520000000 * KIB
    assert (known(memory.swap_total_bytes), known(memory.swap_free_bytes)) == (8388604 * KIB, 8388600 * KIB)
    assert (known(memory.hugepages_total), known(memory.hugepages_free)) == (64, 60)
    assert (known(memory.hugepage_size_bytes), known(memory.hugetlb_bytes)) == (GIB, 64 * GIB)


def test_usable_is_the_total_where_nothing_limits_it(write_tree: WriteTree) -> None:
    usable = host_memory(write_tree(NO_HUGE)).usable_bytes
    assert usable is not None
    assert (usable.value, usable.source) == (512 * GIB, "/proc/meminfo MemTotal")


def test_usable_is_the_cgroup_limit_where_that_is_less(write_tree: WriteTree) -> None:
    memory = host_memory(write_tree(NO_HUGE | cgroup(100 * GIB)))
    assert memory.usable_bytes is not None
    assert (memory.usable_bytes.value, memory.usable_bytes.source) == (
        100 * GIB,
        "/sys/fs/cgroup/box/memory.max",
    )
    assert known(memory.cgroup_limit_bytes) == 100 * GIB
    assert known(memory.total_bytes) == 512 * GIB


def test_a_cgroup_limit_above_the_total_gives_no_memory(write_tree: WriteTree) -> None:
    assert known(host_memory(write_tree(NO_HUGE | cgroup(900 * GIB))).usable_bytes) == 512 * GIB


def test_huge_pages_and_gpu_memory_are_not_usable(write_tree: WriteTree) -> None:
    usable = host_memory(write_tree({"proc/meminfo": MEMINFO}), gpu_memory_bytes=96 * GIB).usable_bytes
    assert usable is not None
    assert (usable.value, usable.source) == (
        (512 - 64 - 96) * GIB,
        "/proc/meminfo MemTotal - Hugetlb - GPU memory nodes",
    )


def test_a_machine_without_proc_says_why(tmp_path: Path) -> None:
    memory = host_memory(tmp_path)
    assert memory.total_bytes is not None and memory.usable_bytes is not None
    assert memory.total_bytes.value is None
    assert "No such file" in (memory.total_bytes.reason or "")
    assert memory.usable_bytes.reason == memory.total_bytes.reason


def test_an_old_kernel_lists_no_available_memory(write_tree: WriteTree) -> None:
    available = host_memory(write_tree({"proc/meminfo": "MemTotal: 4 kB\n"})).available_bytes
    assert available is not None
    assert (available.value, available.reason) == (None, "the kernel does not list it")


def test_transparent_huge_pages(write_tree: WriteTree) -> None:
    root = write_tree({"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n"})
    assert known(host_memory(root).transparent_hugepages) == "madvise"


def test_memlock_is_this_process_s(write_tree: WriteTree) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    memlock = host_memory(write_tree(NO_HUGE)).memlock_bytes
    assert memlock is not None
    assert memlock.unlimited == (soft == resource.RLIM_INFINITY)
    assert memlock.value == (None if memlock.unlimited else soft)


def test_this_machine_s_shm_and_meminfo() -> None:
    memory = host_memory()
    shm = os.statvfs("/dev/shm")
    assert known(memory.shm_total_bytes) == shm.f_blocks * shm.f_frsize
    assert known(memory.total_bytes) == meminfo()["MemTotal"] > GIB


def node(index: int, cpus: str, total_kib: int, distance: str) -> dict[str, str]:
    folder = f"sys/devices/system/node/node{index}"
    return {
        f"{folder}/cpulist": f"{cpus}\n",
        f"{folder}/meminfo": (f"Node {index} MemTotal:  {total_kib} kB\nNode {index} MemFree:  {total_kib // 2} kB\n"),
        f"{folder}/distance": f"{distance}\n",
    }


def test_numa_nodes_with_cpus_without_memory_and_of_a_gpu(write_tree: WriteTree) -> None:
    root = write_tree(
        node(0, "0-3,8-11", 1000, "10 20 40") | node(1, "4-7", 0, "20 10 40") | node(10, "", 96 * 2**20, "40 40 10")
    )
    first, memoryless, gpu = numa_nodes(root, {10: 0})
    assert (first.index, known(first.cpu_count), known(first.cpus)) == (0, 8, "0-3,8-11")
    assert (known(first.memory_total_bytes), known(first.memory_free_bytes)) == (1000 * KIB, 500 * KIB)
    assert first.distances == (10, 20, 40)
    assert (known(memoryless.memory_total_bytes), known(memoryless.cpu_count)) == (0, 4)
    assert (gpu.index, known(gpu.cpu_count), gpu.gpu_index) == (10, 0, 0)
    assert (first.gpu_index, memoryless.gpu_index) == (None, None)


def test_a_kernel_without_numa_has_no_nodes(tmp_path: Path) -> None:
    assert numa_nodes(tmp_path) == ()


def test_a_node_with_broken_files_is_still_a_node(write_tree: WriteTree) -> None:
    (broken,) = numa_nodes(write_tree({"sys/devices/system/node/node0/cpulist": "zero\n"}))
    assert broken.cpu_count is not None and broken.memory_total_bytes is not None
    assert "zero" in (broken.cpu_count.reason or "")
    assert "No such file" in (broken.memory_total_bytes.reason or "")
    assert broken.distances == ()


@pytest.mark.parametrize(("text", "count"), [("", 0), ("0\n", 1), ("0-3", 4), ("0-1,4,6-7", 5)])
def test_cpu_lists(text: str, count: int) -> None:
    assert len(cpu_numbers(text)) == count
