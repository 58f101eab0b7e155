"""What a configuration may not say, and that any other object raises only the two errors that a caller expects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profiles.config_reader import BadConfig, UnknownFamily, UnknownQuantization, read_config
from profiles.families import KNOWN_FAMILIES

CONFIGS = Path(__file__).parent / "data" / "configs"


def load(name: str) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")))


def changed(config: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with the value at a dotted path replaced."""
    first, _, rest = path.partition(".")
    return config | {first: changed(config[first], rest, value) if rest else value}


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("DeepSeek-V3", "hidden_size", None, "hidden_size is missing"),
        ("DeepSeek-V3", "hidden_size", 0, "hidden_size must be from 1 to 16777216, not 0"),
        ("DeepSeek-V3", "hidden_size", True, "hidden_size must be an integer from 1 to 16777216, not True"),
        ("DeepSeek-V3", "hidden_size", 7168.0, "hidden_size must be an integer from 1 to 16777216, not 7168.0"),
        ("DeepSeek-V3", "hidden_size", 1 << 25, "hidden_size must be from 1 to 16777216, not 33554432"),
        ("DeepSeek-V3", "num_hidden_layers", 10_001, "num_hidden_layers must be from 1 to 10000, not 10001"),
        ("DeepSeek-V3", "n_routed_experts", 100_001, "n_routed_experts must be from 1 to 100000, not 100001"),
        ("DeepSeek-V3", "num_experts_per_tok", 257, "num_experts_per_tok 257 must be at most n_routed_experts 256"),
        ("DeepSeek-V3", "first_k_dense_replace", 61, "leaves no layer for the routed experts"),
        (
            "DeepSeek-V3",
            "topk_method",
            "dice",
            "topk_method is 'dice', allowed: noaux_tc, greedy, group_limited_greedy",
        ),
        ("DeepSeek-V3", "torch_dtype", "int7", "torch_dtype is 'int7', allowed: bfloat16, float16, float32, auto"),
        ("DeepSeek-V3.2", "q_lora_rank", None, "q_lora_rank must be at least 1"),
        ("GLM-5.2", "indexer_types", ["full"], "indexer_types must have 78 entries, not 1"),
        ("GLM-5.2", "indexer_types", ["shared"] * 78, "indexer_types[0] must be full"),
        ("GLM-5.2", "indexer_types", None, "indexer_types is missing"),
        ("Qwen3-32B", "num_key_value_heads", 7, "num_attention_heads 64 must be divisible by num_key_value_heads 7"),
        (
            "Meta-Llama-3.1-8B",
            "num_attention_heads",
            24,
            "hidden_size 4096 must be divisible by num_attention_heads 24",
        ),
        ("gpt-oss-20b", "layer_types", ["full_attention", 3], "layer_types must have 24 entries, not 2"),
        ("gpt-oss-20b", "layer_types", ["x"] * 24, "layer_types[0] must be one of full_attention, sliding_attention"),
        ("Qwen3-235B-A22B", "mlp_only_layers", list(range(94)), "leaves no layer for the routed experts"),
        ("Kimi-K2.5", "text_config", [], "text_config must be an object, not []"),
        ("Kimi-K2.5", "vision_config.mm_hidden_size", 8, "vision_config.mm_hidden_size must equal vt_hidden_size 1152"),
        ("Kimi-K2.5", "vision_config.merge_kernel_size", [2, 3], "must have two equal sides, not 2 and 3"),
        ("Kimi-K3", "text_config.linear_attn_config.kda_layers", [1, 2], "name each of 93 layers exactly once"),
        ("Qwen3.5-397B-A17B", "text_config.layer_types", ["full_attention"] * 60, "must have both"),
        ("DeepSeek-V4-Flash", "compress_ratios", [0] * 43, "compress_ratios must have 44 entries, not 43"),
        ("DeepSeek-V4-Flash", "dspark_block_size", 5, "compress_ratios must have 46 entries, not 44"),
        ("DeepSeek-V4-Flash", "compress_ratios", [8] * 44, "compress_ratios has 8, allowed: 0, 4, 128"),
        ("DeepSeek-V4-Flash", "num_key_value_heads", 8, "num_key_value_heads must be 1"),
        ("DeepSeek-V4-Flash", "o_groups", 7, "num_attention_heads 64 must be divisible by o_groups 7"),
        ("DeepSeek-V4-Flash", "qk_rope_head_dim", 512, "qk_rope_head_dim must be less than head_dim 512"),
        ("DeepSeek-V4-Flash", "expert_dtype", "fp6", "expert_dtype is 'fp6', allowed: fp4, fp8"),
        ("MiniMax-M3", "moe_layer_freq", [0] * 60, "moe_layer_freq marks no layer"),
        ("MiniMax-M3", "attention_output_gate", True, "attention_output_gate must be false"),
        (
            "MiniMax-M3-VL",
            "text_config.sparse_attention_config.sparse_disable_index_value",
            [1, *[0] * 59],
            "sparse_disable_index_value must be 1 in every layer that selects",
        ),
        ("Kimi-Linear-48B-A3B-Instruct", "linear_attn_config.kda_layers", [1, 2], "name each of 27 layers"),
        ("Llama-4-Maverick-17B-128E-Instruct", "text_config.moe_layers", [48], "moe_layers[0] must be from 0 to 47"),
    ],
)
def test_bad_values_are_named_in_one_line(name: str, path: str, value: object, message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        read_config(changed(load(name), path, value), id="x")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "value",
    [10**5000, [[[[[[]]]]]] * 10_000, "x" * 10**6, {"a": {"b": {"c": {}}}}, "\x1b[2J"],
    ids=["digits", "nesting", "length", "object", "control"],
)
def test_any_value_is_shown_in_one_short_line(value: object) -> None:
    with pytest.raises(BadConfig, match="hidden_size must be") as caught:
        read_config(load("DeepSeek-V3") | {"hidden_size": value}, id="x")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (load("Kimi-K3")["text_config"], "KimiLinearForCausalLM with linear_attn_config.use_full_rank_gate, mla_use"),
        ({"model_type": "mamba", "architectures": ["Mamba"]}, "no reader for the architecture 'Mamba' (model_type"),
        ({"model_type": "a\nb", "architectures": ["x\ny" * 99]}, "no reader for the architecture"),
    ],
)
def test_an_architecture_without_a_reader_is_refused_by_name(config: Mapping[str, object], message: str) -> None:
    with pytest.raises(UnknownFamily) as caught:
        read_config(config, id="x")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_kimi_linear_inside_k3_is_refused_without_its_parts() -> None:
    with pytest.raises(UnknownFamily, match="without mla_use_output_gate has no exact reader"):
        read_config(changed(load("Kimi-K3"), "text_config.mla_use_output_gate", False), id="x")


