"""Many plans side by side, ``moeplan.grid/1``: what is best for every model on every machine under every workload."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field

from planner.plan import Candidate, Parallel, Plan, Range, Record

GRID_SCHEMA: Final = "moeplan.grid/1"


class GridBest(Record):
    """The first candidate of a cell's plan; rates are of one replica, ``replicas`` of the whole hardware."""

    engine: str
    engine_version: str
    quantization: str
    parallel: Parallel
    replicas: int
    free_low_bytes: int
    kv_tokens: int
    decode_tokens_per_s_per_request: Range
    decode_tokens_per_s_total: Range
    tpot_s: Range
    ttft_s: Range
    bound_by: str
    usd_per_hour: float | None


class GridCell(Record):
    """One model on one machine under one workload.

    ``verdict`` is that of the best candidate, ``no`` where there is none, ``refused`` where the question itself was
    wrong for this cell and ``undetermined`` where a fact was missing; ``why`` says the reason.
    """

    model: str
    machine: str
    workload: str
    verdict: Literal["fits", "tight", "no", "refused", "undetermined"]
    best: GridBest | None
    why: str
    evaluated: int


class Grid(Record):
    """All cells, models outermost and workloads innermost, and where they were computed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["moeplan.grid/1"] = Field(GRID_SCHEMA, alias="schema")
    generated_by: str
    computed_on: str
    models: tuple[str, ...]
    machines: tuple[str, ...]
    workloads: tuple[str, ...]
    objective: str
    cells: tuple[GridCell, ...]

    def to_json(self, *, indent: int | None = 2) -> str:
        """The grid as ``moeplan.grid/1`` JSON."""
        return self.model_dump_json(indent=indent, by_alias=True)


def cell_of(plan: Plan, *, model: str, machine: str, workload: str) -> GridCell:
    """What a plan comes down to."""
    best = plan.candidates[0] if plan.candidates else None
    nearest = plan.rejected[0] if plan.rejected else None
    why = best.why if best else nearest.reason if nearest else "no engine applies"
    return GridCell(
        model=model,
        machine=machine,
        workload=workload,
        verdict=best.verdict if best else "no",
        best=_best(best, plan) if best else None,
        why=why,
        evaluated=plan.search.evaluated,
    )


def _best(candidate: Candidate, plan: Plan) -> GridBest:
    devices = [device for device in candidate.memory.devices if device.kind in ("gpu", "unified")]
    speed = candidate.performance
    pools = plan.fleet.pools if plan.fleet is not None else ()
    replicas = [pool.replicas for pool in pools if pool.candidate_rank == candidate.rank]
    return GridBest(
        engine=candidate.engine.name,
        engine_version=candidate.engine.version,
        quantization=f"{candidate.quantization.publisher}/{candidate.quantization.name}",
        parallel=candidate.parallel,
        replicas=sum(replicas) if pools else 1,
        free_low_bytes=min(device.free_low_bytes for device in devices or candidate.memory.devices),
        kv_tokens=candidate.kv_cache.tokens,
        decode_tokens_per_s_per_request=speed.decode_tokens_per_s_per_request,
        decode_tokens_per_s_total=speed.decode_tokens_per_s_total,
        tpot_s=speed.tpot_s,
        ttft_s=speed.ttft_s,
        bound_by=speed.bound_by,
        usd_per_hour=candidate.cost.usd_per_hour if candidate.cost is not None else None,
    )
