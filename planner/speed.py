"""Speed of a priced configuration at the demand, as ranges, with the time budget of a token."""

from __future__ import annotations

from math import exp, hypot, log
from typing import NamedTuple

from planner.budget import Budget, Term, combined_spread, fact
from planner.engines.base import Priced
from planner.request import PricedRelease, Request
from planner.serving import Serving, serve
from planner.step import OFFLOADERS

Range = tuple[float, float, float]


class Speed(NamedTuple):
    """Speed of one configuration; low, expected, high. Rates are tokens per second over the whole machine.

    ``serving`` is what it was made of; ``measured_share`` of a token's time rests on kernels measured on this machine;
    ``verified`` says of which served load it was measured, empty where it was of none.
    """

    tpot_s: Range
    ttft_s: Range
    decode_per_request: Range
    decode_total: Range
    prefill: Range
    effective_concurrency: float
    bound_by: str
    serving: Serving
    measured_share: float = 0.0
    verified: str = ""


def speed_of(request: Request, release: PricedRelease, priced: Priced, concurrency: float | None = None) -> Speed:
    """Latency and throughput at the demand, or at another concurrency, as ranges, with what was measured of them."""
    found = modelled_speed(request, release, priced, concurrency)
    if not request.loads:
        return found
    # Only what was verified pays for loading it.
    from planner.loads import corrected

    return corrected(request, release, priced, concurrency, found)


def modelled_speed(request: Request, release: PricedRelease, priced: Priced, concurrency: float | None = None) -> Speed:
    """The speed that the sum of kernels gives."""
    found = serve(request, release, priced, concurrency)
    low, high = _factors(found, priced)
    prompt = _widened(found.prompt.spread)
    tpot, ttft, admitted = found.tpot_s, found.ttft_s, found.admitted
    demand = request.demand
    fresh = max(demand.input_tokens * (1 - demand.prefix_cache_hit_rate), 1.0)
    rate = found.lanes * fresh / found.prompt.total
    return Speed(
        (tpot * low, tpot, tpot * high),
        (ttft / prompt, ttft, ttft * prompt),
        (1 / (tpot * high), 1 / tpot, 1 / (tpot * low)),
        (admitted / (tpot * high), admitted / tpot, admitted / (tpot * low)),
        (rate / prompt, rate, rate * prompt),
        admitted,
        _bound(found, float(demand.concurrency if concurrency is None else concurrency)),
        found,
        found.step.measured_share * (1 - found.waiting / tpot) + found.prompt.measured_share * found.waiting / tpot,
    )


def token_budget(found: Serving) -> Budget:
    """The time of one output token by kernel: its share of a step, and the prompts of other requests."""
    each = found.tokens_per_step[1]
    terms = [term._replace(seconds=term.seconds / each) for term in found.step.terms]
    if found.waiting > 0:
        prompt = found.prompt
        terms.append(
            Term("prompts of other requests", found.waiting, prompt.bound_by, prompt.spread, _largest_source(prompt))
        )
    return Budget(tuple(terms))


def _largest_source(budget: Budget) -> str:
    return max(budget.terms, key=lambda term: term.seconds).source


def _widened(spread: float) -> float:
    """The spread of the kernels and, independent of it, of the model that sums them."""
    return exp(hypot(log(spread), log(fact("model_spread").value)))


def _factors(found: Serving, priced: Priced) -> tuple[float, float]:
    """Low and high factor of the time per token."""
    each = found.tokens_per_step[1]
    parts = [(term.seconds / each, term.spread) for term in found.step.terms]
    parts.append((found.waiting, found.prompt.spread))
    spread = _widened(combined_spread(parts))
    low, high = 1 / spread, spread
    config = priced.config
    if config.engine not in OFFLOADERS and config.pp > 1:
        known = fact("pipeline_factor")
        low, high = low * known.low / known.value, high * known.high / known.value
    slow, expected, fast = found.tokens_per_step
    step = 1 - found.waiting / found.tpot_s
    # More accepted drafts shorten only the part that is steps.
    return low * (1 - step + step * expected / fast), high * (1 - step + step * expected / slow)


def _bound(found: Serving, offered: float) -> str:
    """What decides the time of a token."""
    if found.admitted < 0.98 * offered:
        return "admission"
    if found.waiting > found.step.total / found.tokens_per_step[1]:
        return "prefill"
    return found.step.bound_by
