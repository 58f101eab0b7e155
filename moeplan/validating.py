"""``moeplan validate``: the kernels of one candidate measured here, beside what the plan had expected of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from pydantic import ConfigDict, Field

from hwdetect.bench.case import KernelCase
from hwdetect.bench.measured import MeasuredSeries
from hwdetect.bench.result import BenchRow, NotMeasured
from hwdetect.inventory import Inventory
from moeplan.bench_cases import candidate_cases, read_plan
from moeplan.bench_report import BenchReport, measured_series
from moeplan.benching import BenchOptions, measure
from moeplan.pipeline import GENERATED_BY, read_model
from planner.assemble import make_plan
from planner.build import build_request
from planner.cases import Use, is_attention, uses_of
from planner.engines.base import Config
from planner.errors import BadRequest, Undetermined
from planner.hardware import machine_of
from planner.kernel_time import predicted
from planner.options import Options
from planner.plan import Candidate, Plan, Range, Record
from planner.request import Request
from planner.search import Found, Missed, search

VALIDATION_SCHEMA: Final = "moeplan.validation/1"
Progress = Callable[[int, int], None]


class KernelComparison(Record):
    """A kernel as the plan runs it. ``times`` a decode step runs it (0: only in a prompt); nulls: not known."""

    series: str
    what: str
    quantization: str
    shape: dict[str, int]
    batch: int
    context: int
    times: int
    predicted_s: Range | None
    measured_s: Range | None
    ratio: float | None
    provider: str | None
    stable: bool | None


class BetterPlan(Record):
    """What ranks first once the measurements are used, where that is another configuration."""

    engine: str
    quantization: str
    parallel: str
    tpot_s: Range
    why: str


class Validation(Record):
    """The result of ``moeplan validate``, ``moeplan.validation/1``.

    ``difference`` is the corrected time per token over the predicted one, minus one; ``term`` the kernel that moved it
    most. ``verdict`` is ``undetermined`` where too little of a step could be measured: on a CPU every
    kernel of it is needed, on a GPU the others keep their tables.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["moeplan.validation/1"] = Field(VALIDATION_SCHEMA, alias="schema")
    generated_by: str
    plan: str
    rank: int
    configuration: str
    machine: str
    kernels: tuple[KernelComparison, ...]
    not_measured: tuple[NotMeasured, ...]
    predicted_tpot_s: Range
    corrected_tpot_s: Range | None
    difference: float | None
    term: str | None
    better: BetterPlan | None
    verdict: Literal["holds", "differs", "undetermined"]
    calibration: str | None
    notes: tuple[str, ...] = ()

    def to_json(self, *, indent: int | None = 2) -> str:
        """The result as JSON."""
        return self.model_dump_json(indent=indent, by_alias=True)


def validate(name: str, rank: int, chosen: BenchOptions, progress: Progress | None) -> Validation:
    """Measure the kernels of a plan's candidate and predict it again with them.

    Raises ``BadRequest`` for a plan that is none or has no such candidate, ``Undetermined`` where the plan is for
    accelerators that this machine does not have.
    """
    plan = read_plan(Path(name))
    candidate = next((one for one in plan.candidates if one.rank == rank), None)
    if candidate is None:
        raise BadRequest(f"{name}: no candidate of rank {rank}; it has {len(plan.candidates)}")
    return validate_candidate(plan, candidate, name, chosen, progress)[0]


def validate_candidate(
    plan: Plan, candidate: Candidate, name: str, chosen: BenchOptions, progress: Progress | None
) -> tuple[Validation, BenchReport]:
    """``validate`` of a plan at hand, called ``name``, and what was measured for it. Raises as it does."""
    from hwdetect.detect import detect

    cases = candidate_cases(candidate)
    if not cases:
        raise BadRequest(f"{name}: rank {candidate.rank} lists no kernels; an older moeplan wrote it: plan again")
    here, planned = detect(), _inventory(plan)
    _same_accelerators(planned, here)
    before = _request(plan, candidate, planned, ())
    found = _priced(before, candidate)
    uses = uses_of(before, found.release, _config(found))
    report = measure(cases, here, chosen, progress)
    series = measured_series(report.rows)
    kernels = [_comparison(case, uses, before, found, report.rows) for case in cases]
    corrected = _corrected(plan, candidate, planned, series, kernels)
    old = candidate.performance.tpot_s
    difference = corrected.expected / old.expected - 1 if corrected is not None else None
    holds = corrected is not None and old.low <= corrected.expected <= old.high
    result = Validation(
        schema=VALIDATION_SCHEMA,
        generated_by=GENERATED_BY,
        plan=name,
        rank=candidate.rank,
        configuration=_words(candidate),
        machine=report.machine,
        kernels=tuple(kernels),
        not_measured=report.not_measured,
        predicted_tpot_s=old,
        corrected_tpot_s=corrected,
        difference=difference,
        term=_largest_difference(kernels),
        better=_better(plan, candidate, planned, series) if corrected is not None and not holds else None,
        verdict="undetermined" if corrected is None else "holds" if holds else "differs",
        calibration=report.calibration,
        notes=(*report.notes, *_stand_in(candidate, _config(found))),
    )
    return result, report


