"""A grid for people: a row for each cell."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from moeplan.text import BAD, DOUBTFUL, VERDICT_STYLES, cell, line, stacked, table
from moeplan.text_numbers import gib, plural, span_of
from moeplan.text_plan import ranks
from planner.grid import Grid, GridCell

_STYLES = {**VERDICT_STYLES, "refused": BAD, "undetermined": DOUBTFUL}


def grid_view(grid: Grid) -> RenderableType:
    """Every cell, in the order of models, machines and workloads."""
    columns = (
        "model\nmachine", "workload\nverdict", "engine, layout\nquantization", ">free GiB\nreplicas",
        ">tok/s each\ntok/s in total", ">first token, s\neach token, ms",
    )  # fmt: skip
    counts = {verdict: sum(one.verdict == verdict for one in grid.cells) for verdict in _STYLES}
    said = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items() if count)
    where = " on Ray" if grid.computed_on == "ray" else ""
    head = f"{plural(len(grid.cells), 'plan')}{where}, by the {grid.objective} objective: {said}"
    return stacked(line(head), Text(""), table(columns, [_row(one) for one in grid.cells]))


def _row(one: GridCell) -> list[str | Text]:
    verdict = Text("\n").join([line(one.workload), Text(one.verdict, style=_STYLES[one.verdict])])
    names, best = cell(one.model, one.machine), one.best
    if best is None:
        return [names, verdict, line(one.why), "", "", ""]
    layout = f"{best.engine}, {ranks(best.parallel)}" if ranks(best.parallel) else best.engine
    return [
        names,
        verdict,
        cell(layout, best.quantization),
        cell(gib(best.free_low_bytes), f"{best.replicas:,}"),
        cell(span_of(best.decode_tokens_per_s_per_request), span_of(best.decode_tokens_per_s_total)),
        cell(span_of(best.ttft_s), span_of(best.tpot_s, 1e3)),
    ]
