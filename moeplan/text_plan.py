"""A plan and an estimate for people, drawn from the objects that become JSON."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from formulas.units import GB
from moeplan.launch.shell_text import assignments, command_lines
from moeplan.text import (
    BAD,
    DOUBTFUL,
    FAINT,
    VERDICT_STYLES,
    bullets,
    cell,
    heading,
    line,
    pairs,
    stacked,
    table,
    verbatim,
)
from moeplan.text_fleet import fleet_view
from moeplan.text_ledger import free_style, ledgers, memory_table, tightest
from moeplan.text_numbers import gib, gib_span, plural, span, span_of
from moeplan.text_rejections import best_remedy, rejections_view
from moeplan.text_safe import printable
from moeplan.text_simulation import simulations_view
from moeplan.text_speed import pareto_table, time_budgets
from planner.plan import Candidate, Cost, KvCache, Parallel, Plan, Quality, QuantizationRef, WorkloadRef

_SOURCES = {"flags": "as described", "detected": "this machine", "file": "from the inventory file"}
MAX_QUALITY_FACTS = 3


def plan_view(plan: Plan, *, explain: bool = False, default_workload: bool = False) -> RenderableType:
    """The ranking, the best candidate in full, and what was rejected. ``explain`` adds every ledger."""
    parts: list[RenderableType | None] = [header(plan, default_workload=default_workload)]
    if plan.fleet is not None:
        parts.append(fleet_view(plan.fleet))
    if plan.candidates:
        best = plan.candidates[0]
        parts += [
            _verdict_line(plan),
            ranking(plan),
            simulations_view(plan),
            _details(best, plan, f"Rank {best.rank}: {title(best)}"),
        ]
    else:
        parts.append(_nothing_fits(plan))
    if explain:
        for candidate in plan.candidates:
            parts += [
                heading(f"Ledger of rank {candidate.rank}: {title(candidate)}"),
                ledgers(candidate.memory),
                heading(f"Time of rank {candidate.rank}"),
                time_budgets(candidate.performance),
            ]
        if plan.pareto:
            parts += [heading("Throughput against speed"), pareto_table(plan.pareto)]
    parts += [rejections_view(plan.rejected, everything=explain), _notes(plan)]
    return stacked(*parts)


def estimate_view(plan: Plan) -> RenderableType:
    """One configuration with its ledger, whether it fits or not."""
    parts: list[RenderableType | None] = [header(plan, default_workload=False)]
    for candidate in plan.candidates:
        parts.append(candidate_view(candidate, plan))
    parts.append(simulations_view(plan))
    for rejected in plan.rejected:
        layout = f", {ranks(rejected.parallel)}" if rejected.parallel and ranks(rejected.parallel) else ""
        short = f", short by {gib(rejected.short_by_bytes)} GiB" if rejected.short_by_bytes else ""
        place = f" on {rejected.device}" if rejected.device and short else ""
        name = f"{rejected.engine}{layout}, {rejected.quantization}"
        parts.append(Text(f"\nDoes not fit: {printable(name + short + place)}", style=BAD))
        parts.append(pairs((("reason", rejected.reason), ("remedy", rejected.remedy))))
        if rejected.kv_cache is not None:
            parts.append(pairs(_kv_rows(rejected.kv_cache, plan.workload)))
        if rejected.memory is not None:
            parts += [Text(""), memory_table(rejected.memory), heading("Ledger"), ledgers(rejected.memory)]
        else:
            parts.append(line("  There is no ledger: the engine does not get as far as allocating memory."))
    parts.append(_notes(plan))
    return stacked(*parts)


def candidate_view(candidate: Candidate, plan: Plan) -> RenderableType:
    """One configuration that may start: everything about it, its ledger and its time by kernel."""
    return stacked(
        _details(candidate, plan, f"{candidate.verdict.capitalize()}: {title(candidate)}"),
        heading("Ledger"),
        ledgers(candidate.memory),
        heading("Time"),
        time_budgets(candidate.performance),
    )


def header(plan: Plan, *, default_workload: bool) -> RenderableType:
    """What was asked: model, hardware as it was understood, work."""
    model, work, hardware = plan.model, plan.workload, plan.hardware
    share = model.active_parameters / model.parameters if model.parameters else 0.0
    images = f", {plural(work.images, 'image')} each" if work.images else ""
    routing = "" if work.routing == "uniform" else ", experts chosen by a power law"
    asked = (
        f"{work.name}{' (the default)' if default_workload else ''}: {plural(work.concurrency, 'request')} "
        f"at a time of {work.input_tokens:,} + {work.output_tokens:,} tokens, "
        f"context {work.context:,} tokens{images}{routing}"
    )
    return pairs(
        (
            (
                "model",
                f"{model.name} ({model.id}): {model.parameters / 1e9:,.1f} billion parameters, "
                f"{model.active_parameters / 1e9:,.1f} billion active ({share:.2%}), "
                f"up to {model.max_context:,} tokens",
            ),
            ("hardware", f"{hardware.description}, {_SOURCES[hardware.source]}"),
            *(("", note) for note in hardware.notes),
            ("workload", asked),
            ("bounds", _bounds(work)),
        )
    )


def title(candidate: Candidate) -> str:
    """``vllm 0.18.0, int4 (moonshotai), TP8 EP8``."""
    engine = f"{candidate.engine.name} {candidate.engine.version}"
    return f"{engine}, {release_name(candidate)}, {layout(candidate)}"


def layout(candidate: Candidate) -> str:
    """How the model is split: ``TP8 PP2``, ``23 layers' experts in RAM``."""
    gpus = sum(device.kind in ("gpu", "unified") for device in candidate.memory.devices)
    split = ranks(candidate.parallel) or ("CPU only" if gpus == 0 else plural(gpus, "GPU"))
    offload = candidate.offload
    parts = [split]
    if offload.cpu_expert_layers and gpus:
        kept = f" but {offload.gpu_experts_per_layer} a layer" if offload.gpu_experts_per_layer else ""
        parts.append(
            f"{plural(offload.cpu_expert_layers, 'layer')}' experts{kept} in RAM".replace("layer' ", "layer's ")
        )
    if offload.disk:
        parts.append(f"{gib(offload.disk_bytes)} GiB on disk")
    return ", ".join(parts)