def _inventory(plan: Plan) -> Inventory:
    try:
        return Inventory.model_validate_json(json.dumps(plan.inventory))
    except ValueError:
        raise BadRequest("the plan's inventory cannot be read: plan again with this version") from None


def _same_accelerators(planned: Inventory, here: Inventory) -> None:
    """A plan can be validated on a node of its cluster, so the kinds have to agree and not the counts."""
    wanted = {gpu.key for node in planned.nodes for gpu in node.gpus}
    present = {gpu.key for node in here.nodes for gpu in node.gpus}
    if wanted != present:
        names = ", ".join(sorted(str(key) for key in wanted)) or "no accelerator"
        found = ", ".join(sorted(str(key) for key in present)) or "none"
        raise Undetermined(f"the plan is for {names}, and this machine has {found}: validate it where it will run")


def _options(plan: Plan, candidate: Candidate | None) -> Options:
    """The plan's own question again; with a candidate, for exactly that configuration."""
    work = plan.workload
    given: dict[str, str | None] = {
        "context": str(work.context), "concurrency": str(work.concurrency), "input_tokens": str(work.input_tokens),
        "output_tokens": str(work.output_tokens), "objective": plan.objective,
    }  # fmt: skip
    if candidate is not None:
        ranks = candidate.parallel
        given |= {
            "engine": candidate.engine.name, "engine_version": candidate.engine.version,
            "quant": f"{candidate.quantization.publisher}/{candidate.quantization.name}",
        }  # fmt: skip
        if candidate.engine.name != "llama.cpp":
            given |= {
                "kv_dtype": candidate.kv_cache.dtype, "tp": str(ranks.tp), "pp": str(ranks.pp), "dp": str(ranks.dp),
                "ep": str(ranks.ep), "dcp": str(ranks.dcp),
            }  # fmt: skip
    return Options(_model(plan, candidate), **given)  # type: ignore[arg-type]


def _model(plan: Plan, candidate: Candidate | None) -> str:
    """The model's id, or the file that the plan was made from."""
    chosen = candidate or plan.candidates[0]
    files = [name for name in (plan.model.repository, chosen.quantization.release) if name and Path(name).is_file()]
    return files[0] if files else plan.model.id


def _request(
    plan: Plan, candidate: Candidate | None, planned: Inventory, kernels: tuple[MeasuredSeries, ...]
) -> Request:
    machine = machine_of(planned, plan.hardware.source)
    options = _options(plan, candidate)
    return build_request(options, read_model(options.model), machine, exact=False, kernels=kernels)


def _priced(request: Request, candidate: Candidate) -> Found | Missed:
    """The candidate's own configuration, priced anew; measurements may well put others before it.

    Where the search does not have it any more, the one that comes first stands for it, which ``_stand_in`` says.
    """
    outcome = search(request, None)
    from planner.search import score

    priced = [miss for miss in outcome.missed if miss.priced is not None]
    every: list[Found | Missed] = [*outcome.found, *priced]
    for one in every:
        if one.priced is not None and _is_of(one.priced.config, candidate):
            return one
    best = min(outcome.found, key=lambda found: score(request, found), default=None)
    if best is None and not priced:
        raise Undetermined("the plan's configuration cannot be priced any more: plan again")
    return best if best is not None else priced[0]


def _is_of(config: Config, candidate: Candidate) -> bool:
    """Whether this configuration is what the candidate shows."""
    from planner.assemble import settings_of
    from planner.references import parallel_ref

    return (
        (config.engine, config.version) == (candidate.engine.name, candidate.engine.version)
        and config.kv_dtype == candidate.kv_cache.dtype
        and parallel_ref(config) == candidate.parallel
        and settings_of(config) == candidate.settings
        and (config.cpu_expert_layers, config.gpu_experts_per_layer, config.disk_bytes)
        == (candidate.offload.cpu_expert_layers, candidate.offload.gpu_experts_per_layer, candidate.offload.disk_bytes)
    )


