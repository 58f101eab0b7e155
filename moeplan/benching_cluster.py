"""``bench --cluster ray``: every node's benchmark in one report, with the nodes beside their peers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from moeplan.bench_report import CLUSTER_BENCH_SCHEMA, BenchReport, ClusterBench, NodeBench, node_summary
from moeplan.benching import DEFAULT_MODEL, BenchOptions, bench
from moeplan.calibration import now
from moeplan.pipeline import GENERATED_BY
from planner.findings import Finding, worst_first
from planner.peers import lost_node, peer_findings
from profiles.health import load_thresholds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moeplan.ray_nodes import Answer, Progress
    from planner.plan import Plan

NODE_TIMEOUT_S: Final = 3600.0
_ACTIONS: Final = {
    "lost": "look whether the node is up; take it out of the cluster or start it again",
    "timeout": "measure less (--quick, or a plan), or give it longer with --node-timeout",
    "failed": "install the same moeplan[bench] in the node's Ray environment, and look at the error",
}


def bench_on_ray(
    target: str | None,
    chosen: BenchOptions,
    *,
    plan: Plan | None,
    engine: str | None,
    quant: str | None,
    timeout_s: float,
    progress: Progress,
) -> ClusterBench:
    """Measure every node of the Ray cluster. Raises ``BadRequest`` without Ray or a cluster."""
    from moeplan.ray_nodes import connected, on_every_node

    name = target or DEFAULT_MODEL
    ray = connected()
    try:
        text = plan.to_json(indent=None) if plan is not None else None
        arguments = (name, chosen, text, engine, quant)
        answers = on_every_node(ray, bench_this_node, arguments, timeout_s=timeout_s, progress=progress)
    finally:
        ray.shutdown()
    return gathered(name, answers)


def bench_this_node(
    name: str, target: str, chosen: BenchOptions, plan: str | None, engine: str | None, quant: str | None
) -> str:
    """The benchmark of the machine that this runs on, as JSON. ``name`` is what the cluster calls it."""
    del name
    from planner.plan import Plan

    read = Plan.model_validate_json(plan) if plan is not None else None
    # Equal nodes that share a home would take up each other's unfinished runs.
    own = replace(chosen, can_resume=False)
    return bench(target, own, plan=read, engine=engine, quant=quant, progress=None).to_json(indent=None)


def gathered(target: str, answers: Sequence[Answer]) -> ClusterBench:
    """What the nodes said as one report: who gave none, and who is slower than its peers."""
    nodes = [
        NodeBench(node=one.node.name, report=BenchReport.model_validate_json(one.value))
        for one in answers
        if one.outcome == "answered"
    ]
    machines = tuple([node_summary(one.node, one.report) for one in nodes])
    lost = [_lost(one) for one in answers if one.outcome != "answered"]
    return ClusterBench(
        schema=CLUSTER_BENCH_SCHEMA,
        generated_by=GENERATED_BY,
        date=now(),
        target=target,
        nodes=tuple(nodes),
        machines=machines,
        findings=worst_first([*lost, *peer_findings(machines, load_thresholds())]),
    )


def _lost(answer: Answer) -> Finding:
    return lost_node(
        answer.node.name, "node_report", f"{answer.outcome}: {answer.detail}", f"Ray node {answer.node.identity}",
        _ACTIONS[answer.outcome],
    )  # fmt: skip
