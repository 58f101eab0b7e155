"""What was predicted of a deployment beside what its engine printed at start-up. Pure: two results in, one out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from hwdetect.serving.observation import Measurement, Observation, Reading, Term
from planner.errors import BadRequest
from planner.plan import DeviceMemory, KvCache, LedgerEntry, Memory, Plan, Record, Rejection

ENTRY_TERMS: Final[Mapping[str, Term]] = {
    "peak activation": "activation",
    "vision profile run": "activation",
    "memory outside PyTorch": "non_torch",
    "CUDA context and collective buffers": "non_torch",
    "CUDA graphs": "graphs",
    "compute buffer": "compute_on_gpu",
    "host compute buffer": "compute_in_ram",
    "output buffer": "outputs",
}
"""Ledger entries that a log has a figure for, by their name. Weights and KV cache go by their kind."""

COPY: Final = "copy of the embedding"
"""Weights that lie on a device and not in the file; the log tells the size of the file."""
ROUNDING: Final = 0.005
"""Part of a size by which allocators round up, and engines that print differences of free memory miss."""
BLOCK_PADDING: Final = 0.025
"""Part of the KV tokens that padding takes: vLLM prints up to 2.3 % fewer than bytes / bytes per token."""

RowTerm = Literal[Term, "kv_bytes_per_token"]
RowUnit = Literal["bytes", "tokens", "bytes_per_token"]
RowVerdict = Literal["holds", "differs", "not_predicted", "not_in_log"]
Verdict = Literal["holds", "differs", "nothing_to_compare"]


class Predicted(Record):
    """What the ledger of the same configuration says; ``low <= expected <= high``."""

    low: float
    expected: float
    high: float


class Row(Record):
    """One term. ``outside`` is how far the log lies beyond the nearer end of the range, 0 where it holds.

    ``relative`` is observed over expected minus one, null where both are below the last printed digit. ``readings`` are
    the values of every rank or buffer.
    """

    term: RowTerm
    unit: RowUnit
    predicted: Predicted | None
    observed: float | None
    tolerance: float = 0.0
    verdict: RowVerdict
    outside: float = 0.0
    relative: float | None = None
    readings: tuple[tuple[str, int], ...] = ()


class Start(Record):
    """Whether it starts. ``predicted`` is the estimate's verdict, ``observed`` what the log shows of the memory."""

    predicted: Literal["fits", "tight", "no"]
    observed: Literal["started", "out_of_memory", "unknown"]
    reason: str
    verdict: Literal["holds", "differs", "not_in_log"]


class Comparison(Record):
    """The prediction beside the log. ``differs_in`` names the terms that differ, the relatively farthest first."""

    engine: str
    engine_version: str
    model: str
    quantization: str
    hardware: str
    start: Start
    rows: tuple[Row, ...]
    verdict: Verdict
    differs_in: tuple[str, ...]


class _Range(NamedTuple):
    low: float
    expected: float
    high: float


def compare(plan: Plan, observation: Observation) -> Comparison:
    """Every term that either side has. ``plan`` is the estimate of the observed configuration.

    Raises ``BadRequest`` where the estimate refuses the configuration, so that there is no prediction.
    """
    if plan.candidates:
        candidate = plan.candidates[0]
        memory, pool, predicted = candidate.memory, candidate.kv_cache, candidate.verdict
        version, quantization = candidate.engine.version, candidate.quantization
        name = f"{quantization.publisher}/{quantization.name}"
        single = candidate.parallel.pp == 1
    else:
        rejection = next((one for one in plan.rejected if one.memory is not None), plan.rejected[0])
        memory, pool = _refused(rejection)
        predicted, version, name = "no", observation.version or "", rejection.quantization
        single = rejection.parallel is None or rejection.parallel.pp == 1
    ledger = predictions(memory, pool, by_layer=observation.engine == "llama.cpp")
    rows = _rows(ledger, observation, pool if single else None)
    start = _start(predicted, observation)
    differing = sorted(
        (row for row in rows if row.verdict == "differs"), key=lambda row: abs(row.relative or 0), reverse=True
    )
    compared = [row for row in rows if row.verdict in ("holds", "differs")]
    differs_in = (*(["start"] if start.verdict == "differs" else []), *(row.term for row in differing))
    return Comparison(
        engine=observation.engine,
        engine_version=version,
        model=plan.model.id,
        quantization=name,
        hardware=plan.hardware.description,
        start=start,
        rows=rows,
        verdict="differs" if differs_in else "holds" if compared or start.verdict == "holds" else "nothing_to_compare",
        differs_in=differs_in,
    )


