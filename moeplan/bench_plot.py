"""The page of a benchmark: every kernel under its ceilings, time over the batch, and each result with its doubts."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moeplan.report.document import Section, document
from moeplan.report.evidence import ENDED, bench_rows, unmeasured
from moeplan.report.figures import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, Chart, Key, drawn, figure, label
from moeplan.report.markup import Html, bullets, columns, el, joined, pairs, table
from moeplan.text_bench import milliseconds, size_of, what
from moeplan.text_numbers import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hwdetect.bench.result import BenchRow
    from moeplan.bench_report import BenchReport

COLOURS: Final = (BLUE, ORANGE, GREEN, PINK, SKY, RED)
HEIGHT: Final = 420


class Series(NamedTuple):
    """Rows of one kernel, shape and provider, and how they are drawn: colours first, then dashes."""

    name: str
    rows: tuple[BenchRow, ...]
    colour: str
    dash: str


def page(report: BenchReport) -> str:
    """An HTML file that loads nothing and runs no script but its own."""
    charts = tuple([chart for chart in (roofline(report.rows), sweep(report.rows)) if chart is not None])
    sections = [
        Section("results", "Results", bench_rows(report)),
        *[Section(chart.name, chart.name.capitalize(), drawn(chart)) for chart in charts],
    ]
    if report.rows:
        sections.append(Section("providers", "Providers", _providers(report.rows)))
    if report.layers:
        sections.append(Section("layers", "Whole layers", _layers(report)))
    if report.not_measured:
        sections.append(Section("missing", "Not measured", bullets(unmeasured(report))))
    if report.notes:
        sections.append(Section("notes", "Notes", bullets(report.notes)))
    title = f"{report.machine}, {report.date}"
    said = "This file is complete in itself: it loads nothing and sends nothing."
    footer = el("footer", el("p", f"Written by {report.generated_by}. {said}"))
    return document(f"{title}: moeplan bench", report.generated_by, _header(report), sections, charts, footer)


def _header(report: BenchReport) -> Html:
    settings, unstable = report.settings, sum(not row.stable for row in report.rows)
    measured = (
        f"{plural(len(report.rows), 'case')}, {unstable} of them unstable; {len(report.not_measured)} not measured"
    )
    facts = pairs(
        (
            ("measured", measured),
            ("at", f"{report.date}, {plural(settings.threads, 'thread')}{', --quick' if settings.quick else ''}"),
            ("ended", ENDED[report.ended]),
            ("weights", f"rotated over 4 times the last-level cache of {settings.cache_bytes / (1 << 20):,.0f} MiB"),
            ("routing", settings.routing.replace("_", " ")),
        )
    )
    return el("header", el("p", "moeplan bench", class_="kind"), el("h1", report.machine), facts)


def _layers(report: BenchReport) -> Html:
    rows = [
        (
            one.provider, f"{one.batch} at {one.context:,}", milliseconds(one.whole_s),
            "" if one.parts_s is None else milliseconds(one.parts_s),
            f"{one.parts_over_whole:.2f}" if one.parts_over_whole else f"not measured: {', '.join(one.missing)}",
        )
        for one in report.layers
    ]  # fmt: skip
    heads = columns("measured with", ">batch", ">whole, ms", ">sum of its kernels, ms", ">sum over whole")
    return table("A decode layer beside the sum of its kernels", heads, rows, stack=True)


def _providers(rows: Sequence[BenchRow]) -> Html:
    """What ran, and why what comes before it in order did not: once each."""
    ran = dict.fromkeys(
        f"{row.provider} {row.version}{', kernels of this project' if row.ours else ''}" for row in rows
    )
    passed = dict.fromkeys(f"{one.provider} did not run: {one.reason}" for row in rows for one in row.not_run)
    return bullets([*ran, *passed])


def _series(rows: Sequence[BenchRow]) -> list[Series]:
    groups: dict[str, list[BenchRow]] = {}
    for row in rows:
        if row.flops > 0 and row.bytes > 0 and row.median_s > 0:
            groups.setdefault(f"{row.kernel} {what(row)} ({row.provider})", []).append(row)
    dashes = ("solid", "dash", "dot", "dashdot", "longdash")
    return [
        Series(
            name, tuple(sorted(members, key=lambda row: (row.context, row.batch))), COLOURS[place % len(COLOURS)],
            dashes[place // len(COLOURS) % len(dashes)],
        )
        for place, (name, members) in enumerate(groups.items())
    ]  # fmt: skip


def roofline(rows: Sequence[BenchRow]) -> Chart | None:
    """Operations per second over operations per byte, under the memory as measured and the datasheet where known."""
    series = _series(rows)
    if not series:
        return None
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "name": label(one.name), "hoverinfo": "text",
            "x": [row.flops / row.bytes for row in one.rows],
            "y": [row.flops / row.median_s / 1e9 for row in one.rows],
            "text": [label(one.name, f"{size_of(row)}: {milliseconds(row.median_s)} ms") for row in one.rows],
            "marker": {
                "color": one.colour, "size": 10,
                "symbol": ["circle" if row.stable else "circle-open" for row in one.rows],
            },
        }
        for one in series
    ]  # fmt: skip
    shown = [row for one in series for row in one.rows]
    keys = [Key(one.name, one.colour, "disc") for one in series]
    lines = _ceilings(shown)
    for name, points, dash in lines:
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": label(name), "hoverinfo": "name",
                "x": [at for at, _ in points], "y": [rate for _, rate in points],
                "line": {"color": GREY, "dash": dash},
            }
        )  # fmt: skip
        keys.append(Key(name, GREY, dash))
    cells = [
        (
            joined([one.name, el("br"), el("span", size_of(row), class_="faint")]), f"{row.flops / row.bytes:,.2f}",
            f"{row.flops / row.median_s / 1e9:,.1f}", f"{row.bytes / row.median_s / 1e9:,.1f}",
            "" if row.fraction_of_roofline is None else f"{row.fraction_of_roofline:.0%}",
            "" if row.fraction_of_nominal is None else f"{row.fraction_of_nominal:.0%}",
        )
        for one in series for row in one.rows
    ]  # fmt: skip
    heads = columns(
        "kernel", ">operations per byte", ">GFLOP/s", ">GB/s", ">of the measured ceiling", ">of the datasheet's"
    )
    best = max((row.fraction_of_roofline or 0.0 for row in shown), default=0.0)
    said = f" The closest reaches {best:.0%} of its measured ceiling." if best else ""
    counted = plural(len(shown), "case")
    summary = f"Operations per second of {counted} over operations per byte; open marks are unstable.{said}"
    points = [point for _, line, _ in lines for point in line]
    x = [row.flops / row.bytes for row in shown] + [at for at, _ in points]
    y = [row.flops / row.median_s / 1e9 for row in shown] + [rate for _, rate in points]
    drawing = figure(traces, HEIGHT, _log("operations per byte", x), _log("GFLOP/s", y))
    return Chart("roofline", "Under the ceilings", summary, drawing, table("Roofline", heads, cells), tuple(keys))


def _ceilings(rows: Sequence[BenchRow]) -> list[tuple[str, list[tuple[float, float]], str]]:
    """Lines by name: the memory between the samples of each device and count of threads, and the datasheet."""
    found = []
    groups: dict[tuple[str, int | None], list[BenchRow]] = {}
    for row in rows:
        groups.setdefault((row.device, row.threads), []).append(row)
    for (device, threads), members in groups.items():
        at = [row.flops / row.bytes for row in members]
        rates = sorted(row.reference_bytes_per_s for row in members if row.reference_bytes_per_s)
        who = device if threads is None else f"{device}, {plural(threads, 'thread')}"
        if rates:
            rate = rates[len(rates) // 2]
            ends = (min(at) / 2, max(at) * 2)
            found.append(
                (f"memory of {who}: {rate / 1e9:,.1f} GB/s", [(one, one * rate / 1e9) for one in ends], "solid")
            )
        nominal = sorted(
            (row.flops / row.bytes, row.flops / row.median_s / row.fraction_of_nominal / 1e9)
            for row in members
            if row.fraction_of_nominal
        )
        if nominal:
            found.append((f"datasheet of {who}, bf16 rate for every format", nominal, "dot"))
    return found


def sweep(rows: Sequence[BenchRow]) -> Chart | None:
    """Time over the tokens of a step, the quartiles as whiskers."""
    # All rows give a kernel its colour, so that both charts agree.
    kept = [one._replace(rows=tuple([row for row in one.rows if not row.context])) for one in _series(rows)]
    series = [one for one in kept if one.rows]
    if not series:
        return None
    traces = [
        {
            "type": "scatter", "mode": "lines+markers", "name": label(one.name), "hoverinfo": "text",
            "x": [row.batch for row in one.rows], "y": [row.median_s * 1e3 for row in one.rows],
            "error_y": {
                "type": "data",
                "array": [max(row.high_s - row.median_s, 0.0) * 1e3 for row in one.rows],
                "arrayminus": [max(row.median_s - row.low_s, 0.0) * 1e3 for row in one.rows],
            },
            "text": [label(one.name, f"{size_of(row)}: {_quartiles(row)} ms") for row in one.rows],
            "line": {"color": one.colour, "dash": one.dash},
            "marker": {
                "color": one.colour, "size": 9,
                "symbol": ["circle" if row.stable else "circle-open" for row in one.rows],
            },
        }
        for one in series
    ]  # fmt: skip
    keys = tuple([Key(one.name, one.colour, one.dash) for one in series])
    cells = [
        (one.name, f"{row.batch:,}", _quartiles(row), f"{row.median_s * 1e6 / max(row.batch, 1):,.1f}")
        for one in series
        for row in one.rows
    ]
    heads = columns("kernel", ">tokens of a step", ">ms, quartiles", ">µs for each token")
    batches = [row.batch for one in series for row in one.rows]
    span = f"{min(batches):,}" if len(set(batches)) == 1 else f"{min(batches):,} to {max(batches):,}"
    summary = f"Median time of a kernel over {span} tokens of a step; whiskers are the quartiles."
    times = [row.median_s * 1e3 for one in series for row in one.rows]
    drawing = figure(traces, HEIGHT, _log("tokens of a step", batches), _log("ms", times))
    return Chart("batch", "Time of a step", summary, drawing, table("Time over the batch", heads, cells), keys)


def _quartiles(row: BenchRow) -> str:
    return f"{milliseconds(row.median_s)} ({milliseconds(row.low_s)}-{milliseconds(row.high_s)})"


def _log(title: str, values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis whose ticks are 1, 2 and 5 times powers of ten, or the powers where that is too many."""
    low, high = floor(log10(min(values))), floor(log10(max(values))) + 1
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"title": title, "type": "log", "tickvals": ticks, "ticktext": [f"{tick:,.10g}" for tick in ticks]}
