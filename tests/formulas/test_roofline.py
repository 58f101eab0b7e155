"""Roofline and collectives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulas.roofline import all_reduce_s, all_to_all_s, attention_flops, mla_decode_flops, roofline_s

SIZE = st.floats(0, 1e13)
RATE = st.floats(1e6, 1e15)


@given(SIZE, SIZE, RATE, RATE)
def test_a_kernel_takes_the_slower_of_moving_and_computing(
    moved: float, flops: float, rate: float, peak: float
) -> None:
    both = roofline_s(moved, flops, rate, peak)
    assert both == max(roofline_s(moved, 0, rate, peak), roofline_s(0, flops, rate, peak))
    assert both >= roofline_s(moved, flops, rate, None)


@pytest.mark.parametrize(("rate", "peak"), [(0.0, 1.0), (-1.0, None), (1.0, 0.0), (1.0, -1.0)])
def test_rates_that_are_not_positive_are_refused(rate: float, peak: float | None) -> None:
    with pytest.raises(ValueError, match="positive"):
        roofline_s(1.0, 1.0, rate, peak)


@given(SIZE, st.integers(2, 1024), RATE, st.floats(0, 1))
def test_a_collective_takes_its_latency_and_less_than_two_passes(
    message: float, ranks: int, rate: float, latency: float
) -> None:
    reduced = all_reduce_s(message, ranks, rate, latency)
    shuffled = all_to_all_s(message, ranks, rate, latency)
    assert latency <= shuffled <= reduced <= latency + 2 * message / rate


@given(SIZE, RATE, st.floats(0, 1))
def test_one_rank_has_nobody_to_talk_to(message: float, rate: float, latency: float) -> None:
    assert all_reduce_s(message, 1, rate, latency) == 0.0
    assert all_to_all_s(message, 1, rate, latency) == 0.0


@given(st.integers(1, 128), st.integers(1, 1 << 20))
def test_attention_grows_with_what_is_cached(heads: int, cached: int) -> None:
    assert mla_decode_flops(heads, 512, 64, 2 * cached) == 2 * mla_decode_flops(heads, 512, 64, cached)
    assert attention_flops(heads, 192, 128, 2 * cached) == 2 * attention_flops(heads, 192, 128, cached)
    # Absorbed attention computes over the whole latent, so it is dearer per cached token than per-head attention.
    assert mla_decode_flops(heads, 512, 64, cached) > attention_flops(heads, 192, 128, cached)
