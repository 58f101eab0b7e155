"""GGUF lists and mixtures against sizes that were published or read from llama.cpp itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from formulas.storage import storage_format, tensor_bytes
from formulas.units import gib
from planner.sharding import build_shards
from profiles.config_reader import read_config
from profiles.library import load_model
from profiles.llama_quantize import DEFAULT_TYPE, gguf_groups, quantize
from profiles.mixtures import UnknownMixture, base_type, release_tensors
from profiles.model import KvGroup, ModelSpec, Moe, Release, Role, TensorClass, TensorGroup, bytes_by_class

LAYERS = tuple(range(61))
MOE_LAYERS = LAYERS[1:]
DENSE_LAYERS = LAYERS[:1]


def _groups() -> list[TensorGroup]:
    """Kimi K2.5's text tensors, shapes as in its checkpoint, and one vision tensor."""
    rows: list[tuple[str, tuple[int, ...], Role, TensorClass, str, tuple[int, ...], int]] = [
        ("embed_tokens", (163840, 7168), "embedding", "embedding", "bf16", (), 1),
        ("lm_head", (163840, 7168), "lm_head", "lm_head", "bf16", (), 1),
        ("q_a_proj", (1536, 7168), "q_a", "attention", "bf16", LAYERS, 1),
        ("q_b_proj", (12288, 1536), "q_b", "attention", "bf16", LAYERS, 1),
        ("kv_a_proj_with_mqa", (576, 7168), "kv_a", "attention", "bf16", LAYERS, 1),
        ("kv_b_proj", (16384, 512), "kv_b", "attention", "bf16", LAYERS, 1),
        ("o_proj", (7168, 8192), "o", "attention", "bf16", LAYERS, 1),
        ("q_a_layernorm", (1536,), "norm", "norms", "bf16", LAYERS, 1),
        ("kv_a_layernorm", (512,), "norm", "norms", "bf16", LAYERS, 1),
        ("layernorms", (7168,), "norm", "norms", "bf16", LAYERS, 2),
        ("norm", (7168,), "norm", "norms", "bf16", (), 1),
        ("gate_proj", (18432, 7168), "dense_gate", "dense_ffn", "bf16", DENSE_LAYERS, 1),
        ("up_proj", (18432, 7168), "dense_up", "dense_ffn", "bf16", DENSE_LAYERS, 1),
        ("down_proj", (7168, 18432), "dense_down", "dense_ffn", "bf16", DENSE_LAYERS, 1),
        ("shared.gate_proj", (2048, 7168), "shared_gate", "shared_experts", "bf16", MOE_LAYERS, 1),
        ("shared.up_proj", (2048, 7168), "shared_up", "shared_experts", "bf16", MOE_LAYERS, 1),
        ("shared.down_proj", (7168, 2048), "shared_down", "shared_experts", "bf16", MOE_LAYERS, 1),
        ("experts.gate_proj", (2048, 7168), "expert_gate", "routed_experts", "int4_g32", MOE_LAYERS, 384),
        ("experts.up_proj", (2048, 7168), "expert_up", "routed_experts", "int4_g32", MOE_LAYERS, 384),
        ("experts.down_proj", (7168, 2048), "expert_down", "routed_experts", "int4_g32", MOE_LAYERS, 384),
        ("gate", (384, 7168), "router", "router", "bf16", MOE_LAYERS, 1),
        ("e_score_correction_bias", (384,), "router_bias", "router", "f32", MOE_LAYERS, 1),
        ("projector", (7168, 4608), "projector", "vision", "bf16", (), 1),
    ]
    return [TensorGroup(*row) for row in rows]


K2_5 = ModelSpec(
    id="kimi-k2.5",
    name="Kimi K2.5",
    family="kimi",
    repository="moonshotai/Kimi-K2.5",
    hidden=7168,
    vocab=163840,
    layers=61,
    max_context=262144,
    heads=64,
    q_head_dim=192,
    v_head_dim=128,
    nope_dim=128,
    dense_ffn=18432,
    moe=Moe(experts=384, top_k=8, expert_ffn=2048, shared_experts=1, layers=MOE_LAYERS),
    kv_groups=(KvGroup("mla", LAYERS, kv_lora_rank=512, rope_dim=64),),
    tensors=tuple(_groups()),
    native_quantization="int4",
)


