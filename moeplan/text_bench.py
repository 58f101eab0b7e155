"""What a benchmark measured, for people: a table, and how far each kernel is from the ceiling as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import RenderableType
from rich.text import Text

from hwdetect.bench.result import BenchRow, NotMeasured, NotRun
from moeplan.text import BAD, DOUBTFUL, FAINT, bullets, cell, heading, line, pairs, stacked, table, verbatim
from moeplan.text_numbers import plural, span
from moeplan.text_safe import shortened

if TYPE_CHECKING:
    from hwdetect.bench.layer import LayerSum
    from moeplan.bench_report import BenchReport
    from moeplan.validating import KernelComparison, Validation
    from planner.plan import Range

BAR: Final = 12
ENDINGS: Final = {
    "done": "",
    "out_of_time": "the time was up before every case was measured; the same command goes on from here",
    "interrupted": "interrupted; the same command goes on from here",
}


def bench_view(report: BenchReport) -> RenderableType:
    """The whole report."""
    settings = report.settings
    first = pairs(
        (
            ("machine", f"{report.machine} ({report.fingerprint})"),
            ("measured", f"{plural(len(report.rows), 'case')} at {report.date}, {plural(settings.threads, 'thread')}"),
            ("weights", f"rotated over 4 times the last-level cache of {settings.cache_bytes / (1 << 20):,.0f} MiB"),
            ("ended", ENDINGS[report.ended]),
            ("kept in", report.calibration or "nothing: --calibration none, or nothing was measured"),
        )
    )
    return stacked(
        line(""),
        first,
        _table(report.rows) if report.rows else None,
        sweeps_view(report.rows),
        layers_view(report.layers),
        doubts_view(report.rows),
        providers_view(report.rows),
        missing_view(report),
        bullets(report.notes, FAINT) if report.notes else None,
    )


def bar(share: float | None, width: int = BAR) -> str:
    """A share of the ceiling as a bar; more than the whole is marked.

    >>> bar(0.5, 10), bar(1.3, 10), bar(None, 4)
    ('#####.....', '#########!', '    ')
    """
    if share is None:
        return " " * width
    filled = min(round(share * width), width)
    text = "#" * filled + "." * (width - filled)
    return text[:-1] + "!" if share > 1.05 else text


def what(row: BenchRow | KernelComparison) -> str:
    """A kernel's format and shape in few words."""
    shape = row.shape
    if "q_lora" in shape:
        text = f"{shape['hidden']} wide, {shape['heads']} heads, {shape['experts']} experts, top {shape['top_k']}"
    elif "inter" in shape:
        held = "" if shape["experts"] == shape["experts_total"] else f"{shape['experts']} of "
        text = f"{held}{shape['experts_total']} experts, {shape['hidden']} x {shape['inter']}, top {shape['top_k']}"
    elif "in" in shape:
        text = f"{shape['in']} x {shape['out']}"
    elif "bytes" in shape:
        place = f" on NUMA node {shape['node']}" if "node" in shape else ""
        if "nodes" in shape:
            place = f" on {shape['nodes']} NUMA nodes"
        return f"{shape['bytes'] / (1 << 20):,.0f} MiB{place}"
    else:
        text = " ".join(f"{name} {size}" for name, size in shape.items())
    return f"{row.quantization}, {text}"


def milliseconds(seconds: float) -> str:
    """Three digits that count.

    >>> milliseconds(0.0349461), milliseconds(0.000214), milliseconds(1.2)
    ('34.9', '0.214', '1200')
    """
    value = seconds * 1e3
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"


def _table(rows: Sequence[BenchRow]) -> RenderableType:
    cells: list[list[str | Text]] = []
    for row in rows:
        experts = f"{row.routing.distinct_experts:.0f}" if row.routing is not None else ""
        rate = f"{row.bytes / row.median_s / 1e9:.1f}" if row.bytes else ""
        work = f"{row.flops / row.median_s / 1e9:,.0f}" if row.flops else ""
        time = cell(milliseconds(row.median_s), f"{milliseconds(row.low_s)}-{milliseconds(row.high_s)}")
        if not row.stable:
            time.stylize(DOUBTFUL)
        share = row.fraction_of_roofline
        cells.append(
            [
                cell(row.kernel, what(row)), size_of(row), experts, time, cell(rate, work),
                cell(row.provider, row.clock), cell(bar(share), "" if share is None else f"{share:.0%}"),
            ]
        )  # fmt: skip
    columns = (
        "kernel, shape",
        ">batch",
        ">experts",
        ">ms, quartiles",
        ">GB/s, GFLOP/s",
        "provider, clock",
        "!of the ceiling",
    )
    return table(columns, cells)


def sweeps_view(rows: Sequence[BenchRow]) -> RenderableType | None:
    """Time for each token over the batch, one line of bars for each series that was measured at several."""
    groups: dict[str, list[BenchRow]] = {}
    for row in rows:
        if row.kernel in ("cpu_moe", "cpu_dense", "grouped_moe", "dense"):
            groups.setdefault(f"{row.kernel} {row.quantization}, {row.provider}", []).append(row)
    lines = []
    for name, members in groups.items():
        by_series: dict[str, list[BenchRow]] = {}
        for row in members:
            by_series.setdefault(row.series, []).append(row)
        for series in by_series.values():
            if len(series) < 3:
                continue
            ordered = sorted(series, key=lambda row: row.batch)
            slowest = max(row.median_s / row.batch for row in ordered)
            lines.append(verbatim(f"  {name}, {what(ordered[0]).partition(', ')[2]}: ms for each token"))
            for row in ordered:
                each = row.median_s / row.batch
                lines.append(verbatim(f"  {row.batch:6} {bar(each / slowest, 40)} {milliseconds(each)}"))
    return stacked(heading("Batch"), *lines) if lines else None


