"""Verified loads put into the speed and the KV cache of the configuration that was served. Pure.

The same configuration is priced for each measured load; measured over predicted is a factor, of the time per token and
of the time to the first token. Between two measured concurrencies its logarithm is interpolated in the logarithm of the
concurrency, beyond them the nearest is held. The range is what was measured: the spread of a step, how much repeated
measurements and neighbouring steps disagree, and the model's own range by as much as the model has to carry the
measurement to the load asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import exp, hypot, log
from typing import Any, Final, NamedTuple

from planner.budget import Budget
from planner.calibrate import CALIBRATED, measured_cache, quantization_of
from planner.engines.base import Config, Engine, Priced
from planner.plan import Candidate
from planner.request import PricedRelease, Request
from planner.speed import Range, Speed, modelled_speed
from planner.verify_report import LoadStep, MeasuredLoad, Percentiles

ENOUGH: Final = 3
"""Requests of a step below which its median says little."""
LEAST_SPREAD: Final = 1.02
"""A run repeated at once differs by about so much, however evenly the requests of one run went."""
CARRIED: Final = 2.0
"""A measurement that the model carries to a load of twice the predicted time has the model's whole range again."""


class _Point(NamedTuple):
    """Logarithms at one concurrency: of the factor, its spread, and the predicted time of the measured load."""

    concurrency: int
    factor: float
    spread: float
    predicted: float


class _Carried(NamedTuple):
    """The factor for a load, as a logarithm with its spread; ``share`` of the model's own range remains."""

    factor: float
    spread: float
    share: float


def served_as(candidate: Candidate) -> dict[str, Any]:
    """The settings of a candidate that a measured load keeps: what has to be the same for it to be evidence."""
    return {
        "kv_dtype": candidate.kv_cache.dtype,
        "offload": candidate.offload.model_dump(include={"cpu_expert_layers", "gpu_experts_per_layer"}),
        "devices": sorted({one.name for one in candidate.memory.devices if one.kind in ("gpu", "unified")}),
        "settings": {key: value for key, value in candidate.settings.items() if key not in _SIZES},
        "argv": list(candidate.launch.argv),
    }


_SIZES: Final = ("context", "max_num_seqs", "max_num_batched_tokens", "memory_utilization")
"""Settings that size the KV cache and the steps: they may differ for a speed to be evidence."""


def _same(load: MeasuredLoad, release: PricedRelease, priced: Priced) -> bool:
    from planner.assemble import settings_of

    config, served = priced.config, load.served
    ranks = {"tp": config.tp, "pp": config.pp, "dp": config.dp, "ep": config.ep, "dcp": config.dcp}
    return (
        load.engine == config.engine
        and load.quantization == quantization_of(release)
        and load.parallel.model_dump() == ranks
        and served.get("kv_dtype") == config.kv_dtype
        and served.get("offload") == _offload(config)
        and served.get("devices") == sorted({one.name for one in priced.devices if one.kind in ("gpu", "unified")})
        and served.get("settings") == {key: value for key, value in settings_of(config).items() if key not in _SIZES}
    )


def _offload(config: Config) -> Mapping[str, int]:
    return {
        "cpu_expert_layers": config.cpu_expert_layers,
        "gpu_experts_per_layer": config.gpu_experts_per_layer,
    }


def corrected(
    request: Request, release: PricedRelease, priced: Priced, concurrency: float | None, speed: Speed
) -> Speed:
    """A modelled speed with what was measured of this configuration, or as it is where nothing was."""
    loads = [load for load in request.loads if _same(load, release, priced)]
    if not loads:
        return speed
    asked = float(request.demand.concurrency if concurrency is None else concurrency)
    plain = _Predictor(request, release, priced)
    tpot = _carried(_points(loads, request, plain, _tpot), asked, speed.tpot_s)
    ttft = _carried(_points(loads, request, plain, _ttft), asked, speed.ttft_s)
    if tpot is None:
        return speed
    times = _range(speed.tpot_s, tpot)
    first = _range(speed.ttft_s, ttft) if ttft is not None else speed.ttft_s
    low, high = _rate_residual(loads, asked)
    admitted, factor = speed.effective_concurrency, exp(tpot.factor)
    return speed._replace(
        tpot_s=times,
        ttft_s=first,
        decode_per_request=(1 / times[2], 1 / times[1], 1 / times[0]),
        decode_total=(admitted / times[2] * low, admitted / times[1], admitted / times[0] * high),
        serving=speed.serving._replace(
            step=Budget(
                tuple([
                    term._replace(seconds=term.seconds * factor, source=f"{term.source}; x {factor:.3g} as verified")
                    for term in speed.serving.step.terms
                ])
            ),
            waiting=speed.serving.waiting * factor,
            tpot_s=times[1],
            ttft_s=first[1],
        ),
        verified=_said(loads, asked),
    )  # fmt: skip


def _tpot(step: LoadStep) -> Percentiles | None:
    return step.tpot_s


def _ttft(step: LoadStep) -> Percentiles | None:
    return step.ttft_s


def _usable(step: LoadStep) -> bool:
    """A step with failures says what was left over; one with few requests, little."""
    return not step.failed and step.requests >= min(ENOUGH, step.concurrency) and step.output_tokens is not None


