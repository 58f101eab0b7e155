"""GGUF lists and mixtures against sizes that were published or read from llama.cpp itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from formulas.units import gib
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
    container = "gguf" if mixture.startswith("gguf:") else "safetensors"
    release = Release(quantization="", publisher="", release="", container=container, mixture=mixture)
    return replace(release, **changes)  # type: ignore[arg-type]


def _total(groups: tuple[TensorGroup, ...]) -> int:
    return sum(group.bytes for group in groups)


def test_the_gguf_list_is_the_one_of_the_published_files() -> None:
    groups = gguf_groups(K2_5)
    assert sum(group.count for group in groups) == 1096
    assert sum(group.parameters for group in groups) == 1_026_408_232_448
    kept = [group for group in groups if group.format == "F32"]
    assert sum(group.parameters for group in kept) == 166_180_352
    assert _total(tuple(kept)) == 664_721_408
    shapes = {group.role: group.shape for group in groups}
    assert shapes["k_b"] == (64, 512, 128)
    assert shapes["v_b"] == (64, 128, 512)
    assert shapes["expert_down"] == (384, 7168, 2048)
    assert "projector" not in shapes


# Sizes that a model of the same rules gave for the tensors of Kimi K2 and K2.5, in 10^9 bytes.
@pytest.mark.parametrize(
    ("file_type", "gigabytes"),
    [
        ("F16", 2053.15),
        ("Q8_0", 1091.05),
        ("Q6_K", 842.57),
        ("Q5_K_M", 728.16),
        ("Q5_K_S", 706.38),
        ("Q4_K_M", 620.55),
        ("Q4_K_S", 582.52),
        ("Q4_0", 580.36),
        ("Q4_1", 642.30),
        ("IQ4_XS", 546.20),
        ("IQ4_NL", 578.23),
        ("MXFP4_MOE", 551.72),
        ("Q3_K_L", 530.51),
        ("Q3_K_M", 489.08),
        ("Q3_K_S", 442.12),
        ("IQ3_M", 447.12),
        ("IQ3_S", 442.12),
        ("IQ3_XXS", 394.15),
        ("Q2_K", 372.86),
        ("Q2_K_S", 346.02),
        ("IQ2_M", 332.27),
        ("IQ2_S", 300.92),
        ("IQ2_XS", 298.56),
        ("IQ2_XXS", 267.11),
        ("IQ1_M", 227.93),
        ("IQ1_S", 204.42),
        ("TQ2_0", 266.34),
        ("TQ1_0", 218.36),
    ],
)
def test_plain_sizes_of_kimi(file_type: str, gigabytes: float) -> None:
    assert round(_total(quantize(K2_5, file_type)) / 10**9, 2) == gigabytes


# What llama.cpp 0.6.0-dev reports for K2.5 files of these types.
@pytest.mark.parametrize(("file_type", "size"), [("Q8_0", 1_091_046_901_760), ("F16", 2_053_148_825_600)])
def test_plain_bytes_of_kimi_as_llama_cpp_loads_them(file_type: str, size: int) -> None:
    assert _total(quantize(K2_5, file_type)) == size


def test_quantizing_loses_no_tensor_and_no_element() -> None:
    groups = gguf_groups(K2_5)
    for file_type in DEFAULT_TYPE:
        quantized = quantize(K2_5, file_type)
        assert sum(group.count for group in quantized) == 1096, file_type
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
    assert {group.format for group in found.groups if group.tensor_class != "routed_experts"} == {"bf16", "f32"}


def test_an_unknown_mix_is_the_base_list_scaled_to_the_published_size() -> None:
    release = _release("gguf:Q2_K", mixture_known=False, published_bytes=374_764_330_144, size_evidence="exact")
    found = release_tensors(K2_5, release)
    assert found.bytes == 374_764_330_144
    assert found.evidence == "assumed"
    assert found.groups == quantize(K2_5, "Q2_K")
    assert found.scale == pytest.approx(374_764_330_144 / 372_856_402_944)


def test_a_difference_to_the_published_size_is_never_exact() -> None:
    published = _total(K2_5.tensors) + 6_832
    found = release_tensors(
        K2_5, _release("native", published_bytes=published, size_evidence="exact")
    )
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


# 232.769 GiB and 8.505 bits per weight in the log of a run (github.com/ikawrakow/ik_llama.cpp discussion 357).
def test_a_moe_model_with_grouped_queries() -> None:
    model = load_model("qwen3-235b-a22b")
    size = _total(quantize(model, "Q8_0"))
    assert round(gib(size), 3) == 232.769
    assert round(8 * size / model.parameters, 3) == 8.505


# 671,026,419,200 parameters without the multi-token-prediction layer, which deepseek2 files leave out;
# published 404.43, 550.80 and 713.29 GB (huggingface.co/bartowski/deepseek-ai_DeepSeek-V3-0324-GGUF).
@pytest.mark.parametrize(("file_type", "gigabytes"), [("Q4_K_M", 404.43), ("Q6_K", 550.80), ("Q8_0", 713.29)])
def test_deepseek_files_leave_multi_token_prediction_out(file_type: str, gigabytes: float) -> None:
    model = load_model("deepseek-v3")
    groups = quantize(model, file_type)
    assert sum(group.parameters for group in groups) == 671_026_419_200
    assert _total(groups) / 10**9 == pytest.approx(gigabytes, rel=1e-4)
