"""Many nodes, not all alike: pools of equal nodes, the best replica of each, how many fit and what stays idle.

A replica is one configuration on one or several equal nodes of a pool, whichever gives the most per node under the
objective; nodes that a pool has left over are stranded for this model. The demand (context, concurrency, bounds) is
that of one replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import log
from typing import Any, Final, NamedTuple

from formulas.units import GIB
from hwdetect.inventory import Inventory
from planner import plan as out
from planner.assemble import candidate, make_plan, rejections
from planner.hardware import summary_text
from planner.machine import VISIBLE_TOLERANCE, Gpu, Machine, Node
from planner.request import Request
from planner.search import Found, Missed, Outcome, score, search

Progress = Callable[[int, int], None]

NODES_SEARCHED_TOGETHER: Final = 16
"""More equal nodes than these are a pool of replicas instead of one machine; no replica takes more."""
REPLICA_NODES: Final = (1, 2, 3, 4, 6, 8, 12, 16)
RAM_STEP_BYTES: Final = 16 * GIB
"""RAM within a step counts as equal: kernels and firmware keep a little of the same modules."""
RATE_STEP: Final = 1.15
"""Measured rates of RAM and disks within about this factor count as equal; repeats on one machine spread 10 %."""
REJECTIONS_OF_A_POOL: Final = 3


class Pool(NamedTuple):
    """Nodes that a plan need not tell apart: ``node`` has the least of every member, ``members`` are node numbers."""

    node: Node
    members: tuple[int, ...]


class Replica(NamedTuple):
    """What one pool runs: the best configuration on ``nodes`` of its nodes, None when nothing fits."""

    pool: Pool
    request: Request
    nodes: int
    found: Found | None
    outcome: Outcome


def is_fleet(machine: Machine) -> bool:
    """Whether a machine is planned as pools: nodes of several kinds, or more than one replica could use."""
    return len(machine.nodes) > NODES_SEARCHED_TOGETHER or (len(machine.nodes) > 1 and len(pools(machine)) > 1)


def pools(machine: Machine) -> tuple[Pool, ...]:
    """Nodes with the same GPUs, memory and RAM, largest pools first."""
    members: dict[Any, list[int]] = {}
    for number, node in enumerate(machine.nodes):
        members.setdefault(_kind(node), []).append(number)
    found = [Pool(_least([machine.nodes[i] for i in numbers]), tuple(numbers)) for numbers in members.values()]
    return tuple(sorted(found, key=lambda pool: -len(pool.members)))


def _kind(node: Node) -> tuple[Any, ...]:
    """What nodes of a pool have in common. GPUs of a kind may differ by what a monitor takes of them."""
    gpus: dict[tuple[Any, ...], int] = {}
    for gpu in node.gpus:
        step = VISIBLE_TOLERANCE * gpu.capacity
        kind = (gpu.key, round(gpu.visible / step), gpu.link, gpu.pcie_bytes_per_s, gpu.unified)
        gpus[kind] = gpus.get(kind, 0) + 1
    host = node.host
    ram = None if host.ram is None else round(host.ram / RAM_STEP_BYTES)
    return (
        tuple(sorted(gpus.items())),
        ram,
        _rate_class(host.bandwidth),
        host.cores,
        host.sockets,
        host.flags,
        node.disk.free is None,
        _rate_class(node.disk.read_bytes_per_s),
    )


def _rate_class(rate: float | None) -> int | None:
    """Rates that were measured on equal nodes differ a little; those within a step are alike."""
    return None if rate is None else round(log(max(rate, 1.0)) / log(RATE_STEP))


def _least(nodes: list[Node]) -> Node:
    """A node that has no more than any of these equal nodes, so that what fits on it fits on each."""
    first = nodes[0]
    rows = [sorted(node.gpus, key=lambda gpu: (gpu.key, gpu.driver_index)) for node in nodes]
    gpus: list[Gpu] = []
    for index in range(len(first.gpus)):
        column = [row[index] for row in rows]
        least = min(column, key=lambda gpu: gpu.visible)
        low, high = min(gpu.visible_low for gpu in column), min(gpu.visible_high for gpu in column)
        gpus.append(least._replace(visible_low=low, visible_high=high, driver_index=column[0].driver_index))
    gpus.sort(key=lambda gpu: gpu.driver_index)
    rams = [node.host.ram for node in nodes if node.host.ram is not None]
    frees = [node.disk.free for node in nodes if node.disk.free is not None]
    bandwidths = [node.host.bandwidth for node in nodes if node.host.bandwidth is not None]
    reads = [node.disk.read_bytes_per_s for node in nodes if node.disk.read_bytes_per_s is not None]
    return Node(
        tuple(gpus),
        first.host._replace(ram=min(rams, default=None), bandwidth=min(bandwidths, default=None)),
        first.disk._replace(free=min(frees, default=None), read_bytes_per_s=min(reads, default=None)),
    )


def plan_fleet(request: Request, inventory: Inventory, generated_by: str, progress: Progress | None = None) -> out.Plan:
    """The best replica of every pool, how often it fits, and what is stranded.

    The plan keeps one node of each pool of the ``inventory`` that the machine was made of, and the names of all.
    """
    found_pools = pools(request.machine)
    replicas = []
    for done, pool in enumerate(found_pools):
        if progress is not None:
            progress(done, len(found_pools))
        replicas.append(best_replica(request, pool))
    if progress is not None:
        progress(len(found_pools), len(found_pools))
    running = sorted(
        [one for one in replicas if one.found is not None], key=lambda one: score(one.request, _found_of(one))
    )
    total = Outcome(
        [found for one in replicas for found in one.outcome.found],
        [missed for one in replicas for missed in one.outcome.missed],
        sum(one.outcome.evaluated for one in replicas),
    )
    base = make_plan(request, Outcome([], [], total.evaluated), {}, generated_by)
    ranks = {id(one.pool): rank for rank, one in enumerate(running, 1)}
    names = [node.name for node in inventory.nodes]
    rows = tuple([_pool_row(one, ranks.get(id(one.pool)), names) for one in replicas])
    heads = tuple([inventory.nodes[one.pool.members[0]] for one in replicas])
    fitting = sum(found.priced.verdict == "fits" for found in total.found)
    return base.model_copy(
        update={
            "inventory": inventory.model_copy(update={"nodes": heads}).model_dump(mode="json", by_alias=True),
            "hardware": base.hardware.model_copy(update={"description": _described(found_pools)}),
            "candidates": tuple([candidate(one.request, _found_of(one), ranks[id(one.pool)]) for one in running]),
            "rejected": tuple(_rejections(replicas)),
            "search": out.SearchSummary(
                evaluated=total.evaluated, fitting=fitting, tight=len(total.found) - fitting, rejected=len(total.missed)
            ),
            "fleet": _fleet(rows),
        }
    )


def best_replica(request: Request, pool: Pool) -> Replica:
    """The configuration that gives the most per node: sizes grow until one fits that a single engine spans.

    Where nothing fits, a tight configuration, else the last size that was tried and why it does not.
    """
    tried = []
    request = replace(request, releases=tuple([release.afresh() for release in request.releases]))
    for nodes in _sizes(request, pool):
        machine = request.machine._replace(nodes=(pool.node,) * nodes)
        narrowed = replace(request, machine=machine)
        outcome = search(narrowed)
        best = min(outcome.found, key=lambda found: score(narrowed, found), default=None)
        one = Replica(pool, narrowed, nodes, best, outcome)
        tried.append(one)
        if best is not None and best.priced.verdict == "fits" and not best.priced.config.placement:
            # Data-parallel copies of it on more nodes are further replicas, and sharding it further gives no more.
            break
    found = [one for one in tried if one.found is not None]
    return min(found, key=_per_node, default=tried[-1])


def _per_node(one: Replica) -> tuple[float, ...]:
    """Sort key of replicas of different sizes, smaller is better: fits first, then what each node gives."""
    found = _found_of(one)
    total, each = found.speed.decode_total[1] / one.nodes, found.speed.decode_per_request[1]
    tight = 0.0 if found.priced.verdict == "fits" else 1.0
    if one.request.objective == "latency":
        return (tight, found.speed.tpot_s[1], one.nodes)
    if one.request.objective == "balanced":
        return (tight, -((total * each) ** 0.5), one.nodes)
    return (tight, -total, one.nodes)


def _sizes(request: Request, pool: Pool) -> Iterator[int]:
    """Numbers of nodes to try; those that cannot even hold the smallest weights are left out, but one is tried."""
    smallest = min([release.tensors.bytes for release in request.releases], default=0)
    has = sum(gpu.visible for gpu in pool.node.gpus) + (pool.node.host.ram or 0) + (pool.node.disk.free or 0)
    sizes = [size for size in REPLICA_NODES if size <= len(pool.members)]
    able = [size for size in sizes if size * has >= smallest]
    yield from able or sizes[-1:]


def _found_of(one: Replica) -> Found:
    assert one.found is not None
    return one.found


def _pool_row(one: Replica, rank: int | None, names: list[str]) -> out.FleetPool:
    pool, found = one.pool, one.found
    count, gpus = len(pool.members), len(pool.node.gpus)
    base = out.FleetPool(
        description=summary_text(one.request.machine._replace(nodes=(pool.node,))),
        nodes=count,
        node_names=tuple([names[number] for number in pool.members]),
        gpus_per_node=gpus,
        candidate_rank=rank,
        nodes_per_replica=None,
        replicas=0,
        spare_nodes=count,
        stranded_gpus=count * gpus,
        idle_gpus_per_replica=0,
        concurrency=0.0,
        decode_tokens_per_s_total=None,
        why="" if found is not None else _reason(one.outcome.missed),
    )
    if found is None:
        return base
    replicas, spare = divmod(count, one.nodes)
    idle = one.nodes * gpus - found.priced.config.world
    low, expected, high = found.speed.decode_total
    return base.model_copy(
        update={
            "nodes_per_replica": one.nodes,
            "replicas": replicas,
            "spare_nodes": spare,
            "stranded_gpus": spare * gpus + replicas * idle,
            "idle_gpus_per_replica": idle,
            "concurrency": round(replicas * found.speed.effective_concurrency, 2),
            "decode_tokens_per_s_total": out.Range(
                low=replicas * low, expected=replicas * expected, high=replicas * high
            ),
            "why": f"{one.nodes} nodes together hold one replica" if one.nodes > 1 else "each node holds a replica",
        }
    )


def _reason(missed: list[Missed]) -> str:
    """Why nothing runs on a pool: the nearest miss."""
    nearest = min(missed, key=lambda miss: (miss.priced is None, miss.short_by), default=None)
    return nearest.reason if nearest is not None else "no engine applies"


def _rejections(replicas: list[Replica]) -> Iterator[out.Rejection]:
    for one in replicas:
        if one.found is None:
            yield from rejections(one.request, one.outcome.missed, False)[:REJECTIONS_OF_A_POOL]


def _fleet(rows: tuple[out.FleetPool, ...]) -> out.Fleet:
    rates = [row.decode_tokens_per_s_total for row in rows if row.decode_tokens_per_s_total is not None]
    return out.Fleet(
        pools=rows,
        nodes=sum(row.nodes for row in rows),
        gpus=sum(row.nodes * row.gpus_per_node for row in rows),
        replicas=sum(row.replicas for row in rows),
        stranded_gpus=sum(row.stranded_gpus for row in rows),
        concurrency=sum(row.concurrency for row in rows),
        decode_tokens_per_s_total=out.Range(
            low=sum(rate.low for rate in rates),
            expected=sum(rate.expected for rate in rates),
            high=sum(rate.high for rate in rates),
        ),
    )


def _described(found: tuple[Pool, ...]) -> str:
    nodes = sum(len(pool.members) for pool in found)
    gpus = sum(len(pool.members) * len(pool.node.gpus) for pool in found)
    return f"{nodes:,} nodes with {gpus:,} accelerators in {len(found)} pool{'s' if len(found) != 1 else ''}"
