"""What does not fit or is refused, nearest miss first."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.report.markup import Html, columns, details, el, joined, table
from moeplan.report.memory import ledger, memory_chart
from moeplan.report.figures import Chart, drawn
from moeplan.text_ledger import alike
from moeplan.text_numbers import gib
from moeplan.text_rejections import reasons
from planner.plan import Rejection


def rejected_body(rejected: Sequence[Rejection], chart: Chart | None) -> Html:
    """A row for each reason; the ledger where an exact configuration was asked for."""
    found = reasons(rejected, by_quantization=True)
    rows = [
        (
            joined([reason.nearest.engine, el("br"), el("span", reason.nearest.quantization, class_="faint")]),
            f"{reason.count:,}",
            f"{gib(reason.nearest.short_by_bytes)} GiB" if reason.nearest.short_by_bytes else "",
            joined([reason.nearest.reason, f", {reason.nearest.device}" if reason.nearest.device else None]),
            reason.nearest.remedy,
        )
        for reason in found
    ]
    heads = columns("engine, weights", ">tried", ">short by", "why not", "what helps")
    whole = [each for each in rejected if each.memory is not None]
    ledgers = [
        details(f"Ledger of {place}: {device.name}", ledger(place, device))
        for each in whole[:1]
        if each.memory is not None
        for place, device in alike(each.memory)
    ]
    return joined(
        [
            el("p", "One row for each engine, release and reason; the nearest miss of many stands for them."),
            drawn(chart) if chart is not None else None,
            table("What was tried and does not fit", heads, rows, stack=True),
            *ledgers,
        ]
    )


def rejected_chart(rejected: Sequence[Rejection]) -> Chart | None:
    """The memory of an estimate that does not fit; a search keeps none."""
    return next((memory_chart(each.memory) for each in rejected if each.memory is not None), None)
