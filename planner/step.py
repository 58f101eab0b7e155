"""Time of one step by kernel, whatever runs it: pure functions of (batch, context), kept by both.

``decode_step`` and ``prefill_step`` are what the closed form of ``planner.serving`` and simulations are made of.
"""

from __future__ import annotations

from planner.budget import Budget
from planner.engines.base import Config, Priced
from planner.kept import scene_of
from planner.request import PricedRelease, Request
from planner.step_gpu import division, gpu_decode, gpu_prefill
from planner.step_offload import offload_decode, offload_prefill, placement_of

OFFLOADERS = ("llama.cpp", "ktransformers")
CONTEXT_STEP = 64
"""Contexts are rounded to this many tokens, so that steps which differ by less are kept as one."""


def decode_step(
    request: Request, release: PricedRelease, priced: Priced, batch: float, context: float, width: float = 1.0
) -> Budget:
    """One decode step of ``batch`` sequences on one replica with ``context`` cached tokens each.

    ``width`` tokens of every sequence are computed: one, or with speculation those to verify. Raises ``MissingFact``
    when nothing is known of a kernel.
    """
    context = max(CONTEXT_STEP, round(context / CONTEXT_STEP) * CONTEXT_STEP)
    batch = max(round(batch, 2), 1.0)
    key = ("decode", scene_of(request), identity(priced), batch, context, width)
    found: Budget | None = release.kept.get(key)
    if found is None:
        if priced.config.engine in OFFLOADERS:
            found = offload_decode(request, release, priced, batch * width, context)
        else:
            found = gpu_decode(request, release, priced.config, batch, context, width)
        release.kept[key] = found
    return found


def prefill_step(request: Request, release: PricedRelease, priced: Priced, tokens: float, cached: float) -> Budget:
    """One pass over ``tokens`` new tokens of one sequence that has ``cached`` ones before them."""
    tokens = max(float(round(tokens)), 1.0)
    near = ("prefill", identity(priced), tokens, round(cached))
    found: Budget | None = release.memo.get(near)
    if found is not None:
        return found
    key = ("prefill", scene_of(request), near[1], tokens, cached)
    found = release.kept.get(key)
    if found is None:
        if priced.config.engine in OFFLOADERS:
            found = offload_prefill(request, release, priced, tokens, cached)
        else:
            found = gpu_prefill(request, release, priced.config, tokens, cached)
        release.kept[key] = found
    release.memo[near] = found
    return found


def identity(priced: Priced) -> tuple[object, ...]:
    """What the steps of a configuration depend on, besides batch and context."""
    config: Config = priced.config
    return placement_of(priced) if config.engine in OFFLOADERS else division(config)
