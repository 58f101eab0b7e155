"""How SGLang divides a GPU's memory: ``mem_fraction_static`` by version, and the defaults it follows from. MiB.

The KV pool is what is free after loading, less ``(1 - mem_fraction_static)`` of what was free before. Read in SGLang
0.4.6, 0.4.9, 0.5.6, 0.5.9, 0.5.12, 0.5.16 (``srt/server_args.py``), 0.5.20 and 0.5.23
(``srt/arg_groups/memory_hook.py``, ``srt/mem_cache/kv_cache_configurator.py``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from planner.engines.base import Config
from profiles.engines import EngineFacts
from profiles.model import ModelSpec

FRACTION_BY_RANKS: Final = ((16, 0.79), (8, 0.81), (4, 0.85), (2, 0.87), (1, 0.88))
"""Before 0.4.7, on GPUs of at most 80 GiB: the fraction from so many tensor-parallel ranks on."""
MIB_RESERVED_ABOVE_80_GIB: Final = 13 * 1024
MIB_ON_LARGE_GPUS: Final = 60 * 1024
LEAST_ACTIVATION_TOKENS: Final = 2048
LARGE_GRAPH_BATCH: Final = 300
BASELINE_VISION: Final = 24 * 1024**2
"""Layers x hidden^2 of ViT-L/14, which the factor for vision models is relative to."""


class Defaults(NamedTuple):
    """What SGLang chooses by a GPU's memory: tokens of a prefill chunk, and the largest batch of a decode graph."""

    chunked_prefill: int
    graph_batch: int


def defaults(capacity_mib: float, tp: int, facts: EngineFacts, version: str) -> Defaults:
    """The tier of the GPU; few ranks capture smaller graphs."""
    small = int(facts.at("chunked_prefill_below_35_gib", version).value)
    tiers = (
        (20, 2048, 8, 8),
        (35, small, int(facts.at("graph_batch_below_35_gib", version).value), small // 25),
        (60, 4096, 32, 160),
        (160, 8192, 256, 512),
    )
    for gib, chunk, few, many in tiers:
        if capacity_mib < gib * 1024:
            return Defaults(chunk, few if tp < 4 else many)
    return Defaults(16384, 512)


def default_fraction(model: ModelSpec, config: Config, facts: EngineFacts, *, graphs: bool) -> float:
    """``mem_fraction_static`` where none is given; rounded to a thousandth as SGLang does."""
    assert config.group is not None
    version, capacity = config.version, config.group.gpu.capacity / (1 << 20)
    rule = int(facts.at("fraction_rule", version).value)
    if rule == 1:
        if capacity > 80 * 1024:
            return (capacity - MIB_RESERVED_ABOVE_80_GIB) / capacity
        return next(fraction for ranks, fraction in FRACTION_BY_RANKS if config.tp >= ranks)
    reserved = _reserved_by_tier(config, capacity) if rule == 2 else _reserved(model, config, facts, capacity, graphs)
    fraction = round((capacity - reserved) / capacity, 3)
    return fraction * vision_factor(model) if model.vision is not None and not config.text_only else fraction


def _reserved_by_tier(config: Config, capacity: float) -> float:
    """0.4.7 to 0.4.10: by the GPU's memory and ranks."""
    ranks = config.tp * config.pp
    if capacity < 35 * 1024:
        reserved = (2.8 + ranks / 10) * 1024
    elif capacity < 90 * 1024:
        reserved = (9.5 + ranks / 2) * 1024
    else:
        reserved = (12 + ranks / 2) * 1024 if capacity < 160 * 1024 else 32.0 * 1024
    return reserved + (2048 if config.draft_tokens else 0) + (4096 if config.attention_dp else 0)


def _reserved(model: ModelSpec, config: Config, facts: EngineFacts, capacity: float, graphs: bool) -> float:
    """``512 + 1.5 chunk + tp pp / 8 x 1024 + graphs``, at least 10 GiB on large GPUs, and the drafter's part."""
    version = config.version
    chosen = defaults(capacity, config.tp, facts, version)
    batch = min(chosen.graph_batch, config.sequences)
    reserved = (
        facts.at("reserved_constant_mib", version).value
        + facts.at("reserved_mib_per_chunk_token", version).value * max(config.batched_tokens, LEAST_ACTIVATION_TOKENS)
        + facts.at("reserved_mib_per_eight_ranks", version).value * config.tp * config.pp / 8
    )
    if graphs:
        reserved += facts.at("reserved_mib_per_graph_batch", version).value * batch
    if config.attention_dp:
        reserved += batch * config.dp * (4.5 if batch > LARGE_GRAPH_BATCH else 3.0)
    if graphs and facts.at("prefill_graphs", version).value:
        reserved += 1536 if model.uses_mla else 8 * prefill_graphs(config.batched_tokens)
    if capacity > MIB_ON_LARGE_GPUS:
        reserved = max(reserved, facts.at("reserved_floor_mib_large_gpu", version).value)
    return reserved + (facts.at("reserved_mib_drafter", version).value if config.draft_tokens else 0)


def prefill_graphs(largest: int) -> int:
    """How many token counts SGLang captures prefill graphs for.

    >>> prefill_graphs(8192)
    58
    """
    steps = (
        range(4, 33, 4), range(48, 257, 16), range(288, 513, 32), range(576, 1025, 64), range(1280, 4097, 256),
        range(4608, largest + 1, 512),
    )  # fmt: skip
    return sum(size <= largest for step in steps for size in step)


def vision_factor(model: ModelSpec) -> float:
    """What a vision tower leaves of the fraction: ``0.95 (1 - 0.1 (layers hidden^2 / ViT-L's - 1))``, within 0.8-1.05.

    Kimi K2.5: 27 layers of 1,152 leave 0.9097.
    """
    vision = model.vision
    assert vision is not None
    complexity = vision.layers * vision.hidden**2 / BASELINE_VISION
    return 0.95 * max(0.8, min(1.05, 1 - 0.1 * (complexity - 1)))
