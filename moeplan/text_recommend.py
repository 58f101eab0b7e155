"""The least costly ways for people, drawn from the object that becomes JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from moeplan.text import BAD, DOUBTFUL, GOOD, HEADING, bullets, cell, heading, line, pairs, stacked, table
from moeplan.text_cost import dollars, money
from moeplan.text_numbers import gib, plural, span_of
from moeplan.text_safe import printable
from planner.recommend_report import Have, Nearest, RecommendReport, Spot, Upgrade, Way


def recommend_view(report: RecommendReport) -> RenderableType:
    """The target, the ways by kind, the machine at hand, and what the answer rests on."""
    found = report.searched
    return stacked(
        _target(report),
        Text(""),
        line(report.why, HEADING if report.rent or report.buy else BAD),
        *(_nearest(report.nearest, report.model) if report.nearest is not None else ()),
        *(_ways("Rent", report.rent, report.model) if report.rent else ()),
        *(_ways("Buy", report.buy, report.model) if report.buy else ()),
        *_api(report),
        *(_have(report.have) if report.have is not None else ()),
        Text(""),
        line(
            f"{plural(found.offers, 'machine')} with a price: {found.without_bytes:,} cannot hold the maker's weights, "
            f"{found.without_bandwidth:,} cannot read them in time, {plural(found.searched, 'search')[:-1]}es, "
            f"{found.dearer_not_searched:,} dearer ones not searched."
            if found.searched != 1
            else f"{plural(found.offers, 'machine')} with a price, one search."
        ),
        *([heading("Warnings"), bullets(report.warnings, DOUBTFUL)] if report.warnings else ()),
    )


def _target(report: RecommendReport) -> RenderableType:
    target = report.target
    bounds = [
        f"{1 / target.tpot_s:,.3g} tokens/s each ({target.tpot_s * 1e3:,.3g} ms per token)" if target.tpot_s else "",
        f"first token within {target.ttft_s:g} s" if target.ttft_s else "",
        f"{target.min_throughput:,.0f} tokens/s in total" if target.min_throughput else "",
        f"KL divergence of at most {target.max_kld:g} in {target.quality_suite}" if target.max_kld else "",
    ]
    return pairs(
        (
            ("model", report.model),
            (
                "target",
                f"{target.workload}: {plural(target.concurrency, 'request')} at a time of {target.input_tokens:,} + "
                f"{target.output_tokens:,} tokens, context {target.context:,}, {target.hours_per_day:g} hours a day",
            ),
            ("bounds", "; ".join(part for part in bounds if part)),
            (
                "volume",
                f"{report.tokens_per_month / 1e9:,.3g} billion tokens a month when always busy"
                if report.tokens_per_month is not None
                else "",
            ),
        )
    )


def _ways(title: str, ways: Sequence[Way], model: str) -> list[RenderableType]:
    columns = (
        ">#",
        "way",
        "engine\nquantization",
        ">dollars\na month",
        "verdict\nfree GiB",
        ">tok/s each\neach token, ms",
        "price of",
    )
    rows = [[str(number), *_row(way)] for number, way in enumerate(ways, 1)]
    details: list[RenderableType] = []
    for number, way in enumerate(ways, 1):
        details += [Text(""), line(f"  {title} {number}: {way.name}", HEADING), _details(way, model)]
    return [heading(f"{title}, cheapest first"), table(columns, rows), *details]


def _row(way: Way) -> list[str | Text]:
    speed = way.candidate.performance
    verdict = Text("\n").join([
        Text(way.verdict, style=GOOD if way.verdict == "fits" else DOUBTFUL),
        Text(gib(way.free_low_bytes)),
    ])  # fmt: skip
    return [
        way.name,
        cell(way.candidate.engine.name, way.candidate.quantization.name),
        cell(f"{'' if way.complete else 'at least '}{way.usd_per_month:,.0f}", _price(way)),
        verdict,
        cell(span_of(speed.decode_tokens_per_s_per_request), span_of(speed.tpot_s, 1e3)),
        way.date or "no date",
    ]


def _price(way: Way) -> str:
    if way.usd_per_hour is not None:
        return f"{way.usd_per_hour:,.2f} an hour"
    return f"{dollars(way.usd_price)} once" if way.usd_price is not None else ""


def _details(way: Way, model: str) -> RenderableType:
    step = way.next_step
    return pairs(
        (
            ("plan", shlex.join(["moeplan", "plan", model, *way.plan_flags])),
            *[("risk", text) for text in way.risks],
            ("not priced", ", ".join(way.left_out)),
            ("spot", _spot(way.spot) if way.spot is not None else ""),
            (
                "next step up",
                f"{step.name}: {span_of(step.decode_tokens_per_s_total)} tokens/s in total for "
                f"{step.usd_per_month_more:,.0f} a month more"
                if step is not None
                else "",
            ),
        )
    )


def _spot(spot: Spot) -> str:
    """The rent of what may be taken away."""
    return f"{spot.usd_per_hour:,.2f} an hour ({spot.provider}, {spot.date}), where it may end at any time"


def _nearest(nearest: Nearest, model: str) -> list[RenderableType]:
    """What a missed target is nearest to; the API stands below."""
    return [
        heading("Nearest to the target"),
        pairs(
            (
                ("way", f"{nearest.name} for {nearest.usd_per_month:,.0f} a month"),
                ("reaches", f"{span_of(nearest.tpot_s, 1e3)} ms a token, {span_of(nearest.ttft_s)} s to the first"),
                ("misses by", nearest.missed or "nothing: the bounded search did not come so far"),
                ("plan", shlex.join(["moeplan", "plan", model, *nearest.plan_flags])),
            )
        ),
    ]


def _api(report: RecommendReport) -> list[RenderableType]:
    if not report.api:
        return []
    rows: list[list[str | Text]] = [
        [
            one.provider,
            money(one.usd_per_million_input_tokens),
            money(one.usd_per_million_output_tokens),
            f"{one.usd_per_month:,.0f}",
            one.date,
            one.ends or "",
        ]
        for one in report.api
    ]
    columns = ("provider", ">input", ">output", ">a month", "price of", "ends")
    return [heading("API, dollars per million tokens and at this volume"), table(columns, rows)]


def _have(have: Have) -> list[RenderableType]:
    met = "meets the target" if have.meets_target else f"does not meet the target: {have.why or have.verdict}"
    parts: list[RenderableType] = [heading("The machine at hand"), line(f"  {printable(have.description)} {met}")]
    if have.candidate is not None:
        speed = have.candidate.performance
        parts.append(
            line(
                f"  {have.candidate.engine.name}, {have.candidate.quantization.name}: "
                f"{span_of(speed.decode_tokens_per_s_total)} tokens/s in total, {span_of(speed.tpot_s, 1e3)} ms a token"
            )
        )
    if have.upgrades:
        columns = ("upgrade", "with", ">dollars", ">times the\nrate", ">per 1,000\ndollars", "target", "quality")
        parts.append(table(columns, [_upgrade(one) for one in have.upgrades]))
    return parts


def _upgrade(one: Upgrade) -> list[str | Text]:
    price = "not known" if one.usd is None else "0" if one.usd.high == 0 else dollars(one.usd)
    return [
        one.what,
        one.candidate,
        price,
        f"{one.gain:,.2f}" if one.gain is not None else "",
        f"{one.gain_per_1000_usd:+,.3f}" if one.gain_per_1000_usd is not None else "",
        cell("met" if one.meets_target else "missed", one.why),
        one.quality,
    ]
