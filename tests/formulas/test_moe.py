"""Routing arithmetic."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from formulas.moe import (
    active_bytes,
    expected_busiest_share,
    expected_busiest_share_skewed,
    expected_distinct_experts,
    expected_distinct_experts_skewed,
    inclusion_probabilities,
    power_law_weights,
)

EXPERTS = st.integers(1, 512)


@given(EXPERTS, st.integers(1, 16), st.integers(1, 100_000))
def test_distinct_experts_lie_between_one_tokens_and_all(experts: int, top_k: int, tokens: int) -> None:
    assume(top_k <= experts)
    distinct = expected_distinct_experts(experts, top_k, tokens)
    assert top_k * (1 - 1e-12) <= distinct <= min(experts, top_k * tokens) * (1 + 1e-12)


@given(EXPERTS, st.integers(1, 16), st.integers(0, 100_000), st.integers(0, 1000))
def test_more_tokens_never_hit_fewer_experts(experts: int, top_k: int, tokens: int, more: int) -> None:
    assume(top_k <= experts)
    fewer, greater = (expected_distinct_experts(experts, top_k, count) for count in (tokens, tokens + more))
    assert fewer <= greater * (1 + 1e-12)


def test_the_formula_agrees_with_counting() -> None:
    """E = 4, k = 2, two tokens: the 36 pairs of choices hit 3 experts on average."""
    from itertools import combinations, product

    pairs = list(combinations(range(4), 2))
    mean = sum(len({*one, *other}) for one, other in product(pairs, pairs)) / len(pairs) ** 2
    assert expected_distinct_experts(4, 2, 2) == pytest.approx(mean)


@settings(max_examples=60)
@given(st.integers(2, 128), st.integers(1, 8), st.integers(1, 2000), st.floats(0.0, 2.0))
def test_skewed_routing_never_hits_more_experts(experts: int, top_k: int, tokens: int, exponent: float) -> None:
    assume(top_k <= experts)
    uniform = expected_distinct_experts(experts, top_k, tokens)
    skewed = expected_distinct_experts_skewed(power_law_weights(experts, exponent), top_k, tokens)
    assert skewed <= uniform * (1 + 1e-9)
    assert skewed >= top_k * (1 - 1e-9)


@settings(max_examples=60)
@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=64), st.integers(1, 8))
def test_a_token_includes_top_k_experts(raw: list[float], top_k: int) -> None:
    assume(top_k <= len(raw))
    inclusion = inclusion_probabilities([weight / sum(raw) for weight in raw], top_k)
    assert sum(inclusion) == pytest.approx(top_k, rel=1e-9)
    assert all(0 <= p <= 1 for p in inclusion)
    by_weight = [p for _, p in sorted(zip(raw, inclusion, strict=True))]
    assert by_weight == sorted(by_weight)


@given(st.integers(1, 512), st.floats(0.0, 3.0))
def test_popularity_is_a_distribution(experts: int, exponent: float) -> None:
    weights = power_law_weights(experts, exponent)
    assert sum(weights) == pytest.approx(1.0)
    assert list(weights) == sorted(weights, reverse=True)


@given(st.floats(0.1, 1e5), st.integers(1, 16), st.integers(1, 512), st.integers(1, 64))
def test_the_busiest_rank_carries_between_the_mean_and_everything(
    tokens: float, top_k: int, experts: int, ranks: int
) -> None:
    share = expected_busiest_share(tokens, top_k, experts, ranks)
    assert 1.0 <= share <= max(ranks, 1)


@given(st.integers(1, 10), st.integers(2, 64))
def test_large_batches_balance_the_ranks(top_k: int, ranks: int) -> None:
    shares = [expected_busiest_share(tokens, top_k, 512, ranks) for tokens in (1, 10, 100, 1e4, 1e8)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(1.0, abs=0.01)


@given(st.integers(1, 5000), st.integers(1, 8), st.integers(8, 256), st.integers(1, 64))
def test_even_popularity_gives_the_uniform_share(tokens: int, top_k: int, experts: int, ranks: int) -> None:
    even = expected_busiest_share_skewed([1 / experts] * experts, top_k, tokens, ranks)
    assert even == pytest.approx(expected_busiest_share(tokens, top_k, experts, ranks), rel=1e-6)


@pytest.mark.parametrize("ranks", [4, 8])
def test_a_popular_expert_loads_its_rank_as_in_a_simulation(ranks: int) -> None:
    experts, top_k, tokens, random = 128, 8, 64, Random(7)
    weights = power_law_weights(experts, 1.01)
    chances = inclusion_probabilities(weights, top_k)
    shares = []
    for _ in range(60):
        counts = [sum([random.random() < chance for _ in range(tokens)]) for chance in chances]
        random.shuffle(counts)
        loads = [sum(counts[rank::ranks]) for rank in range(ranks)]
        shares.append(max(loads) * ranks / sum(loads))
    expected = expected_busiest_share_skewed(weights, top_k, tokens, ranks)
    # The bound for the largest of a few is above its mean.
    assert 0.8 * expected < sum(shares) / len(shares) < 1.05 * expected


@pytest.mark.parametrize(("experts", "top_k", "tokens"), [(8, 0, 1), (8, 9, 1), (8, 2, -1), (0, 1, 1)])
def test_impossible_routing_is_refused(experts: int, top_k: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="top_k"):
        expected_distinct_experts(experts, top_k, tokens)


@pytest.mark.parametrize("top_k", [0, 5])
def test_impossible_inclusion_is_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match="top_k"):
        inclusion_probabilities([0.25] * 4, top_k)


def test_no_tokens_hit_no_experts() -> None:
    assert expected_distinct_experts(384, 8, 0) == 0.0
    assert expected_busiest_share(0, 8, 384, 8) == 1.0


def test_active_bytes_add_what_every_token_uses() -> None:
    assert active_bytes(1000, 10, 2.5) == 1025.0
