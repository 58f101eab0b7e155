"""The search: every engine, release, layout, KV dtype and placement, priced, timed, ranked; the shown ones in full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from planner.engines import ENGINE_NAMES, load_engine_model
from planner.engines.base import Config, Engine, Priced, Refusal
from planner.ledger import shortest
from planner.request import PricedRelease, Request
from planner.speed import Speed, speed_of

Progress = Callable[[int, int], None]
SQUEEZED_UTILIZATION = 0.95
SQUEEZABLE_SHORTAGE = 0.08
"""A pool engine that misses by less than this share of a GPU is tried again with tighter settings."""


class Found(NamedTuple):
    """A configuration that starts, with its speed."""

    engine: Engine
    release: PricedRelease
    priced: Priced
    speed: Speed


class Missed(NamedTuple):
    """A configuration that does not: refused by the engine, short of memory, or outside the bounds."""

    engine: str
    release: PricedRelease
    config: Config | None
    reason: str
    remedy: str
    priced: Priced | None
    short_by: int


class Outcome(NamedTuple):
    """Everything the search found."""

    found: list[Found]
    missed: list[Missed]
    evaluated: int


def engines_of(request: Request) -> tuple[Engine, ...]:
    """Engines to consider."""
    names = (request.narrow.engine,) if request.narrow.engine else ENGINE_NAMES
    return tuple([load_engine_model(name) for name in names])


def search(request: Request, progress: Progress | None = None) -> Outcome:
    """Price and time every configuration of the request."""
    outcome = Outcome([], [], 0)
    evaluated = 0
    engines = engines_of(request)
    work = [(engine, release) for engine in engines for release in request.releases]
    for done, (engine, release) in enumerate(work):
        if progress is not None:
            progress(done, len(work))
        unloadable = engine.accepts(release)
        if unloadable:
            if request.narrow.engine:
                outcome.missed.append(Missed(engine.name, release, None, unloadable, "choose another quantization", None, 0))
            continue
        if release.release.status == "hypothetical" and not request.exact:
            continue
        for config in engine.configurations(request, release):
            evaluated += 1
            _consider(request, engine, release, config, outcome)
    if progress is not None:
        progress(len(work), len(work))
    return Outcome(outcome.found, outcome.missed, evaluated)


def _consider(
    request: Request, engine: Engine, release: PricedRelease, config: Config | Refusal, outcome: Outcome
) -> None:
    if isinstance(config, Refusal):
        outcome.missed.append(Missed(engine.name, release, config.config, config.reason, config.remedy, None, 0))
        return
    for priced in _tries(request, engine, release, config):
        if priced.verdict == "no":
            worst = min(priced.devices, key=lambda device: device.free_high)
            outcome.missed.append(
                Missed(engine.name, release, priced.config, priced.reason, "", priced, max(-worst.free, 1))
            )
            continue
        speed = speed_of(request, release, priced)
        broken = broken_bound(request, speed)
        if broken:
            outcome.missed.append(Missed(engine.name, release, priced.config, *broken, priced, 0))
        else:
            outcome.found.append(Found(engine, release, priced, speed))


def _tries(request: Request, engine: Engine, release: PricedRelease, config: Config) -> Iterator[Priced]:
    """The configuration, and when it misses narrowly, once more with tighter settings."""
    priced = engine.price(request, release, config)
    if priced.verdict == "fits" or request.exact or not config.utilization == 0.0:
        yield priced
        return
    worst = shortest(priced.devices)
    if engine.name != "vllm" or worst.free_low < -SQUEEZABLE_SHORTAGE * worst.capacity:
        yield priced
        return
    tighter = engine.price(
        request, release,
        config._replace(
            utilization=SQUEEZED_UTILIZATION, batched_tokens=min(config.batched_tokens, 4096), squeezed=True
        ),
    )  # fmt: skip
    yield tighter if tighter.verdict != "no" else priced


def broken_bound(request: Request, speed: Speed) -> tuple[str, str] | None:
    """Reason and remedy when the expected speed misses a bound of the request."""
    bounds = request.bounds
    if bounds.tpot_s is not None and speed.tpot_s[1] > bounds.tpot_s:
        return f"{speed.tpot_s[1] * 1e3:.0f} ms per token, more than --tpot", "lower the concurrency or relax --tpot"
    if bounds.ttft_s is not None and speed.ttft_s[1] > bounds.ttft_s:
        return f"{speed.ttft_s[1]:.1f} s to the first token, more than --ttft", "shorten the input or relax --ttft"
    if bounds.min_throughput is not None and speed.decode_total[1] < bounds.min_throughput:
        return f"{speed.decode_total[1]:.0f} tokens/s, less than --min-throughput", "use more GPUs"
    return None


def score(request: Request, found: Found) -> tuple[float, ...]:
    """Sort key of a candidate, smaller is better; fits before tight, then the objective.

    balanced      total decode rate x rate per request (geometric), context headroom as tie-break
    throughput    total decode rate
    latency       time per token, then time to first token
    context       sequences of full context the KV cache holds
    cost          GPUs used, then throughput
    quality       bits per weight of the experts, then balanced
    """
    speed, priced = found.speed, found.priced
    tight = 0.0 if priced.verdict == "fits" else 1.0
    paged = 1.0 if priced.config.disk_bytes else 0.0
    total, each = speed.decode_total[1], speed.decode_per_request[1]
    balanced = -((total * each) ** 0.5) / (1 + 0.02 * speed.ttft_s[1])
    tokens = -float(priced.pool.tokens * priced.config.replicas)
    simple = float(priced.config.pp + priced.config.dp + priced.config.ep + priced.config.dcp)
    if request.objective == "throughput":
        keys: tuple[float, ...] = (-total, speed.tpot_s[1])
    elif request.objective == "latency":
        keys = (speed.tpot_s[1], speed.ttft_s[1])
    elif request.objective == "context":
        keys = (tokens, balanced)
    elif request.objective == "cost":
        keys = (float(priced.config.world or 1), balanced)
    elif request.objective == "quality":
        keys = (_loss(found), balanced)
    else:
        keys = (balanced, tokens)
    return (tight, paged, *keys, simple, tokens)


def _loss(found: Found) -> float:
    """Rank of the quality loss: native weights first, then more bits per parameter."""
    release = found.release
    parameters = sum([group.parameters for group in release.tensors.groups])
    native = release.release.mixture == "native"
    return 0.0 if native else 1 - release.tensors.bytes * 8 / parameters / 32
