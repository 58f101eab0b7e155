"""The memory calculator's report for people."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from formulas.units import GB
from moeplan.text import BAD, DOUBTFUL, FAINT, GOOD, bullets, cell, heading, pairs, stacked, table
from moeplan.text_numbers import gib, plural
from moeplan.text_safe import printable
from planner.memory_report import ClaimVerdict, MemoryReport, WeightsRow

_VERDICTS = {
    "right": ("right", GOOD),
    "wrong": ("wrong", BAD),
    "not_checkable": ("cannot be checked", DOUBTFUL),
}
_SHORT = {
    "routed_experts": "routed\nexperts",
    "shared_experts": "shared\nexperts",
    "attention": "attention",
    "dense_ffn": "dense\nFFN",
    "router": "router",
    "embedding": "embed-\nding",
    "lm_head": "LM\nhead",
    "norms": "norms",
    "vision": "vision",
    "mtp": "MTP",
}


def memory_view(report: MemoryReport) -> RenderableType:
    """The claims or the quality where they were asked for; else weights, weights by class, and KV cache."""
    if report.claims:
        return stacked(_head(report), heading("Claims"), _claims(report.claims))
    if report.quality is not None:
        from moeplan.text_quality import quality_parts

        return stacked(_head(report), *quality_parts(report.quality))
    return stacked(
        _head(report),
        heading("Weights (GB is 10^9 bytes, GiB is 2^30)"),
        _weights(report.weights),
        heading("Weights by class, GB"),
        _classes(report.weights),
        _kv_cache(report),
        stacked(heading("Notes"), bullets(report.notes, FAINT)) if report.notes else None,
    )


def _head(report: MemoryReport) -> RenderableType:
    counts = report.parameters
    share = counts.active / counts.total if counts.total else 0.0
    without = f"{counts.active_without_embedding:,} without the embedding"
    return pairs(
        (
            (
                "model",
                f"{report.name} ({report.model}), {report.family}, up to {report.max_context:,} tokens",
            ),
            ("parameters", f"{counts.total:,}"),
            ("active", f"{counts.active:,} ({share:.2%}), {without}"),
        )
    )


def _weights(rows: tuple[WeightsRow, ...]) -> RenderableType:
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    columns = (
        "!quantization", "publisher", ">GB", ">GiB", ">GB read\nper token", "!vision", "!size is", ">note",
    )  # fmt: skip
    drawing = table(
        columns,
        [
            [
                row.quantization,
                row.publisher,
                f"{row.bytes / GB:,.2f}",
                gib(row.bytes, 2),
                f"{row.active_bytes_per_token / GB:,.2f}",
                "yes" if row.includes_vision else "no",
                row.evidence,
                str(notes.index(row.note) + 1) if row.note else "",
            ]
            for row in rows
        ],
    )
    return stacked(drawing, pairs([(str(number), note) for number, note in enumerate(notes, 1)]))


def _classes(rows: tuple[WeightsRow, ...]) -> RenderableType:
    present = [name for name in _SHORT if any(name in row.bytes_by_class for row in rows)]
    return table(
        ("!quantization", *(f">{_SHORT[name]}" for name in present)),
        [[row.quantization, *(_size(row.bytes_by_class.get(name)) for name in present)] for row in rows],
    )


def _size(size: int | None) -> str:
    return "" if size is None else f"{size / GB:,.2f}" if size >= GB / 100 else f"{size / GB:.4f}"


def _kv_cache(report: MemoryReport) -> RenderableType:
    """One table for each number of sequences and tokens."""
    parts: list[RenderableType] = []
    for sequences, tokens in dict.fromkeys((row.sequences, row.tokens) for row in report.kv_cache):
        rows: list[list[str | Text]] = [
            [
                row.layout,
                row.dtype,
                f"{row.bytes_per_token:,.0f}",
                f"{row.bytes / GB:,.2f}",
                gib(row.bytes, 2),
                Text(printable(row.note), style=FAINT),
            ]
            for row in report.kv_cache
            if (row.sequences, row.tokens) == (sequences, tokens)
        ]
        what = f"{plural(sequences, 'sequence')} of {tokens:,} tokens"
        parts.append(heading(f"KV cache of {what}, all layers, on one rank"))
        parts.append(table(("!layout", "!dtype", ">bytes per\ntoken", ">GB", ">GiB", "note"), rows))
    return stacked(*parts)


def _claims(claims: tuple[ClaimVerdict, ...]) -> RenderableType:
    rows: list[list[str | Text]] = []
    for claim in claims:
        word, style = _VERDICTS[claim.verdict]
        verdict = Text(word, style=style)
        if claim.off_by:
            verdict.append(f"\n{printable(claim.off_by)}", style="")
        rows.append([claim.claim, cell(claim.claimed, claim.computed), verdict, claim.reason])
    return table(("claim", "claimed\ncomputed", "verdict", "why"), rows)
