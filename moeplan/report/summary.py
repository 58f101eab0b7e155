"""The recommendation: in one sentence, in the figures that decide, and with what may go wrong."""

from __future__ import annotations

from formulas.units import GB
from moeplan.report.markup import Html, bullets, columns, el, joined, linked, pairs, table
from moeplan.report.memory import entry_size
from moeplan.report.subject import Subject
from moeplan.text_ledger import alike, tightest
from moeplan.text_numbers import gib_span, plural, span_of
from moeplan.text_plan import layout
from moeplan.text_rejections import best_remedy
from planner.plan import Candidate, LedgerEntry, Memory, Plan, WorkloadRef

SOURCES = {"flags": "as described", "detected": "as detected", "file": "from an inventory file"}
VERDICTS = {
    "fits": "It fits: even if everything uncertain goes badly, no device runs out of memory.",
    "tight": "It is tight: within the uncertainty of the figures a device may run out of memory when it starts.",
    "no": "It does not fit.",
}
MOST_UNCERTAIN = 8


def sentence(subject: Subject) -> str:
    """The recommendation."""
    plan, candidate = subject.plan, subject.candidate
    if candidate is None:
        nearest = best_remedy(plan.rejected)
        near = f" Nearest: {nearest}" if nearest else " No engine applies."
        one = plan.search.evaluated == 1
        said = "The configuration that was asked for does not run" if one else "Nothing that was tried runs"
        return f"{said} {plan.model.name} on {plan.hardware.description} with this work.{near}"
    speed, work, release = candidate.performance, plan.workload, candidate.quantization
    device = tightest(candidate.memory)
    free = (
        f", with {gib_span(device.free_low_bytes, device.free_high_bytes)} GiB free on the tightest device"
        if device is not None
        else ""
    )
    starts = {"fits": "fits", "tight": "may just fit", "no": "does not fit"}[candidate.verdict]
    return (
        f"Run {plan.model.name} in {release.name} by {release.publisher} on {candidate.engine.name} "
        f"{candidate.engine.version}, {layout(candidate)}: it {starts}{free}, and {_of_requests(candidate, work)} gets "
        f"{span_of(speed.decode_tokens_per_s_per_request)} tokens per second."
    )


def _of_requests(candidate: Candidate, work: WorkloadRef) -> str:
    running = candidate.performance.effective_concurrency
    if running < work.concurrency:
        return f"each of about {running:,.3g} requests that run at a time ({work.concurrency:,} are asked for)"
    return f"each of {work.concurrency:,} requests at a time" if work.concurrency > 1 else "the one request at a time"


def tiles(candidate: Candidate) -> Html:
    """The figures that decide."""
    speed, cache, cost = candidate.performance, candidate.kv_cache, candidate.cost
    device = tightest(candidate.memory)
    tokens = cost.usd_per_million_output_tokens if cost is not None else None
    figures = [
        ("GiB free on the tightest device", gib_span(device.free_low_bytes, device.free_high_bytes) if device else ""),
        ("tokens per second for each request", span_of(speed.decode_tokens_per_s_per_request)),
        ("tokens per second for all requests", span_of(speed.decode_tokens_per_s_total)),
        ("seconds to the first token", span_of(speed.ttft_s)),
        ("tokens fit in the KV cache", f"{cache.tokens:,}"),
        ("dollars per million output tokens, rented", span_of(tokens) if tokens is not None else ""),
    ]
    drawn = [el("div", el("dt", name), el("dd", value)) for name, value in figures if value]
    return el("dl", *drawn, class_="tiles")


def asked(plan: Plan) -> Html:
    """What the plan was asked."""
    model, hardware = plan.model, plan.hardware
    share = f" ({model.active_parameters / model.parameters:.2%})" if model.parameters else ""
    return pairs(
        (
            (
                "model",
                f"{model.name} ({model.id}): {model.parameters / 1e9:,.1f} billion parameters, "
                f"{model.active_parameters / 1e9:,.1f} billion active{share}, up to {model.max_context:,} tokens",
            ),
            ("hardware", f"{hardware.description}, {SOURCES[hardware.source]}"),
            ("workload", work_text(plan.workload)),
            ("bounds", bounds_text(plan.workload)),
            ("searched", searched_text(plan)),
        )
    )


