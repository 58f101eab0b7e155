"""Files of the kernel with anything in them: a value, or the reason why there is none; no limit is ever lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwdetect import cgroups
from hwdetect.host_cpu import cpu
from hwdetect.host_memory import cpu_numbers, host_memory, numa_nodes
from hwdetect.inventory import known

TREE = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Xeon\nphysical id\t: 0\ncore id\t: 0\nflags\t: avx2\n",
    "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 900 kB\nHugetlb: 0 kB\n",
    "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "proc/self/cgroup": "0::/job\n",
    "sys/fs/cgroup/job/memory.max": "4096\n",
    "sys/fs/cgroup/job/memory.current": "100\n",
    "sys/fs/cgroup/job/memory.stat": "anon 50\ninactive_file 40\n",
    "sys/fs/cgroup/job/cpu.max": "100000 100000\n",
    "sys/fs/cgroup/job/cpuset.cpus.effective": "0-3\n",
    "sys/devices/system/cpu/online": "0-3\n",
    "sys/devices/system/node/node0/cpulist": "0-3\n",
    "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 1000 kB\nNode 0 MemFree: 500 kB\n",
    "sys/devices/system/node/node0/distance": "10\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "proc/sys/vm/overcommit_memory": "0\n",
}
PIECES = st.sampled_from(
    ["max", "-1", "0-99999999999", "9" * 40, "\u00b2", "1e9", "nan", " ", ":", "../..", "\\999", "kB"]
)
GARBAGE = st.binary(max_size=60) | st.lists(PIECES, max_size=4).map(lambda parts: " ".join(parts).encode())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("host")
    for name, text in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@contextmanager
def with_files(root: Path, spoilt: dict[str, bytes]) -> Iterator[None]:
    """The tree with some files replaced, for the time of the block."""
    for name, data in spoilt.items():
        (root / name).write_bytes(data)
    try:
        yield
    finally:
        for name in spoilt:
            (root / name).write_text(TREE[name])


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(sorted(TREE)), GARBAGE, max_size=4))
def test_readers_of_the_host(tree: Path, spoilt: dict[str, bytes]) -> None:
    with with_files(tree, spoilt):
        found, memory, nodes = cpu(tree, frozenset({0, 1})), host_memory(tree), numa_nodes(tree)
    assert found.usable_cores is not None
    assert found.usable_cores.value is None or 0 <= found.usable_cores.value <= 2
    total, usable = known(memory.total_bytes), known(memory.usable_bytes)
    assert usable is None or (total is not None and usable <= total)
    assert all(node.index == 0 for node in nodes)


@settings(max_examples=50)
@given(GARBAGE.filter(lambda data: data.strip() != b"max"))
def test_a_limit_is_never_lost(tree: Path, data: bytes) -> None:
    with with_files(tree, {"sys/fs/cgroup/job/memory.max": data, "sys/fs/cgroup/job/cpu.max": data}):
        memory, quota = cgroups.memory_limit(tree), cgroups.cpu_quota(tree)
    assert not memory.unlimited
    assert not quota.unlimited or data.split()[:1] == [b"max"]


@pytest.mark.parametrize("text", ["0-99999999999", "5-1", "-1", "0x3", "\u00b2", "1,,a"])
def test_a_list_of_cpus_that_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        cpu_numbers(text)
