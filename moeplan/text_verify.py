"""A verification for people, drawn from the object that becomes JSON."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from moeplan.text import BAD, DOUBTFUL, GOOD, HEADING, bullets, cell, heading, line, pairs, stacked, table
from moeplan.text_numbers import plural, span
from planner.verify_report import Compared, LoadStep, Percentiles, VerifyReport

_VERDICTS = {"holds": GOOD, "better": GOOD, "differs": BAD, "failed": BAD, "pass": GOOD, "fail": BAD, "warn": DOUBTFUL}
_SAID = {
    "holds": "The plan holds.",
    "differs": "The deployment differs from its plan in",
    "failed": "Failed:",
    "nothing_measured": "Nothing could be measured.",
}
_UNITS = {"tpot": (1e3, "ms"), "ttft": (1.0, "s"), "throughput": (1.0, "tokens/s"), "kv_tokens": (1.0, "tokens")}


def verify_view(report: VerifyReport) -> RenderableType:
    """What was asked, the verdict, every term, every load, the modes."""
    end = report.endpoint
    said = _SAID[report.verdict] + (f" {', '.join(report.differs_in)}." if report.differs_in else "")
    parts: list[RenderableType | None] = [
        pairs(
            (
                ("server", f"{end.url}: {end.engine or 'engine not known'} {end.version or ''}, {end.asked_model}"),
                ("plan", report.plan_candidate),
                ("load", f"{plural(report.requests, 'request')} in {report.wall_s:,.0f} s"),
                ("stored in", report.calibration or ""),
            )
        ),
        Text(""),
        line(said, f"{HEADING} {_VERDICTS.get(report.verdict, DOUBTFUL)}"),
        heading("Plan and deployment"),
        table(("term", "plan", "measured", "verdict", "what to do"), [_compared(row) for row in report.compared]),
    ]
    if report.steps:
        columns = (
            ">requests\nat a time", ">requests\nfailed", ">tokens in\nout", ">first token, s\np50 / p90 / p99",
            ">each token, ms\np50 / p90 / p99", ">tokens/s", "errors",
        )  # fmt: skip
        parts += [heading("Load"), table(columns, [_step(step) for step in report.steps])]
    if report.checks:
        rows: list[list[str | Text]] = [
            [check.name, Text(check.status, style=_VERDICTS.get(check.status, "")), check.evidence, check.action]
            for check in report.checks
        ]
        parts += [heading("Modes and tools"), table(("check", "status", "evidence", "what to do"), rows)]
    if report.notes:
        parts += [heading("Notes"), bullets(report.notes)]
    return stacked(*parts)


def _compared(row: Compared) -> list[str | Text]:
    name = f"{row.term} at {row.concurrency}" if row.concurrency is not None else row.term
    scale, unit = _UNITS.get(row.term, (1.0, ""))
    planned, measured = row.predicted_text, row.observed_text
    if row.predicted is not None:
        planned = f"{span(row.predicted.low * scale, row.predicted.high * scale)} {unit}".strip()
        if row.predicted.low == row.predicted.high:
            planned = f"{row.predicted.low * scale:,.0f} {unit}".strip()
    if row.observed is not None:
        measured = (
            f"{row.observed * scale:,.4g} {unit}".strip() if scale * row.observed < 1e4 else f"{row.observed:,.0f}"
        )
    outside = f"{row.outside:+.0%}" if row.outside else ""
    verdict = Text(f"{row.verdict} {outside}".strip().replace("_", " "), style=_VERDICTS.get(row.verdict, ""))
    return [name, planned, measured, verdict, row.action]


def _step(step: LoadStep) -> list[str | Text]:
    errors = ", ".join(f"{count} {kind}" for kind, count in step.errors.items())
    return [
        f"{step.concurrency:,}",
        cell(f"{step.requests:,}", f"{step.failed:,}"),
        cell(_mean(step.input_tokens), _mean(step.output_tokens)),
        _three(step.ttft_s, 1.0),
        _three(step.tpot_s, 1e3),
        f"{step.output_tokens_per_s:,.1f}" if step.output_tokens_per_s is not None else "",
        errors,
    ]


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _three(value: Percentiles | None, scale: float) -> str:
    return "" if value is None else " / ".join(f"{one * scale:,.3g}" for one in (value.p50, value.p90, value.p99))
