"""One configuration at other contexts and other numbers of requests: what plots of a plan are drawn from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from planner.assemble import settings_of
from planner.calculator import comparison_rows, own_row
from planner.references import parallel_ref, quantization_ref
from planner.request import Narrow, Request
from planner.search import Found, Progress, no_collection, search
from planner.speed import Speed, speed_of

if TYPE_CHECKING:
    from planner.engines.base import Priced
    from planner.memory_report import KvCacheRow
    from planner.plan import Candidate
    from profiles.model import ModelSpec

COMPARED_DTYPES: Final = ("bf16", "f16", "fp8")
LEAST_CONTEXT: Final = 1024
BEYOND: Final = 4
"""Requests at a time are followed up to this many times of what the KV cache admits: beyond, they only wait."""
MOST_REQUESTS: Final = 1 << 14


class ContextPoint(NamedTuple):
    """The configuration started for ``context`` tokens and serving as many requests, each of that whole length.

    ``kv_bytes`` is one sequence on one rank; ``layouts`` are what the calculator says of it, the model's own layout
    first. ``speed`` is None where the requests do not fit.
    """

    context: int
    kv_bytes: int
    layouts: tuple[KvCacheRow, ...]
    speed: Speed | None


class LoadPoint(NamedTuple):
    """The configuration as planned under ``requests`` at a time."""

    requests: int
    speed: Speed


class Curves(NamedTuple):
    """Both, in ascending order."""

    contexts: tuple[ContextPoint, ...]
    loads: tuple[LoadPoint, ...]


@no_collection()
def curves_of(request: Request, candidate: Candidate, progress: Progress | None = None) -> Curves | None:
    """The curves of a candidate that ``request`` found; None where it is not found again, as in a fleet."""
    found = found_again(request, candidate)
    if found is None:
        return None
    lengths = [LEAST_CONTEXT << power for power in range(32) if LEAST_CONTEXT << power < request.model.max_context]
    lengths = sorted({*lengths, request.model.max_context, request.demand.context})
    contexts = []
    for done, tokens in enumerate(lengths):
        if progress is not None:
            progress(done, len(lengths))
        contexts.append(_at_context(request, found, tokens))
    return Curves(tuple(contexts), tuple(_loads(request, found)))


def found_again(request: Request, candidate: Candidate) -> Found | None:
    """What the search knows of a candidate and the plan does not say."""
    ranks = candidate.parallel
    alone = replace(
        request,
        releases=tuple([one for one in request.releases if quantization_ref(one) == candidate.quantization]),
        narrow=Narrow(
            candidate.engine.name, candidate.engine.version, candidate.kv_cache.dtype,
            ranks.tp, ranks.pp, ranks.dp, ranks.ep, ranks.dcp,
        ),
    )  # fmt: skip
    return next((one for one in search(alone).found if _is(one.priced, candidate)), None)


def _is(priced: Priced, candidate: Candidate) -> bool:
    config, offload = priced.config, candidate.offload
    return (
        parallel_ref(config) == candidate.parallel
        and settings_of(config) == candidate.settings
        and config.kv_dtype == candidate.kv_cache.dtype
        and (config.cpu_expert_layers, config.gpu_experts_per_layer, config.disk_bytes)
        == (offload.cpu_expert_layers, offload.gpu_experts_per_layer, offload.disk_bytes)
    )


def _at_context(request: Request, found: Found, tokens: int) -> ContextPoint:
    demand = request.demand
    output = min(demand.output_tokens, max(tokens // 4, 1))
    full = replace(request, demand=replace(demand, context=tokens, input_tokens=tokens - output, output_tokens=output))
    release = found.release.afresh()
    config = found.priced.config
    priced = found.engine.price(full, release, config._replace(context=tokens))
    speed = speed_of(full, release, priced) if priced.verdict != "no" else None
    return ContextPoint(tokens, priced.pool.context_bytes, _layouts(request.model, config.kv_dtype, tokens), speed)


def _layouts(model: ModelSpec, dtype: str, tokens: int) -> tuple[KvCacheRow, ...]:
    """The model's own, and for MLA what GQA and MHA would take."""
    rows = [own_row(model, dtype, tokens, 1)]
    if model.uses_mla and model.nope_dim:
        rows += comparison_rows(model, dtype if dtype in COMPARED_DTYPES else "bf16", tokens, 1)
    return tuple(rows)


def _loads(request: Request, found: Found) -> list[LoadPoint]:
    points: list[LoadPoint] = []
    for requests in sorted({*(1 << power for power in range(15)), request.demand.concurrency}):
        speed = speed_of(request, found.release, found.priced, requests)
        points.append(LoadPoint(requests, speed))
        is_past = requests >= max(BEYOND * speed.effective_concurrency, request.demand.concurrency)
        if is_past or requests >= MOST_REQUESTS:
            break
    return points
