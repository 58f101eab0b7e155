"""The time of a configuration for people: milliseconds of a token and of a prompt by kernel, and the Pareto front."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from moeplan.text import FAINT, cell, stacked, table
from moeplan.text_numbers import span
from moeplan.text_safe import printable
from planner.plan import BudgetEntry, ParetoPoint, Performance

RANKS = ("tp", "pp", "dp", "ep", "dcp")


def time_budgets(speed: Performance) -> RenderableType:
    """Every row of both budgets, in the form of the memory ledger: time, what bounds it, where that is from."""
    parts: list[RenderableType] = [_budget("one output token", speed.budget)]
    if speed.prompt_budget:
        parts += [Text(""), _budget("the prompt of one request", speed.prompt_budget)]
    return stacked(*parts)


def _budget(of: str, entries: tuple[BudgetEntry, ...]) -> RenderableType:
    rows = [_entry_row(entry) for entry in entries]
    total = sum(entry.seconds for entry in entries)
    rows.append([Text("sum"), f"{total * 1e3:,.2f}", "100 %", "", Text("")])
    return table((of, ">ms", ">share", "bound by, evidence", "source"), rows)


def _entry_row(entry: BudgetEntry) -> list[str | Text]:
    each = cell(f"{entry.seconds * 1e3:,.2f}", span(entry.low_s * 1e3, entry.high_s * 1e3))
    source = Text(printable(entry.source), style=FAINT)
    return [entry.what, each, f"{entry.share:.0%}", cell(entry.bound_by, entry.evidence), source]


def pareto_table(points: tuple[ParetoPoint, ...]) -> RenderableType:
    """Throughput per GPU against speed per user: the layouts that no other beats in both."""
    rows: list[list[str | Text]] = []
    for point in points:
        ranks = " ".join(f"{name.upper()}{size}" for name in RANKS if (size := getattr(point.parallel, name)) > 1)
        name = f"{point.engine.name} {ranks or 'one GPU'}, {point.quantization.name}, {point.kv_dtype} KV"
        rows.append(
            [
                f"{point.tokens_per_s_per_user:,.0f}",
                f"{point.tokens_per_s_per_gpu:,.1f}",
                f"{point.total_tokens_per_s_per_gpu:,.0f}",
                f"{point.concurrency:,}",
                cell(name, point.note) if point.note else name,
                point.bound_by,
            ]
        )
    columns = (">tok/s a user", ">tok/s a GPU", ">with input", ">requests", "layout", "bound by")
    return table(columns, rows)