def test_a_missing_dtype_is_noted() -> None:
    assert any("dtype" in note for note in read_config(load("MiniMax-M2.5"), id="x").notes)
    assert read_config(load("MiniMax-M2.7"), id="x").notes == ()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.sampled_from([1 << 24, 10**30, -(10**30), 2.5, float("nan"), "", "fp8", "Linear", "re:.*", "\x1b[2J"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = ["Kimi-K2.5", "Kimi-K3", "DeepSeek-V3.2", "GLM-5.2", "Qwen3.5-397B-A17B", "gpt-oss-20b", "MiniMax-M2.5"]
NAMES += ["DeepSeek-V4-Flash", "MiniMax-M3-MXFP8", "Kimi-Linear-48B-A3B-Instruct"]
NAMES += ["Llama-4-Maverick-17B-128E-Instruct", "Qwen3-32B", "Mixtral-8x7B-v0.1", "Kimi-K2.6-NVFP4"]


def paths(value: object, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [prefix]
    return [prefix, *(path for key in value for path in paths(value[key], (*prefix, key)))]


REAL = {name: (load(name), paths(load(name))[1:]) for name in NAMES}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_real_configuration_with_any_values_replaced(data: st.DataObject) -> None:
    config, places = REAL[data.draw(st.sampled_from(NAMES))]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places))
        try:
            config = changed(config, ".".join(place), data.draw(VALUES))
        except (KeyError, TypeError):  # an earlier replacement removed the place
            continue
    _reads_or_refuses(config)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["model_type", "architectures", "text_config", "vision_config", "quantization_config", "hidden_size"]
        )
        | st.text(max_size=6),
        VALUES | st.sampled_from(KNOWN_FAMILIES),
        max_size=6,
    ),
    VALUES,
)
def test_any_object(config: dict[str, object], quant_config: object) -> None:
    _reads_or_refuses(config, quant_config)


def _reads_or_refuses(config: Mapping[str, object], quant_config: object = None) -> None:
    try:
        spec = read_config(config, id="x", quant_config=quant_config)  # type: ignore[arg-type]
    except (BadConfig, UnknownFamily) as error:
        assert str(error).isprintable()
        assert len(str(error)) < 700
    else:
        assert spec.parameters > 0
        assert all(group.bytes > 0 for group in spec.tensors)


def test_unknown_quantizations_are_unknown_families_too() -> None:
    assert issubclass(UnknownQuantization, UnknownFamily)
