"""Nodes beside their peers: what should be equal on equal nodes, and who is slower than the others.

Nodes are peers when they have the same GPUs, kind and number. A rate is held to the median of the peers, so that it
needs no table; two nodes cannot say which of them is the odd one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

from hwdetect.inventory import Node, known
from planner.check_bandwidth import measured_rate
from planner.check_links import facts_of
from planner.findings import Finding, NodeSummary, Status
from profiles.health import Thresholds

MIN_PEERS: Final = 3
KERNELS: Final = ("memory_read", "host_to_device", "gpu_to_gpu", "all_reduce")


def summary_of(node: Node, bench: Mapping[str, Any] | None) -> NodeSummary:
    """What of a node can be compared with others: its hardware, versions, and measured rates in bytes per second."""
    counts: Counter[str] = Counter()
    first = None
    for gpu in node.gpus:
        facts = facts_of(gpu)
        first = first or facts
        # A GPU that does not answer is still one of the node's.
        counts[facts.key if facts else known(gpu.name) or "a GPU that does not answer"] += 1
    traits = {"driver": known(node.driver_version), "CUDA of the driver": known(node.cuda_driver_version)}
    traits |= {one.name: known(one.version) for one in node.software}
    rates: dict[str, float] = {}
    bandwidth = node.memory.bandwidth_bytes_per_s
    if bandwidth is not None and bandwidth.provenance == "measured" and bandwidth.value:
        rates["main memory"] = bandwidth.value
    for disk in node.disks:
        rate = disk.read_bytes_per_s
        if rate is not None and rate.provenance == "measured" and rate.value:
            rates[f"disk {disk.mount}"] = rate.value
    if first is not None:
        measured = ((kernel, measured_rate(node, bench, kernel, first)) for kernel in KERNELS)
        rates |= {kernel: one.bytes_per_s for kernel, one in measured if not isinstance(one, str)}
    hardware = ", ".join(f"{count}x {key}" for key, count in sorted(counts.items())) or "no GPU"
    return NodeSummary(
        node=node.name,
        hardware=hardware,
        traits={name: value for name, value in traits.items() if value},
        rates_bytes_per_s=rates,
    )


def peer_findings(machines: Sequence[NodeSummary], thresholds: Thresholds) -> Iterator[Finding]:
    """Nodes that stand out among equal ones."""
    groups: dict[str, list[NodeSummary]] = {}
    for machine in machines:
        groups.setdefault(machine.hardware, []).append(machine)
    yield from _missing_gpus(groups)
    for members in groups.values():
        if len(members) >= MIN_PEERS:
            yield from _different(members)
            yield from _slow(members, thresholds)


def _missing_gpus(groups: Mapping[str, Sequence[NodeSummary]]) -> Iterator[Finding]:
    """Few nodes with another number of the GPUs that most nodes have."""
    largest = max(groups, key=lambda hardware: len(groups[hardware]), default=None)
    if largest is None or len(groups[largest]) < MIN_PEERS:
        return
    count, _, kind = largest.partition("x ")
    for hardware, members in groups.items():
        other, _, same = hardware.partition("x ")
        if same != kind or not other.isdigit() or not count.isdigit() or int(other) >= int(count):
            continue
        for machine in members:
            yield _finding(
                "cluster_gpus", "warn", machine.node, "node", f"{largest}, as on {len(groups[largest]):,} nodes",
                hardware, "GPU kind and number of every node",
                "find the missing GPUs, or plan this node as a pool of its own",
            )  # fmt: skip


def _different(members: Sequence[NodeSummary]) -> Iterator[Finding]:
    names = dict.fromkeys(name for machine in members for name in machine.traits)
    for name in names:
        values = Counter(machine.traits.get(name, "none") for machine in members)
        usual, times = values.most_common(1)[0]
        if len(values) == 1:
            continue
        for machine in members:
            value = machine.traits.get(name, "none")
            if value != usual:
                yield _finding(
                    "cluster_versions", "warn", machine.node, name,
                    f"{usual}, as on {times:,} of {len(members):,} peers", value,
                    f"versions of the nodes with {members[0].hardware}",
                    "bring equal nodes to one version, or measure and plan this one alone",
                )  # fmt: skip


def _slow(members: Sequence[NodeSummary], thresholds: Thresholds) -> Iterator[Finding]:
    limit = thresholds.limit("peer_slowdown_fraction")
    for name in dict.fromkeys(name for machine in members for name in machine.rates_bytes_per_s):
        rates = {
            machine.node: machine.rates_bytes_per_s[name] for machine in members if name in machine.rates_bytes_per_s
        }
        if len(rates) < MIN_PEERS:
            continue
        middle = median(rates.values())
        for node, rate in rates.items():
            behind = 1 - rate / middle
            if behind > limit.value:
                yield _finding(
                    "cluster_outlier", "warn", node, name,
                    f"within {limit.value:.0%} of {middle / 1e9:,.1f} GB/s, the median of {len(rates):,} peers",
                    f"{rate / 1e9:,.1f} GB/s, {behind:.0%} slower", limit.source,
                    "take it out of groups that wait for each other, and look at its links, clocks and other load",
                )  # fmt: skip


def _finding(
    code: str, status: Status, node: str, subject: str, expected: str, actual: str, evidence: str, action: str
) -> Finding:
    return Finding(
        code=code, status=status, node=node, subject=subject, evidence=evidence, expected=expected, actual=actual,
        action=action, required=False,
    )  # fmt: skip


def lost_node(node: str, code: str, actual: str, evidence: str, action: str) -> Finding:
    """A node that gave no report: nothing is known of it, which is no pass."""
    return Finding(
        code=code, status="fail", node=node, subject="node", evidence=evidence, expected="a report", actual=actual,
        action=action, required=True,
    )  # fmt: skip