def predictions(memory: Memory, pool: KvCache, *, by_layer: bool) -> dict[Term, Predicted]:
    """The terms of a ledger as an engine would print them.

    Weights and KV cache are those of the fullest device; with ``by_layer``, where every device holds other layers as
    llama.cpp places them, those of all devices together.
    """
    gpus = [device for device in memory.devices if device.kind in ("gpu", "unified")]
    ranges: dict[Term, _Range] = {}
    for device in memory.devices:
        for term, found in _device_terms(device).items():
            known = ranges.get(term)
            if known is None or found.expected > known.expected:
                ranges[term] = found
    if by_layer:
        _add_sums(ranges, memory, gpus)
    elif gpus:
        fullest = max(gpus, key=lambda device: device.weights_bytes)
        ranges["weights"] = _sum([entry for entry in fullest.ledger if entry.kind == "weights"])
        ranges["kv_cache"] = _Range(
            pool.budget_low_bytes_per_rank, pool.budget_bytes_per_rank, pool.budget_high_bytes_per_rank
        )
        ranges["visible"] = _exactly(min(device.engine_visible_bytes for device in gpus))
    if pool.bytes_per_token_per_rank:
        ranges["kv_tokens"] = _tokens(pool)
    return {term: Predicted(low=found.low, expected=found.expected, high=found.high) for term, found in ranges.items()}


def _device_terms(device: DeviceMemory) -> dict[Term, _Range]:
    found: dict[Term, list[LedgerEntry]] = {}
    for entry in device.ledger:
        term = ENTRY_TERMS.get(entry.what)
        if term is not None:
            found.setdefault(term, []).append(entry)
    return {term: _sum(entries) for term, entries in found.items()}


def _add_sums(ranges: dict[Term, _Range], memory: Memory, gpus: list[DeviceMemory]) -> None:
    def entries(devices: list[DeviceMemory], kind: str) -> list[LedgerEntry]:
        return [entry for device in devices for entry in device.ledger if entry.kind == kind]

    used = [device for device in memory.devices if device.kind != "disk"]
    paged = any(device.kind == "disk" for device in memory.devices)
    ranges["kv_cache"] = _sum(entries(used, "kv_cache"))
    if gpus:
        ranges["weights_on_gpus"] = _sum(entries(gpus, "weights"))
    # Without a row for RAM the embedding is in no ledger, and what is paged from disk is in RAM's only in part.
    if not paged and any(device.kind in ("host", "unified") for device in used):
        stored = [entry for entry in entries(used, "weights") if COPY not in entry.what]
        ranges["weights"] = _sum(stored)


def _tokens(pool: KvCache) -> _Range:
    each = pool.bytes_per_token_per_rank
    low = max(pool.budget_low_bytes_per_rank, 0) / each * (1 - BLOCK_PADDING)
    high = max(pool.budget_high_bytes_per_rank, 0) / each
    if pool.budget_low_bytes_per_rank == pool.budget_high_bytes_per_rank:
        return _exactly(pool.tokens)
    return _Range(min(low, pool.tokens), pool.tokens, max(high, pool.tokens))


def _sum(entries: list[LedgerEntry]) -> _Range:
    return _Range(
        sum(entry.low_bytes for entry in entries),
        sum(entry.bytes for entry in entries),
        sum(entry.high_bytes for entry in entries),
    )


def _exactly(value: float) -> _Range:
    return _Range(value, value, value)


