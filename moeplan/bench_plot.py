"""Charts of a benchmark as one self-contained page: every kernel under its roofline, and time over the batch."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from moeplan.text_bench import what

if TYPE_CHECKING:
    from hwdetect.bench.result import BenchRow
    from moeplan.bench_report import BenchReport


def page(report: BenchReport) -> str:
    """An HTML page that needs no network."""
    figures = [roofline(report.rows), sweep(report.rows)]
    parts = [figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures]
    title = html.escape(f"moeplan bench: {report.machine}, {report.date}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<script>{get_plotlyjs()}</script></head><body><h1>{title}</h1>{''.join(parts)}</body></html>\n"
    )


def roofline(rows: tuple[BenchRow, ...]) -> go.Figure:
    """Operations per second over operations per byte, with the memory's measured ceiling."""
    figure = go.Figure()
    groups: dict[str, list[BenchRow]] = {}
    for row in rows:
        if row.flops and row.bytes:
            groups.setdefault(f"{row.kernel} {row.quantization} ({row.provider})", []).append(row)
    for name, members in groups.items():
        figure.add_trace(
            go.Scatter(
                x=[row.flops / row.bytes for row in members],
                y=[row.flops / row.median_s / 1e9 for row in members],
                text=[f"{what(row)}, batch {row.batch}" for row in members],
                mode="markers", name=name,
            )
        )  # fmt: skip
    references = [row.reference_bytes_per_s for row in rows if row.reference_bytes_per_s is not None]
    intensities = [row.flops / row.bytes for row in rows if row.flops and row.bytes]
    if references and intensities:
        rate = sorted(references)[len(references) // 2]
        ends = [min(intensities) / 2, max(intensities) * 2]
        figure.add_trace(
            go.Scatter(
                x=ends, y=[end * rate / 1e9 for end in ends], mode="lines", name=f"memory, {rate / 1e9:.1f} GB/s"
            )
        )
    figure.update_layout(
        title="Roofline", xaxis={"type": "log", "title": "operations per byte"},
        yaxis={"type": "log", "title": "GFLOP/s"},
    )  # fmt: skip
    return figure


def sweep(rows: tuple[BenchRow, ...]) -> go.Figure:
    """Time over the batch, the quartiles as error bars."""
    figure = go.Figure()
    groups: dict[str, list[BenchRow]] = {}
    for row in rows:
        if not row.context and row.flops:
            groups.setdefault(f"{row.series} ({row.provider})", []).append(row)
    for name, members in groups.items():
        ordered = sorted(members, key=lambda row: row.batch)
        figure.add_trace(
            go.Scatter(
                x=[row.batch for row in ordered],
                y=[row.median_s * 1e3 for row in ordered],
                error_y={
                    "array": [(row.high_s - row.median_s) * 1e3 for row in ordered],
                    "arrayminus": [(row.median_s - row.low_s) * 1e3 for row in ordered],
                },
                mode="lines+markers", name=name,
            )
        )  # fmt: skip
    figure.update_layout(
        title="Batch", xaxis={"type": "log", "title": "tokens of a step"}, yaxis={"type": "log", "title": "ms"}
    )
    return figure
