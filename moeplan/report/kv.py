"""The KV cache: what it takes over context and concurrency, and what another layout would take."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import Any, Final

from formulas.units import GIB
from moeplan.report.figures import (
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    Chart,
    Key,
    context_axis,
    drawn,
    figure,
    label,
    tokens,
)
from moeplan.report.markup import Html, columns, el, joined, pairs, table
from moeplan.text_numbers import gib, gib_span, plural
from planner.kv_curve import KvCurves, KvForm, KvLoad
from planner.plan import KvCache, WorkloadRef

COLOURS: Final = (BLUE, ORANGE, GREEN, PINK)
DASHES: Final = ("solid", "dash", "dot", "dashdot")
SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up")
FORMS: Final = {
    "mla": "MLA",
    "mla_expanded_mha": "this MLA expanded to heads",
    "gqa": "GQA",
    "mha": "MHA",
    "linear": "linear attention",
}
HEIGHT: Final = 340


def kv_body(cache: KvCache, curves: KvCurves, work: WorkloadRef) -> Html:
    """The section's body."""
    facts = pairs(
        (
            ("layout and format", f"{form_name(cache.layout)}, {cache.dtype}"),
            ("a token", f"{cache.bytes_per_token_per_rank:,.0f} bytes on every rank"),
            ("room", f"{_budget(cache)} GiB on a rank, which holds {cache.tokens:,} tokens"),
            ("needed", f"{cache.required_tokens:,} tokens for {plural(work.concurrency, 'request')} at a time"),
            (
                "longest requests",
                f"{plural(cache.max_sequences_at_context, 'sequence')} of {work.context:,} tokens fit together",
            ),
        )
    )
    charts = [drawn(chart) for chart in kv_charts(cache, curves, work)]
    uneven = (
        el(
            "p",
            "This model keeps windows or states beside its cache: tokens do not all take the same, and only its whole "
            "cache is drawn over the context.",
        )
        if curves.forms and not curves.loads
        else None
    )
    return joined([facts, uneven, *charts])


def kv_charts(cache: KvCache, curves: KvCurves, work: WorkloadRef) -> tuple[Chart, ...]:
    """Those for which there are curves."""
    found = []
    if curves.loads:
        found.append(load_chart(cache, curves, work))
    if curves.forms:
        found.append(form_chart(curves.forms))
    return tuple(found)


def load_chart(cache: KvCache, curves: KvCurves, work: WorkloadRef) -> Chart:
    """KV cache on a rank over the context, one line for each number of sequences, below the room that there is."""
    contexts = [room.context for room in curves.room]
    traces = _room_band(cache, contexts)
    for place, load in enumerate(curves.loads):
        sizes = [point.bytes for point in load.points]
        traces.append(_line(_load_name(load, work), place, contexts, sizes))
    heads = columns(
        ">context, tokens",
        *[f">{plural(load.sequences, 'sequence')}, GiB" for load in curves.loads],
        ">sequences that fit",
    )
    rows = [
        (
            f"{room.context:,}",
            *[gib(load.points[place].bytes, 2) for load in curves.loads],
            f"{room.sequences:,}",
        )
        for place, room in enumerate(curves.room)
    ]
    at = next((room for room in curves.room if room.context == work.context), curves.room[0])
    longest = curves.room[-1]
    summary = (
        f"Room for {_budget(cache)} GiB on a rank: {plural(at.sequences, 'sequence')} of {at.context:,} tokens, "
        f"{longest.sequences:,} of {longest.context:,}."
    )
    drawing = figure(traces, HEIGHT, context_axis(contexts), _size_axis("KV cache on one rank, GiB", traces))
    title = "KV cache against context and concurrency"
    keys = [Key(_load_name(load, work), COLOURS[place], DASHES[place]) for place, load in enumerate(curves.loads)]
    if cache.budget_low_bytes_per_rank > 0:
        keys.append(Key("room on a rank", RED, "longdash"))
    return Chart("kv-load", title, summary, drawing, table(f"{title}, on one rank", heads, rows), tuple(keys))


def _budget(cache: KvCache) -> str:
    return gib_span(max(cache.budget_low_bytes_per_rank, 0), max(cache.budget_high_bytes_per_rank, 0))