def _rows(predicted: Mapping[Term, Predicted], observation: Observation, pool: KvCache | None) -> tuple[Row, ...]:
    measured = {measurement.term: measurement for measurement in observation.measurements}
    known = dict(predicted)
    if "graphs" in known and "graphs_reserved" in measured:
        known["graphs_reserved"] = known["graphs"]
    rows = [_row(term, known.get(term), measured.get(term)) for term in ORDER if term in known or term in measured]
    each = _bytes_per_token_row(measured, pool)
    return tuple([*rows, each] if each else rows)


ORDER: Final[tuple[Term, ...]] = (
    "visible",
    "weights",
    "weights_on_gpus",
    "activation",
    "non_torch",
    "graphs",
    "graphs_reserved",
    "compute_on_gpu",
    "compute_in_ram",
    "outputs",
    "kv_cache",
    "kv_tokens",
)


def _row(term: Term, predicted: Predicted | None, measured: Measurement | None) -> Row:
    unit: RowUnit = "tokens" if term == "kv_tokens" else "bytes"
    if measured is None:
        return Row(term=term, unit=unit, predicted=predicted, observed=None, verdict="not_in_log")
    readings = tuple(_pair(reading) for reading in measured.readings)
    if predicted is None:
        return Row(
            term=term, unit=unit, predicted=None, observed=measured.value, verdict="not_predicted", readings=readings
        )
    tolerance = measured.resolution + ROUNDING * abs(predicted.high)
    return _judged(Row(
        term=term, unit=unit, predicted=predicted, observed=measured.value, tolerance=tolerance, verdict="holds",
        readings=readings,
    ))  # fmt: skip


def _bytes_per_token_row(measured: Mapping[Term, Measurement], pool: KvCache | None) -> Row | None:
    """The KV geometry by itself: what a token takes does not depend on how much room the buffers left."""
    budget, tokens = measured.get("kv_cache"), measured.get("kv_tokens")
    if pool is None or budget is None or tokens is None or tokens.value <= 0 or not pool.bytes_per_token_per_rank:
        return None
    each = pool.bytes_per_token_per_rank
    observed = budget.value / tokens.value
    rounding = (budget.resolution + observed * tokens.resolution) / tokens.value
    return _judged(Row(
        term="kv_bytes_per_token", unit="bytes_per_token",
        predicted=Predicted(low=each, expected=each, high=each * (1 + BLOCK_PADDING)),
        observed=round(observed, 2), tolerance=rounding + ROUNDING * each, verdict="holds",
    ))  # fmt: skip


def _judged(row: Row) -> Row:
    assert row.predicted is not None
    assert row.observed is not None
    above = row.observed - row.predicted.high
    below = row.observed - row.predicted.low
    outside = above if above > row.tolerance else below if below < -row.tolerance else 0.0
    expected = row.predicted.expected
    return row.model_copy(
        update={
            "verdict": "differs" if outside else "holds",
            "outside": outside,
            "relative": round(row.observed / expected - 1, 4) if expected > row.tolerance else None,
        }
    )


def _pair(reading: Reading) -> tuple[str, int]:
    return reading.place, reading.value


def _start(predicted: Literal["fits", "tight", "no"], observation: Observation) -> Start:
    measured = observation.values()
    if observation.failure:
        observed: Literal["started", "out_of_memory", "unknown"] = "out_of_memory"
    elif measured.get("kv_tokens", 0) > 0 and measured.get("kv_cache", 1) > 0:
        observed = "started"
    else:
        observed = "unknown"
    contradicts = (observed, predicted) in (("out_of_memory", "fits"), ("started", "no"))
    return Start(
        predicted=predicted,
        observed=observed,
        reason=observation.failure or "",
        verdict="not_in_log" if observed == "unknown" else "differs" if contradicts else "holds",
    )


def _refused(rejection: Rejection) -> tuple[Memory, KvCache]:
    if rejection.memory is None or rejection.kv_cache is None:
        hint = f"; {rejection.remedy}" if rejection.remedy else ""
        raise BadRequest(f"nothing is predicted for this configuration: {rejection.reason}{hint}")
    return rejection.memory, rejection.kv_cache
