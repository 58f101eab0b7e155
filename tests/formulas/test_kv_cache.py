"""Bytes of the KV cache for every layout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulas.kv_cache import (
    KV_DTYPES,
    UnsupportedKvDtype,
    cached_states,
    cached_tokens,
    compressor_state_bytes,
    expanded_mla_bytes,
    gqa_bytes,
    indexer_bytes,
    mla_bytes,
    packed_state_bytes,
    padded_cells,
    vector_bytes,
)

VECTOR_DTYPES = tuple(dtype for dtype in KV_DTYPES if dtype != "fp8_ds_mla")
LAYERS, HEADS, RANK, ROPE, NOPE, VALUE = 61, 64, 512, 64, 128, 128
"""Kimi K2.5."""


@pytest.mark.parametrize("dtype", ["bf16", "f16", "fp8", "q8_0", "q4_0", "f32"])
def test_mla_takes_less_than_gqa_than_mha(dtype: str) -> None:
    latent = mla_bytes(RANK, ROPE, dtype)
    grouped = gqa_bytes(8, 128, 128, dtype)
    every_head = gqa_bytes(HEADS, 128, 128, dtype)
    assert latent < grouped < every_head < expanded_mla_bytes(HEADS, NOPE, ROPE, VALUE, dtype)


def test_kimi_k25_to_the_byte() -> None:
    tokens = 262_144
    assert LAYERS * mla_bytes(RANK, ROPE, "bf16") == 70_272
    assert LAYERS * mla_bytes(RANK, ROPE, "bf16") * tokens == 18_421_383_168
    assert LAYERS * gqa_bytes(8, 128, 128, "bf16") * tokens == 65_498_251_264
    assert LAYERS * gqa_bytes(HEADS, 128, 128, "bf16") * tokens == 523_986_010_112
    assert LAYERS * expanded_mla_bytes(HEADS, NOPE, ROPE, VALUE, "bf16") * tokens == 654_982_512_640
    assert 2 * mla_bytes(RANK, ROPE, "fp8") == mla_bytes(RANK, ROPE, "bf16")


@given(st.sampled_from(VECTOR_DTYPES), st.integers(1, 64), st.integers(0, 64))
def test_a_wider_vector_never_takes_fewer_bytes(dtype: str, blocks: int, more: int) -> None:
    assert vector_bytes(32 * blocks, dtype) <= vector_bytes(32 * (blocks + more), dtype)


@given(st.sampled_from(VECTOR_DTYPES), st.integers(1, 64))
def test_no_dtype_takes_more_than_f32_or_less_than_four_bits(dtype: str, blocks: int) -> None:
    width = 32 * blocks
    assert width // 2 <= vector_bytes(width, dtype) <= 4 * width


@given(st.sampled_from([dtype for dtype in KV_DTYPES if dtype.startswith(("q", "iq"))]), st.integers(1, 4096))
def test_block_types_need_whole_blocks(dtype: str, width: int) -> None:
    if width % 32:
        with pytest.raises(UnsupportedKvDtype, match="blocks of 32 elements"):
            vector_bytes(width, dtype)
    else:
        assert vector_bytes(width, dtype) * 32 == vector_bytes(32, dtype) * width


@pytest.mark.parametrize("dtype", ["fp8_ds_mla", "int8", "", "BF16"])
def test_what_no_vector_is_stored_in_is_refused(dtype: str) -> None:
    with pytest.raises(UnsupportedKvDtype):
        vector_bytes(576, dtype)


def test_no_value_head_takes_no_bytes() -> None:
    assert vector_bytes(0, "q8_0") == 0
    assert gqa_bytes(1, 576, 0, "bf16") == mla_bytes(512, 64, "bf16")


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 8), st.sampled_from(VECTOR_DTYPES))
def test_heads_count_in_proportion(heads: int, key: int, value: int, dtype: str) -> None:
    assert gqa_bytes(heads, 32 * key, 32 * value, dtype) == heads * gqa_bytes(1, 32 * key, 32 * value, dtype)


def test_values_can_have_their_own_dtype() -> None:
    assert gqa_bytes(8, 128, 128, "q8_0", "q4_0") == 8 * (136 + 72)


@given(st.integers(1, 1 << 20), st.one_of(st.none(), st.integers(1, 1 << 16)), st.integers(0, 1 << 14))
def test_a_window_only_ever_saves_tokens(tokens: int, window: int | None, batched: int) -> None:
    kept = cached_tokens(tokens, window, batched)
    assert 0 <= kept <= tokens
    assert kept <= cached_tokens(tokens + 1, window, batched)
    if window is not None and tokens >= window + batched:
        assert kept >= window


@given(st.integers(1, 1 << 22), st.integers(1, 256), st.booleans())
def test_cells_are_padded_to_256_and_hold_the_context(tokens: int, sequences: int, unified: bool) -> None:
    cells = padded_cells(tokens, sequences, unified)
    assert cells % 256 == 0
    assert cells >= tokens
    assert padded_cells(tokens + 1, sequences, unified) >= cells
    if not unified:
        assert cells % (256 * sequences) == 0


@given(st.integers(1, 1024))
def test_an_indexer_key_is_fp8_with_a_scale_per_128(width: int) -> None:
    assert width + 4 <= indexer_bytes(width) <= width + 4 * (width // 128 + 1)


@given(st.integers(1, 4096), st.integers(0, 256))
def test_a_packed_state_is_fp8_with_scales_in_whole_eights(nope: int, rope: int) -> None:
    scales = packed_state_bytes(nope, rope) - nope - 2 * rope
    assert scales % 8 == 0
    assert 0 <= scales - -(-nope // 64) < 8


@given(st.integers(1, 1 << 20), st.integers(1, 256))
def test_states_hold_whole_groups_of_tokens(tokens: int, each: int) -> None:
    kept = cached_states(tokens, each)
    assert kept * each <= tokens < (kept + 1) * each
    assert cached_states(tokens, 1) == tokens


@given(st.integers(1, 256), st.integers(1, 1024))
def test_overlapping_states_wait_for_four_times_as_much(each: int, width: int) -> None:
    one = compressor_state_bytes(each, width, overlapping=False)
    assert one == each * width * 2 * 4
    assert compressor_state_bytes(each, width, overlapping=True) == 4 * one