def _release(mixture: str, **changes: object) -> Release:
    container: Literal["gguf", "safetensors"] = "gguf" if mixture.startswith("gguf:") else "safetensors"
    release = Release(quantization="", publisher="", release="", container=container, mixture=mixture)
    return replace(release, **changes)  # type: ignore[arg-type]


def _total(groups: tuple[TensorGroup, ...]) -> int:
    return sum(group.bytes for group in groups)


def test_the_gguf_list_is_the_one_of_the_published_files() -> None:
    groups = gguf_groups(K2_5)
    assert sum(group.instances for group in groups) == 1096
    assert sum(group.parameters for group in groups) == 1_026_408_232_448
    kept = [group for group in groups if group.format == "F32"]
    assert sum(group.parameters for group in kept) == 166_180_352
    assert _total(tuple(kept)) == 664_721_408
    shapes = {group.role: group.shape for group in groups}
    assert shapes["k_b"] == (64, 512, 128)
    assert shapes["v_b"] == (64, 128, 512)
    assert shapes["expert_down"] == (384, 7168, 2048)
    assert "projector" not in shapes


# Bytes of all tensors in the types that llama.cpp 0.5.0 chose (llama_model_quantize with dry_run and an
# importance matrix) for F16 files of these shapes: Kimi K2.5, Llama 3.1 70B, Qwen3 235B, and one with eight
# experts. The types agreed tensor by tensor.
DRY_RUN_BYTES = {
    "Q4_0": (580_356_343_808, 40_108_670_976, 133_126_416_384, 26_560_323_584),
    "Q4_1": (642_295_379_968, 44_305_727_488, 147_224_094_720, 29_336_756_224),
    "Q5_0": (708_489_799_680, 48_796_385_280, 162_429_069_312, 32_348_069_888),
    "Q5_1": (770_428_835_840, 52_993_441_792, 176_526_747_648, 35_124_502_528),
    "Q8_0": (1_091_046_901_760, 74_967_187_456, 249_934_100_480, 49_625_612_288),
    "Q6_K": (842_565_869_056, 57_880_281_088, 193_009_489_920, 38_380_109_824),
    "Q2_K": (372_856_402_944, 26_367_246_336, 85_684_996_096, 17_310_523_392),
    "TQ1_0": (218_356_132_352, 15_897_051_136, 50_377_844_736, 10_210_926_592),
    "TQ2_0": (266_339_134_976, 19_105_693_696, 61_337_167_872, 12_375_187_456),
    "IQ1_S": (204_423_888_384, 15_335_620_608, 47_942_244_352, 9_820_962_816),
    "IQ1_M": (227_930_947_584, 16_743_333_888, 53_135_742_976, 10_846_470_144),
    "IQ2_XXS": (267_109_379_584, 19_089_522_688, 61_791_574_016, 12_555_649_024),
    "IQ2_XS": (298_564_060_672, 21_134_245_888, 68_814_804_992, 13_922_992_128),
    "IQ3_XXS": (394_149_760_512, 27_461_632_000, 90_370_541_568, 18_241_757_184),
    "IQ3_S": (442_120_835_584, 30_904_188_928, 101_464_881_152, 20_431_814_656),
    "IQ4_NL": (578_228_652_032, 40_045_756_416, 132_597_409_792, 26_509_991_936),
    "IQ4_XS": (546_203_283_456, 37_894_799_360, 125_277_906_944, 25_079_832_576),
    "Q1_0": (145_778_238_464, 10_640_834_560, 33_676_314_624, 6_909_239_296),
    "Q3_K_S": (442_120_835_584, 30_904_188_928, 101_438_699_520, 20_431_814_656),
    "Q3_K_M": (489_081_557_504, 34_259_632_128, 112_441_374_720, 22_545_743_872),
    "Q3_K_L": (530_505_028_096, 37_132_730_368, 121_818_789_888, 24_168_939_520),
    "Q4_K_S": (582_516_017_152, 40_339_357_696, 133_681_113_088, 26_744_872_960),
    "Q4_K_M": (620_550_916_096, 42_512_531_456, 142_148_069_376, 28_447_760_384),
    "Q5_K_S": (706_378_098_688, 48_649_584_640, 161_875_421_184, 32_230_629_376),
    "Q5_K_M": (728_164_001_792, 49_941_954_560, 166_808_152_064, 33_228_873_728),
    "Q2_K_S": (346_017_231_872, 24_464_080_896, 79_752_677_376, 16_031_260_672),
    "IQ2_S": (300_922_504_704, 22_234_480_640, 70_221_236_224, 14_127_144_960),
    "IQ2_M": (332_265_250_304, 24_111_431_680, 77_145_901_056, 15_494_488_064),
    "IQ3_XS": (417_747_341_824, 29_299_867_648, 95_947_470_848, 19_349_684_224),
    "IQ3_M": (447_117_906_432, 31_929_171_968, 103_060_289_536, 21_430_059_008),
    "MXFP4_MOE": (551_723_108_352, 74_967_187_456, 129_289_140_224, 25_667_747_840),
}


