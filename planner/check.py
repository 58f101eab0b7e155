"""The pre-deployment check: a pure function of what is known of a machine, of a plan, and of thresholds.

``hwdetect`` gathers the facts, here they are judged. Go, no-go or undetermined, with the evidence and the action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwdetect.inventory import Inventory, Node
from planner.check_bandwidth import check_bandwidths
from planner.check_gpu import check_driver, check_gpus
from planner.check_host import check_host
from planner.check_links import check_kernel_log, check_links
from planner.check_plan import check_plan
from planner.check_plan_needs import Needs, needs_of
from planner.errors import BadRequest
from planner.findings import STATUSES, CheckReport, Finding, Findings, verdict_of, worst_first
from planner.peers import peer_findings, summary_of
from planner.plan import Candidate, Plan
from profiles.health import Thresholds, load_thresholds


def check(
    inventory: Inventory,
    plan: Plan | None = None,
    thresholds: Thresholds | None = None,
    *,
    rank: int = 1,
    bench: Mapping[str, Any] | None = None,
    strict: bool = False,
    generated_by: str = "moeplan",
) -> CheckReport:
    """Every check on every node of an inventory, against the candidate of this rank when a plan is given.

    bench: what ``bench`` measured, or a calibration, as JSON, instead of the rates in the inventory. Raises
    ``BadRequest`` where no candidate has this rank.
    """
    limits = thresholds if thresholds is not None else load_thresholds()
    candidate = _candidate(plan, rank) if plan is not None else None
    needs = needs_of(plan, candidate) if plan is not None and candidate is not None else None
    findings = [row for node in inventory.nodes for row in check_node(node, needs, limits, bench)]
    machines = tuple([summary_of(node, bench) for node in inventory.nodes])
    findings += peer_findings(machines, limits)
    statuses = [each.status for each in findings]
    return CheckReport(
        schema="moeplan.check/1",
        generated_by=generated_by,
        verdict=verdict_of(findings, strict=strict),
        strict=strict,
        checked_at=inventory.collected_at.isoformat() if inventory.collected_at is not None else None,
        plan=_described(plan, candidate) if plan is not None and candidate is not None else None,
        nodes=tuple(node.name for node in inventory.nodes),
        counts={status: statuses.count(status) for status in STATUSES},
        findings=worst_first(findings),
        machines=machines,
    )


def check_node(
    node: Node, needs: Needs | None, thresholds: Thresholds, bench: Mapping[str, Any] | None = None
) -> tuple[Finding, ...]:
    """The findings on one node, in the order of the checks."""
    found = Findings(node.name)
    planned = needs is not None
    check_driver(found, node, needed=bool(needs.gpus) if needs is not None else None)
    if needs is None or needs.gpus:
        check_gpus(found, node, thresholds, planned=planned, whole=needs is not None and not needs.parts_of_gpus)
        check_links(found, node)
        check_kernel_log(found, node, thresholds)
        check_bandwidths(found, node, thresholds, bench)
    check_host(found, node, thresholds, ranks=len(needs.gpus) if needs is not None else len(node.gpus))
    if needs is not None:
        check_plan(found, node, needs, thresholds)
    return found.rows()


def _candidate(plan: Plan, rank: int) -> Candidate:
    for candidate in plan.candidates:
        if candidate.rank == rank:
            return candidate
    ranks = ", ".join(str(candidate.rank) for candidate in plan.candidates)
    raise BadRequest(
        f"--rank {rank} is not in the plan; {ranks[:60]} are"
        if ranks
        else "the plan has nothing that fits to check for"
    )


def _described(plan: Plan, candidate: Candidate) -> str:
    parallel = candidate.parallel
    ranks = f"TP{parallel.tp}" + (f" PP{parallel.pp}" if parallel.pp > 1 else "")
    ranks += f" DP{parallel.dp}" if parallel.dp > 1 else ""
    engine = candidate.engine
    return f"{plan.model.name}, {candidate.quantization.name}, {engine.name} {engine.version}, {ranks}"
