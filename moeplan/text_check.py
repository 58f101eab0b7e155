"""A check report for people: the verdict first, then what is wrong and what to do, worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from moeplan.text import BAD, DOUBTFUL, FAINT, GOOD, heading, line, pairs, stacked
from moeplan.text_numbers import plural
from moeplan.text_safe import printable

if TYPE_CHECKING:
    from planner.findings import CheckReport, Finding, Status

LABELS: Final[dict[Status, tuple[str, str]]] = {
    "fail": ("FAIL", BAD),
    "warn": ("warn", DOUBTFUL),
    "not_run": ("not run", DOUBTFUL),
    "pass": ("pass", GOOD),
}


SUMMED: Final[dict[Status, str]] = {"fail": "failed", "warn": "warned", "not_run": "not run", "pass": "passed"}


def check_view(report: CheckReport, *, everything: bool = False) -> RenderableType:
    """Verdict, findings that ask for something, and what passed: by name, or with ``everything`` line by line."""
    many = len(report.nodes) > 1
    head = pairs(
        [
            ("node" if not many else "nodes", ", ".join(report.nodes)),
            ("plan", report.plan or "none: health of the machine alone"),
            ("looked at", report.checked_at or "never: the machine is only described"),
        ]
    )
    shown = [each for each in report.findings if everything or _asks(each, report.strict)]
    skipped = [each for each in report.findings if each.status == "not_run" and each not in shown]
    elsewhere = {each.code for each in report.findings if each.status != "pass"}
    passed = list(dict.fromkeys(each.code for each in report.findings if each.code not in elsewhere))
    return stacked(
        verdict_line(report),
        head,
        *[_finding(each, many) for each in shown],
        heading("Not run, and not required") if skipped else None,
        *[_skipped(each, many) for each in skipped],
        None if everything or not passed else heading(f"Passed everywhere: {plural(len(passed), 'check')}"),
        None if everything or not passed else Padding(line(", ".join(passed), FAINT), (0, 0, 0, 2)),
    )


def _asks(finding: Finding, strict: bool) -> bool:
    return finding.status in ("fail", "warn") or (finding.status == "not_run" and (finding.required or strict))


def _skipped(finding: Finding, many: bool) -> Text:
    place = f"{finding.node}: {finding.subject}" if many else finding.subject
    return line(f"  {finding.code}, {place}: {finding.actual.removeprefix('not known: ')}", FAINT)


def verdict_line(report: CheckReport) -> Text:
    """Go or no-go, and how many findings there are of each kind."""
    total = ", ".join(f"{report.counts[status]} {SUMMED[status]}" for status in SUMMED if report.counts[status])
    strict = " (strict)" if report.strict else ""
    if report.verdict == "go":
        return Text(f"GO{strict}: {total}", style=GOOD)
    if report.verdict == "no_go":
        return Text(f"NO-GO{strict}: {total}", style=BAD)
    missing = sum(each.status == "not_run" and each.required for each in report.findings)
    return Text(f"UNDETERMINED: {plural(missing, 'required check')} could not run; {total}", style=DOUBTFUL)


def _finding(finding: Finding, many: bool) -> RenderableType:
    label, style = LABELS[finding.status]
    place = f"{finding.node}: {finding.subject}" if many else finding.subject
    title = Text.assemble((f"\n  {label:8}", style), (printable(place), "bold"), ("  " + finding.code, FAINT))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=9)
    grid.add_column(width=8)
    grid.add_column(overflow="fold")
    rows = (("found", finding.actual), ("expected", finding.expected), ("do", finding.action))
    for name, text in (*rows, ("evidence", finding.evidence)):
        if text:
            grid.add_row("", Text(name, style=FAINT), line(text, FAINT if name == "evidence" else ""))
    return stacked(title, grid)