def _eight_experts() -> ModelSpec:
    layers = tuple(range(32))
    rows: list[tuple[str, tuple[int, ...], Role, TensorClass, str, tuple[int, ...], int]] = [
        ("embed_tokens", (32000, 4096), "embedding", "embedding", "bf16", (), 1),
        ("lm_head", (32000, 4096), "lm_head", "lm_head", "bf16", (), 1),
        ("norm", (4096,), "norm", "norms", "bf16", (), 1),
        ("layernorms", (4096,), "norm", "norms", "bf16", layers, 2),
        ("head_norms", (128,), "norm", "norms", "bf16", layers, 2),
        ("q_proj", (4096, 4096), "q", "attention", "bf16", layers, 1),
        ("k_proj", (1024, 4096), "k", "attention", "bf16", layers, 1),
        ("v_proj", (1024, 4096), "v", "attention", "bf16", layers, 1),
        ("o_proj", (4096, 4096), "o", "attention", "bf16", layers, 1),
        ("gate", (8, 4096), "router", "router", "bf16", layers, 1),
        ("experts.gate_proj", (14336, 4096), "expert_gate", "routed_experts", "bf16", layers, 8),
        ("experts.up_proj", (14336, 4096), "expert_up", "routed_experts", "bf16", layers, 8),
        ("experts.down_proj", (4096, 14336), "expert_down", "routed_experts", "bf16", layers, 8),
    ]
    return replace(
        K2_5,
        layers=32,
        heads=32,
        moe=Moe(experts=8, top_k=2, expert_ffn=14336, shared_experts=0, layers=layers),
        kv_groups=(KvGroup("gqa", layers, n_kv_heads=8, head_dim=128, v_head_dim=128),),
        tensors=tuple(TensorGroup(*row) for row in rows),
    )


@pytest.mark.parametrize("file_type", DRY_RUN_BYTES)
def test_types_are_those_of_the_real_quantizer(file_type: str) -> None:
    models = (K2_5, load_model("llama-3.1-70b"), load_model("qwen3-235b-a22b"), _eight_experts())
    assert tuple(_total(quantize(model, file_type)) for model in models) == DRY_RUN_BYTES[file_type]


# What llama.cpp 0.6.0-dev reports for an F16 file of K2.5's tensors.
def test_unquantized_bytes() -> None:
    assert _total(quantize(K2_5, "F16")) == 2_053_148_825_600


# Columns that the type's blocks do not divide: llama.cpp 0.5.0 stores the output in Q8_0.
def test_an_output_that_does_not_divide_is_q8_0() -> None:
    odd = tuple(
        group._replace(shape=(32000, 4160)) if group.role in ("embedding", "lm_head") else group
        for group in _eight_experts().tensors
    )
    stored = {g.role: g.format for g in quantize(replace(_eight_experts(), tensors=odd), "IQ2_XS")}
    assert (stored["lm_head"], stored["embedding"]) == ("Q8_0", "Q4_0")


def test_quantizing_loses_no_tensor_and_no_element() -> None:
    groups = gguf_groups(K2_5)
    for file_type in DEFAULT_TYPE:
        quantized = quantize(K2_5, file_type)
        assert sum(group.instances for group in quantized) == 1096, file_type
        assert sum(group.parameters for group in quantized) == sum(group.parameters for group in groups)


def test_narrow_columns_fall_back_to_a_type_that_divides() -> None:
    stored = {group.role: group.format for group in quantize(K2_5, "Q4_K_S")}
    assert stored["k_b"] == "Q5_0"
    assert stored["v_b"] == "Q4_K"


