"""Every family against what its publisher's own files hold: parameters, bytes and tensors, to the last one.

The published totals: ``model.safetensors.index.json`` of the repositories named, the parameter counts that the hub
reads from safetensors headers (an FP8 checkpoint's count includes its scales), and, for Qwen3.5, Kimi K3 and gpt-oss,
public audits of all headers.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

import pytest

from profiles.config_reader import read_config
from profiles.families import KNOWN_FAMILIES
from profiles.model import ModelSpec, TensorGroup, active_parameters

CONFIGS = Path(__file__).parent / "data" / "configs"

PARTS = {"int4": 3, "nvfp4": 4, "mxfp4": 2, "mxfp8": 2, "fp8_block128": 2}
"""Tensors that one quantized matrix is stored as: packed values, scales, shape or global scales."""


def load(name: str) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")))


def model(name: str) -> ModelSpec:
    beside = CONFIGS / f"{name}.hf_quant_config.json"
    quant_config = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else None
    return read_config(load(name), id=name.lower(), quant_config=quant_config)


def tensor_bytes(groups: tuple[TensorGroup, ...], *classes: str) -> int:
    return sum(group.bytes for group in groups if not classes or group.tensor_class in classes)


def stored_tensors(spec: ModelSpec) -> int:
    """Tensors in the checkpoint's files, the parts of a quantized matrix counted apart."""
    return sum(
        group.instances * next((parts for name, parts in PARTS.items() if group.format.startswith(name)), 1)
        for group in spec.tensors
    )


def block_scales(spec: ModelSpec) -> int:
    """Scales of the matrices stored in 128 x 128 blocks."""
    return sum(
        group.instances * -(-group.shape[-2] // 128) * -(-group.shape[-1] // 128)
        for group in spec.tensors
        if group.format.startswith("fp8_block128")
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Kimi-K2.5", 1_026_879_376_368),
        ("Kimi-K2-Instruct", 1_026_408_232_448),
        ("Kimi-K3", 2_779_931_837_184),
        ("Kimi-Linear-48B-A3B-Instruct", 49_122_681_728),
        ("DeepSeek-V3", 684_489_845_504),
        ("DeepSeek-R1", 684_489_845_504),
        ("DeepSeek-V3.2", 685_355_329_792),
        ("DeepSeek-V4-Pro", 1_598_837_347_742),
        ("GLM-5", 753_864_139_008),
        ("GLM-5.1", 753_864_139_008),
        ("GLM-5.2", 753_329_940_480),
        ("GLM-5.3", 753_329_940_480),
        ("Qwen3-235B-A22B", 235_093_634_560),
        ("Qwen3-Coder-480B-A35B-Instruct", 480_154_875_392),
        ("Qwen3.5-397B-A17B", 403_397_928_944),
        ("Qwen3-32B", 32_762_123_264),
        ("Mixtral-8x7B-v0.1", 46_702_792_704),
        ("Mixtral-8x22B-v0.1", 140_620_634_112),
        ("MiniMax-M2.5", 228_689_764_864),
        ("MiniMax-M2.7", 228_689_764_864),
        ("MiniMax-M3-VL", 427_040_140_160),
        ("gpt-oss-120b", 116_829_156_672),
        ("gpt-oss-20b", 20_914_757_184),
        ("Meta-Llama-3.1-8B", 8_030_261_248),
        ("Meta-Llama-3.1-70B", 70_553_706_496),
        ("Meta-Llama-3.1-405B", 405_853_388_800),
    ],
)
def test_parameters_are_those_of_the_published_checkpoint(name: str, parameters: int) -> None:
    assert model(name).parameters == parameters


@pytest.mark.parametrize(
    ("name", "total_bytes"),
    [
        ("Kimi-K2.5", 595_148_192_736),
        ("Kimi-K3", 1_560_860_324_864),
        ("Kimi-Linear-48B-A3B-Instruct", 98_245_528_576),
        ("DeepSeek-V4-Flash", 159_609_485_896),
        ("DeepSeek-V4-Pro", 864_704_792_696),
        ("MiniMax-M3-VL", 854_172_958_720),
        ("GLM-5-FP8", 756_162_687_872),
        ("GLM-5.1", 1_507_728_316_928),
        ("GLM-5.2", 1_506_659_919_872),
        ("Qwen3-235B-A22B", 470_187_269_120),
        ("Mixtral-8x7B-v0.1", 93_405_585_408),
        ("gpt-oss-20b", 13_761_264_768),
        ("DeepSeek-V3", 688_574_839_360),
        ("Qwen3.5-397B-A17B", 806_795_875_168),
        ("MiniMax-M2.7", 230_121_630_720),
        ("gpt-oss-120b", 65_248_815_744),
        ("Meta-Llama-3.1-8B", 16_060_522_496),
    ],
)
def test_bytes_are_those_of_the_published_checkpoint(name: str, total_bytes: int) -> None:
    assert tensor_bytes(model(name).tensors) == total_bytes


