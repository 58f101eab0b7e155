"""Limits of the host that break a server of models although nothing is broken: shared memory, files, huge pages."""

from __future__ import annotations

from hwdetect.facts import Fact, known
from hwdetect.inventory import Node
from planner.check_gpu import OK
from planner.findings import Findings, Status, gib
from profiles.health import Thresholds


def check_host(found: Findings, node: Node, thresholds: Thresholds, *, ranks: int) -> None:
    """ranks: GPUs that work together on this node; 1 and less need neither shared nor locked memory."""
    if ranks > 1:
        _shared_memory(found, node, thresholds)
        _locked_memory(found, node)
    _open_files(found, node, thresholds)
    _overcommit(found, node)
    _huge_pages(found, node, thresholds)
    _quota(found, node)
    _memoryless(found, node)


def _shared_memory(found: Findings, node: Node, thresholds: Thresholds) -> None:
    least = thresholds.limit("shm_bytes")
    found.judge(
        "host_shm",
        "host",
        node.memory.shm_total_bytes,
        lambda size: OK if size >= least.value else ("warn", "give the container more (--shm-size=1g, or --ipc=host)"),
        expected=f"at least {gib(least.value)} in /dev/shm",
        show=gib,
        evidence=least.source,
        required=False,
    )


def _locked_memory(found: Findings, node: Node) -> None:
    limit = node.memory.memlock_bytes
    code, expected = "host_memlock", "no limit on locked memory"
    if limit is None or (limit.value is None and not limit.unlimited):
        found.unread(code, "host", limit, expected=expected, required=False)
    elif limit.unlimited:
        found.add(code, "pass", "host", expected=expected, actual="no limit", evidence=limit.source, required=False)
    else:
        found.add(
            code, "warn", "host", expected=expected, actual=gib(limit.value or 0), evidence=limit.source,
            action="raise it (ulimit -l unlimited, --ulimit memlock=-1): RDMA and pinned buffers may fail to start",
            required=False,
        )  # fmt: skip


def _open_files(found: Findings, node: Node, thresholds: Thresholds) -> None:
    least = thresholds.limit("open_files")
    limit = node.memory.open_files
    code, expected = "host_open_files", f"at least {least.value:,.0f} open files"
    if limit is not None and limit.unlimited:
        found.add(code, "pass", "host", expected=expected, actual="no limit", evidence=limit.source, required=False)
        return
    found.judge(
        code,
        "host",
        limit,
        lambda count: OK if count >= least.value else ("warn", "raise it (ulimit -n 65536, LimitNOFILE=)"),
        expected=expected,
        show=lambda count: f"{count:,}",
        evidence=least.source,
        required=False,
    )


def _overcommit(found: Findings, node: Node) -> None:
    never = ("warn", "set vm.overcommit_memory=0: engines reserve far more address space than they use")
    verdicts: dict[str, tuple[Status, str]] = {"never": ("warn", never[1])}
    if node.memory.overcommit is None or node.memory.overcommit.value is None:
        return
    found.judge(
        "host_overcommit",
        "host",
        node.memory.overcommit,
        lambda mode: verdicts.get(mode, OK),
        expected="heuristic or always",
        required=False,
    )


def _huge_pages(found: Findings, node: Node, thresholds: Thresholds) -> None:
    aside, total = node.memory.hugetlb_bytes, known(node.memory.total_bytes)
    if aside is None or aside.value is None or not total:
        return
    most = thresholds.limit("hugetlb_fraction")
    kept = aside.value > most.value * total
    found.add(
        "host_hugepages", "warn" if kept else "pass", "host", expected="no memory set aside as huge pages",
        actual=gib(aside.value) if kept else "none to speak of", evidence=aside.source,
        action="give them back (sysctl vm.nr_hugepages=0) unless the engine is told to use them", required=False,
    )  # fmt: skip


def _quota(found: Findings, node: Node) -> None:
    quota, cores = node.cpu.cgroup_quota_cores, known(node.cpu.physical_cores)
    value = known(quota)
    if quota is None or value is None or cores is None:
        return
    low = value < cores
    found.add(
        "host_cpu_quota", "warn" if low else "pass", "host", expected=f"all {cores} cores",
        actual=f"{value:g} cores", evidence=quota.source,
        action="raise the container's CPU limit: throttled threads stall every GPU they feed", required=False,
    )  # fmt: skip


def _memoryless(found: Findings, node: Node) -> None:
    """Processors without memory of their own reach all of it over a link between sockets."""
    if len(node.numa) < 2:
        return
    sizes: list[tuple[int, Fact[int] | None, int]] = [
        (numa.index, numa.memory_total_bytes, known(numa.cpu_count) or 0) for numa in node.numa
    ]
    unread = next((size for _, size, cpus in sizes if cpus and (size is None or size.value is None)), None)
    expected = "memory at every node that has processors"
    if unread is not None or all(numa.cpu_count is None or numa.cpu_count.value is None for numa in node.numa):
        found.unread("host_numa", "host", unread, expected=expected, required=False)
        return
    bare = [index for index, size, cpus in sizes if cpus and size is not None and size.value == 0]
    found.add(
        "host_numa", "warn" if bare else "pass", "host", expected=expected,
        actual=f"none at node {', '.join(map(str, bare))}" if bare else "at every one",
        evidence="/sys/devices/system/node",
        action="check the modules of that socket: half the memory channels are idle", required=False,
    )  # fmt: skip
