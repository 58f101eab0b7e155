"""Results of the machine itself: what `moeplan check` found and what `moeplan bench` measured."""

from __future__ import annotations

from typing import Final

from moeplan.bench_report import BenchReport
from moeplan.report.markup import Html, bar, bullets, columns, details, el, joined, pairs, table
from moeplan.text_bench import ENDINGS, milliseconds, what
from moeplan.text_check import SUMMED
from moeplan.text_numbers import plural
from planner.findings import CheckReport, Finding

VERDICTS: Final = {"go": ("Go", "fits"), "no_go": ("No-go", "no"), "undetermined": ("Undetermined", "tight")}
STATUSES: Final = {
    "fail": ("failed", "no"),
    "warn": ("warning", "tight"),
    "not_run": ("not run", "tight"),
    "pass": ("passed", "fits"),
}

ENDED: Final = {**ENDINGS, "done": "every case was tried"}
"""How a benchmark ended, where that is always told."""


def check_body(report: CheckReport) -> Html:
    """The verdict, what asks for something, and the rest folded away."""
    word, style = VERDICTS[report.verdict]
    counts = ", ".join(f"{report.counts[status]} {SUMMED[status]}" for status in SUMMED if report.counts.get(status))
    facts = pairs(
        (
            ("nodes", ", ".join(report.nodes)),
            ("plan", report.plan or "none: health of the machine alone"),
            ("looked at", report.checked_at or "never: the machine is only described"),
            ("by", report.generated_by),
        )
    )
    urgent = [each for each in report.findings if each.status in ("fail", "warn")]
    rest = [each for each in report.findings if each.status not in ("fail", "warn")]
    return joined(
        [
            el("p", el("span", word, class_=f"verdict {style}"), f" {counts}", class_="lead"),
            facts,
            _findings("What was found", urgent, report) if urgent else None,
            details(f"{plural(len(rest), 'other check')}", _findings("Passed or not run", rest, report))
            if rest
            else None,
        ]
    )


def _findings(caption: str, findings: list[Finding], report: CheckReport) -> Html:
    many = len(report.nodes) > 1
    rows = [
        (
            joined([f"{each.node}: " if many else None, each.subject, el("br"), el("span", each.code, class_="faint")]),
            el("span", STATUSES[each.status][0], class_=f"verdict {STATUSES[each.status][1]}"),
            each.actual,
            each.expected,
            each.action,
            el("span", each.evidence, class_="faint"),
        )
        for each in findings
    ]
    return table(caption, columns("what", "status", "found", "expected", "what to do", "evidence"), rows, stack=True)


def bench_body(report: BenchReport) -> Html:
    """Every kernel with its spread and its share of the ceiling."""
    settings = report.settings
    facts = pairs(
        (
            ("machine", report.machine),
            ("measured", f"{plural(len(report.rows), 'case')} at {report.date}, {plural(settings.threads, 'thread')}"),
            ("ended", ENDINGS[report.ended]),
            ("by", report.generated_by),
        )
    )
    missing = unmeasured(report)
    return joined(
        [
            facts,
            bench_rows(report),
            details(f"{plural(len(missing), 'case')} not measured", bullets(missing)) if missing else None,
            bullets(report.notes) if report.notes else None,
        ]
    )


def bench_rows(report: BenchReport) -> Html:
    """The table of all results."""
    rows = [
        (
            joined([row.kernel, el("br"), el("span", what(row), class_="faint")]),
            f"{row.batch} at {row.context:,}" if row.context else str(row.batch),
            joined(
                [
                    milliseconds(row.median_s),
                    el("br"),
                    el("span", f"{milliseconds(row.low_s)}-{milliseconds(row.high_s)}", class_="faint"),
                ]
            ),
            f"{row.iqr_s / row.median_s:.1%}" if row.median_s > 0 else "",
            f"{row.bytes / row.median_s / 1e9:,.1f}" if row.bytes and row.median_s > 0 else "",
            _ceiling(row.fraction_of_roofline),
            joined([row.provider, el("br"), el("span", row.version, class_="faint")]),
            "stable" if row.stable else f"unstable, because {row.unstable_because}",
        )
        for row in report.rows
    ]
    heads = columns(
        "kernel", ">batch", ">ms, quartiles", ">spread", ">GB/s", "of the ceiling", "measured with", "steadiness"
    )
    return table("Kernels as measured", heads, rows, stack=True) if rows else el("p", "Nothing was measured.")


def unmeasured(report: BenchReport) -> list[str]:
    """Each case without a result, with the reason of every provider."""
    return [
        f"{case.series} at {case.batch}: {'; '.join(f'{one.provider}: {one.reason}' for one in case.reasons)}"
        for case in report.not_measured
    ]


def _ceiling(share: float | None) -> Html | None:
    return joined([f"{share:.0%} ", bar(share)]) if share is not None else None