def _load_name(load: KvLoad, work: WorkloadRef) -> str:
    named = plural(load.sequences, "sequence")
    return f"{named} (as planned)" if load.sequences == work.concurrency else named


def _room_band(cache: KvCache, contexts: Sequence[int]) -> list[dict[str, Any]]:
    """The room on a rank as a band from its low to its high end."""
    ends = [contexts[0], contexts[-1]]
    low, high = max(cache.budget_low_bytes_per_rank, 0), max(cache.budget_high_bytes_per_rank, 0)
    if not low:
        return []
    hover = label(f"room on a rank: {gib_span(low, high)} GiB")
    edge = {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    return [
        {**edge, "y": [low / GIB] * 2},
        {**edge, "y": [high / GIB] * 2, "fill": "tonexty", "fillcolor": "rgba(213,94,0,0.25)"},
        {
            **edge, "y": [cache.budget_bytes_per_rank / GIB] * 2, "name": "room on a rank",
            "line": {"color": RED, "width": 2, "dash": "longdash"}, "hovertext": hover, "hoverinfo": "text",
        },
    ]  # fmt: skip


def form_chart(forms: tuple[KvForm, ...]) -> Chart:
    """One sequence of the whole model over the context, in each layout."""
    contexts = [point.context for point in forms[0].points]
    names = [_named(form, place) for place, form in enumerate(forms)]
    traces = [
        _line(name, place, contexts, [point.bytes for point in form.points])
        for place, (name, form) in enumerate(zip(names, forms, strict=True))
    ]
    heads = columns(">context, tokens", *[f">{name}, GiB" for name in names])
    rows = [
        (f"{context:,}", *[gib(form.points[place].bytes, 2) for form in forms])
        for place, context in enumerate(contexts)
    ]
    ends = [f"{gib(form.points[-1].bytes)} GiB as {name}" for name, form in zip(names, forms, strict=True)]
    summary = f"One sequence of {contexts[-1]:,} tokens takes {', '.join(ends)}."
    title = "One sequence in this model's layout" + (", and beside it as GQA and MHA" if len(forms) > 1 else "")
    drawing = figure(traces, HEIGHT, context_axis(contexts), _size_axis("KV cache, all layers, GiB", traces))
    notes = joined([el("p", f"{name}: {form.note}", class_="faint") for name, form in zip(names, forms, strict=True)])
    keys = [Key(name, COLOURS[place % 4], DASHES[place % 4]) for place, name in enumerate(names)]
    return Chart("kv-form", title, summary, drawing, joined([table(title, heads, rows), notes]), tuple(keys))


def _named(form: KvForm, place: int) -> str:
    if place == 0:
        return f"{form_name(form.layout)} {form.dtype} (this model)"
    return form_name(form.layout)


def form_name(layout: str) -> str:
    """A layout as people write it.

    >>> form_name("mla"), form_name("gqa+linear")
    ('MLA', 'GQA and linear attention')
    """
    return " and ".join(FORMS.get(part, part) for part in layout.split("+"))


def _line(name: str, place: int, contexts: Sequence[int], sizes: Sequence[int]) -> dict[str, Any]:
    colour = COLOURS[place % 4]
    return {
        "type": "scatter", "mode": "lines+markers", "name": label(name), "x": list(contexts),
        "y": [size / GIB for size in sizes],
        "line": {"color": colour, "width": 2.5, "dash": DASHES[place % 4]},
        "marker": {"color": colour, "size": 7, "symbol": SYMBOLS[place % 4]},
        "hovertext": [
            label(name, f"{tokens(at)} tokens: {gib(size, 2)} GiB") for at, size in zip(contexts, sizes, strict=True)
        ],
        "hoverinfo": "text",
    }  # fmt: skip


def _size_axis(title: str, traces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """GiB on a logarithmic scale with a tick at every power of ten within the data."""
    values = [value for trace in traces for value in trace["y"] if value > 0] or [1.0]
    ticks = [10.0**power for power in range(floor(log10(min(values))), ceil(log10(max(values))) + 1)]
    return {"title": title, "type": "log", "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}
