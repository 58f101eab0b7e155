"""The prediction beside the log, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from moeplan.text import BAD, FAINT, GOOD, bullets, cell, heading, line, pairs, stacked, table
from moeplan.text_numbers import plural

if TYPE_CHECKING:
    from moeplan.observing import ObservationReport
    from planner.compare import Row, RowUnit

GIB, MIB = 1 << 30, 1 << 20
TITLES = {
    "visible": "memory the engine sees",
    "weights": "weights",
    "weights_on_gpus": "weights on GPUs",
    "activation": "peak activation",
    "non_torch": "outside PyTorch",
    "graphs": "CUDA graphs",
    "graphs_reserved": "reserved for CUDA graphs",
    "compute_on_gpu": "compute buffer, GPU",
    "compute_in_ram": "compute buffers, RAM",
    "kv_cache": "KV cache",
    "kv_tokens": "KV tokens",
    "kv_bytes_per_token": "KV bytes per token",
}
VERDICTS = {
    "holds": ("holds", GOOD),
    "differs": ("differs", BAD),
    "not_predicted": ("not predicted", FAINT),
    "not_in_log": ("not in the log", FAINT),
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
    columns = ("!term", ">low", ">expected", ">high", ">observed", "!verdict", ">off by")
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
    ends = [_amount(one, row.unit) for one in (predicted.low, predicted.expected, predicted.high)] if predicted else []
    observed = [_amount(row.observed, row.unit)] if row.observed is not None else [""]
    values = [value for _, value in row.readings]
    if len(values) > 1:
        least, most = _amount(min(values), row.unit), _amount(max(values), row.unit)
        observed.append(f"{plural(len(values), 'value')}, {least if least == most else f'{least} to {most}'}")
    name, style = VERDICTS[row.verdict]
    return [
        TITLES[row.term],
        *(ends or ["", "", ""]),
        cell(*observed),
        Text(name, style=style),
        _off(row),
    ]


def _off(row: Row) -> str:
    if row.relative is None:
        return ""
    return f"{row.relative:+.1%}"


def _amount(value: float, unit: RowUnit) -> str:
    if unit == "tokens":
        return f"{value:,.0f}"
    if unit == "bytes_per_token":
        return f"{value:,.0f} B"
    return f"{value / GIB:,.2f} GiB" if abs(value) >= GIB // 10 else f"{value / MIB:,.2f} MiB"


def _verdict(report: ObservationReport) -> RenderableType:
    compared = report.comparison
    if compared.verdict == "nothing_to_compare":
        return line("The log has no figure that is predicted for this configuration.", BAD)
    if compared.verdict == "holds":
        count = sum(row.verdict == "holds" for row in compared.rows)
        return line(f"The prediction holds in {plural(count, 'term')}.", GOOD)
    rows = {row.term: row for row in compared.rows}
    parts = []
    for term in compared.differs_in:
        row = rows.get(term)  # type: ignore[call-overload]
        parts.append("whether it starts" if row is None else f"{TITLES[term]} by {_amount(row.outside, row.unit)}")
    return line(f"The prediction differs: {', '.join(parts)} beyond its range.", BAD)