@pytest.mark.parametrize(
    ("name", "parameters_and_scales"),
    [
        ("DeepSeek-V3", 684_531_386_000),
        ("DeepSeek-V3.2", 685_396_921_376),
        ("GLM-5-FP8", 753_910_024_032),
        ("Qwen3-235B-A22B-FP8", 235_107_904_512),
        ("MiniMax-M2.5", 228_703_644_928),
    ],
)
def test_fp8_scales_are_as_many_as_published(name: str, parameters_and_scales: int) -> None:
    """Says which matrices are quantized: one more or less would show in the number of its scales."""
    spec = model(name)
    assert spec.parameters + block_scales(spec) == parameters_and_scales


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("Kimi-K2.5", 208_550),
        ("Kimi-K3", 497_220),
        ("Kimi-Linear-48B-A3B-Instruct", 20_493),
        ("DeepSeek-V3", 91_991),
        ("DeepSeek-V4-Flash", 69_187),
        ("DeepSeek-V4-Pro", 145_116),
        ("MiniMax-M3-VL", 23_416),
        ("MiniMax-M3-MXFP8", 45_838),
    ],
)
def test_the_number_of_stored_tensors(name: str, tensors: int) -> None:
    assert stored_tensors(model(name)) == tensors


def test_kimi_k2_is_published_with_61_more_tensors() -> None:
    """Published: 1,029,173,256,720 bytes in 139,644 tensors. What the 61 others are is not known; none is invented."""
    spec = model("Kimi-K2-Instruct")
    assert stored_tensors(spec) == 139_644 - 61
    assert tensor_bytes(spec.tensors) == 1_029_173_256_720 - 61 * 112


def test_kimi_k2_5_row_by_row() -> None:
    """Every row of the published tensor table: name, shape, dtype, count and bytes."""
    published: dict[str, tuple[int, int]] = {}
    for name, _, _, count, row_bytes in json.loads((CONFIGS / "Kimi-K2.5.tensors.json").read_text()):
        matrix = name
        for part in ("_packed", "_scale", "_shape"):
            matrix = matrix.removesuffix(part)
        parts = published.get(matrix, (count, 0))
        published[matrix] = (count, parts[1] + row_bytes)
    ours = {_expanded(group): (group.instances, group.bytes) for group in model("Kimi-K2.5").tensors}
    assert ours == published


def _expanded(group: TensorGroup) -> str:
    """The name with its ranges of indices, as the table writes them."""
    first, last = (group.layers[0], group.layers[-1]) if group.layers else (0, 0)
    layers = str(first) if first == last else f"{{{first}..{last}}}"
    blocks, experts = f"{{0..{group.per_layer - 1}}}", f"{{0..{group.per_layer - 1}}}"
    return group.name.replace("{layer}", layers).replace("{expert}", experts).replace("{block}", blocks)


def test_kimi_k2_5_dtypes_are_those_of_the_table() -> None:
    rows = json.loads((CONFIGS / "Kimi-K2.5.tensors.json").read_text())
    f32 = {name for name, dtype, _, _, _ in rows if dtype == "F32"}
    packed = {name.removesuffix("_packed") for name, dtype, _, _, _ in rows if name.endswith("_packed")}
    spec = model("Kimi-K2.5")
    assert {_expanded(group) for group in spec.tensors if group.format == "f32"} == f32
    assert {_expanded(group) for group in spec.tensors if group.format == "int4_g32"} == packed
    assert {group.format for group in spec.tensors} == {"bf16", "f32", "int4_g32"}


def test_kimi_k2_5_by_class() -> None:
    spec = model("Kimi-K2.5")
    totals: dict[str, int] = {}
    for group in spec.tensors:
        totals[group.tensor_class] = totals.get(group.tensor_class, 0) + group.parameters
    assert totals == {
        "embedding": 1_174_405_120,
        "attention": 6_168_444_928,
        "dense_ffn": 396_361_728,
        "router": 165_150_720 + 23_040,
        "shared_experts": 2_642_411_520,
        "routed_experts": 1_014_686_023_680,
        "lm_head": 1_174_405_120,
        "norms": 1_006_592,
        "vision": 416_866_032 + 54_277_888,
    }


def test_kimi_k2_5_active_parameters() -> None:
    spec = model("Kimi-K2.5")
    assert active_parameters(spec, with_embedding=True) == 32_861_500_928
    assert active_parameters(spec, with_embedding=False) == 31_687_095_808


