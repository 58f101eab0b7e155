"""Observed start-ups of an engine put into the ledger of a configuration. Pure.

A start-up of the same engine, version, model, quantization and ranks replaces the modelled terms by what was observed
where every setting is the same. Where only sizes of a step differ, the modelled terms move by as much as the
observation differed from its own prediction, and their range stays; weights do not depend on those sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from hwdetect.serving.observation import Term
from planner.compare import ENTRY_TERMS
from planner.engines.base import Config, Pool, Priced
from planner.engines.tensor_parallel import fit
from planner.ledger import Device, Entry, Kind
from planner.request import PricedRelease, Request

CALIBRATED: Final = ("vllm", "sglang")
"""Engines whose pool is what a budget leaves; llama.cpp's ledger is computed as llama.cpp computes it."""
TERMS: Final[tuple[Term, ...]] = ("weights", "activation", "non_torch", "graphs")
KINDS: Final[Mapping[Term, Kind]] = {
    "weights": "weights", "activation": "compute", "non_torch": "overhead", "graphs": "compute",
}  # fmt: skip
INDEPENDENT: Final[frozenset[Term]] = frozenset({"weights", "non_torch"})
"""Terms that sequences, batched tokens and context do not change."""
NAMES: Final[Mapping[Term, str]] = {
    "weights": "weights as loaded", "activation": "peak activation", "non_torch": "memory outside PyTorch",
    "graphs": "CUDA graphs",
}  # fmt: skip
REST: Final = "rest of the reserve"


class ObservedStart(NamedTuple):
    """One start-up on this machine: its resolved configuration, what the log shows, and what is computed for it.

    ``eager``: it ran without CUDA graphs.
    """

    config: Config
    quantization: str
    observed: Mapping[Term, int]
    predicted: Mapping[Term, int]
    resolution: int
    eager: bool
    source: str


def quantization_of(release: PricedRelease) -> str:
    """The name under which start-ups are stored."""
    return f"{release.release.publisher}/{release.release.quantization}"


def same_layout(one: Config, other: Config) -> bool:
    """Whether two configurations load the same on every rank."""
    return _layout(one) == _layout(other)


def _layout(config: Config) -> tuple[object, ...]:
    return (
        config.engine, config.version, config.tp, config.pp, config.dp, config.ep, config.dcp, config.attention_dp,
        config.text_only, config.vision_sharded, config.lora, config.draft_tokens, config.cpu_offload,
        config.group.gpu.key if config.group is not None else None,
    )  # fmt: skip


def same_step(one: Config, other: Config) -> bool:
    """Whether the settings that size a step and the pool are the same too."""
    return (
        (one.batched_tokens, one.sequences, one.context, one.kv_dtype)
        == (other.batched_tokens, other.sequences, other.context, other.kv_dtype)
        and abs(one.utilization - other.utilization) < 5e-4
    )  # fmt: skip


def terms_of(device: Device) -> dict[Term, int]:
    """Expected bytes of a device by the terms that a log has."""
    found: dict[Term, int] = {}
    for entry in device.entries:
        term = _term(entry)
        if term is not None:
            found[term] = found.get(term, 0) + entry.bytes
    return found


def _term(entry: Entry) -> Term | None:
    return "weights" if entry.kind == "weights" else ENTRY_TERMS.get(entry.what)


def calibrated(request: Request, release: PricedRelease, priced: Priced) -> Priced:
    """The configuration with what was observed of it, or as it is where nothing was."""
    config = priced.config
    if config.engine not in CALIBRATED or config.pp > 1 or not priced.devices:
        return priced
    quantization = quantization_of(release)
    near = [
        start
        for start in request.observed
        if start.quantization == quantization
        and start.eager == request.settings.enforce_eager
        and same_layout(start.config, config)
    ]
    if not near:
        return priced
    start = next((one for one in near if same_step(one.config, config)), near[0])
    exact = same_step(start.config, config)
    gpu, *others = priced.devices
    entries = _entries(gpu, start, exact=exact)
    pool = _pool(priced.pool, gpu, entries)
    if exact and "kv_cache" in start.observed:
        rest = pool.budget - start.observed["kv_cache"]
        entries.append(_measured("overhead", REST, rest, start, "budget - terms above - observed KV cache"))
        pool = _pool(priced.pool, gpu, entries)
    devices = (gpu._replace(entries=tuple(entries)), *others)
    how = "replaces" if exact else "shifts"
    warnings = [*priced.warnings, f"an observed start-up {how} terms of the ledger ({start.source})"]
    found = fit(request, config, priced.shards, pool, devices, warnings)
    return found._replace(cpu_expert_bytes=priced.cpu_expert_bytes)