class _Predictor:
    """Today's prediction of measured loads, each priced once."""

    def __init__(self, request: Request, release: PricedRelease, priced: Priced) -> None:
        self._request, self._release, self._priced = request, release, priced
        self._known: dict[tuple[int, int, int], Speed] = {}

    def __call__(self, step: LoadStep) -> Speed:
        prompt = round(step.input_tokens or self._request.demand.input_tokens)
        key = (step.concurrency, max(1, prompt), max(1, round(step.output_tokens or 1)))
        found = self._known.get(key)
        if found is None:
            # No prompt of a verification is in a prefix cache, and none has an image.
            demand = replace(
                self._request.demand, concurrency=key[0], input_tokens=key[1], output_tokens=key[2],
                prefix_cache_hit_rate=0.0, images=0,
            )  # fmt: skip
            request = replace(self._request, demand=demand, loads=())
            found = self._known[key] = modelled_speed(request, self._release.afresh(), self._priced)
        return found


def _points(
    loads: Sequence[MeasuredLoad],
    request: Request,
    predict: _Predictor,
    term: Callable[[LoadStep], Percentiles | None],
) -> list[_Point]:
    """A point of every measured concurrency: of the load whose lengths are nearest to those asked for, then the newest.

    What other measurements of the same concurrency say otherwise is spread.
    """
    steps: dict[int, list[LoadStep]] = {}
    for load in loads:
        for step in load.steps:
            if _usable(step) and term(step) is not None:
                steps.setdefault(step.concurrency, []).append(step)
    points = []
    for concurrency in sorted(steps):
        alike = sorted(steps[concurrency], key=lambda step: _length_distance(step, request))
        factors = [_factor(step, predict, term) for step in alike]
        best = term(alike[0])
        assert best is not None
        seen = max(best.p90 / best.p50 if best.p50 > 0 else 1.0, LEAST_SPREAD)
        apart = max([abs(one - factors[0]) for one in factors])
        predicted = predict(alike[0])
        expected = predicted.tpot_s[1] if term is _tpot else predicted.ttft_s[1]
        points.append(_Point(concurrency, factors[0], hypot(log(seen), apart), log(expected)))
    return points


def _factor(step: LoadStep, predict: _Predictor, term: Callable[[LoadStep], Percentiles | None]) -> float:
    measured, predicted = term(step), predict(step)
    assert measured is not None
    expected = predicted.tpot_s[1] if term is _tpot else predicted.ttft_s[1]
    return log(max(measured.p50, 1e-9) / expected)


def _length_distance(step: LoadStep, request: Request) -> float:
    demand = request.demand
    asked = max(demand.input_tokens, 1), max(demand.output_tokens, 1)
    had = max(step.input_tokens or asked[0], 1), max(step.output_tokens or asked[1], 1)
    return round(abs(log(asked[0] / had[0])) + abs(log(asked[1] / had[1])), 2)


def _carried(points: Sequence[_Point], asked: float, modelled: Range) -> _Carried | None:
    if not points:
        return None
    below = max([point for point in points if point.concurrency <= asked], default=points[0])
    above = min([point for point in points if point.concurrency >= asked], default=points[-1])
    share = 0.0
    if above.concurrency > below.concurrency:
        share = log(asked / below.concurrency) / log(above.concurrency / below.concurrency)
    factor = below.factor + share * (above.factor - below.factor)
    spread = below.spread + share * (above.spread - below.spread)
    predicted = below.predicted + share * (above.predicted - below.predicted)
    # Halfway between two steps either may be the truer one.
    spread = hypot(spread, min(share, 1 - share) * abs(above.factor - below.factor))
    between = min(share, 1 - share) * abs(above.predicted - below.predicted)
    carried = max(0.0, abs(log(modelled[1]) - predicted) - between)
    return _Carried(factor, spread, min(1.0, carried / log(CARRIED)))


def _range(modelled: Range, found: _Carried) -> Range:
    low, expected, high = modelled
    value = expected * exp(found.factor)
    down = exp(hypot(found.spread, found.share * log(expected / low)))
    up = exp(hypot(found.spread, found.share * log(high / expected)))
    return value / down, value, value * up


def _rate_residual(loads: Sequence[MeasuredLoad], asked: float) -> tuple[float, float]:
    """How the whole rate of the nearest steady step lay to what its own medians make (Little's law)."""
    found: list[tuple[float, float]] = []
    for load in loads:
        for step in load.steps:
            times = step.ttft_s, step.tpot_s
            if not (step.sustained and _usable(step) and step.output_tokens_per_s and step.output_tokens):
                continue
            if times[0] is not None and times[1] is not None:
                each = (times[0].p50 + step.output_tokens * times[1].p50) / step.output_tokens
                distance = abs(log(step.concurrency / asked))
                found.append((distance, step.output_tokens_per_s * each / step.concurrency))
    if not found:
        return 1.0, 1.0
    residual = min(found)[1]
    return min(1.0, residual), max(1.0, residual)


def _said(loads: Sequence[MeasuredLoad], asked: float) -> str:
    steps = sorted({step.concurrency for load in loads for step in load.steps if _usable(step) and step.tpot_s})
    date = max(load.measured_at for load in loads)[:10]
    if asked in steps:
        return f"measured by verify on {date} at {asked:,.0f} at a time"
    listed = ", ".join(f"{one:,}" for one in steps)
    return f"corrected to {asked:,.0f} at a time from what verify measured on {date} at {listed}"


def with_measured_tokens(request: Request, engine: Engine, release: PricedRelease, priced: Priced) -> Priced:
    """The configuration with the KV tokens that a server started with this very command reported."""
    config = priced.config
    if config.engine not in CALIBRATED or config.pp > 1 or not priced.devices or not priced.pool.bytes_per_token:
        return priced
    loads = [load for load in request.loads if load.kv_tokens is not None and _same(load, release, priced)]
    if not loads:
        return priced
    argv = list(engine.launch(request, release, config).argv)
    for load in loads:
        if load.kv_tokens is not None and load.served.get("argv") == argv:
            return measured_cache(request, priced, load.kv_tokens, f"verify of {load.measured_at[:10]}")
    return priced
