"""The results of ``moeplan bench`` on a machine and on a cluster, and what of them a calibration keeps."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field

from hwdetect.bench.layer import LayerSum
from hwdetect.bench.measured import MeasuredPoint, MeasuredSeries
from hwdetect.bench.result import BenchRow, NotMeasured
from planner.findings import Finding, NodeSummary
from planner.plan import Record

BENCH_SCHEMA: Final = "moeplan.bench/1"
CLUSTER_BENCH_SCHEMA: Final = "moeplan.cluster-bench/1"


class BenchSettings(Record):
    """How it was measured. ``cache_bytes`` is the last-level cache that weights were kept out of."""

    quick: bool
    threads: int
    seconds: float
    routing: Literal["uniform", "power_law", "replay"]
    cache_bytes: int
    memory_bytes: int
    pythons: tuple[str, ...]


class BenchReport(Record):
    """Rows in the order measured. ``ended`` is ``interrupted`` after Ctrl-C, ``out_of_time`` where --quick cut it.

    ``layers`` puts each whole decode layer beside the sum of its kernels.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["moeplan.bench/1"] = Field(BENCH_SCHEMA, alias="schema")
    generated_by: str
    date: str
    fingerprint: str
    machine: str
    settings: BenchSettings
    ended: Literal["done", "out_of_time", "interrupted"]
    rows: tuple[BenchRow, ...]
    not_measured: tuple[NotMeasured, ...]
    layers: tuple[LayerSum, ...] = ()
    calibration: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as JSON."""
        return self.model_dump_json(indent=indent, by_alias=True)


class NodeBench(Record):
    """What one node of a cluster measured, under the name that the cluster gave it."""

    node: str
    report: BenchReport


class ClusterBench(Record):
    """The results of all nodes. ``findings`` are nodes without one, and those that stand out among equal ones."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["moeplan.cluster-bench/1"] = Field(CLUSTER_BENCH_SCHEMA, alias="schema")
    generated_by: str
    date: str
    target: str
    nodes: tuple[NodeBench, ...]
    machines: tuple[NodeSummary, ...]
    findings: tuple[Finding, ...]

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as JSON."""
        return self.model_dump_json(indent=indent, by_alias=True)


def node_summary(node: str, report: BenchReport) -> NodeSummary:
    """What of a node's results can be put beside those of its peers: the rate of every case that was stable."""
    rates: dict[str, float] = {}
    for row in report.rows:
        if row.stable and row.bytes and row.median_s > 0:
            at = f" at {row.context:,} tokens" if row.context else ""
            threads = f", {row.threads} threads" if row.threads is not None else ""
            rates[f"{row.series}, batch {row.batch}{at}, {row.provider}{threads}"] = row.bytes / row.median_s
    versions = {row.provider: row.version for row in report.rows}
    return NodeSummary(node=node, hardware=report.machine, traits=versions, rates_bytes_per_s=rates)


def measured_series(rows: tuple[BenchRow, ...] | list[BenchRow]) -> tuple[MeasuredSeries, ...]:
    """Rows as a calibration keeps them: by series, provider, version, threads and routing; without raw samples."""
    groups: dict[tuple[str, str, str, int | None, str], list[BenchRow]] = {}
    for row in rows:
        if not row.bytes and not row.flops:
            continue
        routing = row.routing.distribution if row.routing is not None else "none"
        groups.setdefault((row.series, row.provider, row.version, row.threads, routing), []).append(row)
    return tuple([_series(members) for members in groups.values()])


def _series(rows: list[BenchRow]) -> MeasuredSeries:
    first = rows[0]
    references = [row.reference_bytes_per_s for row in rows if row.reference_bytes_per_s is not None]
    return MeasuredSeries(
        series=first.series,
        provider=first.provider,
        version=first.version,
        date=max(row.date for row in rows)[:10],
        measured_at=max(row.date for row in rows),
        device=first.device,
        python=first.python,
        routing=first.routing.distribution if first.routing is not None else "none",
        threads=first.threads,
        reference_bytes_per_s=sorted(references)[len(references) // 2] if references else None,
        points=tuple(
            [
                MeasuredPoint(
                    batch=row.batch, context=row.context, median_s=row.median_s, low_s=row.low_s, high_s=row.high_s,
                    bytes=row.bytes, flops=row.flops, stable=row.stable,
                    distinct_experts=row.routing.distinct_experts if row.routing is not None else None,
                )
                for row in sorted(rows, key=lambda row: (row.batch, row.context))
            ]
        ),
    )  # fmt: skip
