"""Simulations for people: what single requests of every shown plan saw."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from moeplan.text import BAD, DOUBTFUL, GOOD, cell, line, stacked, table
from moeplan.text_numbers import plural
from planner.plan import Candidate, Percentiles, Plan, Simulation


def simulations_view(plan: Plan) -> RenderableType | None:
    """A row for each candidate that was simulated; None when none was."""
    shown = [(one, one.simulation) for one in plan.candidates if one.simulation is not None]
    if not shown:
        return None
    columns = (
        ">#", ">TTFT, s: p50\np95, p99", ">TPOT, ms: p50\np95, p99", ">request, s: p50\np95, p99",
        ">queued, s: p50\np95, p99", ">running\nwaiting\npreempted", ">tok/s\nrequests/s", "within\nbounds",
    )  # fmt: skip
    rows = [_row(candidate, seen) for candidate, seen in shown]
    return stacked(Text(""), line(_said(plan, [seen for _, seen in shown])), Text(""), table(columns, rows))


def _said(plan: Plan, seen: Sequence[Simulation]) -> str:
    first, work = seen[0], plan.workload
    rate = first.arrival_rate_per_s
    come = f"{rate:g} requests per second" if rate is not None else f"{plural(work.concurrency, 'user')} without pauses"
    lengths = (
        f"lengths that vary by {first.length_variation:.0%}" if first.length_variation else "all of the same length"
    )
    return f"Simulated on the expected step times: {come}, {lengths}; {plural(first.requests, 'request')} counted."


def _row(candidate: Candidate, seen: Simulation) -> list[str | Text]:
    good = GOOD if seen.goodput_share >= 0.99 else DOUBTFUL if seen.goodput_share >= 0.5 else BAD
    within = Text(f"{seen.goodput_share:.0%}", style=good)
    if seen.saturated:
        within.append("\nqueue grows", style=BAD)
    return [
        str(candidate.rank),
        _cell(seen.ttft_s),
        _cell(seen.tpot_s, 1e3),
        _cell(seen.latency_s),
        _cell(seen.queue_s),
        cell(f"{seen.mean_running:,.1f}", f"{seen.mean_waiting:,.1f}", f"{seen.preemptions:,}"),
        cell(f"{seen.output_tokens_per_s:,.0f}", f"{seen.requests_per_s:,.2f}"),
        within,
    ]


def _cell(values: Percentiles, scale: float = 1.0) -> Text:
    def shown(value: float) -> str:
        value *= scale
        return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"

    return cell(shown(values.p50), f"{shown(values.p95)}, {shown(values.p99)}")
