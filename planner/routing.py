"""How a workload's tokens choose routed experts: evenly, or some experts more than others."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

from formulas.moe import (
    expected_busiest_share,
    expected_busiest_share_skewed,
    expected_distinct_experts,
    expected_distinct_experts_skewed,
    power_law_weights,
)
from planner.budget import fact

Routing = Literal["uniform", "power_law"]
ROUTINGS: Final[tuple[Routing, ...]] = ("uniform", "power_law")


@lru_cache(maxsize=4096)
def distinct_experts(routing: Routing, experts: int, top_k: int, tokens: float) -> float:
    """Experts that a step of ``tokens`` tokens reads. Raises ``ValueError`` unless ``0 < top_k <= experts``."""
    if routing == "uniform":
        return expected_distinct_experts(experts, top_k, tokens)
    return expected_distinct_experts_skewed(_weights(experts), top_k, tokens)


@lru_cache(maxsize=4096)
def busiest_share(routing: Routing, experts: int, top_k: int, tokens: float, ranks: int) -> float:
    """Token copies of the busiest expert-parallel rank over those of the mean one."""
    if routing == "uniform":
        return expected_busiest_share(tokens, top_k, experts, ranks)
    return expected_busiest_share_skewed(_weights(experts), top_k, tokens, ranks)


@lru_cache(maxsize=16)
def _weights(experts: int) -> tuple[float, ...]:
    return power_law_weights(experts, fact("routing_exponent").value)
