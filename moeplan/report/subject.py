"""What a report is about: a plan's candidate with everything that was computed of it, before any of it is drawn."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from moeplan.bench_report import BenchReport
from moeplan.pipeline import GENERATED_BY
from planner.cost_report import CostReport
from planner.costing import Assumptions, cost_report
from planner.errors import BadRequest, Undetermined
from planner.findings import CheckReport
from planner.kv_curve import KvCurves, kv_curves
from planner.plan import Candidate, Plan
from profiles.library import built_in_id, load_model
from profiles.model import ModelSpec
from profiles.prices import known_prices


class Subject(NamedTuple):
    """``candidate`` is None where nothing fits; ``no_cost`` says why there is no ``cost``."""

    plan: Plan
    candidate: Candidate | None
    curves: KvCurves | None
    cost: CostReport | None
    no_cost: str
    check: CheckReport | None
    bench: BenchReport | None
    today: date
    generated_by: str


def subject_of(
    plan: Plan,
    rank: int,
    check: CheckReport | None,
    bench: BenchReport | None,
    cost: CostReport | None,
    today: date,
) -> Subject:
    """The subject of a rank. Raises ``BadRequest`` where the plan has others."""
    candidate = _ranked(plan, rank)
    no_cost = ""
    if cost is None and candidate is not None and not _has_rates(plan, candidate):
        no_cost = "the plan has lengths, times or shares that no machine has"
    elif cost is None and candidate is not None:
        try:
            cost = cost_report(plan, candidate, known_prices(), Assumptions(), today, GENERATED_BY)
        except Undetermined as error:
            no_cost = str(error)
    curves = kv_curves(plan, candidate, _model_of(plan)) if candidate is not None else None
    return Subject(plan, candidate, curves, cost, no_cost, check, bench, today, GENERATED_BY)


def _has_rates(plan: Plan, candidate: Candidate) -> bool:
    """Whether what a month serves can be told: a plan may come from anywhere."""
    work, speed = plan.workload, candidate.performance
    times = [getattr(each, end) for each in (speed.ttft_s, speed.tpot_s) for end in ("low", "expected", "high")]
    if min(work.concurrency, work.input_tokens, work.output_tokens, *times) <= 0:
        return False
    return 0 <= work.prefix_cache_hit_rate <= 1 and all(device.index >= 0 for device in candidate.memory.devices)


def _ranked(plan: Plan, rank: int) -> Candidate | None:
    for candidate in plan.candidates:
        if candidate.rank == rank:
            return candidate
    if not plan.candidates:
        return None
    known = ", ".join(str(candidate.rank) for candidate in plan.candidates)
    raise BadRequest(f"--rank: {rank} is not in the plan; {known[:60]} are")


def _model_of(plan: Plan) -> ModelSpec | None:
    """The model where it is a built-in one: a plan may name files of another machine, which are left alone."""
    name = built_in_id(plan.model.id)
    model = load_model(name) if name is not None else None
    return model if model is not None and model.parameters == plan.model.parameters else None
