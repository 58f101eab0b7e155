"""Cost: the machine of the plan beside the APIs that serve the same model."""

from __future__ import annotations

from typing import Any, NamedTuple

from moeplan.report.figures import BLUE, ORANGE, Chart, Key, drawn, figure, label
from moeplan.report.markup import Html, bullets, columns, el, joined, linked, pairs, table
from moeplan.text_cost import billions, cents, dollars, money
from planner.cost_report import ApiWay, CostReport, LocalWay
from planner.plan import Cost, Range

ROW_PX = 40


class Offer(NamedTuple):
    """A way to get the tokens, and dollars per million of them."""

    name: str
    price: Range
    own: bool


def cost_body(report: CostReport | None, why_not: str, rent: Cost | None) -> Html:
    """The section's body; ``rent`` is the candidate's own."""
    rented = el("p", _rent(rent)) if rent is not None and rent.usd_per_hour is not None else None
    if report is None:
        return joined([rented, el("p", f"Not compared with an API: {why_not}.")])
    mix = report.mix
    asked = pairs(
        (
            (
                "a request",
                f"{mix.input_tokens:,} input and {mix.output_tokens:,} output tokens, "
                f"{mix.cached_share:.0%} of the input cached",
            ),
            (
                "volume",
                f"{report.tokens_per_month / 1e9:,.3g} billion tokens a month, "
                f"{report.utilization:.0%} of what the machine can do",
            ),
            ("the machine can do", f"{billions(report.capacity_tokens_per_month)} billion tokens a month, always busy"),
            ("compared on", report.computed_on),
        )
    )
    return joined(
        [
            el("p", f"{report.why[:1].upper()}{report.why[1:]}.", class_="lead"),
            rented,
            asked,
            drawn(cost_chart(report)) if report.local or report.api else None,
            _locals(report.local) if report.local else None,
            _apis(report.api) if report.api else None,
            _sensitivity(report) if report.sensitivity else None,
            joined([el("h3", "Warnings"), bullets([linked(each) for each in report.warnings])])
            if report.warnings
            else None,
        ]
    )


def _rent(rent: Cost) -> str:
    tokens = rent.usd_per_million_output_tokens
    each = f", {cents(tokens)} dollars per million output tokens of this plan" if tokens is not None else ""
    return f"Rent: {rent.usd_per_hour or 0:,.2f} dollars an hour{each} ({rent.provider}, price of {rent.date})."


def cost_chart(report: CostReport) -> Chart:
    """Dollars per million tokens at the mix: ranges of the machine, prices of APIs."""
    offers = [Offer(f"{way.kind}: {way.name}", way.usd_per_million_tokens, True) for way in report.local]
    offers += [
        Offer(f"API: {way.provider}", Range(low=each, expected=each, high=each), False)
        for way in report.api
        for each in (way.usd_per_million_tokens,)
    ]
    names = [label(*_broken(offer.name)) for offer in offers]
    hover = [label(offer.name, f"{cents(offer.price)} dollars per million tokens") for offer in offers]
    signs = ["square" if offer.own else "circle" for offer in offers]
    colours = [ORANGE if offer.own else BLUE for offer in offers]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "x": [offer.price.expected for offer in offers], "y": names,
            "marker": {"color": colours, "size": 12, "symbol": signs},
            "error_x": {
                "type": "data", "symmetric": False, "thickness": 3, "width": 6, "color": ORANGE,
                "array": [offer.price.high - offer.price.expected for offer in offers],
                "arrayminus": [offer.price.expected - offer.price.low for offer in offers],
            },
            "hovertext": hover, "hoverinfo": "text",
        }
    ]  # fmt: skip
    drawing = figure(
        traces, 90 + ROW_PX * len(offers), 
        {"title": "dollars per million tokens, input and output", "rangemode": "tozero"},
        {"autorange": "reversed"},
    )  # fmt: skip
    own = [f"{offer.name} {cents(offer.price)}" for offer in offers if offer.own]
    hosted = [offer for offer in offers if not offer.own]
    ends = [f"{one.name} {cents(one.price)}" for one in dict.fromkeys((*hosted[:1], *hosted[-1:]))]
    summary = "; ".join([*own, " to ".join(ends)]) + "."
    rows = [(offer.name, cents(offer.price)) for offer in offers]
    title = "Dollars per million tokens"
    heads = columns("way", ">dollars per million tokens")
    keys = (Key("own machine, low to high", ORANGE), Key("API", BLUE, "disc"))
    return Chart("cost", title, summary, drawing, table(title, heads, rows), keys)


def _broken(name: str) -> tuple[str, ...]:
    """At most two lines of at most 30 characters for an axis."""
    if len(name) <= 22:
        return (name,)
    at = name.rfind(" ", 0, 24)
    first, rest = (name[:at], name[at + 1 :]) if at > 0 else (name[:22], name[22:])
    return first, rest if len(rest) <= 28 else f"{rest[:26]}..."


def _locals(ways: tuple[LocalWay, ...]) -> Html:
    rows = []
    for way in ways:
        even = way.break_even_tokens_per_month
        reach = "" if even is None else billions(even) + ("" if way.reachable else ", more than it serves")
        rows.append(
            (
                f"{way.kind}: {way.name}",
                ("" if way.complete else "at least ") + dollars(way.usd_per_month),
                cents(way.usd_per_million_tokens),
                reach,
                joined([way.date or "given", el("br"), el("span", linked(way.source), class_="faint")]),
            )
        )
    heads = columns(
        "way", ">dollars a month", ">per million tokens", ">break-even, billion tokens a month",
        "price of, source",
    )  # fmt: skip
    counted = [
        joined([f"{way.name}: {term.what} {dollars(term.usd_per_month)} a month, {term.note}"])
        for way in ways
        for term in way.terms
        if term.usd_per_month is not None
    ]
    left_out = [joined([f"{way.name}, not counted: {each}"]) for way in ways for each in way.left_out]
    return joined([table("The own machine", heads, rows, stack=True), bullets([*counted, *left_out])])


def _apis(ways: tuple[ApiWay, ...]) -> Html:
    rows = [
        (
            way.provider,
            money(way.usd_per_million_input_tokens),
            money(way.usd_per_million_cached_input_tokens) or "as input",
            money(way.usd_per_million_output_tokens),
            money(way.usd_per_million_tokens),
            f"{way.usd_per_month:,.0f}",
            joined([el("span", way.date, class_="nb"), el("br"), el("span", linked(way.source), class_="faint")]),
            way.ends or "",
        )
        for way in ways
    ]
    heads = columns(
        "provider", ">input", ">cached input", ">output", ">at the mix", ">dollars a month", "price of, source", "ends"
    )
    return table("APIs of the same model, dollars per million tokens", heads, rows, stack=True)


def _sensitivity(report: CostReport) -> Html:
    rows = [
        (
            each.what,
            money(each.local_usd_per_million_tokens),
            money(each.api_usd_per_million_tokens),
            {"local": "own machine", "api": "API", "undetermined": ""}[each.cheaper],
        )
        for each in report.sensitivity
    ]
    heads = columns("assumption", ">own machine", ">API", "cheaper")
    return table("What would change it, dollars per million tokens", heads, rows)
