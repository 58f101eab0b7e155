"""Fleets: nodes are pooled, each pool runs the replica that gives the most per node, and every GPU is accounted for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwdetect.inventory import Inventory
from planner.build import build_request
from planner.fleet import best_replica, is_fleet, plan_fleet, pools
from planner.hardware import describe, machine_of
from planner.plan import FleetPool, Plan
from profiles.library import load_model
from tests.planner.planning import K25, options_of, outcome_of


def inventory_of(*kinds: tuple[int, str, str]) -> Inventory:
    """Nodes from (count, GPUs of a node, RAM of a node), named in one sequence and interleaved by kind."""
    nodes = []
    for count, gpu, ram in kinds:
        described = describe(options_of(gpu=gpu, ram=ram)).nodes[0]
        nodes += [described] * count
    nodes = nodes[::2] + nodes[1::2]
    return Inventory(nodes=tuple([node.model_copy(update={"name": f"n{i:03}"}) for i, node in enumerate(nodes)]))


def fleet_plan(inventory: Inventory) -> Plan:
    """The plan of K2.5 over an inventory."""
    machine = machine_of(inventory, "file")
    request = build_request(options_of(), load_model(K25), machine, exact=False)
    return plan_fleet(request, inventory, "test")


MIXED = inventory_of((5, "8xH200", "2TiB"), (7, "8xH100", "2TiB"), (3, "1xL4", "32GiB"), (2, "7xH100", "2TiB"))


@pytest.fixture(scope="module")
def mixed() -> Plan:
    return fleet_plan(MIXED)


def row_of(plan: Plan, text: str) -> FleetPool:
    assert plan.fleet is not None
    (row,) = [row for row in plan.fleet.pools if row.description.startswith(text)]
    return row


def test_every_node_and_gpu_is_in_one_pool(mixed: Plan) -> None:
    fleet = mixed.fleet
    assert fleet is not None
    names = [name for row in fleet.pools for name in row.node_names]
    assert sorted(names) == [node.name for node in MIXED.nodes]
    for row in fleet.pools:
        each = row.nodes_per_replica or 0
        assert row.replicas * each + row.spare_nodes == row.nodes == len(row.node_names)
        assert row.stranded_gpus == row.spare_nodes * row.gpus_per_node + row.replicas * row.idle_gpus_per_replica
    assert fleet.gpus == 5 * 8 + 7 * 8 + 3 + 2 * 7 == sum(row.nodes * row.gpus_per_node for row in fleet.pools)
    assert fleet.stranded_gpus == sum(row.stranded_gpus for row in fleet.pools)
    assert fleet.replicas == sum(row.replicas for row in fleet.pools)


def test_names_of_a_pool_are_the_nodes_that_are_alike(mixed: Plan) -> None:
    kinds = {node.name: len(node.gpus) for node in MIXED.nodes}
    for row in mixed.fleet.pools if mixed.fleet else ():
        assert {kinds[name] for name in row.node_names} == {row.gpus_per_node}


def test_a_node_that_holds_the_model_is_a_replica_by_itself(mixed: Plan) -> None:
    row = row_of(mixed, "8x h200")
    assert (row.replicas, row.nodes_per_replica, row.spare_nodes, row.stranded_gpus) == (5, 1, 0, 0)
    best = mixed.candidates[(row.candidate_rank or 0) - 1]
    assert best.fits
    alone = outcome_of(gpu="8xH200", ram="2TiB")
    each = [found.speed.decode_total[1] for found in alone.found]
    total = row.decode_tokens_per_s_total
    assert total is not None
    assert any(total.expected / 5 == pytest.approx(rate) for rate in each)
    assert total.high / 5 == pytest.approx(best.performance.decode_tokens_per_s_total.high)


def test_nodes_that_are_too_small_alone_are_joined_and_the_odd_one_is_stranded(mixed: Plan) -> None:
    row = row_of(mixed, "8x h100")
    assert (row.nodes_per_replica, row.replicas, row.spare_nodes, row.stranded_gpus) == (2, 3, 1, 8)


def test_a_pool_on_which_nothing_runs_says_why_and_strands_its_gpus(mixed: Plan) -> None:
    row = row_of(mixed, "1x l4")
    assert (row.candidate_rank, row.replicas, row.stranded_gpus, row.decode_tokens_per_s_total) == (None, 0, 3, None)
    assert row.why
    assert mixed.rejected


def test_the_plan_keeps_one_node_of_each_pool(mixed: Plan) -> None:
    assert mixed.fleet is not None
    kept = [node["name"] for node in mixed.inventory["nodes"]]
    assert kept == [row.node_names[0] for row in mixed.fleet.pools]
    assert mixed.hardware.nodes == len(MIXED.nodes)
    assert Plan.model_validate_json(mixed.to_json()) == mixed


def test_ranks_refer_to_the_candidates(mixed: Plan) -> None:
    assert mixed.fleet is not None
    ranks = [row.candidate_rank for row in mixed.fleet.pools if row.candidate_rank is not None]
    assert sorted(ranks) == [candidate.rank for candidate in mixed.candidates]


@pytest.mark.parametrize(
    ("kinds", "fleet"),
    [
        (((1, "8xH200", "2TiB"),), False),
        (((2, "8xH100", "2TiB"),), False),
        (((16, "8xH100", "2TiB"),), False),
        (((17, "8xH100", "2TiB"),), True),
        (((1, "8xH100", "2TiB"), (1, "8xH200", "2TiB")), True),
        (((1, "8xH100", "2TiB"), (1, "8xH100", "1TiB")), True),
    ],
)
def test_what_is_planned_as_a_fleet(kinds: tuple[tuple[int, str, str], ...], fleet: bool) -> None:
    assert is_fleet(machine_of(inventory_of(*kinds), "file")) is fleet


def test_a_pool_counts_with_the_least_of_its_members() -> None:
    machine = machine_of(inventory_of((3, "8xH200", "2TiB")), "file")
    fuller = machine.nodes[1].gpus[4]._replace(visible=machine.nodes[1].gpus[4].visible - 700_000_000)
    gpus = (*machine.nodes[1].gpus[:4], fuller, *machine.nodes[1].gpus[5:])
    host = machine.nodes[2].host
    assert host.ram is not None
    nodes = (
        machine.nodes[0],
        machine.nodes[1]._replace(gpus=gpus),
        machine.nodes[2]._replace(host=host._replace(ram=host.ram - 1_000_000_000)),
    )
    (pool,) = pools(machine._replace(nodes=nodes))
    assert pool.members == (0, 1, 2)
    assert [gpu.visible for gpu in pool.node.gpus] == [min(node.gpus[i].visible for node in nodes) for i in range(8)]
    assert pool.node.host.ram == host.ram - 1_000_000_000


def test_rates_that_were_measured_do_not_make_every_node_a_pool_of_its_own() -> None:
    machine = machine_of(inventory_of((40, "8xH200", "2TiB")), "file")
    nodes = tuple(
        node._replace(host=node.host._replace(bandwidth=400e9 * (1 + 0.0005 * number)))
        for number, node in enumerate(machine.nodes)
    )
    slow = nodes[0]._replace(host=nodes[0].host._replace(bandwidth=250e9))
    found = pools(machine._replace(nodes=(*nodes, slow)))
    assert len(found) <= 3
    assert found[-1].members == (40,)
    for pool in found[:-1]:
        members = [nodes[number].host.bandwidth or 0.0 for number in pool.members]
        assert pool.node.host.bandwidth == min(members)


def test_a_node_whose_memory_is_taken_is_no_longer_alike() -> None:
    machine = machine_of(inventory_of((2, "8xH200", "2TiB")), "file")
    taken = machine.nodes[1].gpus[0]
    gpus = (taken._replace(visible=taken.visible - 40 * (1 << 30)), *machine.nodes[1].gpus[1:])
    assert len(pools(machine._replace(nodes=(machine.nodes[0], machine.nodes[1]._replace(gpus=gpus))))) == 2


def test_more_nodes_never_make_a_replica_worse_per_node() -> None:
    inventory = inventory_of((6, "8xH100", "2TiB"))
    machine = machine_of(inventory, "file")
    request = build_request(options_of(), load_model(K25), machine, exact=False)
    (pool,) = pools(machine)
    many = best_replica(request, pool)
    one = best_replica(request, pool._replace(members=pool.members[:1]))
    assert many.found is not None
    assert one.found is not None

    def worth(nodes: int, total: float, each: float) -> float:
        return total / nodes * each

    assert worth(many.nodes, many.found.speed.decode_total[1], many.found.speed.decode_per_request[1]) >= worth(
        one.nodes, one.found.speed.decode_total[1], one.found.speed.decode_per_request[1]
    )


def test_objectives_choose_among_sizes() -> None:
    machine = machine_of(inventory_of((4, "8xH100", "2TiB")), "file")
    request = build_request(options_of(objective="latency"), load_model(K25), machine, exact=False)
    (pool,) = pools(machine)
    quick = best_replica(request, pool)
    wide = best_replica(replace(request, objective="throughput"), pool)
    assert quick.found is not None
    assert wide.found is not None
    assert quick.found.speed.tpot_s[1] <= wide.found.speed.tpot_s[1]


def test_pools_that_differ_in_their_ram_only_differ_in_speed() -> None:
    """What is kept of one pool's steps is not read for another: the slower RAM decodes as slowly as by itself."""
    rates = ("80GB/s", "400GB/s")
    kinds = [options_of(gpu="1xRTX4090", ram="1TiB", ram_bandwidth=rate, cores=96) for rate in rates]
    nodes = [describe(options).nodes[0].model_copy(update={"name": f"n{i}"}) for i, options in enumerate(kinds)]
    inventory = Inventory(nodes=tuple(nodes))
    machine = machine_of(inventory, "file")
    asked = options_of(quant="Q8_0", concurrency=1)
    plan = plan_fleet(build_request(asked, load_model(K25), machine, exact=False), inventory, "test")
    assert plan.fleet is not None and len(plan.fleet.pools) == 2
    for row, node in zip(plan.fleet.pools, nodes, strict=True):
        alone_machine = machine_of(Inventory(nodes=(node,)), "file")
        alone = best_replica(build_request(asked, load_model(K25), alone_machine, exact=False), pools(alone_machine)[0])
        assert alone.found is not None and row.decode_tokens_per_s_total is not None
        assert row.decode_tokens_per_s_total.expected == pytest.approx(alone.found.speed.decode_total[1])