def test_q4_k_m_gives_more_bits_to_the_outer_layers_and_every_third() -> None:
    down = {group.format: group.layers for group in quantize(K2_5, "Q4_K_M") if group.role == "expert_down"}
    assert set(down) == {"Q4_K", "Q6_K"}
    assert down["Q6_K"][:8] == (1, 2, 3, 4, 5, 6, 9, 12)
    assert set(range(53, 61)) <= set(down["Q6_K"])
    assert sorted(down["Q4_K"] + down["Q6_K"]) == list(MOE_LAYERS)


def test_experts_published_in_mxfp4_keep_it() -> None:
    mxfp4 = tuple(
        group._replace(format="mxfp4") if group.tensor_class == "routed_experts" else group for group in K2_5.tensors
    )
    stored = {group.role: group.format for group in quantize(replace(K2_5, tensors=mxfp4), "Q4_K_S")}
    assert (stored["expert_down"], stored["shared_up"]) == ("MXFP4", "Q4_K")


def test_low_bit_types_count_down_projections_not_layers() -> None:
    finer = {
        (group.role, layer)
        for group in quantize(K2_5, "IQ1_S")
        if group.format == "Q2_K" and group.role.endswith("_down")
        for layer in group.layers
    }
    assert finer == {("dense_down", 0)} | {
        (role, layer) for role in ("expert_down", "shared_down") for layer in (1, 2, 3)
    }


# bartowski's Q8_0 of K2.5: the files take 583,710,875,200 bytes, 6,985,280 of them metadata.
def test_native_int4_experts_beside_q8_0() -> None:
    found = release_tensors(
        K2_5,
        _release(
            "experts:Q4_0,rest:Q8_0",
            container="gguf",
            published_bytes=583_703_889_920,
            size_evidence="exact",
        ),
    )
    assert (found.bytes, found.scale, found.evidence) == (583_703_889_920, 1.0, "exact")
    assert _total(found.groups) == found.bytes


def test_experts_beside_bf16_is_the_lossless_size() -> None:
    found = release_tensors(K2_5, _release("experts:Q4_0,rest:BF16", container="gguf"))
    assert round(found.bytes / 10**9, 2) == 594.54
    assert found.evidence == "modelled"


def test_classes_that_a_mixture_does_not_name_keep_their_format() -> None:
    found = release_tensors(K2_5, _release("routed_experts:nvfp4"))
    assert found.bytes == _total(K2_5.tensors)  # group scales of 32 in bf16 and of 16 in fp8 weigh the same
    assert {group.format for group in found.groups if group.tensor_class != "routed_experts"} == {
        "bf16",
        "f32",
    }


def test_an_unknown_mix_is_the_base_list_scaled_to_the_published_size() -> None:
    release = _release("gguf:Q2_K", mixture_known=False, published_bytes=374_764_330_144, size_evidence="exact")
    found = release_tensors(K2_5, release)
    assert found.bytes == 374_764_330_144
    assert found.evidence == "assumed"
    assert found.groups == quantize(K2_5, "Q2_K")
    assert found.scale == pytest.approx(374_764_330_144 / 372_856_402_944)


def test_a_difference_to_the_published_size_is_never_exact() -> None:
    published = _total(K2_5.tensors) + 6_832
    found = release_tensors(K2_5, _release("native", published_bytes=published, size_evidence="exact"))
    assert (found.bytes, found.evidence) == (published - 6_832, "modelled")


def test_a_release_without_vision_lacks_it() -> None:
    found = release_tensors(K2_5, _release("native", includes_vision=False))
    assert "vision" in bytes_by_class(K2_5.tensors)
    assert "vision" not in bytes_by_class(found.groups)


@pytest.mark.parametrize("mixture", ["", "natives", "gguf:Q9_K", "experts:Q4_0,rest", "experts:INT3", "expert:Q4_0"])
def test_a_mixture_that_no_rule_reads_is_refused(mixture: str) -> None:
    with pytest.raises(UnknownMixture):
        release_tensors(K2_5, _release(mixture))