def ranks(parallel: Parallel) -> str:
    """``TP8 EP8``; what is 1 is left out."""
    names = ("tp", "pp", "dp", "ep", "dcp")
    return " ".join(f"{name.upper()}{getattr(parallel, name)}" for name in names if getattr(parallel, name) > 1)


def ranking(plan: Plan) -> RenderableType:
    """Two lines for each candidate; every number has its unit in the head."""
    columns = (
        ">#", "engine, layout\nquantization", "verdict\nfree GiB", ">KV tokens\nsequences",
        ">tok/s each\ntok/s in total", ">first token, s\neach token, ms", "bound by",
    )  # fmt: skip
    return table(columns, [_ranking_row(candidate) for candidate in plan.candidates])


def _ranking_row(candidate: Candidate) -> list[str | Text]:
    device, speed, cache = tightest(candidate.memory), candidate.performance, candidate.kv_cache
    verdict = Text(candidate.verdict, style=VERDICT_STYLES[candidate.verdict])
    if device is not None:
        verdict.append(f"\n{gib_span(device.free_low_bytes, device.free_high_bytes)}", style=free_style(device))
    return [
        str(candidate.rank),
        cell(f"{candidate.engine.name}, {layout(candidate)}", release_name(candidate)),
        verdict,
        cell(f"{cache.tokens:,}", f"{cache.max_sequences_at_context:,}"),
        cell(span_of(speed.decode_tokens_per_s_per_request), span_of(speed.decode_tokens_per_s_total)),
        cell(span_of(speed.ttft_s), span_of(speed.tpot_s, 1e3)),
        speed.bound_by,
    ]


def _verdict_line(plan: Plan) -> RenderableType:
    search = plan.search
    counts = f"{search.fitting:,} fit, {search.tight:,} tight, {search.rejected:,} do not fit"
    text = f"\n{search.evaluated:,} configurations: {counts}. Ranked by the {plan.objective} objective:"
    if plan.candidates[0].fits:
        return Text(text)
    return stacked(Text("\nNothing surely fits; the best is tight.", style=DOUBTFUL), Text(text.lstrip("\n")))


def _nothing_fits(plan: Plan) -> RenderableType:
    remedy = best_remedy(plan.rejected)
    return stacked(
        Text("\nNothing fits.", style=BAD),
        line(f"Nearest: {remedy}" if remedy else "Nothing was even refused: no engine applies."),
    )