def test_glm_5_2_in_fp8_has_the_published_bytes_and_tensors() -> None:
    """zai-org/GLM-5.2-FP8 (and GLM-5.3): 118,629 tensors of 755,617,140,416 bytes."""
    quantization = load("GLM-5-FP8")["quantization_config"]
    spec = read_config(load("GLM-5.2") | {"quantization_config": quantization}, id="glm")
    assert (stored_tensors(spec), tensor_bytes(spec.tensors)) == (118_629, 755_617_140_416)


def test_deepseek_v4_flash_dtypes_add_up_as_published() -> None:
    """Tensors by dtype, as a reader of the published headers counted them (46 shards, revision 60d8d70)."""
    spec = model("DeepSeek-V4-Flash")
    totals: dict[str, int] = {}
    for group in spec.tensors:
        totals[group.format] = totals.get(group.format, 0) + group.instances
    assert totals == {"bf16": 433, "f32": 417, "fp8_block128_e8m0": 375, "mxfp4": 33_792, "int64": 3}
    prediction = [group for group in spec.tensors if group.tensor_class == "mtp"]
    assert sum(g.instances * PARTS.get(g.format, 2 if g.format.startswith("fp8") else 1) for g in prediction) == 1_575


@pytest.mark.parametrize(
    ("name", "rank", "total_bytes", "tensors"),
    [
        ("DeepSeek-V4-Flash", 256, 166_878_536_440, 72_317),
        ("DeepSeek-V4-Pro", 512, 892_727_580_904, 149_782),
    ],
)
def test_deepseek_v4_with_a_dspark_drafter(name: str, rank: int, total_bytes: int, tensors: int) -> None:
    """Published: the index totals of DeepSeek-V4-Flash-0731 and, with its tensors, of DeepSeek-V4-Pro-0813."""
    base = load(name)
    layers = base["num_hidden_layers"]
    spec = read_config(
        base
        | {
            "compress_ratios": [*base["compress_ratios"][:layers], 0, 0, 0],
            "dspark_block_size": 5,
            "dspark_markov_rank": rank,
            "dspark_noise_token_id": 128_799,
            "dspark_target_layer_ids": [layers - 3, layers - 2, layers - 1],
        },
        id="drafted",
    )
    assert (tensor_bytes(spec.tensors), stored_tensors(spec)) == (total_bytes, tensors)
    assert spec.kv_groups == model(name).kv_groups


def test_deepseek_v4_experts_can_be_fp8() -> None:
    """The base models: block FP8 with F32 scales everywhere, the experts too."""
    spec = read_config(load("DeepSeek-V4-Flash") | {"expert_dtype": "fp8"}, id="base")
    assert {group.format for group in spec.tensors} == {"bf16", "f32", "int64", "fp8_block128"}


def test_minimax_m3_dtypes_add_up_as_published() -> None:
    spec = model("MiniMax-M3-VL")
    f32 = sum(group.parameters for group in spec.tensors if group.format == "f32")
    assert (f32, spec.parameters - f32) == (46_339_200, 426_993_800_960)
    assert any("multi-token" in note for note in spec.notes)


def test_minimax_m3_in_mxfp8_counts_its_scales_as_published() -> None:
    """440,279,845,760 elements of all tensors: the parameters, and one scale per 32 of those that are quantized."""
    spec = model("MiniMax-M3-MXFP8")
    assert spec.parameters + sum(g.parameters for g in spec.tensors if g.format == "mxfp8") // 32 == 440_279_845_760


def test_minimax_m3_says_that_a_tower_is_missing() -> None:
    spec = model("MiniMax-M3")
    assert spec.vision is None
    assert any("vision tower" in note for note in spec.notes)
    with_tower = model("MiniMax-M3-VL")
    assert spec.parameters == sum(g.parameters for g in with_tower.tensors if g.tensor_class != "vision")


def test_kimi_linear_keeps_only_its_decay_in_f32() -> None:
    spec = model("Kimi-Linear-48B-A3B-Instruct")
    assert sum(group.parameters for group in spec.tensors if group.format == "f32") == 20 * (32 + 4096)
    assert spec.max_context == 1_048_576


def test_kimi_k3_dtypes_add_up_as_published() -> None:
    spec = model("Kimi-K3")
    totals = {
        name: sum(group.parameters for group in spec.tensors if group.format == name)
        for name in ("mxfp4", "bf16", "f32")
    }
    assert totals == {"mxfp4": 2_722_740_830_208, "bf16": 57_179_884_544, "f32": 11_122_432}


def test_qwen3_5_parts_add_up_as_published() -> None:
    spec = model("Qwen3.5-397B-A17B")
    parts = {
        name: (
            sum(group.parameters for group in spec.tensors if group.tensor_class == name),
            tensor_bytes(spec.tensors, name),
        )
        for name in ("vision", "mtp")
    }
    assert parts == {"vision": (456_010_480, 912_020_960), "mtp": (6_595_568_128, 13_191_136_256)}


