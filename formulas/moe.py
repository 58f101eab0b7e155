"""Routing arithmetic of a mixture of experts: how many experts one step touches, how loaded the busiest is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import expm1, log, log1p, sqrt


def expected_distinct_experts(experts: int, top_k: int, tokens: float) -> float:
    """Expected number of distinct experts that ``tokens`` tokens hit when routing is uniform.

    One token misses a given expert with probability ``1 - k/E`` (its k choices are distinct), so
    ``D = E * (1 - (1 - k/E) ** tokens)``.

    >>> expected_distinct_experts(384, 8, 1)                            # K2.5, one token
    8.0
    >>> round(expected_distinct_experts(384, 8, 64), 1)
    284.2

    Raises ``ValueError`` unless ``0 < top_k <= experts`` and ``tokens >= 0``.
    """
    if not 0 < top_k <= experts or tokens < 0:
        raise ValueError(f"need 0 < top_k <= experts and tokens >= 0, not {top_k}, {experts}, {tokens}")
    if tokens <= 0:
        return 0.0
    if tokens == 1 or top_k == experts:
        return float(top_k)
    return -experts * expm1(tokens * log1p(-top_k / experts))


def power_law_weights(experts: int, exponent: float) -> tuple[float, ...]:
    """Popularity of each expert, ``rank ** -exponent``, normalised to one.

    >>> power_law_weights(2, 1.0)
    (0.6666666666666666, 0.3333333333333333)
    """
    raw = [(rank + 1) ** -exponent for rank in range(experts)]
    total = sum(raw)
    return tuple(w / total for w in raw)


def expected_distinct_experts_skewed(weights: Sequence[float], top_k: int, tokens: float) -> float:
    """Expected distinct experts when expert ``i`` is chosen in proportion to ``weights[i]``.

    The k choices of one token are distinct, so its inclusion probabilities ``p_i = 1 - exp(-lam * w_i)`` are solved
    for ``sum p_i = k`` (the Poisson approximation of drawing k without replacement); then
    ``D = sum 1 - (1 - p_i) ** tokens``. Uniform weights give the uniform formula.

    >>> round(expected_distinct_experts_skewed([1 / 384] * 384, 8, 64), 1)
    284.2
    >>> round(expected_distinct_experts_skewed(power_law_weights(384, 1.0), 8, 64), 1)
    178.7
    """
    inclusion = _inclusion(tuple(weights), top_k)
    return sum([1.0 if p >= 1 else -expm1(tokens * log1p(-p)) for p in inclusion])


def inclusion_probabilities(weights: Sequence[float], top_k: int) -> list[float]:
    """Probability that one token's top-k holds each expert; the probabilities sum to ``top_k``.

    >>> round(sum(inclusion_probabilities(power_law_weights(384, 1.2), 8)), 6)
    8.0
    """
    return list(_inclusion(tuple(weights), top_k))


@lru_cache(maxsize=64)
def _inclusion(weights: tuple[float, ...], top_k: int) -> tuple[float, ...]:
    if not 0 < top_k <= len(weights):
        raise ValueError(f"need 0 < top_k <= {len(weights)}, not {top_k}")
    if top_k == len(weights):
        return (1.0,) * len(weights)
    low, high = 0.0, 1.0
    while sum(-expm1(-high * w) for w in weights) < top_k:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if sum(-expm1(-middle * w) for w in weights) < top_k:
            low = middle
        else:
            high = middle
    return tuple([-expm1(-high * w) for w in weights])


def expected_busiest_share(tokens: float, top_k: int, experts: int, ranks: int) -> float:
    """Load of the busiest expert-parallel rank over the mean load, uniform routing, ``experts / ranks`` each.

    The token copies of one rank are close to Poisson with mean ``m = tokens * k / ranks``; the largest of ``ranks``
    such counts is about ``m + sqrt(2 m ln ranks)``. A mean below one is bounded by the number of copies.

    >>> round(expected_busiest_share(64, 8, 384, 8), 2)
    1.25
    >>> expected_busiest_share(64, 8, 384, 1)
    1.0
    """
    if ranks <= 1 or tokens <= 0:
        return 1.0
    mean = tokens * top_k / ranks
    busiest = mean + sqrt(2 * mean * log(ranks))
    return min(busiest / mean, float(ranks), float(experts))


def expected_busiest_share_skewed(weights: Sequence[float], top_k: int, tokens: float, ranks: int) -> float:
    """The same when expert ``i`` is chosen in proportion to ``weights[i]`` and experts lie on ranks by chance.

    A rank's share of the inclusion probabilities ``p_i`` varies as the sum of ``E / ranks`` of them drawn without
    replacement, ``T^2 E / ranks (1 - 1 / ranks) var(p)``, beside the Poisson variance ``m``; the largest of ``ranks``
    is about ``m + sqrt(2 ln(ranks) (m + that))``. Uniform weights give the uniform formula.

    >>> round(expected_busiest_share_skewed([1 / 384] * 384, 8, 64, 8), 2)
    1.25
    >>> round(expected_busiest_share_skewed(power_law_weights(384, 1.01), 8, 64, 8), 2)     # a K2.5 layer over 8 ranks
    1.81
    """
    inclusion = _inclusion(tuple(weights), top_k)
    if ranks <= 1 or tokens <= 0:
        return 1.0
    experts = len(inclusion)
    mean = tokens * top_k / ranks
    varied = sum([(p - top_k / experts) ** 2 for p in inclusion]) / experts
    placed = tokens**2 * experts / ranks * (1 - 1 / ranks) * varied
    busiest = mean + sqrt(2 * log(ranks) * (mean + placed))
    return min(busiest / mean, float(ranks), float(experts))


def active_bytes(always_bytes: int, expert_bytes: int, distinct_experts: float) -> float:
    """Bytes of weights one step reads: what every token uses, and the experts that were hit.

    >>> active_bytes(0, 24_772_632, 8)                         # one K2.5 layer, one token, routed experts only
    198181056.0
    """
    return always_bytes + float(distinct_experts) * expert_bytes