def _details(candidate: Candidate, plan: Plan, over: str) -> RenderableType:
    speed, warnings = candidate.performance, candidate.warnings
    admitted = ""
    if speed.effective_concurrency < plan.workload.concurrency:
        admitted = f", {speed.effective_concurrency:,.3g} of {plan.workload.concurrency:,} requests run at a time"
    decode = (
        f"{span_of(speed.decode_tokens_per_s_per_request)} tok/s for each request, "
        f"{span_of(speed.decode_tokens_per_s_total)} tok/s in total, {span_of(speed.tpot_s, 1e3)} ms a token"
    )
    prefill = f"{span_of(speed.prefill_tokens_per_s)} tok/s, first token after {span_of(speed.ttft_s)} s"
    return stacked(
        heading(over),
        pairs(
            (
                ("why", candidate.why),
                ("weights", _weights(candidate.quantization)),
                ("decode", decode),
                ("prefill", prefill),
                ("bound by", f"{speed.bound_by} ({speed.evidence}){admitted}"),
                *_kv_rows(candidate.kv_cache, plan.workload),
                ("quality", _quality(candidate.quality)),
                ("cost", _cost(candidate.cost)),
            )
        ),
        Text(""),
        memory_table(candidate.memory),
        stacked(heading("Warnings"), bullets(warnings, DOUBTFUL)) if warnings else None,
        _command(candidate),
    )


def _weights(release: QuantizationRef) -> str:
    size = f"{release.bytes / GB:,.2f} GB ({gib(release.bytes, 2)} GiB), {release.evidence}"
    return f"{size}, {release.release or 'which nobody is known to publish'}"


def _kv_rows(cache: KvCache, work: WorkloadRef) -> tuple[tuple[str, str], ...]:
    budget = gib_span(max(cache.budget_low_bytes_per_rank, 0), max(cache.budget_high_bytes_per_rank, 0))
    return (
        (
            "KV cache",
            f"{cache.dtype} {cache.layout}, {cache.bytes_per_token_per_rank:,.0f} bytes per token and rank; "
            f"room for {budget} GiB on a rank",
        ),
        (
            "",
            f"holds {cache.tokens:,} tokens where {cache.required_tokens:,} are needed, and "
            f"{plural(cache.max_sequences_at_context, 'sequence')} of {work.context:,} tokens",
        ),
    )


def _quality(quality: Quality) -> str:
    texts = [quality.note] if quality.note else []
    for fact in quality.facts[:MAX_QUALITY_FACTS]:
        baseline = f" against {fact.baseline:g}" if fact.baseline is not None else ""
        throughout = ", of its main type throughout" if fact.measured_on == "type" else ""
        texts.append(f"{fact.metric} {fact.value:g}{baseline} ({fact.suite}{throughout})")
    return "; ".join(texts)


def _cost(cost: Cost | None) -> str:
    if cost is None or cost.usd_per_hour is None:
        return cost.note if cost is not None else ""
    tokens = cost.usd_per_million_output_tokens
    each = f", {span(tokens.low, tokens.high)} USD per million output tokens" if tokens is not None else ""
    return f"{cost.usd_per_hour:,.2f} USD per hour{each} ({cost.provider}, {cost.date})"


def _command(candidate: Candidate) -> RenderableType | None:
    launch = candidate.launch
    nodes = launch.per_node_argv
    argv = nodes[0] if nodes else launch.argv
    if not argv or candidate.quantization.status == "hypothetical":
        return None
    several = f" (node 0 of {len(nodes)}; `moeplan launch` writes the files of all)" if len(nodes) > 1 else ""
    rows = [f"  {row}" for row in command_lines(argv)]
    environment = [f"  {assignment} \\" for assignment in assignments(launch.env)]
    return stacked(heading(f"Start{several}"), *(verbatim(row) for row in (*environment, *rows)))


def release_name(candidate: Candidate) -> str:
    """``int4 (moonshotai)``."""
    return f"{candidate.quantization.name} ({candidate.quantization.publisher})"


def _bounds(work: WorkloadRef) -> str:
    bounds = (
        f"first token within {work.ttft_s:g} s" if work.ttft_s is not None else "",
        f"{work.tpot_s * 1e3:g} ms per token" if work.tpot_s is not None else "",
        f"at least {work.min_throughput:g} tok/s in total" if work.min_throughput is not None else "",
    )
    return ", ".join(bound for bound in bounds if bound)


def _notes(plan: Plan) -> RenderableType | None:
    notes = [note for note in plan.notes if note not in plan.hardware.notes]
    return stacked(heading("Notes"), bullets(notes, FAINT)) if notes else None