def work_text(work: WorkloadRef) -> str:
    """Requests, their lengths and the context."""
    images = f", {plural(work.images, 'image')} each" if work.images else ""
    routing = "" if work.routing == "uniform" else ", experts chosen by a power law"
    cached = (
        f", {work.prefix_cache_hit_rate:.0%} of the input found in the prefix cache"
        if work.prefix_cache_hit_rate
        else ""
    )
    return (
        f"{work.name}: {plural(work.concurrency, 'request')} at a time of {work.input_tokens:,} input and "
        f"{work.output_tokens:,} output tokens, context {work.context:,} tokens{images}{routing}{cached}"
    )


def bounds_text(work: WorkloadRef) -> str:
    """Bounds that were asked for; empty without."""
    bounds = (
        f"first token within {work.ttft_s:g} s" if work.ttft_s is not None else "",
        f"{work.tpot_s * 1e3:g} ms per token" if work.tpot_s is not None else "",
        f"at least {work.min_throughput:g} tokens/s in total" if work.min_throughput is not None else "",
    )
    return ", ".join(bound for bound in bounds if bound)


def searched_text(plan: Plan) -> str:
    """How many configurations there were."""
    search = plan.search
    if search.evaluated == 1:
        return "exactly the configuration that was asked for"
    return (
        f"{search.evaluated:,} configurations: {search.fitting:,} fit, {search.tight:,} are tight, "
        f"{search.rejected:,} do not fit; ranked by the {plan.objective} objective"
    )


def risk_body(candidate: Candidate) -> Html:
    """The verdict, its reasons, warnings, and which parts of the memory are least sure."""
    release = candidate.quantization
    uncertain = uncertain_entries(candidate.memory)
    quality: list[Html | str] = [candidate.quality.note] if candidate.quality.note else []
    for fact in candidate.quality.facts:
        baseline = f" against {fact.baseline:g}" if fact.baseline is not None else ""
        quality.append(linked(f"{fact.metric} {fact.value:g}{baseline} ({fact.suite}; {fact.source})"))
    facts = pairs(
        (
            ("why", candidate.why),
            (
                "weights",
                f"{release.bytes / GB:,.2f} GB, {release.evidence}, "
                f"{release.release or 'published by nobody that is known'}",
            ),
            ("speed is", f"{candidate.performance.evidence}, bound by {candidate.performance.bound_by}"),
            ("quality", joined(quality, Html("; ")) if quality else None),
        )
    )
    said = el(
        "p", el("span", candidate.verdict, class_=f"verdict {candidate.verdict}"), " ", VERDICTS[candidate.verdict],
        class_="lead",
    )  # fmt: skip
    rows = [
        (
            f"{place}: {entry.what}",
            entry_size(entry),
            el("span", entry.evidence, class_=f"evidence {entry.evidence}"),
        )
        for place, entry in uncertain
    ]
    unsure = (
        table("Least sure parts of the memory, GiB", columns("device, entry", ">GiB", "evidence"), rows)
        if rows
        else el("p", "Every entry of the memory is exact.")
    )
    warnings = joined([el("h3", "Warnings"), bullets(candidate.warnings)]) if candidate.warnings else None
    return joined([said, facts, warnings, unsure])


def uncertain_entries(memory: Memory) -> list[tuple[str, LedgerEntry]]:
    """Entries whose range is widest, widest first."""
    found = [
        (place, entry)
        for place, device in alike(memory)
        for entry in device.ledger
        if entry.high_bytes > entry.low_bytes
    ]
    return sorted(found, key=lambda one: one[1].low_bytes - one[1].high_bytes)[:MOST_UNCERTAIN]
