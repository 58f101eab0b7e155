"""Clusters for people: nodes by what they have, and the findings of many nodes, each said once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from moeplan.text import BAD, DOUBTFUL, FAINT, GOOD, bullets, heading, line, pairs, stacked, table
from moeplan.text_check import LABELS, verdict_line
from moeplan.text_numbers import gib, plural

if TYPE_CHECKING:
    from hwdetect.inventory import Inventory, Node
    from moeplan.bench_report import ClusterBench
    from planner.findings import CheckReport, Finding, Status

SHOWN_NODES: Final = 6
SHOWN_NOTES: Final = 12


def nodes_view(inventory: Inventory) -> RenderableType:
    """Kinds of nodes, how many of each, and what was left out."""
    from hwdetect.inventory import known
    from planner.peers import summary_of

    groups: dict[tuple[str, str], list[Node]] = {}
    for node in inventory.nodes:
        ram = known(node.memory.usable_bytes)
        broken = sum(gpu.status != "ok" for gpu in node.gpus)
        hardware = summary_of(node, None).hardware + (f", {broken} of them not usable" if broken else "")
        groups.setdefault((hardware, f"{gib(ram, 0)}" if ram else "unknown"), []).append(node)
    rows: list[list[str | Text]] = [
        [f"{len(nodes):,}", hardware, ram, names([node.name for node in nodes])]
        for (hardware, ram), nodes in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]
    gpus = sum(len(node.gpus) for node in inventory.nodes)
    head = f"{plural(len(inventory.nodes), 'node')} with {plural(gpus, 'accelerator')}"
    notes = [*inventory.notes[:SHOWN_NOTES]]
    if len(inventory.notes) > SHOWN_NOTES:
        notes.append(f"and {len(inventory.notes) - SHOWN_NOTES:,} more notes, in the JSON")
    return stacked(
        line(head),
        Text(""),
        table((">nodes", "accelerators", ">RAM, GiB", "names"), rows),
        heading("Notes") if notes else None,
        bullets(notes, DOUBTFUL) if notes else None,
    )


def cluster_check_view(report: CheckReport) -> RenderableType:
    """The verdict, how many nodes are well, and every finding once with the nodes that have it."""
    worst: dict[str, Status] = {}
    for finding in report.findings:
        worst.setdefault(finding.node, finding.status)
    well = [name for name in report.nodes if _well(name, report)]
    head = pairs(
        [
            ("nodes", f"{len(report.nodes):,}, of which {len(well):,} may take traffic"),
            ("plan", report.plan or "none: health of the machines alone"),
            ("looked at", report.checked_at or "never: the machines are only described"),
        ]
    )
    asking = [
        finding
        for finding in report.findings
        if finding.status in ("fail", "warn") or (finding.status == "not_run" and (finding.required or report.strict))
    ]
    return stacked(verdict_line(report), head, _bars(report, well), *_groups(asking))


def _groups(findings: Sequence[Finding]) -> list[RenderableType]:
    """Findings that ask the same, said once."""
    groups: dict[tuple[str, str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.status, finding.code, finding.expected, finding.action), []).append(finding)
    return [_group(members) for members in groups.values()]


def cluster_bench_view(report: ClusterBench) -> RenderableType:
    """One line for each node, then who gave no result or is slower than its peers."""
    rows: list[list[str | Text]] = [
        [
            one.node, one.report.machine, f"{len(one.report.rows):,}",
            f"{sum(not row.stable for row in one.report.rows):,}", f"{len(one.report.not_measured):,}",
            one.report.calibration or "not kept",
        ]
        for one in report.nodes
    ]  # fmt: skip
    head = pairs([("measured", f"{report.target} on {plural(len(report.nodes), 'node')} at {report.date}")])
    columns = ("node", "machine", ">cases", ">unstable", ">not measured", "kept in")
    unlike = f"{plural(len(report.findings), 'finding')}" if report.findings else "no node stands out"
    return stacked(head, table(columns, rows) if rows else None, heading(unlike), *_groups(report.findings))


def _well(name: str, report: CheckReport) -> bool:
    from planner.findings import verdict_of

    return verdict_of([row for row in report.findings if row.node == name], strict=report.strict) == "go"


def _bars(report: CheckReport, well: Sequence[str]) -> RenderableType:
    bad = [name for name in report.nodes if name not in set(well)]
    rows = [("go", names(well)), ("not to be used", names(bad))]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for (label, text), style in zip(rows, (GOOD, BAD), strict=True):
        if text:
            grid.add_row(Text(f"  {label}", style=style), line(text))
    return grid


def _group(members: Sequence[Finding]) -> RenderableType:
    first = members[0]
    label, style = LABELS[first.status]
    many = f"  on {plural(len({row.node for row in members}), 'node')}" if len(members) > 1 else ""
    title = Text.assemble((f"\n  {label:8}", style), (first.code, "bold"), (many, FAINT))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=9)
    grid.add_column(width=8)
    grid.add_column(overflow="fold")
    for row in members[:SHOWN_NODES]:
        place = row.node if row.subject == "node" else f"{row.node}, {row.subject}"
        grid.add_row("", Text("found", style=FAINT), line(f"{place}: {row.actual}"))
    if len(members) > SHOWN_NODES:
        more = names([row.node for row in members[SHOWN_NODES:]])
        grid.add_row("", "", line(f"and on {more}", FAINT))
    for name, text in (("expected", first.expected), ("do", first.action), ("evidence", first.evidence)):
        if text:
            grid.add_row("", Text(name, style=FAINT), line(text, FAINT if name == "evidence" else ""))
    return stacked(title, grid)


def names(nodes: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(nodes[:SHOWN_NODES])
    return f"{shown} and {len(nodes) - SHOWN_NODES:,} more" if len(nodes) > SHOWN_NODES else shown
