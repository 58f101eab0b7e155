"""Speed: the range of every candidate, where a token's time goes, and throughput against speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moeplan.report.figures import BLUE, GREEN, GREY, ORANGE, Chart, Key, drawn, figure, label
from moeplan.report.markup import Html, bar, columns, details, el, joined, linked, pairs, table
from moeplan.text_ledger import tightest
from moeplan.text_numbers import gib_span, plural, span, span_of
from moeplan.text_plan import layout, ranks, release_name
from planner.plan import BudgetEntry, Candidate, Fleet, ParetoPoint, Percentiles, Plan, Range, Simulation

ROW_PX = 52


def speed_body(plan: Plan, chosen: Candidate) -> Html:
    """The section's body."""
    speed, work = chosen.performance, plan.workload
    admitted = ""
    if speed.effective_concurrency < work.concurrency:
        admitted = f"{speed.effective_concurrency:,.3g} of {work.concurrency:,}; the others wait"
    facts = pairs(
        (
            ("each request", f"{span_of(speed.decode_tokens_per_s_per_request)} tokens per second"),
            ("all requests", f"{span_of(speed.decode_tokens_per_s_total)} tokens per second"),
            ("first token", f"after {span_of(speed.ttft_s)} s"),
            ("each further token", f"{span_of(speed.tpot_s, 1e3)} ms"),
            ("reading prompts", f"{span_of(speed.prefill_tokens_per_s)} tokens per second"),
            ("bound by", f"{speed.bound_by} ({speed.evidence})"),
            ("running at a time", admitted),
        )
    )
    return joined(
        [
            facts,
            drawn(speed_chart(plan.candidates, chosen)),
            drawn(pareto_chart(plan.pareto)) if plan.pareto else None,
            details("Where the time of one output token goes", budget_table("one output token", speed.budget))
            if speed.budget
            else None,
            details("Where the time of a prompt goes", budget_table("the prompt of one request", speed.prompt_budget))
            if speed.prompt_budget
            else None,
            simulations(plan),
        ]
    )


def speed_chart(candidates: Sequence[Candidate], chosen: Candidate) -> Chart:
    """Output tokens per second of one request: a bar from low to high, a mark at the expected."""
    names = [candidate_label(candidate) for candidate in candidates]
    rates = [candidate.performance.decode_tokens_per_s_per_request for candidate in candidates]
    hover = [
        label(f"rank {candidate.rank}: {span_of(rate)} tokens/s for each request", f"expected {short(rate.expected)}")
        for candidate, rate in zip(candidates, rates, strict=True)
    ]
    colours = [BLUE if candidate.rank == chosen.rank else GREY for candidate in candidates]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar", "orientation": "h", "name": "low to high", "y": names,
            "base": [rate.low for rate in rates], "x": [rate.high - rate.low for rate in rates],
            "marker": {"color": colours}, "hovertext": hover, "hoverinfo": "text",
        },
        {
            "type": "scatter", "mode": "markers", "name": "expected", "y": names,
            "x": [rate.expected for rate in rates],
            "marker": {"symbol": "diamond", "size": 11, "color": ORANGE, "line": {"color": "#1b1b1b", "width": 1}},
            "hovertext": hover, "hoverinfo": "text",
        },
    ]  # fmt: skip
    drawing = figure(
        traces, 70 + ROW_PX * len(names), {"title": "output tokens per second of one request", "rangemode": "tozero"},
        {"autorange": "reversed"}, bargap=0.55,
    )  # fmt: skip
    rate = chosen.performance.decode_tokens_per_s_per_request
    summary = (
        f"Rank {chosen.rank} gives {span_of(rate)} tokens per second, {short(rate.expected)} expected; "
        f"{plural(len(candidates), 'candidate')} from low to high."
    )
    keys = (
        Key(f"rank {chosen.rank}, low to high", BLUE),
        *([Key("other candidates", GREY)] if len(candidates) > 1 else []),
        Key("expected", ORANGE, "diamond"),
    )
    return Chart("speed", "Speed of every candidate", summary, drawing, ranges_table(candidates), keys)


def candidate_label(candidate: Candidate) -> str:
    """Two short lines for an axis."""
    return label(f"{candidate.rank}  {candidate.engine.name}", f"{candidate.quantization.name}, {_split(candidate)}")


