"""The report: what there is to say of a plan, in order."""

from __future__ import annotations

from moeplan.report.assumptions import assumptions_body, reading_body
from moeplan.report.document import Section, document
from moeplan.report.evidence import bench_body, check_body
from moeplan.report.figures import Chart
from moeplan.report.kv import kv_body, kv_charts
from moeplan.report.launching import launch_body
from moeplan.report.markup import Html, el
from moeplan.report.memory import memory_body, memory_chart
from moeplan.report.money import cost_body, cost_chart
from moeplan.report.rejected import rejected_body, rejected_chart
from moeplan.report.speed import fleet_table, pareto_chart, ranking, speed_body, speed_chart
from moeplan.report.subject import Subject
from moeplan.report.summary import asked, risk_body, sentence, tiles
from moeplan.text_plan import title


def page(subject: Subject, *, cdn: bool) -> str:
    """The whole file."""
    charts = charts_of(subject)
    name = f"{subject.plan.model.name} on {subject.plan.hardware.description}"
    return document(
        f"{name}: moeplan report", subject.generated_by, _header(subject, name), sections_of(subject), charts,
        _footer(subject, cdn=cdn and bool(charts)), cdn=cdn,
    )  # fmt: skip


def sections_of(subject: Subject) -> list[Section]:
    """Those that there is something to say of."""
    plan, candidate = subject.plan, subject.candidate
    found = []
    if candidate is not None:
        found.append(Section("risk", "Verdict and risk", risk_body(candidate)))
        found.append(Section("memory", "Memory", memory_body(candidate.memory)))
        if subject.curves is not None:
            body = kv_body(candidate.kv_cache, subject.curves, plan.workload)
            found.append(Section("kv-cache", "KV cache", body))
        found.append(Section("speed", "Speed", speed_body(plan, candidate)))
        found.append(Section("candidates", "Candidates", ranking(plan)))
    if plan.fleet is not None:
        found.append(Section("fleet", "Fleet", fleet_table(plan.fleet)))
    if plan.rejected:
        found.append(Section("rejected", "What does not fit", rejected_body(plan.rejected, _rejected_chart(subject))))
    if candidate is not None:
        found.append(Section("launch", "How to start it", launch_body(plan, candidate)))
    if subject.check is not None:
        found.append(Section("check", "Check of the machine", check_body(subject.check)))
    if subject.bench is not None:
        found.append(Section("bench", "Benchmark of the machine", bench_body(subject.bench)))
    if candidate is not None:
        found.append(Section("cost", "Cost", cost_body(subject.cost, subject.no_cost, candidate.cost)))
    found.append(Section("assumptions", "Assumptions and sources", assumptions_body(subject)))
    found.append(Section("reading", "How to read this", reading_body(subject)))
    return found


def charts_of(subject: Subject) -> tuple[Chart, ...]:
    """Every picture of the page."""
    plan, candidate = subject.plan, subject.candidate
    if candidate is None:
        chart = _rejected_chart(subject)
        return (chart,) if chart is not None else ()
    found = [memory_chart(candidate.memory), speed_chart(plan.candidates, candidate)]
    if subject.curves is not None:
        found += kv_charts(candidate.kv_cache, subject.curves, plan.workload)
    if plan.pareto:
        found.append(pareto_chart(plan.pareto))
    if subject.cost is not None and (subject.cost.local or subject.cost.api):
        found.append(cost_chart(subject.cost))
    return tuple(found)


def _rejected_chart(subject: Subject) -> Chart | None:
    return rejected_chart(subject.plan.rejected) if subject.candidate is None else None


def _header(subject: Subject, name: str) -> Html:
    candidate = subject.candidate
    verdict = candidate.verdict if candidate is not None else "no"
    words = {"fits": "fits", "tight": "tight", "no": "does not fit"}
    of = f"Rank {candidate.rank}: {title(candidate)}" if candidate is not None else ""
    return el(
        "header",
        el("p", "moeplan report", class_="kind"),
        el("h1", name),
        el("p", el("span", words[verdict], class_=f"verdict {verdict}"), " ", of, class_="of"),
        el("p", sentence(subject), class_="recommendation"),
        tiles(candidate) if candidate is not None else None,
        asked(subject.plan),
    )


def _footer(subject: Subject, *, cdn: bool) -> Html:
    made = f"Written by {subject.generated_by} on {subject.today.isoformat()}."
    plan = f"The plan was made by {subject.plan.generated_by}."
    whole = (
        "Its charts are drawn by a library that it loads; without the network, their figures stand in tables."
        if cdn
        else "This file is complete in itself: it loads nothing and sends nothing."
    )
    return el("footer", el("p", f"{made} {plan} {whole}"))