def _stand_in(candidate: Candidate, config: Config) -> tuple[str, ...]:
    """What is to be said where another configuration was priced than the candidate's own."""
    if _is_of(config, candidate):
        return ()
    return (
        f"the search has no configuration with all settings of rank {candidate.rank} any more: the predictions of its "
        "kernels and the correction are those of the best one of its engine and weights; plan again",
    )


def _config(found: Found | Missed) -> Config:
    assert found.priced is not None
    return found.priced.config


def _comparison(
    case: KernelCase, uses: tuple[Use, ...], request: Request, found: Found | Missed, rows: tuple[BenchRow, ...]
) -> KernelComparison:
    config = _config(found)
    host = request.machine.nodes[config.group.nodes[0] if config.group else 0].host
    use = next((use for use in uses if use.case.series == case.series), None)
    decode = use is not None and (case.context > 0 if is_attention(case) else _is_decode(case, request))
    row = next((row for row in rows if row.is_of(case)), None)
    # Beside a measurement with fewer threads stands what the model expects of as many cores.
    guess = predicted(case, config, host._replace(cores=row.threads) if row is not None and row.threads else host)
    return KernelComparison(
        series=case.series,
        what=use.what if use is not None else case.kernel,
        quantization=case.quantization,
        shape=dict(case.dims),
        batch=case.batch,
        context=case.context,
        times=use.times if use is not None and decode else 0,
        predicted_s=None if guess is None else Range(
            low=guess.seconds / guess.spread, expected=guess.seconds, high=guess.seconds * guess.spread
        ),
        measured_s=None if row is None else Range(low=row.low_s, expected=row.median_s, high=row.high_s),
        ratio=row.median_s / guess.seconds if row is not None and guess is not None else None,
        provider=f"{row.provider}, {row.version}" if row is not None else None,
        stable=row.stable if row is not None else None,
    )  # fmt: skip


def _is_decode(case: KernelCase, request: Request) -> bool:
    return case.batch <= max(request.demand.concurrency, 1)


def _corrected(
    plan: Plan,
    candidate: Candidate,
    planned: Inventory,
    series: tuple[MeasuredSeries, ...],
    kernels: list[KernelComparison],
) -> Range | None:
    """The time per token with the measurements; None where what a decode step needs was not measured."""
    if not series or all(kernel.measured_s is None for kernel in kernels if kernel.times):
        return None
    from planner.speed import speed_of

    request = _request(plan, candidate, planned, series)
    found = _priced(request, candidate)
    assert found.priced is not None
    speed = speed_of(request, found.release, found.priced)
    if not speed.measured_share:
        return None
    low, expected, high = speed.tpot_s
    return Range(low=low, expected=expected, high=high)


def _largest_difference(kernels: list[KernelComparison]) -> str | None:
    """The kernel whose measurement moves a decode step most."""
    moved: dict[str, float] = {}
    for kernel in kernels:
        if kernel.measured_s is not None and kernel.predicted_s is not None:
            seconds = kernel.times * (kernel.measured_s.expected - kernel.predicted_s.expected)
            moved[kernel.what] = moved.get(kernel.what, 0.0) + seconds
    return max(moved, key=lambda what: abs(moved[what])) if any(moved.values()) else None


def _better(
    plan: Plan, candidate: Candidate, planned: Inventory, series: tuple[MeasuredSeries, ...]
) -> BetterPlan | None:
    """What the whole search ranks first with the measurements, if it is something else."""
    request = _request(plan, None, planned, series)
    again = make_plan(request, search(request, None), plan.inventory, GENERATED_BY)
    first = again.candidates[0] if again.candidates else None
    if first is None or _words(first) == _words(candidate):
        return None
    return BetterPlan(
        engine=first.engine.name,
        quantization=first.quantization.name,
        parallel=_ranks(first),
        tpot_s=first.performance.tpot_s,
        why=first.why,
    )


def _words(candidate: Candidate) -> str:
    return (
        f"{candidate.engine.name}, {candidate.quantization.publisher}/{candidate.quantization.name}, "
        f"{_ranks(candidate)}"
    )


def _ranks(candidate: Candidate) -> str:
    ranks = candidate.parallel.model_dump()
    return " ".join(f"{name.upper()}{size}" for name, size in ranks.items() if size > 1) or "one rank"
