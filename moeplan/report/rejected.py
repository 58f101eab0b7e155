"""What does not fit or is refused, nearest miss first."""

from __future__ import annotations

from collections.abc import Sequence

from moeplan.report.figures import Chart, drawn
from moeplan.report.markup import Html, columns, details, el, joined, table
from moeplan.report.memory import ledger, memory_chart
from moeplan.text_ledger import alike
from moeplan.text_numbers import gib
from moeplan.text_plan import ranks
from moeplan.text_rejections import Reason, reasons
from planner.plan import Rejection


def rejected_body(rejected: Sequence[Rejection], chart: Chart | None) -> Html:
    """A row for each reason; the ledger where an exact configuration was asked for."""
    grouped, single = (reasons(rejected, by_quantization=each) for each in (False, True))
    whole = [each for each in rejected if each.memory is not None]
    ledgers = [
        details(f"Ledger of {place}: {device.name}", ledger(place, device))
        for each in whole[:1]
        if each.memory is not None
        for place, device in alike(each.memory)
    ]
    return joined(
        [
            el("p", "One row for each engine and reason; the nearest miss of many stands for them."),
            drawn(chart) if chart is not None else None,
            _reasons("What was tried and does not fit", grouped),
            details("The same for every release", _reasons("By engine, release and reason", single))
            if len(single) > len(grouped)
            else None,
            *ledgers,
        ]
    )


def _reasons(caption: str, found: Sequence[Reason]) -> Html:
    rows = [
        (
            joined([reason.nearest.engine, el("br"), el("span", _nearest(reason.nearest), class_="faint")]),
            f"{reason.count:,}",
            _short(reason.nearest),
            reason.nearest.reason,
            reason.nearest.remedy,
        )
        for reason in found
    ]
    heads = columns("engine, nearest miss", ">tried", "short by", "why not", "what helps")
    return table(caption, heads, rows, stack=True)


def _nearest(miss: Rejection) -> str:
    split = ranks(miss.parallel) if miss.parallel is not None else ""
    return f"{miss.quantization}, {split}" if split else miss.quantization


def _short(miss: Rejection) -> Html:
    """What is missing, and on which device."""
    if not miss.short_by_bytes:
        return Html("")
    size = el("span", f"{gib(miss.short_by_bytes)} GiB", class_="nb")
    return joined([size, el("br"), el("span", f"on {miss.device}", class_="faint")]) if miss.device else size


def rejected_chart(rejected: Sequence[Rejection]) -> Chart | None:
    """The memory of an estimate that does not fit; a search keeps none."""
    return next((memory_chart(each.memory) for each in rejected if each.memory is not None), None)
