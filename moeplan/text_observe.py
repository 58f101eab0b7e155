"""The prediction beside the log, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from formulas.units import GIB, MIB
from moeplan.text import BAD, FAINT, GOOD, bullets, cell, heading, line, pairs, stacked, table
from moeplan.text_numbers import plural

if TYPE_CHECKING:
    from moeplan.observing import ObservationReport
    from planner.compare import Row, RowUnit

TITLES = {
    "visible": "engine sees",
    "weights": "weights",
    "weights_on_gpus": "weights on GPUs",
    "activation": "peak activation",
    "non_torch": "outside PyTorch",
    "graphs": "CUDA graphs",
    "graphs_reserved": "graphs reserved",
    "compute_on_gpu": "compute buffer, GPU",
    "compute_in_ram": "compute buffers, RAM",
    "outputs": "output buffer",
    "kv_cache": "KV cache",
    "kv_tokens": "KV tokens",
    "kv_bytes_per_token": "KV bytes per token",
}
VERDICTS = {
    "holds": ("holds", GOOD),
    "differs": ("differs", BAD),
    "not_predicted": ("not predicted", FAINT),
    "not_in_log": ("not in log", FAINT),
}
STARTS = {"started": "started", "out_of_memory": "ran out of memory", "unknown": "not seen"}


def observation_view(report: ObservationReport) -> RenderableType:
    """Header, the table of terms, the verdict in one line, and remarks."""
    compared = report.comparison
    start = compared.start
    head = pairs(
        [
            ("log", report.log.path),
            ("model", f"{compared.model}, {compared.quantization}"),
            ("engine", f"{compared.engine} {compared.engine_version}".strip()),
            ("hardware", compared.hardware),
            ("settings", _settings(report)),
            ("start", f"predicted {start.predicted}; {STARTS[start.observed]}{_because(start.reason)}"),
            ("stored in", report.calibration or ""),
        ]
    )
    columns = ("!term", "!unit", ">low", ">expected", ">high", ">observed", "!verdict", ">off by")
    rows = [_row(row) for row in compared.rows]
    return stacked(
        line("What the engine printed at start-up beside the prediction for that configuration.", FAINT),
        head,
        heading("per rank" if compared.engine != "llama.cpp" else "all devices together"),
        table(columns, rows),
        _verdict(report),
        heading("Notes") if report.notes else None,
        bullets(report.notes, FAINT) if report.notes else None,
    )


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _settings(report: ObservationReport) -> str:
    shown = []
    for name, value in report.settings.items():
        if name in ("engine", "engine_version", "quant"):
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            shown += [f"{flag} {one}" for one in value]
        else:
            shown.append(flag if value is True else f"{flag} {value}")
    return " ".join(shown)


def _row(row: Row) -> list[str | Text]:
    predicted = row.predicted
    ends = (predicted.low, predicted.expected, predicted.high) if predicted else ()
    unit, scale, digits = _scale(row.unit, max(abs(value) for value in (*ends, row.observed or 0)))
    observed = "" if row.observed is None else f"{row.observed / scale:,.{digits}f}"
    values = sorted(value for _, value in row.readings)
    cells = [observed]
    if len(values) > 1 and values[0] != values[-1]:
        cells.append(f"{values[0] / scale:,.{digits}f} to {values[-1] / scale:,.{digits}f}")
    name, style = VERDICTS[row.verdict]
    return [
        TITLES[row.term],
        unit,
        *([f"{end / scale:,.{digits}f}" for end in ends] or [""] * 3),
        cell(*cells),
        Text(name, style=style),
        "" if row.relative is None else f"{row.relative:+.1%}",
    ]


def _scale(unit: RowUnit, largest: float) -> tuple[str, int, int]:
    """Label, divisor and digits for values up to ``largest``."""
    if unit == "tokens":
        return "tokens", 1, 0
    if unit == "bytes_per_token":
        return "bytes", 1, 0
    return ("GiB", GIB, 2) if largest >= GIB / 10 else ("MiB", MIB, 2)


def _verdict(report: ObservationReport) -> RenderableType:
    compared = report.comparison
    if compared.verdict == "nothing_to_compare":
        return line("The log has no figure that is predicted for this configuration.", BAD)
    if compared.verdict == "holds":
        count = sum(row.verdict == "holds" for row in compared.rows)
        return line(f"The prediction holds in {plural(count, 'term')}.", GOOD)
    rows: dict[str, Row] = {row.term: row for row in compared.rows}
    parts = []
    for term in compared.differs_in:
        row = rows.get(term)
        if row is None:
            parts.append("whether it starts")
            continue
        unit, scale, digits = _scale(row.unit, abs(row.outside))
        parts.append(f"{TITLES[term]} by {row.outside / scale:+,.{digits}f} {unit}")
    return line(f"The prediction differs. Beyond its range: {', '.join(parts)}.", BAD)
