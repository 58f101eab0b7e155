"""What each architecture caches, per layer: latent, heads, windows, indexer keys, constant states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from formulas.kv_cache import gqa_bytes, indexer_bytes, mla_bytes, packed_state_bytes
from profiles.config_reader import read_config
from profiles.model import KvGroup, ModelSpec

CONFIGS = Path(__file__).parent / "data" / "configs"


def load(name: str) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")))


def model(name: str) -> ModelSpec:
    return read_config(load(name), id=name)


@pytest.mark.parametrize("name", ["Kimi-K2.5", "Kimi-K2-Instruct", "DeepSeek-V3"])
def test_latent_attention_caches_one_latent_and_one_rope_key(name: str) -> None:
    (group,) = model(name).kv_groups
    assert group == KvGroup("mla", tuple(range(61)), kv_lora_rank=512, rope_dim=64)
    assert len(group.layers) * mla_bytes(group.kv_lora_rank, group.rope_dim, "bf16") == 70_272


def test_the_indexer_adds_its_key() -> None:
    (group,) = model("DeepSeek-V3.2").kv_groups
    assert group.index_head_dim == 128
    assert indexer_bytes(group.index_head_dim) == 132
    assert mla_bytes(group.kv_lora_rank, group.rope_dim, "fp8_ds_mla") == 656


def test_shared_indexer_layers_cache_no_key() -> None:
    own, shared = model("GLM-5.2").kv_groups
    assert (own.index_head_dim, shared.index_head_dim) == (128, 0)
    assert own.layers[:4] == (0, 1, 2, 6)
    assert (len(own.layers), len(shared.layers)) == (21, 57)
    assert model("GLM-5").kv_groups[0].layers == tuple(range(78))


@pytest.mark.parametrize(
    ("name", "layout", "heads", "head_dim", "bytes_per_token"),
    [
        ("Qwen3-235B-A22B", "gqa", 4, 128, 94 * 2048),
        ("Qwen3-32B", "gqa", 8, 128, 64 * 4096),
        ("Meta-Llama-3.1-8B", "gqa", 8, 128, 32 * 4096),
        ("Mixtral-8x7B-v0.1", "gqa", 8, 128, 32 * 4096),
        ("MiniMax-M2.5", "gqa", 8, 128, 62 * 4096),
    ],
)
def test_grouped_queries(name: str, layout: str, heads: int, head_dim: int, bytes_per_token: int) -> None:
    (group,) = model(name).kv_groups
    assert (group.layout, group.n_kv_heads, group.head_dim, group.window) == (layout, heads, head_dim, None)
    assert len(group.layers) * gqa_bytes(heads, group.head_dim, group.v_head_dim, "bf16") == bytes_per_token


def test_gpt_oss_alternates_a_window_of_128() -> None:
    windowed, full = model("gpt-oss-120b").kv_groups
    assert (windowed.window, full.window) == (128, None)
    assert (windowed.layers[:2], full.layers[:2]) == ((0, 2), (1, 3))
    assert len(windowed.layers) == len(full.layers) == 18
    assert gqa_bytes(full.n_kv_heads, full.head_dim, full.v_head_dim, "bf16") == 2048


def test_llama_4_caps_the_rope_layers_by_the_chunk() -> None:
    chunked, full = model("Llama-4-Maverick-17B-128E-Instruct").kv_groups
    assert (chunked.window, full.window) == (8192, None)
    assert full.layers == tuple(range(3, 48, 4))


def test_delta_net_keeps_a_constant_state() -> None:
    full, linear = model("Qwen3.5-397B-A17B").kv_groups
    assert (full.layout, full.n_kv_heads, full.head_dim) == ("gqa", 2, 256)
    assert full.layers == tuple(range(3, 60, 4))
    assert linear.layout == "linear"
    assert linear.state_bytes == 64 * 128 * 128 * 4 + (2 * 16 * 128 + 64 * 128) * 3 * 2


def test_kimi_delta_attention_keeps_a_constant_state() -> None:
    latent, linear = model("Kimi-K3").kv_groups
    assert latent.layers == (*range(3, 92, 4), 92)
    assert mla_bytes(latent.kv_lora_rank, latent.rope_dim, "bf16") == 1152
    assert len(linear.layers) == 69
    assert linear.state_bytes == 96 * 128 * 128 * 4 + 3 * 96 * 128 * 3 * 2


def test_kimi_linear_has_seven_latent_layers_of_twenty_seven() -> None:
    latent, linear = model("Kimi-Linear-48B-A3B-Instruct").kv_groups
    assert latent.layers == (*range(3, 24, 4), 26)
    assert len(linear.layers) == 20
    # 41,943,040 bytes of recurrent state and 1,474,560 of convolution per sequence, as vLLM lays them out.
    assert linear.state_bytes * 20 == 41_943_040 + 1_474_560


def test_deepseek_v4_caches_a_window_and_compressed_states() -> None:
    """vLLM 0.33.0: 584 bytes a state and 132 an index key; F32 values and scores of what is not yet pooled."""
    window, selected, heavy = model("DeepSeek-V4-Flash").kv_groups
    assert (window.window, window.layers, window.tokens_per_state) == (128, tuple(range(43)), 1)
    assert (selected.tokens_per_state, selected.layers, selected.index_head_dim) == (4, tuple(range(2, 43, 2)), 128)
    assert (heavy.tokens_per_state, heavy.layers, heavy.index_head_dim) == (128, tuple(range(3, 42, 2)), 0)
    assert {group.packed_bytes for group in (window, selected, heavy)} == {packed_state_bytes(448, 64)} == {584}
    assert selected.state_bytes == 8 * (2 * 2 * 512 + 2 * 2 * 128) * 4
    assert heavy.state_bytes == 128 * 2 * 512 * 4


def test_deepseek_v4_pro_has_no_layer_without_compression() -> None:
    window, selected, heavy = model("DeepSeek-V4-Pro").kv_groups
    assert (len(window.layers), len(selected.layers), len(heavy.layers)) == (61, 30, 31)


def test_minimax_m3_adds_a_key_that_selects_blocks() -> None:
    full, sparse = model("MiniMax-M3").kv_groups
    assert (full.layers, full.index_key_bytes) == ((0, 1, 2), 0)
    assert (len(sparse.layers), sparse.index_key_bytes) == (57, 256)
    assert full.layout == sparse.layout == "gqa"
    assert gqa_bytes(sparse.n_kv_heads, sparse.head_dim, sparse.v_head_dim, "bf16") == 2048


def test_mixtral_with_a_window_has_it_in_every_layer() -> None:
    (group,) = read_config(load("Mixtral-8x7B-v0.1") | {"sliding_window": 4096}, id="m").kv_groups
    assert group.window == 4096


def test_qwen_windows_only_when_switched_on() -> None:
    windowed = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 60}
    full, window = read_config(load("Qwen3-32B") | windowed, id="q").kv_groups
    assert (full.layers, full.window) == (tuple(range(60)), None)
    assert (window.layers, window.window) == ((60, 61, 62, 63), 4096)
    off = windowed | {"use_sliding_window": False}
    assert len(read_config(load("Qwen3-32B") | off, id="q").kv_groups) == 1


@pytest.mark.parametrize(("kv_heads", "layout"), [(1, "mqa"), (8, "gqa"), (64, "mha")])
def test_the_layout_follows_the_number_of_kv_heads(kv_heads: int, layout: str) -> None:
    (group,) = read_config(load("Qwen3-32B") | {"num_key_value_heads": kv_heads}, id="q").kv_groups
    assert group.layout == layout


def test_geometry_of_latent_heads() -> None:
    spec = model("Kimi-K2.5")
    assert (spec.heads, spec.q_head_dim, spec.nope_dim, spec.v_head_dim) == (64, 192, 128, 128)
    assert spec.moe is not None
    assert (spec.moe.experts, spec.moe.top_k, spec.moe.expert_ffn, spec.moe.shared_experts) == (384, 8, 2048, 1)
    assert spec.moe.layers == tuple(range(1, 61))
    assert spec.vision is not None
    assert (spec.vision.layers, spec.vision.hidden, spec.vision.heads, spec.vision.merge) == (27, 1152, 16, 2)
    assert (spec.max_context, spec.trust_remote_code, spec.uses_mla) == (262_144, True, True)
