"""A fleet for people: a row for each pool of equal nodes, and what all of it serves."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from moeplan.text import BAD, GOOD, cell, line, stacked, table
from moeplan.text_numbers import plural, span_of
from planner.plan import Fleet, FleetPool


def fleet_view(fleet: Fleet) -> RenderableType:
    """Pools as a table, largest first, and the sums under it."""
    columns = (
        ">#", "pool", ">nodes\nspare", ">replicas\nnodes each", ">requests\nat a time", ">tok/s\nin total",
        ">GPUs\nstranded",
    )  # fmt: skip
    idle = f", {fleet.stranded_gpus:,} of them stranded" if fleet.stranded_gpus else ", none of them stranded"
    total = (
        f"In all {plural(fleet.replicas, 'replica')} on {plural(fleet.nodes, 'node')} with "
        f"{plural(fleet.gpus, 'accelerator')}{idle}: {fleet.concurrency:,.0f} requests at a time, "
        f"{span_of(fleet.decode_tokens_per_s_total)} tok/s. Each replica carries the workload above."
    )
    return stacked(Text(""), table(columns, [_row(pool) for pool in fleet.pools]), Text(""), line(total))


def _row(pool: FleetPool) -> list[str | Text]:
    rate = pool.decode_tokens_per_s_total
    note = Text(pool.why, style=GOOD if pool.replicas else BAD)
    return [
        str(pool.candidate_rank) if pool.candidate_rank is not None else "",
        Text("\n").join([line(pool.description), note]),
        cell(f"{pool.nodes:,}", f"{pool.spare_nodes:,}"),
        cell(f"{pool.replicas:,}", f"{pool.nodes_per_replica}") if pool.replicas else "0",
        f"{pool.concurrency:,.0f}",
        span_of(rate) if rate is not None else "",
        cell(f"{pool.nodes * pool.gpus_per_node:,}", f"{pool.stranded_gpus:,}"),
    ]
