from __future__ import annotations

import pytest

from hwdetect.cgroups import cpu_quota, cpuset, memory_available, memory_limit, memory_used, swap_limit
from tests.hwdetect.conftest import WriteTree

GIB = 2**30
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V2 = {"proc/self/mountinfo": V2_MOUNT, "proc/self/cgroup": "0::/user.slice/run.scope\n"}
GROUP, SLICE = "sys/fs/cgroup/user.slice/run.scope", "sys/fs/cgroup/user.slice"

V1_MOUNTS = (
    "30 23 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
    "35 30 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    "36 30 0:33 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    "37 30 0:34 /docker/abc /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n"
)
V1 = {
    "proc/self/mountinfo": V1_MOUNTS,
    "proc/self/cgroup": ("9:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n0::/docker/abc\n"),
}
V1_NONE = "9223372036854771712\n"


def test_v2_limit_of_the_group_itself(write_tree: WriteTree) -> None:
    limit = memory_limit(write_tree(V2 | {f"{GROUP}/memory.max": f"{64 * GIB}\n", f"{GROUP}/memory.high": "max\n"}))
    assert (limit.value, limit.source) == (64 * GIB, f"/{GROUP}/memory.max")


def test_v2_limit_of_a_group_above_is_the_tighter_one(write_tree: WriteTree) -> None:
    root = write_tree(V2 | {f"{GROUP}/memory.max": f"{64 * GIB}\n", f"{SLICE}/memory.max": f"{16 * GIB}\n"})
    limit = memory_limit(root)
    assert (limit.value, limit.source) == (16 * GIB, f"/{SLICE}/memory.max")


def test_v2_memory_high_counts(write_tree: WriteTree) -> None:
    root = write_tree(V2 | {f"{GROUP}/memory.max": f"{64 * GIB}\n", f"{SLICE}/memory.high": f"{48 * GIB}\n"})
    limit = memory_limit(root)
    assert (limit.value, limit.source) == (48 * GIB, f"/{SLICE}/memory.high")


def test_v2_max_everywhere_is_no_limit(write_tree: WriteTree) -> None:
    root = write_tree(V2 | {f"{GROUP}/memory.max": "max\n", f"{GROUP}/memory.swap.max": "0\n"})
    assert memory_limit(root).unlimited
    assert swap_limit(root).value == 0


def test_v2_in_a_cgroup_namespace_reads_the_mount_itself(write_tree: WriteTree) -> None:
    files = {
        "proc/self/mountinfo": "30 23 0:26 /../../.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{GIB}\n",
        "sys/fs/cgroup/memory.current": "4096\n",
    }
    root = write_tree(files)
    assert memory_limit(root).value == GIB
    assert memory_used(root).value == 4096


def test_v2_path_that_leads_out_of_the_namespace(write_tree: WriteTree) -> None:
    files = V2 | {
        "proc/self/cgroup": "0::/../../other\n",
        "sys/fs/cgroup/memory.max": f"{GIB}\n",
        "sys/other/memory.max": "1\n",
    }
    assert memory_limit(write_tree(files)).value == GIB


def test_v1_in_a_container(write_tree: WriteTree) -> None:
    root = write_tree(
        V1
        | {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{32 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "8192\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "350000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpuset/cpuset.cpus": "4-7\n",
        }
    )
    limit = memory_limit(root)
    assert (limit.value, limit.source) == (32 * GIB, "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    assert memory_used(root).value == 8192
    quota = cpu_quota(root)
    assert (quota.value, quota.raw) == (3.5, "350000")
    assert cpuset(root).value == "4-7"


@pytest.mark.parametrize("none", [V1_NONE, "9223372036854710272\n"])
def test_v1_largest_number_is_no_limit(write_tree: WriteTree, none: str) -> None:
    root = write_tree(
        V1
        | {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": none,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        }
    )
    assert memory_limit(root).unlimited
    assert cpu_quota(root).unlimited


def test_v1_group_below_the_mount(write_tree: WriteTree) -> None:
    files = {
        "proc/self/mountinfo": "35 30 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        "proc/self/cgroup": "9:memory:/jobs/17\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NONE,
        "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": f"{8 * GIB}\n",
        "sys/fs/cgroup/memory/jobs/17/memory.limit_in_bytes": V1_NONE,
    }
    limit = memory_limit(write_tree(files))
    assert (limit.value, limit.source) == (8 * GIB, "/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes")


def test_hybrid_reads_the_version_that_has_the_controller(write_tree: WriteTree) -> None:
    mounts = V1_MOUNTS + "41 30 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    files = V1 | {
        "proc/self/mountinfo": mounts,
        "sys/fs/cgroup/unified/cgroup.procs": "",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
    }
    assert memory_limit(write_tree(files)).value == GIB


def test_v2_cpu_quota_and_cpuset(write_tree: WriteTree) -> None:
    root = write_tree(
        V2
        | {
            f"{GROUP}/cpu.max": "max 100000\n",
            f"{SLICE}/cpu.max": "1600000 100000\n",
            f"{GROUP}/cpuset.cpus.effective": "0-15\n",
        }
    )
    quota = cpu_quota(root)
    assert (quota.value, quota.source, quota.raw) == (16.0, f"/{SLICE}/cpu.max", "1600000 100000")
    assert cpuset(root).value == "0-15"


def test_without_cgroups_the_limit_is_missing_not_absent(write_tree: WriteTree) -> None:
    root = write_tree({"proc/self/mountinfo": "23 1 8:1 / / rw - ext4 /dev/sda rw\n", "proc/self/cgroup": ""})
    assert memory_limit(root).reason == "no cgroup file system is mounted"
    assert cpu_quota(root).reason == "no cgroup file system is mounted"
    assert memory_used(root).value is None
    assert cpuset(root).value is None


def test_a_limit_that_cannot_be_read_is_not_no_limit(write_tree: WriteTree) -> None:
    root = write_tree(V2 | {f"{GROUP}/memory.max": "soon\n", f"{GROUP}/cpu.max": "1 0\n"})
    limit, quota = memory_limit(root), cpu_quota(root)
    assert (limit.unlimited, limit.source) == (False, f"/{GROUP}/memory.max")
    assert limit.reason is not None and "soon" in limit.reason
    assert quota.reason == "division by zero"


def test_what_is_left_under_the_tightest_level(write_tree: WriteTree) -> None:
    """File pages that nobody used lately do not count; those of the slice, which holds more, decide here."""
    root = write_tree(
        V2
        | {
            f"{GROUP}/memory.max": f"{64 * GIB}\n",
            f"{GROUP}/memory.current": f"{10 * GIB}\n",
            f"{SLICE}/memory.max": f"{48 * GIB}\n",
            f"{SLICE}/memory.current": f"{40 * GIB}\n",
            f"{SLICE}/memory.stat": f"anon 1\ninactive_file {12 * GIB}\n",
        }
    )
    left = memory_available(root)
    assert (left.value, left.source) == (20 * GIB, f"/{SLICE}: limit - working set")


def test_what_is_left_is_not_known_without_what_is_used(write_tree: WriteTree) -> None:
    left = memory_available(write_tree(V2 | {f"{GROUP}/memory.max": f"{GIB}\n"}))
    assert left.reason == "there is a limit, and what is charged cannot be read"
    assert memory_available(write_tree(V2 | {f"{GROUP}/memory.max": "max\n"})).reason == "no memory limit is in force"
