"""``check --cluster ray``: the check of every node of a cluster, as one report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moeplan.pipeline import GENERATED_BY
from planner.cluster_check import merge_reports
from planner.findings import CheckReport, Finding
from planner.peers import lost_node

if TYPE_CHECKING:
    from moeplan.ray_nodes import Answer, Progress
    from planner.plan import Plan

NODE_TIMEOUT_S: Final = 120.0
_ACTIONS: Final = {
    "lost": "look whether the node is up; take it out of the cluster or start it again",
    "timeout": "look what hangs on it (driver, file systems), or give it longer with --node-timeout",
    "failed": "install the same moeplan in the node's Ray environment, and look at the error",
}


def check_on_ray(
    plan: Plan | None,
    *,
    rank: int,
    strict: bool,
    engine_python: str | None,
    model_folder: str | None,
    timeout_s: float,
    progress: Progress,
) -> CheckReport:
    """Check every node of the Ray cluster. Raises ``BadRequest`` without Ray or a cluster."""
    from moeplan.ray_nodes import connected, on_every_node

    ray = connected()
    try:
        text = plan.to_json(indent=None) if plan is not None else None
        arguments = (text, rank, strict, engine_python, model_folder)
        answers = on_every_node(ray, check_this_node, arguments, timeout_s=timeout_s, progress=progress)
    finally:
        ray.shutdown()
    reports = [CheckReport.model_validate_json(one.value) for one in answers if one.outcome == "answered"]
    lost = [_lost(one) for one in answers if one.outcome != "answered"]
    return merge_reports(reports, lost=lost, strict=strict, generated_by=GENERATED_BY)


def check_this_node(
    name: str, plan: str | None, rank: int, strict: bool, engine_python: str | None, model_folder: str | None
) -> str:
    """The check of the machine that this runs on, under the name that the cluster gave it, as JSON."""
    from moeplan.api import detect
    from planner.check import check
    from planner.plan import Plan

    found = detect(engine_python=engine_python, model_folder=model_folder)
    machine = found.model_copy(update={"nodes": (found.nodes[0].model_copy(update={"name": name}),)})
    held_to = Plan.model_validate_json(plan) if plan is not None else None
    return check(machine, held_to, rank=rank, strict=strict, generated_by=GENERATED_BY).to_json()


def _lost(answer: Answer) -> Finding:
    return lost_node(
        answer.node.name, "node_report", f"{answer.outcome}: {answer.detail}", f"Ray node {answer.node.identity}",
        _ACTIONS[answer.outcome],
    )  # fmt: skip
