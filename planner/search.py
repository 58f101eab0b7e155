"""The search: every engine, release, layout, KV dtype and placement, priced, timed, ranked; the shown ones in full."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import log
from threading import Lock
from typing import Final, NamedTuple

from formulas.units import GIB
from planner.cost import cheapest_rent
from planner.engines import ENGINE_NAMES, load_engine_model
from planner.engines.base import Config, Engine, Priced, Refusal, placed_gpus
from planner.kept import Recent
from planner.ledger import shortest
from planner.request import PricedRelease, Request
from planner.speed import Speed, speed_of
from profiles.library import quality_of
from profiles.model import Release

Progress = Callable[[int, int], None]
SQUEEZED_UTILIZATION = 0.95
SQUEEZABLE_SHORTAGE = 0.15
"""A pool engine that misses by less than this share of a GPU is tried again with tighter settings."""
QUESTIONS = 4
"""Requests of which all that was found is kept, for an answer in another order or of fewer engines or weights."""
REQUANTIZED_WORTH = 0.95
"""What a re-quantization counts in ``balanced`` beside the maker's weights, however many bits it keeps."""


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


class _Collection:
    """Garbage collection of the process, off while any thread asks for that."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._askers = 0
        self._was_enabled = True

    def pause(self) -> None:
        with self._lock:
            if self._askers == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._askers += 1

    def resume(self) -> None:
        with self._lock:
            self._askers -= 1
            if self._askers == 0 and self._was_enabled:
                gc.enable()


_COLLECTION: Final = _Collection()


@contextmanager
def no_collection() -> Iterator[None]:
    """Without garbage collection: the search makes many small tuples and no cycles, and each pass would visit them."""
    _COLLECTION.pause()
    try:
        yield
    finally:
        _COLLECTION.resume()


@no_collection()
def search(request: Request, progress: Progress | None = None) -> Outcome:
    """Price and time every configuration of the request."""
    outcome = Outcome([], [], 0)
    engines = engines_of(request)
    work = [(engine, release) for engine in engines for release in request.releases]
    known = _SEARCHED.of(_question(request), dict)
    for done, (engine, release) in enumerate(work):
        if progress is not None:
            progress(done, len(work))
        unloadable = engine.accepts(release)
        if unloadable:
            if request.narrow.engine:
                outcome.missed.append(
                    Missed(engine.name, release, None, unloadable, "choose another quantization", None, 0)
                )
            continue
        excluded = too_lossy(request, release)
        if excluded:
            outcome.missed.append(
                Missed(engine.name, release, None, excluded, "raise --max-kld or choose native weights", None, 0)
            )
            continue
        found, missed = _searched(request, engine, release, known)
        outcome.found.extend(found)
        outcome.missed.extend(missed)
    if progress is not None:
        progress(len(work), len(work))
    return outcome._replace(evaluated=len(outcome.found) + len(outcome.missed))


_Searched = tuple[PricedRelease, tuple[Found, ...], tuple[Missed, ...]]
"""What was found and missed of one engine and release, and the object that it names as the release."""
_SEARCHED: Final[Recent[dict[tuple[str, Release], _Searched]]] = Recent(QUESTIONS)


def _question(request: Request) -> Request:
    """What an engine's configurations of a release depend on: not what they are asked for, nor what else is."""
    return replace(
        request, releases=(), objective="balanced", top=0, traffic=None, narrow=replace(request.narrow, engine=None)
    )


