from __future__ import annotations

from pathlib import Path

from hwdetect.host_cpu import cpu, process_affinity
from hwdetect.inventory import known
from tests.hwdetect.conftest import WriteTree

XEON = "Intel(R) Xeon(R) Platinum 8480+"
X86_FLAGS = "fpu sse2 avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8"


def cpuinfo(count: int, body: str) -> str:
    return "".join(f"processor\t: {number}\n{body}\n\n" for number in range(count))


def two_sockets(cores_per_socket: int = 2) -> dict[str, str]:
    """Two threads per core, numbered as Linux does: all first threads, then all second ones."""
    cores = 2 * cores_per_socket
    files = {
        "proc/cpuinfo": cpuinfo(2 * cores, f"vendor_id\t: GenuineIntel\nmodel name\t: {XEON}\nflags\t\t: {X86_FLAGS}"),
        "sys/devices/system/cpu/online": f"0-{2 * cores - 1}\n",
    }
    for number in range(2 * cores):
        folder = f"sys/devices/system/cpu/cpu{number}/topology"
        files[f"{folder}/core_cpus_list"] = f"{number % cores},{number % cores + cores}\n"
        files[f"{folder}/physical_package_id"] = f"{number % cores // cores_per_socket}\n"
    return files


def quota(cores: float) -> dict[str, str]:
    return {
        "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "proc/self/cgroup": "0::/box\n",
        "sys/fs/cgroup/box/cpu.max": f"{int(cores * 100000)} 100000\n",
    }


def test_a_two_socket_xeon(write_tree: WriteTree) -> None:
    found = cpu(write_tree(two_sockets()), frozenset(range(8)))
    assert (known(found.model), known(found.vendor)) == (XEON, "GenuineIntel")
    assert (known(found.sockets), known(found.physical_cores), known(found.logical_cpus)) == (2, 4, 8)
    assert known(found.flags) == (
        *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
    )
    assert known(found.affinity_cpus) == 8
    assert known(found.usable_cores) == 4.0


def test_two_threads_of_a_core_are_one_usable_core(write_tree: WriteTree) -> None:
    root = write_tree(two_sockets())
    assert known(cpu(root, frozenset({0, 4})).usable_cores) == 1.0
    assert known(cpu(root, frozenset({0, 5})).usable_cores) == 2.0


def test_a_quota_below_the_cores_holds(write_tree: WriteTree) -> None:
    found = cpu(write_tree(two_sockets() | quota(2.5)), frozenset(range(8)))
    assert found.usable_cores is not None
    assert (found.usable_cores.value, found.usable_cores.source) == (2.5, "/sys/fs/cgroup/box/cpu.max")
    assert known(found.cgroup_quota_cores) == 2.5


def test_a_quota_above_the_cores_adds_none(write_tree: WriteTree) -> None:
    assert known(cpu(write_tree(two_sockets() | quota(7)), frozenset(range(8))).usable_cores) == 4.0


def test_the_cpuset_narrows_the_affinity(write_tree: WriteTree) -> None:
    files = two_sockets() | quota(7) | {"sys/fs/cgroup/box/cpuset.cpus.effective": "0-1\n"}
    found = cpu(write_tree(files), frozenset(range(8)))
    assert known(found.cpuset) == "0-1"
    assert known(found.usable_cores) == 2.0


def test_cores_without_a_topology_are_assumed(write_tree: WriteTree) -> None:
    root = write_tree({"proc/cpuinfo": cpuinfo(4, "model name\t: QEMU Virtual CPU")})
    found = cpu(root, None)
    assert found.physical_cores is not None and found.usable_cores is not None
    assert (found.physical_cores.value, found.physical_cores.reason) == (None, "not given for every CPU")
    assert (found.usable_cores.value, found.usable_cores.provenance) == (4.0, "assumed")
    assert found.affinity_cpus is not None and found.affinity_cpus.value is None


def test_topology_from_cpuinfo_where_sysfs_has_none(write_tree: WriteTree) -> None:
    blocks = [f"processor : {number}\nphysical id : {number // 4}\ncore id : {number % 2}\n\n" for number in range(8)]
    found = cpu(write_tree({"proc/cpuinfo": "".join(blocks)}), None)
    assert (known(found.sockets), known(found.physical_cores), known(found.usable_cores)) == (2, 4, 4.0)


GRACE = "CPU implementer\t: 0x41\nCPU part\t: 0xd4f\nFeatures\t: fp asimd sve2 i8mm bf16 flagm"


def test_an_arm_processor_is_named_by_its_numbers(write_tree: WriteTree) -> None:
    found = cpu(write_tree({"proc/cpuinfo": cpuinfo(2, GRACE)}), None)
    assert found.model is not None
    assert (found.model.value, found.model.provenance, found.model.raw) == (
        "Neoverse-V2",
        "table",
        "0x41, 0xd4f",
    )
    assert known(found.vendor) == "ARM"
    assert known(found.flags) == ("asimd", "sve2", "i8mm", "bf16")


def test_an_arm_processor_nobody_listed_keeps_its_numbers(write_tree: WriteTree) -> None:
    found = cpu(write_tree({"proc/cpuinfo": cpuinfo(1, "CPU implementer\t: 0x99\nCPU part\t: 0x001")}), None)
    assert found.model is not None and found.vendor is not None
    assert (found.model.value, found.model.raw) == (None, "0x99, 0x1")
    assert (found.vendor.value, found.vendor.raw) == (None, "0x99")


def test_a_processor_without_the_flags_has_an_empty_set_not_a_missing_one(write_tree: WriteTree) -> None:
    assert known(cpu(write_tree({"proc/cpuinfo": cpuinfo(1, "flags : fpu sse2")}), None).flags) == ()


def test_a_machine_without_proc_says_so(tmp_path: Path) -> None:
    found = cpu(tmp_path, None)
    assert found.model is not None and found.flags is not None and found.usable_cores is not None
    assert (found.model.reason, found.flags.reason) == ("not listed", "not listed")
    assert found.usable_cores.reason == "no CPU is left"


def test_this_machine() -> None:
    affinity = process_affinity()
    found = cpu(affinity=affinity)
    logical, usable = known(found.logical_cpus), known(found.usable_cores)
    assert affinity is not None and logical is not None and usable is not None
    assert known(found.affinity_cpus) == len(affinity) <= logical
    assert 0 < usable <= len(affinity)
