"""Serving in closed form: what steps and prompts make of latency and throughput at a concurrency.

Each replica decodes the requests that its KV cache admits, in steps of all of them. A request that ends is followed by
another, whose prompt interrupts the others once in their whole answer: ``(admitted - 1)`` prompts fall on the
``output`` tokens of each. An engine that mixes prompts into decode steps (vLLM) saves the steps they ride on, one that
runs prompts alone (SGLang) does not. Replicas that share experts wait for each other's prompts, which then overlap.
"""

from __future__ import annotations

from typing import NamedTuple

from planner.budget import Budget, Term, fact, merged, spread_of
from planner.engines.base import Priced
from planner.request import PricedRelease, Request
from planner.step import OFFLOADERS, decode_step, identity, prefill_step


class Serving(NamedTuple):
    """The steady state at a demand. Times are seconds; ``admitted`` requests run at a time over all replicas.

    ``step`` is one decode step and yields ``tokens_per_step`` of each request; ``prompt`` is the prefill of one
    request; ``waiting`` the seconds of a token that the prompts of other requests take.
    """

    step: Budget
    prompt: Budget
    tokens_per_step: tuple[float, float, float]
    admitted: float
    lanes: float
    waiting: float
    tpot_s: float
    ttft_s: float


def serve(request: Request, release: PricedRelease, priced: Priced, concurrency: float | None = None) -> Serving:
    """Latency and rates of ``priced`` at the demand, or at another concurrency."""
    demand, config = request.demand, priced.config
    offered = float(concurrency if concurrency is not None else demand.concurrency)
    output = max(demand.output_tokens, 1)
    admitted = admitted_requests(request, priced, offered)
    lanes = 1.0 if config.engine in OFFLOADERS else float(config.dp)
    lane = max(admitted / lanes, 1.0)
    # llama.cpp and KTransformers are planned without drafts.
    width, accepted = (1.0, (1.0, 1.0, 1.0)) if config.engine in OFFLOADERS else speculation(request)
    context = demand.input_tokens + output / 2
    step = decode_step(request, release, priced, lane, context, width)
    if width > 1:
        step = Budget(merged([*step.terms, drafting(request, step, width)]))
    prompt = prompt_budget(request, release, priced)
    each = step.total / accepted[1]
    waiting = _waiting(request, priced, admitted, lanes, each, prompt.total)
    tpot = each + waiting
    busy = min(lane * prompt.total / output / tpot, 0.9)
    ttft = fact("request_overhead_s").value + prompt.total * (1 + 0.5 * busy / (1 - busy)) + step.total
    if admitted < offered:
        ttft += (offered / admitted - 1) * output * tpot
    return Serving(step, prompt, accepted, admitted, lanes, waiting, tpot, ttft)


def admitted_requests(request: Request, priced: Priced, offered: float) -> float:
    """Requests that run at a time: those offered, or as many as the KV caches and the engine's limit hold."""
    config, demand = priced.config, request.demand
    limit = offered
    if priced.pool.bytes_per_token:
        # Blocks are taken as the answer grows: half of it on average.
        each = demand.input_tokens + max(demand.output_tokens, 1) / 2
        limit = min(limit, priced.pool.tokens * config.replicas / each)
    if config.sequences:
        limit = min(limit, float(config.sequences * config.replicas))
    return max(limit, 1.0)


def speculation(request: Request) -> tuple[float, tuple[float, float, float]]:
    """Tokens of a sequence that a step verifies, and those it yields (low, expected, high)."""
    drafted = request.settings.draft_tokens
    if not drafted:
        return 1.0, (1.0, 1.0, 1.0)
    known = fact("accept_length")
    most = drafted + 1.0
    if request.settings.accept_length is not None:
        given = min(request.settings.accept_length, most)
        return most, (given, given, given)
    return most, (min(known.low, most), min(known.value, most), min(known.high, most))


def drafting(request: Request, step: Budget, width: float) -> Term:
    """The drafter: for every drafted token one layer more, and its head; taken as that share of a step's kernels."""
    layers = max(request.model.mtp_layers, 1)
    kernels = sum([term.seconds for term in step.terms if term.what != "scheduling and sampling"])
    seconds = (width - 1) * layers / request.model.layers * kernels
    return Term("drafting", seconds, step.bound_by, 1.3, "one layer for each drafted token, as the model's own layers")


def prompt_budget(request: Request, release: PricedRelease, priced: Priced) -> Budget:
    """The prefill of one request: its images, then its new tokens in the engine's chunks."""
    demand, config = request.demand, priced.config
    fresh = max(demand.input_tokens * (1 - demand.prefix_cache_hit_rate), 1.0)
    cached = demand.input_tokens - fresh
    key = ("prompt", identity(priced), config.batched_tokens, config.text_only)
    found: Budget | None = release.memo.get(key)
    if found is not None:
        return found
    chunk = fresh if config.engine in OFFLOADERS else float(max(config.batched_tokens, 1))
    found = prefill_step(request, release, priced, min(chunk, fresh), cached)
    done = chunk
    while done < fresh:
        tokens = min(chunk, fresh - done)
        found = Budget(merged([*found.terms, *prefill_step(request, release, priced, tokens, cached + done).terms]))
        done += tokens
    image = vision_term(request, priced)
    if image is not None:
        found = Budget((*found.terms, image))
    release.memo[key] = found
    return found


def vision_term(request: Request, priced: Priced) -> Term | None:
    """Encoding the images of one request; every rank encodes its own (data-parallel encoder)."""
    vision, config, demand = request.model.vision, priced.config, request.demand
    if vision is None or config.text_only or not demand.images or config.group is None:
        return None
    peak = config.group.gpu.flops.get("bf16")
    if not peak:
        return None
    parameters = sum([group.parameters for group in request.model.tensors if group.tensor_class == "vision"])
    patches, share = fact("image_patches"), fact("vision_prefill_fraction")
    attention = 4.0 * vision.layers * vision.hidden * patches.value**2
    flops = 2.0 * parameters * patches.value + attention
    rounds = -(-demand.images // max(config.tp, 1))
    return Term("vision encoder", rounds * flops / (peak * share.value), "compute", spread_of(share), share.source)


def _waiting(request: Request, priced: Priced, admitted: float, lanes: float, each: float, prompt: float) -> float:
    """Seconds that the prompts of other requests add to each token."""
    config, output = priced.config, max(request.demand.output_tokens, 1)
    shared = lanes > 1 and config.expert_group > 1
    others = max((admitted if shared else admitted / lanes) - 1.0, 0.0)
    waiting = others * prompt / output
    if shared:
        # Lanes that have prompts at the same time run them together.
        for _ in range(4):
            together = min(max(admitted * prompt / output / (each + waiting), 1.0), lanes)
            waiting = others * prompt / output / together
    elif config.engine == "vllm":
        # A chunk carries the decode tokens along: that step is saved.
        chunks = -(-request.demand.input_tokens // max(config.batched_tokens, 1))
        ridden = min(others * chunks / output, 1.0)
        waiting -= ridden * min(each, prompt / chunks)
    return max(waiting, 0.0)