def _split(candidate: Candidate) -> str:
    gpus = sum(device.kind in ("gpu", "unified") for device in candidate.memory.devices)
    return ranks(candidate.parallel) or (plural(gpus, "GPU") if gpus else "CPU")


def ranges_table(candidates: Sequence[Candidate]) -> Html:
    """Low, expected and high of every speed."""
    rows = [
        (
            f"{candidate.rank}. {candidate.engine.name}, {candidate.quantization.name}, {_split(candidate)}",
            *[_three(value) for value in (speed.decode_tokens_per_s_per_request, speed.decode_tokens_per_s_total)],
            _three(speed.ttft_s),
            _three(speed.tpot_s, 1e3),
        )
        for candidate in candidates
        for speed in (candidate.performance,)
    ]
    heads = columns("candidate", ">tokens/s each", ">tokens/s in total", ">first token, s", ">each token, ms")
    return table("Speed: low / expected / high", heads, rows)


def _three(value: Range, scale: float = 1.0) -> str:
    return " / ".join(short(each * scale) for each in (value.low, value.expected, value.high))


def short(value: float) -> str:
    """Three digits that count.

    >>> short(1234.5), short(61.94), short(0.2513)
    ('1,234', '61.9', '0.251')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ranking(plan: Plan) -> Html:
    """Every candidate in one row."""
    rows = []
    for candidate in plan.candidates:
        device, speed = tightest(candidate.memory), candidate.performance
        free = gib_span(device.free_low_bytes, device.free_high_bytes) if device is not None else ""
        cost = candidate.cost
        dollars = cost.usd_per_million_output_tokens if cost is not None else None
        rows.append(
            (
                str(candidate.rank),
                joined([f"{candidate.engine.name} {candidate.engine.version}", el("br"), layout(candidate)]),
                release_name(candidate),
                el("span", candidate.verdict, class_=f"verdict {candidate.verdict}"),
                free,
                f"{candidate.kv_cache.tokens:,}",
                span_of(speed.decode_tokens_per_s_per_request),
                span_of(speed.decode_tokens_per_s_total),
                span_of(dollars) if dollars is not None else "not known",
            )
        )
    heads = columns(
        "rank", "engine, layout", "weights", "verdict", ">free GiB", ">KV tokens", ">tokens/s each",
        ">tokens/s in total", ">USD per million output tokens",
    )  # fmt: skip
    return table(f"The candidates by the {plan.objective} objective", heads, rows, stack=True)


def fleet_table(fleet: Fleet) -> Html:
    """A row for each pool of equal nodes."""
    rows = [
        (
            joined([pool.description, el("br"), el("span", pool.why, class_="faint")]),
            str(pool.candidate_rank) if pool.candidate_rank is not None else "none",
            f"{pool.nodes:,}, {pool.spare_nodes:,} spare",
            f"{pool.replicas:,}",
            f"{pool.concurrency:,.0f}",
            span_of(pool.decode_tokens_per_s_total) if pool.decode_tokens_per_s_total is not None else "",
            f"{pool.stranded_gpus:,}",
        )
        for pool in fleet.pools
    ]
    heads = columns(
        "pool", ">rank", ">nodes", ">replicas", ">requests at a time", ">tokens/s in total", ">stranded GPUs"
    )
    return table("Pools of equal nodes", heads, rows, stack=True)


def budget_table(of: str, entries: Sequence[BudgetEntry]) -> Html:
    """Milliseconds by kernel, the share as a bar."""
    rows = [
        (
            entry.what,
            joined(
                [
                    f"{entry.seconds * 1e3:,.2f}",
                    el("br"),
                    el("span", span(entry.low_s * 1e3, entry.high_s * 1e3), class_="faint"),
                ]
            ),
            joined([f"{entry.share:.0%} ", bar(entry.share)]),
            joined([entry.bound_by, el("br"), el("span", entry.evidence, class_=f"evidence {entry.evidence}")]),
            el("span", linked(entry.source), class_="faint"),
        )
        for entry in entries
    ]
    return table(f"Time of {of}", columns("kernel", ">ms", "share", "bound by, evidence", "source"), rows, stack=True)


def pareto_chart(points: Sequence[ParetoPoint]) -> Chart:
    """The front of throughput per GPU against speed per user."""
    hover = [
        label(
            f"{short(point.tokens_per_s_per_user)} tokens/s a user, {short(point.tokens_per_s_per_gpu)} a GPU",
            f"{plural(point.concurrency, 'request')} at a time: {_layout(point)}",
        )
        for point in points
    ]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines+markers+text", "name": "front",
            "x": [point.tokens_per_s_per_user for point in points],
            "y": [point.tokens_per_s_per_gpu for point in points],
            "text": [f"{point.concurrency:,}" for point in points], "textposition": "top right",
            "line": {"color": GREEN, "width": 2}, "cliponaxis": False,
            "marker": {"color": GREEN, "size": 9, "line": {"color": "#ffffff", "width": 1}},
            "hovertext": hover, "hoverinfo": "text",
        }
    ]  # fmt: skip
    drawing = figure(
        traces, 360, {"title": "output tokens per second of one user", "rangemode": "tozero"},
        {"title": "output tokens per second of one GPU", "rangemode": "tozero"},
    )  # fmt: skip
    ends = [
        f"{short(one.tokens_per_s_per_user)} for a user and {short(one.tokens_per_s_per_gpu)} a GPU" for one in points
    ]
    summary = (
        f"Output tokens per second: {' to '.join(dict.fromkeys((ends[0], ends[-1])))}. Numbers at the points are "
        "requests at a time; no other layout gives more of both."
    )
    rows = [
        (
            f"{point.concurrency:,}",
            short(point.tokens_per_s_per_user),
            short(point.tokens_per_s_per_gpu),
            short(point.total_tokens_per_s_per_gpu),
            span_of(point.tpot_s, 1e3),
            joined([_layout(point), *([el("br"), el("span", point.note, class_="faint")] if point.note else [])]),
            point.bound_by,
        )
        for point in points
    ]
    heads = columns(
        ">requests at a time",
        ">tokens/s a user",
        ">tokens/s a GPU",
        ">with input",
        ">each token, ms",
        "layout",
        "bound by",
    )
    title = "Throughput of a GPU against speed for a user"
    return Chart("pareto", title, summary, drawing, table(title, heads, rows))


def _layout(point: ParetoPoint) -> str:
    split = ranks(point.parallel) or "one GPU"
    return f"{point.engine.name} {split}, {point.quantization.name}, {point.kv_dtype} KV, {plural(point.gpus, 'GPU')}"


def simulations(plan: Plan) -> Html | None:
    """What single requests saw, where they were simulated."""
    shown = [(one, one.simulation) for one in plan.candidates if one.simulation is not None]
    if not shown:
        return None
    first = shown[0][1]
    rate = first.arrival_rate_per_s
    work = plan.workload
    come = f"{rate:g} requests per second" if rate is not None else f"{plural(work.concurrency, 'user')} without pauses"
    vary = f"lengths that vary by {first.length_variation:.0%}" if first.length_variation else "equal lengths"
    rows = [(f"{one.rank}. {one.engine.name}, {_split(one)}", *_simulated(seen)) for one, seen in shown]
    heads = columns(
        "candidate", ">first token, s", ">each token, ms", ">request, s", ">queued, s", ">tokens/s", ">within bounds"
    )
    caption = "Simulated: median, 95th and 99th percentile"
    said = (
        f"Simulated request by request on the expected step times: {come}, {vary}; {plural(first.requests, 'request')}."
    )
    return joined([el("h3", "What single requests see"), el("p", said), table(caption, heads, rows)])


def _simulated(seen: Simulation) -> tuple[str, ...]:
    within = f"{seen.goodput_share:.0%}" + (", and the queue grows" if seen.saturated else "")
    return (
        _percentiles(seen.ttft_s), _percentiles(seen.tpot_s, 1e3), _percentiles(seen.latency_s),
        _percentiles(seen.queue_s), f"{seen.output_tokens_per_s:,.0f}", within,
    )  # fmt: skip


def _percentiles(values: Percentiles, scale: float = 1.0) -> str:
    return " / ".join(short(each * scale) for each in (values.p50, values.p95, values.p99))
