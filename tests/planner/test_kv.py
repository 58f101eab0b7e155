"""KV bytes of a model on one rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.kv import bytes_per_token, group_bytes_per_token, layers_within, layout_name, sequence_bytes
from profiles.library import load_model
from profiles.model import KvGroup
from tests.planner.planning import K25, priced_of

MODELS = ("kimi-k2.5", "deepseek-r1", "qwen3-235b-a22b", "llama-3.1-70b")
NEW = ("deepseek-v4-flash", "minimax-m3", "kimi-linear-48b-a3b", "gpt-oss-20b", "qwen3.5-397b-a17b")


def test_tensor_parallelism_does_not_divide_the_latent() -> None:
    model = load_model(K25)
    assert {bytes_per_token(model, "bf16", tp, 0, 61) for tp in (1, 2, 4, 8, 64)} == {70_272}
    assert bytes_per_token(model, "fp8", 8, 0, 61) == 35_136


def test_kv_heads_are_divided_and_replicate_beyond_their_number() -> None:
    model = load_model("qwen3-235b-a22b")
    whole = bytes_per_token(model, "bf16", 1, 0, model.layers)
    assert model.kv_groups[0].n_kv_heads == 4
    shares = {tp: whole / bytes_per_token(model, "bf16", tp, 0, model.layers) for tp in (1, 2, 4, 8, 16)}
    assert shares == {1: 1, 2: 2, 4: 4, 8: 4, 16: 4}


def test_heads_that_do_not_divide_are_rounded_up() -> None:
    group = KvGroup("gqa", (0,), n_kv_heads=6, head_dim=128, v_head_dim=128)
    assert [group_bytes_per_token(group, "bf16", tp) // 512 for tp in (1, 2, 4, 6, 8)] == [6, 3, 2, 1, 1]


@pytest.mark.parametrize("name", (*MODELS, *NEW))
@given(cut=st.integers(0, 100), tp=st.sampled_from((1, 2, 4, 8)), tokens=st.integers(1, 1 << 18))
def test_pipeline_stages_add_up_to_the_whole(name: str, cut: int, tp: int, tokens: int) -> None:
    model = load_model(name)
    cut = min(cut, model.layers)
    first, second, whole = (
        sequence_bytes(model, "bf16", tp, *stage, tokens)
        for stage in ((0, cut), (cut, model.layers), (0, model.layers))
    )
    assert first + second == whole


@given(tokens=st.integers(1, 1 << 18), more=st.integers(0, 1 << 10), dtype=st.sampled_from(("bf16", "fp8", "q8_0")))
def test_more_tokens_never_take_fewer_bytes(tokens: int, more: int, dtype: str) -> None:
    for name in (*MODELS, *NEW):
        model = load_model(name)
        assert sequence_bytes(model, dtype, 1, 0, model.layers, tokens) <= sequence_bytes(
            model, dtype, 1, 0, model.layers, tokens + more
        )


@pytest.mark.parametrize(
    ("name", "dtype", "tp", "per_token", "sequence"),
    [
        ("deepseek-v4-flash", "fp8_ds_mla", 1, 5_018.25, 520_080_384),
        ("deepseek-v4-flash", "fp8_ds_mla", 8, 5_018.25, 520_080_384),
        ("deepseek-v4-flash", "bf16", 1, 8_277.0, 834_289_664),
        ("deepseek-v4-pro", "fp8_ds_mla", 1, 5_511.4375, 745_665_536),
        ("minimax-m3", "bf16", 1, 137_472.0, 18_018_729_984),
        ("minimax-m3", "bf16", 8, 45_312.0, 5_939_134_464),
        ("kimi-linear-48b-a3b", "bf16", 1, 8_064.0, 1_100_382_208),
        ("kimi-linear-48b-a3b", "bf16", 8, 8_064.0, 1_062_391_808),
    ],
)
def test_compressed_selected_and_linear_layers(name: str, dtype: str, tp: int, per_token: float, sequence: int) -> None:
    model = load_model(name)
    assert bytes_per_token(model, dtype, tp, 0, model.layers) == per_token
    assert sequence_bytes(model, dtype, tp, 0, model.layers, 131_072) == sequence


def test_deepseek_v4_flash_by_hand() -> None:
    """43 windows of 128 tokens, 21 layers with a state and an index key per 4 tokens, 20 with a state per 128."""
    tokens, latent, key = 131_072, 584, 132
    selected = tokens // 4 * (latent + key) + (4 * 4 * 2 * 512 * 4 + 4 * 4 * 2 * 128 * 4)
    pooled = tokens // 128 * latent + 128 * 2 * 512 * 4
    model = load_model("deepseek-v4-flash")
    assert sequence_bytes(model, "fp8_ds_mla", 1, 0, model.layers, tokens) == (
        43 * 128 * latent + 21 * selected + 20 * pooled
    )


def test_a_window_beside_a_growing_cache_is_not_counted_per_token() -> None:
    growing = KvGroup("mla", (0, 1), kv_lora_rank=448, rope_dim=64, tokens_per_state=4)
    model = load_model("deepseek-v4-flash")
    beside = replace(model, kv_groups=(growing, growing._replace(layers=(0, 1, 2), window=128, tokens_per_state=1)))
    assert bytes_per_token(beside, "bf16", 1, 0, 2) == 2 * 1024 / 4
    assert bytes_per_token(beside, "bf16", 1, 0, 3) == 2 * 1024 / 4 + 1024


@given(st.lists(st.integers(0, 60), unique=True).map(sorted), st.integers(0, 61), st.integers(0, 61))
def test_layers_within_counts(layers: list[int], first: int, stop: int) -> None:
    assert layers_within(layers, first, stop) == sum(first <= layer < stop for layer in layers)


def test_linear_layers_have_a_state_and_no_tokens() -> None:
    group = KvGroup("linear", (0, 1), state_bytes=1000)
    assert group_bytes_per_token(group, "bf16") == 0


def test_an_indexer_adds_its_key() -> None:
    plain = KvGroup("mla", (0,), kv_lora_rank=512, rope_dim=64)
    assert (
        group_bytes_per_token(plain._replace(index_head_dim=128), "bf16") == group_bytes_per_token(plain, "bf16") + 132
    )


def test_the_layout_is_that_of_most_layers() -> None:
    assert {name: layout_name(load_model(name)) for name in MODELS} == {
        "kimi-k2.5": "mla", "deepseek-r1": "mla", "qwen3-235b-a22b": "gqa", "llama-3.1-70b": "gqa",
    }  # fmt: skip


def test_decode_context_parallelism_divides_what_tp_does_not() -> None:
    one = priced_of(gpu="8xH200", engine="vllm", tp=8)
    eight = priced_of(gpu="8xH200", engine="vllm", tp=8, dcp=8)
    assert eight.pool.bytes_per_token * 8 == one.pool.bytes_per_token == 70_272
    assert eight.pool.tokens == pytest.approx(8 * one.pool.tokens, rel=1e-4)


def test_attention_data_parallelism_gives_each_rank_its_own_tokens() -> None:
    # By its own rule SGLang leaves 18 GiB more to the graphs of attention data parallelism, so the fraction is given.
    given: dict[str, Any] = {"gpu": "8xH200", "engine": "sglang", "tp": 8, "gpu_memory_utilization": 0.9}
    shared, own = priced_of(**given), priced_of(**given, dp=8)
    assert own.config.attention_dp
    assert own.config.world == 8
    assert own.pool.bytes_per_token == shared.pool.bytes_per_token
    assert own.config.replicas * own.pool.tokens > 4 * shared.pool.tokens


@given(st.sampled_from((8192, 32_768, 131_072, 262_144)), st.sampled_from(("bf16", "fp8")))
def test_the_pool_holds_what_its_budget_says(context: int, dtype: str) -> None:
    pool = priced_of(gpu="8xH200", engine="vllm", tp=8, context=context, kv_dtype=dtype).pool
    assert pool.tokens == int(pool.budget // pool.bytes_per_token)
    assert pool.budget_low <= pool.budget <= pool.budget_high
    assert pool.tokens_low <= pool.tokens
    assert pool.context_bytes == context * pool.bytes_per_token