def _searched(
    request: Request, engine: Engine, release: PricedRelease, known: dict[tuple[str, Release], _Searched]
) -> tuple[Iterable[Found], Iterable[Missed]]:
    """Every configuration of an engine and a release; ``known`` is what the same question has found before."""
    key = (engine.name, release.release)
    before = known.get(key)
    if before is None or before[0].tensors is not release.tensors:
        outcome = Outcome([], [], 0)
        for config in engine.configurations(request, release):
            _consider(request, engine, release, config, outcome)
        known[key] = release, tuple(outcome.found), tuple(outcome.missed)
        return outcome.found, outcome.missed
    if before[0] is release:
        return before[1:]
    return [one._replace(release=release) for one in before[1]], [one._replace(release=release) for one in before[2]]


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
        if release.release.status == "hypothetical" and not request.exact:
            unpublished = "nobody published these weights"
            outcome.missed.append(
                Missed(engine.name, release, priced.config, unpublished, "quantize them yourself", priced, 0)
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
    priced = _price(request, engine, release, config)
    if priced.verdict == "fits" or request.exact or config.utilization != 0.0:
        yield priced
        return
    worst = shortest(priced.devices)
    if engine.name != "vllm" or worst.free_low < -SQUEEZABLE_SHORTAGE * worst.capacity:
        yield priced
        return
    tighter = _price(
        request, engine, release,
        config._replace(
            utilization=SQUEEZED_UTILIZATION, batched_tokens=min(config.batched_tokens, 4096), squeezed=True
        ),
    )  # fmt: skip
    yield max((priced, tighter), key=_likelihood)


def _price(request: Request, engine: Engine, release: PricedRelease, config: Config) -> Priced:
    priced = engine.price(request, release, config)
    if request.observed:
        from planner.calibrate import calibrated

        priced = calibrated(request, release, priced)
    if request.loads:
        from planner.loads import with_measured_tokens

        priced = with_measured_tokens(request, engine, release, priced)
    return priced


def _likelihood(priced: Priced) -> tuple[int, int]:
    """How likely a configuration starts: its verdict, then the expected room on its tightest device."""
    return ("no", "tight", "fits").index(priced.verdict), min([device.free for device in priced.devices])


def too_lossy(request: Request, release: PricedRelease) -> str:
    """Why a release is excluded by ``--max-kld``; native weights lose nothing by definition.

    Only what was measured of the release itself counts: a mixture is not its main type.
    """
    bounds = request.bounds
    if bounds.max_kld is None or release.release.by_maker:
        return ""
    wanted = (bounds.quality_suite or "").casefold()
    losses, of_type = [
        [loss for loss in some if wanted in loss.suite.casefold() and "kl" in loss.metric.casefold()]
        for some in (release.release.quality, quality_of(request.model.id, release.release))
    ]
    if not losses:
        only = " (only that of its main type throughout, which it is not)" if of_type else ""
        return f"its KL divergence was not measured in suite {bounds.quality_suite!r}{only}"
    if losses[0].value > bounds.max_kld:
        return f"its KL divergence of {losses[0].value:g} exceeds {bounds.max_kld:g}"
    return ""


def broken_bound(request: Request, speed: Speed) -> tuple[str, str] | None:
    """Reason and remedy when the expected speed misses a bound of the request."""
    bounds = request.bounds
    if bounds.tpot_s is not None and speed.tpot_s[1] > bounds.tpot_s:
        return (
            f"{speed.tpot_s[1] * 1e3:.0f} ms per token, more than --tpot",
            "lower the concurrency or relax --tpot",
        )
    if bounds.ttft_s is not None and speed.ttft_s[1] > bounds.ttft_s:
        return (
            f"{speed.ttft_s[1]:.1f} s to the first token, more than --ttft",
            "shorten the input or relax --ttft",
        )
    if bounds.min_throughput is not None and speed.decode_total[1] < bounds.min_throughput:
        return f"{speed.decode_total[1]:.0f} tokens/s, less than --min-throughput", "use more GPUs"
    return None


def score(request: Request, found: Found) -> tuple[float, ...]:
    """Sort key of a candidate, smaller is better; fits before tight, then the objective.

    balanced      total decode rate x rate per request (geometric) x share of the native bits kept, less for a late
                  first token: half the bits must buy twice the speed
    throughput    total decode rate
    latency       time per token, then time to first token
    context       sequences of full context the KV cache holds
    cost          rent per token where a rent is known, else GPUs used; then balanced
    quality       native weights first, then more bits per parameter, then balanced

    Rates closer than the model can tell apart (4 %) count as equal; then native weights, an unquantized KV cache and
    the simpler layout win.
    """
    speed, priced = found.speed, found.priced
    room = _likelihood(priced)[1]
    # Of what is expected to be short, the least short is the likeliest to start.
    tight = 0.0 if priced.verdict == "fits" else 1.0 if room >= 0 else 2.0 - room / GIB
    paged = 1.0 if priced.config.disk_bytes else 0.0
    total, each = speed.decode_total[1], speed.decode_per_request[1]
    balanced = -_step((total * each) ** 0.5 * _kept_bits(request, found) / (1 + 0.02 * speed.ttft_s[1]))
    tokens = -float(priced.pool.tokens * priced.config.replicas)
    simple = float(priced.config.pp + priced.config.dp + priced.config.ep + priced.config.dcp)
    if request.objective == "throughput":
        keys: tuple[float, ...] = (-_step(total), _step(speed.tpot_s[1]))
    elif request.objective == "latency":
        keys = (_step(speed.tpot_s[1]), _step(speed.ttft_s[1]))
    elif request.objective == "context":
        keys = (tokens, balanced)
    elif request.objective == "cost":
        keys = (_dollars(request, found), balanced)
    elif request.objective == "quality":
        keys = (_loss(found), balanced)
    else:
        keys = (balanced,)
    native = 0.0 if found.release.release.by_maker else 1.0
    rounded = 0.0 if priced.config.kv_dtype in ("bf16", "f16") else 1.0
    return (tight, paged, *keys, native, rounded, simple, tokens)


def _step(value: float) -> float:
    """Which 4 % step a rate falls on."""
    return float(round(log(max(value, 1e-12)) / log(1.04)))


def _loss(found: Found) -> float:
    """Rank of the quality loss: native weights first, then more bits per parameter."""
    return 0.0 if found.release.release.by_maker else 1 - bits_per_parameter(found.release) / 32


def bits_per_parameter(release: PricedRelease) -> float:
    """Bits of the release per parameter of its tensors."""
    found = release.kept.get("bits")
    if found is None:
        parameters = sum([group.parameters for group in release.tensors.groups])
        found = release.kept["bits"] = release.tensors.bytes * 8 / parameters
    return float(found)


def _kept_bits(request: Request, found: Found) -> float:
    """Share of the bits of the maker's own release that this one keeps, at most 1; 0.95 for any re-quantization."""
    native = [release for release in request.releases if release.release.by_maker]
    if not native:
        return 1.0
    share = min(1.0, bits_per_parameter(found.release) / bits_per_parameter(native[0]))
    return share if found.release is native[0] else min(share, REQUANTIZED_WORTH)


def _dollars(request: Request, found: Found) -> float:
    """Rent in dollars per token of output; without a known rent, a million per GPU, so that those come last."""
    config = found.priced.config
    if config.group is None:
        return 0.0
    if config.placement:
        keys = [gpu.key for gpu in placed_gpus(request.machine.nodes[config.group.nodes[0]], config)]
    else:
        keys = [config.group.gpu.key] * config.world
    dollars = 0.0
    for key in dict.fromkeys(keys):
        rent = cheapest_rent(key, keys.count(key))
        if rent is None:
            return 1e6 * len(keys)
        dollars += rent.usd_per_hour
    return dollars / 3600 / found.speed.decode_total[1]
