"""What the figures rest on, with sources and dates, and how they are to be read."""

from __future__ import annotations

from moeplan.report.markup import Html, bullets, columns, el, joined, linked, pairs, table
from moeplan.report.subject import Subject
from moeplan.report.summary import bounds_text, work_text
from moeplan.text_ledger import alike
from moeplan.text_numbers import plural
from planner.plan import Candidate

EVIDENCE = (
    ("exact", "counted from a published header or configuration, to the byte"),
    ("measured", "measured, on this kind of hardware or on this very machine; the source says where and when"),
    ("modelled", "computed from a model of the engine or of the hardware; the range is its known error"),
    ("assumed", "no fact is known; the source says what was taken instead"),
)


def assumptions_body(subject: Subject) -> Html:
    """Workload, notes, and every source that a figure of the candidate names."""
    plan, candidate = subject.plan, subject.candidate
    facts = pairs(
        (
            ("plan made by", plan.generated_by),
            ("workload", work_text(plan.workload)),
            ("bounds", bounds_text(plan.workload) or "none"),
            ("KV cache needed", f"{plan.workload.required_kv_tokens:,} tokens"),
            ("hardware", f"{plan.hardware.description}, {plural(plan.hardware.nodes, 'node')}"),
            ("prices", _prices(candidate)),
        )
    )
    notes = dict.fromkeys((*plan.hardware.notes, *plan.notes))
    found = _sources(candidate) if candidate is not None else []
    return joined(
        [
            facts,
            joined([el("h3", "Notes"), bullets([linked(note) for note in notes])]) if notes else None,
            table("Sources", columns("of what", "evidence", "source"), found, stack=True) if found else None,
        ]
    )


def _prices(candidate: Candidate | None) -> Html | None:
    cost = candidate.cost if candidate is not None else None
    if cost is None or cost.usd_per_hour is None:
        return None
    return joined([f"{cost.provider}, {cost.date}: ", linked(cost.source or "")])


def _sources(candidate: Candidate) -> list[tuple[str, Html, Html]]:
    """Every source once, with the kinds of evidence it gives and what rests on it."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}

    def add(source: str, evidence: str, area: str, of: str) -> None:
        found.setdefault((source, evidence, area), {})[of] = None

    for _, device in alike(candidate.memory):
        for entry in device.ledger:
            add(entry.source, entry.evidence, "memory", entry.what)
    speed = candidate.performance
    for row in (*speed.budget, *speed.prompt_budget):
        add(row.source, row.evidence, "time", row.what)
    for fact in candidate.quality.facts:
        add(fact.source, "measured", "quality", fact.suite)
    return [
        (
            f"{area}: {', '.join(uses)}",
            el("span", evidence, class_=f"evidence {evidence}"),
            el("span", linked(source or "not stated"), class_="faint"),
        )
        for (source, evidence, area), uses in found.items()
    ]


def reading_body(subject: Subject) -> Html:
    """How evidence, ranges, verdicts and units are to be read."""
    del subject
    kinds = el(
        "dl",
        *[el("div", el("dt", el("span", name, class_=f"evidence {name}")), el("dd", said)) for name, said in EVIDENCE],
        class_="pairs",
    )
    lines = (
        "A range runs from its low to its high end; where one number stands, it is exact.",
        "Fits: the engine starts with this context as its longest, the KV cache holds all requests at a time with "
        "their input and output, and no device runs short even where everything uncertain goes badly.",
        "Tight: the range of what is free straddles zero. It may start, and it may not.",
        "Short by: bytes that the device lacks in the best case.",
        "Speeds are those of the workload above; bound by says what limits most of the time: HBM is the GPU's memory.",
        "GB is 10^9 bytes, GiB is 2^30; 128k tokens are 131,072. Dollars are US dollars, a month has 730 hours.",
    )
    return joined([kinds, bullets(lines)])