def measured_cache(request: Request, priced: Priced, tokens: int, source: str) -> Priced:
    """The configuration with the KV tokens that its server reported: the rest of the reserve closes the ledger."""
    gpu, *others = priced.devices
    pool = priced.pool
    cache = round(tokens * pool.bytes_per_token)
    kept = [entry for entry in gpu.entries if entry.what != REST]
    # What the terms leave is known only as far as they are; that what remains holds so many tokens is known.
    known = [entry for entry in kept if entry.kind != "kv_cache"]
    rest = gpu.usable - sum([entry.bytes for entry in known]) - cache
    formula = "budget - terms above - KV cache as reported"
    entries = (*kept, Entry("overhead", REST, rest, rest, rest, formula, source, "measured"))
    closed = [
        entry if entry.kind == "kv_cache" else entry._replace(low=entry.bytes, high=entry.bytes) for entry in entries
    ]
    measured = pool._replace(budget=cache, budget_low=cache, budget_high=cache, tokens=tokens, tokens_low=tokens)
    device = gpu._replace(entries=tuple(closed), usable_low=gpu.usable, usable_high=gpu.usable)
    warnings = [*priced.warnings, f"the KV cache is as its server reported it ({source})"]
    found = fit(request, priced.config, priced.shards, measured, (device, *others), warnings)
    return found._replace(cpu_expert_bytes=priced.cpu_expert_bytes)


def _entries(device: Device, start: ObservedStart, *, exact: bool) -> list[Entry]:
    """The ledger with its terms replaced or shifted; the KV cache and what no log shows stay."""
    present = terms_of(device)
    replaced = {
        term
        for term in TERMS
        if term in start.observed and term in present and (exact or term in INDEPENDENT or term in start.predicted)
    }
    kept = [entry for entry in device.entries if _term(entry) not in replaced]
    fresh = []
    for term in TERMS:
        if term not in replaced:
            continue
        if exact or term in INDEPENDENT:
            fresh.append(_measured(KINDS[term], NAMES[term], start.observed[term], start, "as observed"))
        else:
            shift = start.observed[term] - start.predicted[term]
            fresh += _shifted([entry for entry in device.entries if _term(entry) == term], shift, start)
    return fresh + kept


def _measured(kind: Kind, what: str, size: int, start: ObservedStart, formula: str) -> Entry:
    spread = start.resolution
    return Entry(kind, what, size, size - spread, size + spread, formula, start.source, "measured")


def _shifted(entries: list[Entry], shift: int, start: ObservedStart) -> list[Entry]:
    """The first entry takes the whole shift: an observation does not say which of them it is."""
    first, *others = entries
    moved = first._replace(
        bytes=max(first.bytes + shift, 0),
        low=max(min(first.low + shift, first.bytes + shift), 0),
        high=max(first.high + shift, 0),
        formula=f"{first.formula}; moved by what a start-up with other sizes differed",
        source=start.source,
        evidence="measured",
    )
    return [moved, *others]


def _pool(pool: Pool, device: Device, entries: list[Entry]) -> Pool:
    """The pool that the new ledger leaves."""
    rest = [entry for entry in entries if entry.kind != "kv_cache"]
    budget = device.usable - sum([entry.bytes for entry in rest])
    low = device.usable_low - sum([entry.high for entry in rest])
    high = device.usable_high - sum([entry.low for entry in rest])
    each = pool.bytes_per_token
    return pool._replace(
        budget=budget,
        budget_low=low,
        budget_high=high,
        tokens=int(max(budget, 0) // each) if each else pool.tokens,
        tokens_low=int(max(low, 0) // each) if each else pool.tokens_low,
    )