def layers_view(layers: Sequence[LayerSum]) -> RenderableType | None:
    """Whether the kernels of a layer add up to the whole of it."""
    lines = []
    for one in layers:
        whole = f"{one.provider}, batch {one.batch} at {one.context:,}: whole {milliseconds(one.whole_s)} ms"
        if one.parts_s is None or one.parts_over_whole is None:
            lines.append(f"{whole}; parts not measured: {'; '.join(one.missing)}")
        else:
            lines.append(f"{whole}, sum of its parts {milliseconds(one.parts_s)} ms: {one.parts_over_whole:.2f}")
    return stacked(heading("A whole decode layer"), bullets(lines)) if lines else None


def ceilings_view(rows: Sequence[BenchRow]) -> RenderableType | None:
    """How near each kernel comes to the memory's rate, a bar each."""
    named = [(row, f"{row.kernel} {row.quantization}", size_of(row)) for row in rows if row.fraction_of_roofline]
    if not named:
        return None
    widths = [max(len(texts[place]) for _, *texts in named) for place in (0, 1)]
    lines = [
        verbatim(
            f"  {name:{widths[0]}}  {size:>{widths[1]}}  {bar(row.fraction_of_roofline, 40)} "
            f"{row.fraction_of_roofline or 0:.0%}"
        )
        for row, name, size in named
    ]
    return stacked(heading("Share of the ceiling"), *lines)


def size_of(row: BenchRow | KernelComparison | NotMeasured) -> str:
    """The batch, for attention with the cached tokens of each sequence."""
    return f"{row.batch} at {row.context:,}" if row.context else str(row.batch)


def doubts_view(rows: Sequence[BenchRow]) -> RenderableType | None:
    """Why results are unstable."""
    found = [f"{row.series} at {row.batch}: unstable, because {row.unstable_because}" for row in rows if not row.stable]
    return stacked(heading("Unstable"), bullets(found, DOUBTFUL)) if found else None


def providers_view(rows: Sequence[BenchRow]) -> RenderableType | None:
    """Which library each provider is, and why better ones did not run: once each, not for every row."""
    used = dict.fromkeys(
        f"{row.provider}: {row.version}" + (", kernels of this project" if row.ours else "") for row in rows
    )
    passed = dict.fromkeys(reason_of(one) for row in rows for one in row.not_run)
    if not used:
        return None
    parts = [heading("Providers"), bullets(list(used))]
    if passed:
        parts += [line("  before them in order, and not run:"), bullets(list(passed), FAINT)]
    return stacked(*parts)


def reason_of(one: NotRun) -> str:
    """A provider and why it did not run."""
    return f"{one.provider}: {shortened(one.reason)[1:-1]}"


def missing_view(report: BenchReport | Validation) -> RenderableType | None:
    """What was not measured, and why: cases with the same reasons together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for case in report.not_measured:
        named = f"{case.series} at {case.batch}" + (f" and {case.context:,} cached" if case.context else "")
        groups.setdefault(tuple(reason_of(reason) for reason in case.reasons), []).append(named)
    if not groups:
        return None
    lines = []
    for reasons, cases in groups.items():
        more = f" and {len(cases) - 3} more" if len(cases) > 3 else ""
        lines.append(f"{'; '.join(cases[:3])}{more}: {'; '.join(reasons)}")
    return stacked(heading("Not measured"), bullets(lines, BAD))


def verdict_words(result: Validation) -> str:
    """Whether the prediction holds, and by how much not."""
    return {
        "holds": "holds: the corrected time per token lies in the predicted range",
        "differs": f"differs: {result.difference or 0:+.0%} per token, most of it in {result.term or 'no one kernel'}",
        "undetermined": "could not be determined: too little of a step could be measured",
    }[result.verdict]


def validation_view(result: Validation) -> RenderableType:
    """Predicted against measured."""
    old, new = result.predicted_tpot_s, result.corrected_tpot_s
    better = result.better
    rows: list[list[str | Text]] = [
        [
            cell(kernel.what, what(kernel)),
            size_of(kernel),
            str(kernel.times or "prompt"),
            _milliseconds_range(kernel.predicted_s),
            _milliseconds_range(kernel.measured_s),
            f"{kernel.ratio:.2f}" if kernel.ratio is not None else "",
        ]
        for kernel in result.kernels
    ]
    return stacked(
        line(""),
        pairs(
            (
                ("plan", f"{result.plan}, rank {result.rank}: {result.configuration}"),
                ("machine", result.machine),
                ("predicted", f"{span(old.low * 1e3, old.high * 1e3)} ms for each token"),
                ("corrected", f"{span(new.low * 1e3, new.high * 1e3)} ms for each token" if new else ""),
                ("verdict", verdict_words(result)),
                (
                    "better now",
                    f"{better.engine}, {better.quantization}, {better.parallel}: {better.why}" if better else "",
                ),
                ("kept in", result.calibration or ""),
            )
        ),
        table(("kernel", ">batch", ">times", ">predicted\nms", ">measured\nms", ">measured /\npredicted"), rows),
        missing_view(result),
        bullets(result.notes, FAINT) if result.notes else None,
    )


def _milliseconds_range(quantity: Range | None) -> str:
    return span(quantity.low * 1e3, quantity.high * 1e3) if quantity is not None else ""
