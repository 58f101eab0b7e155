"""The reports of many nodes as one: every finding, the nodes beside their peers, the nodes that gave no report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from planner.errors import BadRequest
from planner.findings import STATUSES, CheckReport, Finding, verdict_of, worst_first
from planner.peers import peer_findings
from profiles.health import Thresholds, load_thresholds


def merge_reports(
    reports: Sequence[CheckReport],
    *,
    lost: Iterable[Finding] = (),
    strict: bool = False,
    thresholds: Thresholds | None = None,
    generated_by: str = "moeplan",
) -> CheckReport:
    """One report of all nodes; ``lost`` are findings of nodes without a report.

    Strict when asked for, or when one of the reports was. Raises ``BadRequest`` for no report at all, for two of one
    node, and for reports that held their nodes to different plans.
    """
    missing = list(lost)
    if not reports and not missing:
        raise BadRequest("no report was given")
    names = [name for report in reports for name in report.nodes] + [finding.node for finding in missing]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise BadRequest(f"two reports are of node {twice[0][:80]}; give each node one")
    plans = {report.plan for report in reports}
    if len(plans) > 1:
        raise BadRequest(
            f"the reports are of different plans: {' and '.join(sorted(str(plan) for plan in plans))[:200]}"
        )
    machines = tuple([machine for report in reports for machine in report.machines])
    own = [finding for report in reports for finding in report.findings if not finding.code.startswith("cluster_")]
    limits = thresholds if thresholds is not None else load_thresholds()
    findings = [*missing, *own, *peer_findings(machines, limits)]
    counted = Counter(finding.status for finding in findings)
    hard = strict or any(report.strict for report in reports)
    looked = [report.checked_at for report in reports if report.checked_at is not None]
    return CheckReport(
        schema="moeplan.check/1",
        generated_by=generated_by,
        verdict=verdict_of(findings, strict=hard),
        strict=hard,
        checked_at=min(looked, default=None),
        plan=next(iter(plans), None),
        nodes=tuple(names),
        counts={status: counted[status] for status in STATUSES},
        findings=worst_first(findings),
        machines=machines,
    )
