"""Local against API for people, drawn from the object that becomes JSON."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from moeplan.text import DOUBTFUL, GOOD, HEADING, bullets, cell, heading, line, pairs, stacked, table
from moeplan.text_numbers import span_of
from planner.cost_report import ApiWay, CostReport, LocalWay
from planner.plan import Range

_STYLES = {"api": GOOD, "local": GOOD, "depends": DOUBTFUL, "undetermined": DOUBTFUL}


def cost_view(report: CostReport) -> RenderableType:
    """The verdict, both sides, and what would change it."""
    mix = report.mix
    return stacked(
        pairs(
            (
                ("model", report.model),
                ("machine", f"{report.hardware}: {report.candidate}"),
                (
                    "mix",
                    f"{mix.input_tokens:,} input and {mix.output_tokens:,} output tokens a request, "
                    f"{mix.cached_share:.0%} of the input cached",
                ),
                ("capacity", f"{billions(report.capacity_tokens_per_month)} billion tokens a month, always busy"),
                (
                    "volume",
                    f"{report.tokens_per_month / 1e9:,.3g} billion tokens a month, {report.utilization:.0%} of what "
                    "the machines can do",
                ),
            )
        ),
        Text(""),
        line(f"{report.verdict.upper()}: {report.why}", f"{HEADING} {_STYLES[report.verdict]}"),
        *(
            [heading("Rent or buy, dollars"), table(_LOCAL, [_local(one) for one in report.local])]
            if report.local
            else ()
        ),
        *[_terms(one) for one in report.local],
        *(
            [heading("API, dollars per million tokens"), table(_API, [_api(one) for one in report.api])]
            if report.api
            else ()
        ),
        heading("What would change it, dollars per million tokens"),
        table(
            ("assumption", f">{_compared(report)}", ">API", "cheaper"),
            [
                [one.what, money(one.local_usd_per_million_tokens), money(one.api_usd_per_million_tokens), one.cheaper]
                for one in report.sensitivity
            ],
        ),
        *([heading("Warnings"), bullets(report.warnings, DOUBTFUL)] if report.warnings else ()),
    )


def _compared(report: CostReport) -> str:
    """The local way that the assumptions are varied for: the cheapest whole one, else the cheapest."""
    best = min(report.local, key=lambda way: (not way.complete, way.usd_per_month.expected), default=None)
    return best.kind if best is not None else "local"


_LOCAL = (
    "way",
    ">a month",
    ">per million\ntokens",
    ">break-even, billion\ntokens a month",
    "price of",
)
_API = ("provider", ">input", ">cached", ">output", ">at the mix", ">a month", "price of", "ends")


def _local(way: LocalWay) -> list[str | Text]:
    floor = "" if way.complete else "at least "
    even = way.break_even_tokens_per_month
    return [
        cell(f"{way.kind}:", way.name),
        f"{floor}{dollars(way.usd_per_month)}",
        cents(way.usd_per_million_tokens),
        cell(billions(even), "" if way.reachable else "more than it serves") if even is not None else "",
        way.date or "given",
    ]


def _terms(way: LocalWay) -> RenderableType:
    known = [
        (term.what, f"{dollars(term.usd_per_month)} a month: {term.note}")
        for term in way.terms
        if term.usd_per_month is not None
    ]
    return pairs(
        (*[(f"{way.kind}, {what}", text) for what, text in known], *[("not counted", one) for one in way.left_out])
    )


def _api(way: ApiWay) -> list[str | Text]:
    return [
        way.provider,
        money(way.usd_per_million_input_tokens),
        money(way.usd_per_million_cached_input_tokens) or "as input",
        money(way.usd_per_million_output_tokens),
        money(way.usd_per_million_tokens),
        f"{way.usd_per_month:,.0f}",
        way.date,
        way.ends or "",
    ]


def money(value: float | None) -> str:
    """Dollars with the digits that prices per million tokens have; empty for None.

    >>> money(0.4545), money(12.0), money(None)
    ('0.455', '12.00', '')
    """
    return "" if value is None else f"{value:,.3f}" if value < 1 else f"{value:,.2f}"


def dollars(value: Range) -> str:
    """A range of whole dollars, one number where both ends are the same."""
    return f"{value.low:,.0f}" if value.low == value.high else span_of(value)


def cents(value: Range) -> str:
    """A range of prices per million tokens, one number where both ends are the same."""
    return money(value.low) if value.low == value.high else f"{money(value.low)}-{money(value.high)}"


def billions(value: Range) -> str:
    """A range in billions, one number where both ends are the same."""
    return f"{value.low / 1e9:,.3g}" if value.low == value.high else span_of(value, 1e-9)