def test_deepseek_v3_prediction_layer() -> None:
    spec = model("DeepSeek-V3")
    mtp = [group for group in spec.tensors if group.tensor_class == "mtp"]
    assert sum(group.parameters for group in mtp) == 13_463_426_304
    assert {group.layers for group in mtp} == {(61,)}
    assert spec.mtp_layers == 1
    assert next(group.format for group in mtp if group.role == "mtp_projection") == "bf16"


def test_llama_4_with_its_vision_tower() -> None:
    """The vision section of the published ``config.json``; 401,583,781,376 parameters is the hub's count."""
    config = load("Llama-4-Maverick-17B-128E-Instruct")
    config["vision_config"] = {
        "hidden_size": 1408,
        "image_size": 336,
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 34,
        "patch_size": 14,
        "pixel_shuffle_ratio": 0.5,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
        "vision_output_dim": 4096,
    }
    assert read_config(config, id="maverick").parameters == 401_583_781_376


def test_llama_4_says_that_a_tower_is_missing() -> None:
    spec = model("Llama-4-Maverick-17B-128E-Instruct")
    assert spec.vision is None
    assert any("vision tower" in note for note in spec.notes)


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 235_741_434_880),
        (
            {
                "hidden_size": 2048,
                "intermediate_size": 10944,
                "moe_intermediate_size": 1408,
                "n_routed_experts": 64,
                "num_attention_heads": 16,
                "num_hidden_layers": 27,
                "q_lora_rank": None,
                "topk_method": "greedy",
            },
            15_706_484_224,
        ),
    ],
    ids=["DeepSeek-V2", "DeepSeek-V2-Lite"],
)
def test_the_second_generation_has_no_score_correction(changes: dict[str, Any], parameters: int) -> None:
    """Dimensions of DeepSeek-V2 and V2-Lite; V2-Lite projects its queries directly. Totals: the hub's count."""
    config = {
        "model_type": "deepseek_v2",
        "first_k_dense_replace": 1,
        "hidden_size": 5120,
        "intermediate_size": 12288,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 1536,
        "n_routed_experts": 160,
        "n_shared_experts": 2,
        "num_attention_heads": 128,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 60,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "topk_method": "group_limited_greedy",
        "torch_dtype": "bfloat16",
        "v_head_dim": 128,
        "vocab_size": 102400,
        **changes,
    }
    spec = read_config(config, id="v2")
    assert spec.parameters == parameters
    assert not any(group.role == "router_bias" for group in spec.tensors)


READ = [
    path.stem for path in sorted(CONFIGS.glob("*.json")) if not path.stem.endswith((".tensors", ".hf_quant_config"))
]


@pytest.mark.parametrize("name", READ)
def test_every_group_is_well_formed(name: str) -> None:
    """What the planner relies on: layers of the model, experts counted per layer, names without loose braces."""
    spec = model(name)
    stop = spec.layers + spec.mtp_layers
    for group in spec.tensors:
        assert group.bytes > 0
        assert all(0 <= layer < stop for layer in group.layers)
        assert (group.tensor_class == "mtp") == (group.layers != () and group.layers[0] >= spec.layers)
        assert group.layers != () or "{layer}" not in group.name
        if group.tensor_class == "vision":
            assert group.layers == ()
        if group.role in ("expert_gate", "expert_up", "expert_down"):
            assert spec.moe is not None
            assert group.per_layer == spec.moe.experts
            assert len(group.shape) == 2
    if spec.moe is not None:
        routed = {group.layers for group in spec.tensors if group.tensor_class == "routed_experts"}
        assert {layer for layers in routed for layer in layers} == set(spec.moe.layers)


@pytest.mark.parametrize("name", ["Kimi-K2.5", "Kimi-K3", "Kimi-K2.6-NVFP4"])
def test_reading_costs_less_than_three_milliseconds(name: str) -> None:
    config = load(name)
    seconds = []
    for _ in range(10):
        start = time.process_time()
        read_config(config, id=name)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.003


def test_every_reader_is_tested_here() -> None:
    tested = {load(name).get("model_type") for name in READ}
    assert set(KNOWN_FAMILIES) - tested == {"deepseek_v2", "llama4_text"}


def test_llama_4_text_alone_has_no_prefix() -> None:
    spec = read_config(load("Llama-4-Maverick-17B-128E-Instruct")["text_config"], id="text")
    assert spec.parameters == model("Llama-4-Maverick-17B-128E-Instruct").parameters
    assert spec.tensors[0].name == "model.embed_tokens.weight"
