"""Speed of a priced configuration at the demand: what step time and prefill make of latency and throughput.

A decode step is the fixed time of its layers plus the bytes it moves over the bandwidth its kernels reach; the prompts
of the other requests interrupt it. One stream is the fixed time, a large batch approaches the roofline.
"""

from __future__ import annotations

from typing import NamedTuple

from planner.engines.base import Priced
from planner.request import PricedRelease, Request
from planner.speed_gpu import gpu_prefill_s, gpu_step
from planner.speed_offload import offload_prefill_s, offload_step
from planner.speed_terms import Step
from profiles.engines import EngineFacts, Fact, load_engine


class Speed(NamedTuple):
    """Speed of one configuration; low, expected, high. Rates are tokens per second over the whole machine."""

    tpot_s: tuple[float, float, float]
    ttft_s: tuple[float, float, float]
    decode_per_request: tuple[float, float, float]
    decode_total: tuple[float, float, float]
    prefill: tuple[float, float, float]
    effective_concurrency: float
    bound_by: str


def speed_of(request: Request, release: PricedRelease, priced: Priced) -> Speed:
    """Latency and throughput at the demand, as ranges."""
    facts = load_engine("speed")
    demand, config = request.demand, priced.config
    output = max(demand.output_tokens, 1)
    held = priced.pool.tokens * config.replicas if priced.pool.bytes_per_token else None
    each = demand.input_tokens + output
    admitted = float(demand.concurrency)
    if held is not None:
        admitted = max(1.0, min(admitted, held / each))
    cached = demand.input_tokens + output / 2
    fresh = max(demand.input_tokens * (1 - demand.prefix_cache_hit_rate), 1.0)
    offloaded = config.engine in ("llama.cpp", "ktransformers")
    if offloaded:
        step = offload_step(request, release, priced, facts, admitted, cached)
        prefill_s = offload_prefill_s(request, release, priced, facts, fresh)
        lanes = 1.0
    else:
        step = gpu_step(request, release, priced, facts, admitted, cached)
        prefill_s = gpu_prefill_s(request, release, priced, facts, fresh)
        lanes = float(config.dp)
    per_lane = admitted / lanes
    interference = max(per_lane - 1.0, 0.0) * prefill_s / output
    pipeline = facts.at("pipeline_factor", "1").value if config.pp > 1 else 1.0
    tpot = step.total * pipeline + interference
    busy = min(per_lane * prefill_s / output / tpot, 0.9)
    ttft = prefill_s * (1 + 0.5 * busy / (1 - busy)) + step.total
    if admitted < demand.concurrency:
        ttft += (demand.concurrency / admitted - 1) * output * tpot
    spread = facts.at("offload_range" if offloaded else "gpu_range", "1")
    low, high = _spread(request, priced, facts, spread, step, tpot)
    bound = (
        "admission"
        if admitted < 0.98 * demand.concurrency
        else "prefill"
        if interference > step.total
        else step.largest
    )
    return Speed(
        (tpot * low, tpot, tpot * high),
        (ttft * low, ttft, ttft * high),
        (1 / (tpot * high), 1 / tpot, 1 / (tpot * low)),
        (admitted / (tpot * high), admitted / tpot, admitted / (tpot * low)),
        (lanes * fresh / (prefill_s * high), lanes * fresh / prefill_s, lanes * fresh / (prefill_s * low)),
        admitted,
        bound,
    )


def _spread(
    request: Request, priced: Priced, facts: EngineFacts, spread: Fact, step: Step, tpot: float
) -> tuple[float, float]:
    """Low and high factors of the step; an unknown RAM or disk rate widens its own share."""
    low, high = spread.low, spread.high
    node = request.machine.nodes[priced.config.group.nodes[0] if priced.config.group else 0]
    if step.cpu and node.host.bandwidth is None:
        rate = facts.at("assumed_ram_bytes_per_s", "1")
        share = step.cpu / tpot
        low *= 1 - share * (1 - rate.value / rate.high)
        high *= 1 + share * (rate.value / rate.low - 1)
    if step.disk and node.disk.read_bytes_per_s is None:
        rate = facts.at("assumed_disk_bytes_per_s", "1")
        share = step.disk / tpot
        low *= 1 - share * (1 - rate.value / rate.high)
        high *= 1 + share * (rate.value / rate.low - 1)
    return low, high
