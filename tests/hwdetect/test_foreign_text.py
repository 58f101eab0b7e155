"""Files of the kernel with anything in them: a value, or the reason why there is none; no limit is ever lost."""

from __future__ import annotations

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


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(sorted(TREE)), GARBAGE, max_size=4))
def test_readers_of_the_host(tmp_path_factory: pytest.TempPathFactory, spoilt: dict[str, bytes]) -> None:
    root = tmp_path_factory.getbasetemp() / "host"
    write(root, spoilt)
    found = cpu(root, frozenset({0, 1}))
    assert found.usable_cores is not None
    assert found.usable_cores.value is None or 0 <= found.usable_cores.value <= 2
    memory = host_memory(root)
    total, usable = known(memory.total_bytes), known(memory.usable_bytes)
    assert usable is None or (total is not None and usable <= total)
    assert all(node.index == 0 for node in numa_nodes(root))


@given(GARBAGE.filter(lambda data: data.strip() != b"max"))
def test_a_limit_is_never_lost(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.getbasetemp() / "limit"
    write(root, {"sys/fs/cgroup/job/memory.max": data, "sys/fs/cgroup/job/cpu.max": data})
    assert not cgroups.memory_limit(root).unlimited
    assert not cgroups.cpu_quota(root).unlimited or data.split()[:1] == [b"max"]


def write(root: Path, spoilt: dict[str, bytes]) -> None:
    for name, text in TREE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(spoilt.get(name, text.encode()))


@pytest.mark.parametrize("text", ["0-99999999999", "5-1", "-1", "0x3", "\u00b2", "1,,a"])
def test_a_list_of_cpus_that_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        cpu_numbers(text)
