"""The page: sections in order, the charts' data, and the policy that keeps everything else out.

The policy allows exactly the scripts and the style sheet of this page, by their hashes. plotly.js makes a style sheet
that is empty and fills it through its interface, which the hash of nothing allows. It would also add the style sheet of
its maps, which are not drawn here, unless an element with that sheet's id is there: ``_stand_ins`` puts one there.
``tests/browser`` holds the page to not a single violation.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

from moeplan.report.assumptions import assumptions_body, reading_body
from moeplan.report.evidence import bench_body, check_body
from moeplan.report.figures import Chart
from moeplan.report.kv import kv_body, kv_charts
from moeplan.report.launching import launch_body
from moeplan.report.markup import Html, el, text
from moeplan.report.memory import memory_body, memory_chart
from moeplan.report.money import cost_body, cost_chart
from moeplan.report.rejected import rejected_body, rejected_chart
from moeplan.report.speed import fleet_table, pareto_chart, ranking, speed_body, speed_chart
from moeplan.report.subject import Subject
from moeplan.report.summary import asked, risk_body, sentence, tiles
from moeplan.text_plan import title

_SHEET: Final = re.compile(r'document\.getElementById\("([0-9a-f]{64})"\)')
CDN: Final = "https://cdn.plot.ly/plotly-{version}.min.js"


class Section(NamedTuple):
    """A part of the page."""

    name: str
    title: str
    body: Html


def page(subject: Subject, *, cdn: bool) -> str:
    """The whole file."""
    sections = sections_of(subject)
    charts = charts_of(subject)
    scripts = [_library(cdn=cdn), el_script(asset("page.js"))] if charts else []
    name = f"{subject.plan.model.name} on {subject.plan.hardware.description}"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy(cdn=cdn and bool(charts))),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="generator", content=subject.generated_by),
        el("title", text(f"{name}: moeplan report")),
        Html(f"<style>{asset('page.css')}</style>"),
    )
    body = el(
        "body",
        el("a", "Skip to the content", href="#content", class_="skip"),
        _header(subject, name),
        _contents(sections),
        el("main", *[_drawn(section) for section in sections], id="content", tabindex=-1),
        _footer(subject, cdn=cdn and bool(charts)),
        Html(f'<script type="application/json" id="charts">{data(charts)}</script>') if charts else None,
        *_stand_ins(charts),
        *scripts,
    )
    return f'<!doctype html>\n<html lang="en">\n{head}\n{body}\n</html>\n'


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


def _contents(sections: list[Section]) -> Html:
    links = [el("li", el("a", section.title, href=f"#{section.name}")) for section in sections]
    return el("nav", el("ul", *links), aria_label="Sections")


def _drawn(section: Section) -> Html:
    head = f"{section.name}-title"
    return el("section", el("h2", section.title, id=head), section.body, id=section.name, aria_labelledby=head)


def _footer(subject: Subject, *, cdn: bool) -> Html:
    made = f"Written by {subject.generated_by} on {subject.today.isoformat()}."
    plan = f"The plan was made by {subject.plan.generated_by}."
    whole = (
        "Its charts are drawn by a library that it loads; without the network, their figures stand in tables."
        if cdn
        else "This file is complete in itself: it loads nothing and sends nothing."
    )
    return el("footer", el("p", f"{made} {plan} {whole}"))


def data(charts: tuple[Chart, ...]) -> str:
    """The figures as JSON that cannot end its element."""
    written = json.dumps({chart.name: chart.figure for chart in charts}, allow_nan=False, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def el_script(code: str) -> Html:
    """A script as it stands; its text must not hold the end of the element."""
    if "</script" in code.lower() or "<!--" in code:
        raise ValueError("a script that would end its element")
    return Html(f"<script>{code}</script>")


def _library(*, cdn: bool) -> Html:
    from plotly.offline import get_plotlyjs

    if not cdn:
        return el_script(get_plotlyjs())
    digest = b64encode(sha256(get_plotlyjs().encode()).digest()).decode()
    return el("script", src=cdn_address(), integrity=f"sha256-{digest}", crossorigin="anonymous")


def _stand_ins(charts: tuple[Chart, ...]) -> list[Html]:
    """Empty elements with the ids of style sheets that the library would add."""
    from plotly.offline import get_plotlyjs

    return [el("template", id=name) for name in dict.fromkeys(_SHEET.findall(get_plotlyjs()))] if charts else []


def cdn_address() -> str:
    """Where the very version of the installed library is published."""
    from plotly.offline import get_plotlyjs_version

    return CDN.format(version=get_plotlyjs_version())


def policy(*, cdn: bool) -> str:
    """The content security policy."""
    from plotly.offline import get_plotlyjs

    library = cdn_address() if cdn else hashed(get_plotlyjs())
    rules = (
        "default-src 'none'",
        f"script-src {library} {hashed(asset('page.js'))}",
        f"style-src {hashed(asset('page.css'))} {hashed('')}",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def hashed(code: str) -> str:
    """A source of the policy.

    >>> hashed("")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'"


@cache
def asset(name: str) -> str:
    """A file beside this one."""
    return (files("moeplan.report") / name).read_text(encoding="utf-8")