@pytest.mark.parametrize(
    ("name", "file_type", "needs_ik_llama"),
    [
        ("UD-Q2_K_XL", "Q2_K", False),
        ("ud-tq1_0", "TQ1_0", False),
        ("IQ2_XXS", "IQ2_XXS", False),
        ("UD-Q8_K_XL", "Q8_0", False),
        ("Q4_X", "Q4_0", False),
        ("Q3_K_XL", "Q3_K_M", False),
        ("smol-IQ1_KT", "IQ1_M", True),
        ("IQ4_KS_R4", "IQ4_XS", True),
        ("IQ1_S_R4", "IQ1_S", True),
    ],
)
def test_names_refer_to_a_base_type(name: str, file_type: str, needs_ik_llama: bool) -> None:
    assert base_type(name) == (file_type, needs_ik_llama)


@pytest.mark.parametrize("name", ["", "int4", "Q7_K", "UD-", "IQ9_KT"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UnknownMixture):
        base_type(name)


# Files of the 70B Llama architecture, in 10^9 bytes rounded to 0.01, with 7.9 MB of metadata
# (huggingface.co/bartowski/Meta-Llama-3.1-70B-Instruct-GGUF).
@pytest.mark.parametrize(
    ("file_type", "gigabytes"),
    [
        ("Q8_0", 74.98),
        ("Q6_K", 57.89),
        ("Q5_K_M", 49.95),
        ("Q5_K_S", 48.66),
        ("Q4_K_M", 42.52),
        ("Q4_K_S", 40.35),
        ("Q4_0", 40.12),
        ("IQ4_XS", 37.90),
        ("Q3_K_L", 37.14),
        ("Q3_K_M", 34.27),
        ("IQ3_M", 31.94),
        ("Q3_K_S", 30.91),
    ],
)
def test_a_dense_model_with_grouped_queries(file_type: str, gigabytes: float) -> None:
    size = _total(quantize(load_model("llama-3.1-70b"), file_type)) + 7_864_128
    assert size / 10**9 == pytest.approx(gigabytes, abs=0.0051)


# 232.769 GiB and 8.505 bits per weight in a log (github.com/ikawrakow/ik_llama.cpp discussion 357).
def test_a_moe_model_with_grouped_queries() -> None:
    model = load_model("qwen3-235b-a22b")
    size = _total(quantize(model, "Q8_0"))
    assert round(gib(size), 3) == 232.769
    assert round(8 * size / model.parameters, 3) == 8.505


# 671,026,419,200 parameters without the multi-token-prediction layer, which deepseek2 files leave out. The
# published files keep kv_b whole, so that its k_b half needs no fallback type; about 5 MB are metadata
# (huggingface.co/bartowski/deepseek-ai_DeepSeek-V3-0324-GGUF).
@pytest.mark.parametrize(
    ("file_type", "whole_kv_b", "gigabytes"),
    [("Q4_K_M", "Q4_K", 404.43), ("Q6_K", "Q6_K", 550.80), ("Q8_0", "Q8_0", 713.29)],
)
def test_deepseek_files_leave_multi_token_prediction_out(file_type: str, whole_kv_b: str, gigabytes: float) -> None:
    groups = quantize(load_model("deepseek-v3"), file_type)
    assert sum(group.parameters for group in groups) == 671_026_419_200
    (k_b,) = (group for group in groups if group.role == "k_b")
    unsplit = tensor_bytes(storage_format(whole_kv_b), (128 * 128, 512)) * k_b.instances
    assert (_total(groups) - k_b.bytes + unsplit) / 10**9 == pytest.approx(gigabytes, abs=0.012)


def test_gpt_oss_stacks_the_biases_of_its_experts_like_their_matrices() -> None:
    """Otherwise a layer's experts would be counted once for every expert."""
    config = Path(__file__).parent / "data" / "configs" / "gpt-oss-20b.json"
    spec = read_config(json.loads(config.read_text(encoding="utf-8")), id="gpt-oss-20b")
    stacked = {group.role: group for group in gguf_groups(spec) if group.tensor_class == "routed_experts"}
    assert {group.per_layer for group in stacked.values()} == {1}
    assert {group.shape[0] for group in stacked.values()} == {32}
    shards = build_shards(spec, gguf_groups(spec), tp=1, expert_tp=1, expert_ranks=1, vision_sharded=False)
    experts = sum(shard.expert * shard.experts for shard in shards.layers)
    assert experts == sum(group.bytes for group in gguf_groups(spec) if group.tensor_class == "routed_experts")
