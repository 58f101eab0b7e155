"""The calculator: truths to the byte, and the keys that others rely on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planner.calculator import memory_report
from planner.errors import BadRequest
from planner.memory_report import MemoryReport
from profiles.library import load_model, model_ids
from profiles.model import TENSOR_CLASSES
from tests.planner.planning import K25, options_of


def report(model: str = K25, **given: object) -> MemoryReport:
    return memory_report(options_of(model, **given), load_model(model), "test", claims=False)


def kv_bytes(memory: MemoryReport) -> dict[tuple[str, str], int]:
    return {(row.layout, row.dtype): row.bytes for row in memory.kv_cache}


def test_kv_of_kimi_k25_at_its_full_context() -> None:
    rows = kv_bytes(report(context="256k"))
    assert rows["mla", "bf16"] == 18_421_383_168
    assert rows["mla", "fp8"] * 2 == rows["mla", "bf16"]
    assert rows["gqa", "bf16"] == 65_498_251_264
    assert rows["mha", "bf16"] == 523_986_010_112
    assert rows["mla_expanded_mha", "bf16"] == 654_982_512_640


def test_the_context_is_the_models_unless_given() -> None:
    assert report().kv_cache[0].tokens == 262_144
    assert kv_bytes(report(context=1024))["mla", "bf16"] == 1024 * 70_272
    assert kv_bytes(report(context=1024, sequences=7))["mla", "bf16"] == 7 * 1024 * 70_272


def test_weights_of_kimi_k25() -> None:
    memory = report()
    releases = {f"{row.publisher}/{row.quantization}": row for row in memory.weights}
    checkpoint = releases["moonshotai/int4"]
    assert (checkpoint.bytes, checkpoint.evidence, checkpoint.status) == (595_148_192_736, "exact", "published")
    assert checkpoint.bytes_by_class["routed_experts"] == 60 * 384 * 3 * 8_257_544
    # The router's correction bias stays in F32.
    assert releases["hypothetical/bf16"].bytes == 2 * memory.parameters.total + 2 * 60 * 384
    assert releases["hypothetical/bf16"].status == "hypothetical"
    assert releases["bartowski/Q8_0"].bytes == 583_703_889_920
    # Every class of the model, and no other.
    assert set(checkpoint.bytes_by_class) == set(TENSOR_CLASSES) - {"mtp"}


def test_parameters_of_kimi_k25() -> None:
    parameters = report().parameters
    assert parameters.total == 1_026_879_376_368
    assert parameters.active == 32_861_500_928
    assert parameters.active_without_embedding == 31_687_095_808


def test_active_bytes_are_what_one_token_reads() -> None:
    """All that every token uses, one row of the embedding and 8 of 384 experts."""
    memory = report()
    row = next(row for row in memory.weights if row.publisher == "moonshotai")
    classes = row.bytes_by_class
    always = sum(size for name, size in classes.items() if name not in ("routed_experts", "vision", "embedding"))
    assert row.active_bytes_per_token == always + classes["routed_experts"] * 8 // 384 + 2 * 7168
    bf16 = next(row for row in memory.weights if row.quantization == "bf16")
    assert bf16.active_bytes_per_token == pytest.approx(2 * memory.parameters.active_without_embedding, rel=1e-4)


@pytest.mark.parametrize("model", model_ids())
def test_the_classes_of_every_release_add_up(model: str) -> None:
    memory = report(model)
    assert memory.weights
    for row in memory.weights:
        assert sum(row.bytes_by_class.values()) == row.bytes, row.release
        assert set(row.bytes_by_class) <= set(TENSOR_CLASSES)
        assert 0 < row.active_bytes_per_token <= row.bytes


def test_deepseek_v3_with_its_mtp_layer() -> None:
    (native,) = [row for row in report("deepseek-v3").weights if row.publisher == "deepseek-ai"]
    assert native.bytes == 688_574_839_360
    assert native.bytes_by_class["mtp"] > 10**10


def test_the_keys_that_others_rely_on() -> None:
    memory = json.loads(report().to_json())
    assert {"schema", "model", "parameters", "weights", "kv_cache", "claims", "notes"} <= set(memory)
    assert memory["schema"] == "moeplan.memory/1"
    assert set(memory["parameters"]) == {"total", "active", "active_without_embedding"}
    assert {
        "quantization", "publisher", "release", "bytes", "bytes_by_class", "active_bytes_per_token", "evidence",
    } <= set(memory["weights"][0])  # fmt: skip
    assert {"layout", "dtype", "bytes_per_token", "bytes", "tokens", "sequences"} <= set(memory["kv_cache"][0])


@pytest.mark.parametrize(
    ("given", "dtypes"),
    [
        ({}, ["bf16", "fp8", "q8_0", "q4_0"]),
        ({"engine": "vllm"}, ["bf16", "fp8"]),
        ({"engine": "LLAMA.CPP"}, ["f16", "q8_0", "q4_0"]),
        ({"kv_dtype": "q5_1"}, ["q5_1"]),
    ],
)
def test_narrowing_the_kv_rows(given: dict[str, Any], dtypes: list[str]) -> None:
    assert [row.dtype for row in report(K25, **given).kv_cache if row.layout == "mla"] == dtypes


def test_narrowing_the_weights() -> None:
    assert [row.publisher for row in report(quant="Q8_0").weights] == ["bartowski", "unsloth"]
    assert {row.quantization for row in report(engine="vllm").weights} >= {"int4", "nvfp4"}
    assert not {row.quantization for row in report(engine="vllm").weights} & {"Q8_0", "UD-TQ1_0"}
    assert [row.quantization for row in report(quant="Q5_0").weights] == ["Q5_0"]


def test_models_without_mla_are_not_compared_with_it() -> None:
    assert {row.layout for row in report("llama-3.1-70b").kv_cache} == {"gqa"}
    assert kv_bytes(report("llama-3.1-70b", context=1))["gqa", "bf16"] == 80 * 8 * 256 * 2


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"context": "300k"}, "307,200 tokens are more than the 262,144"),
        ({"sequences": "0"}, "--sequences: '0' is not a whole number"),
        ({"engine": "ollama"}, "--engine: 'ollama' is not allowed"),
        ({"quant": "q9"}, "--quant: unknown quantization 'q9'"),
        ({"quant": "mlx"}, "--quant: 'mlx' is in a container that is not read"),
        ({"kv_dtype": "int3"}, "--kv-dtype: 'int3' is not a KV dtype"),
    ],
)
def test_bad_input_is_one_line(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadRequest) as caught:
        report(K25, **given)
    assert complaint in str(caught.value)


def test_a_layout_of_sparse_models_is_computed_when_asked_for() -> None:
    assert report(kv_dtype="fp8_ds_mla").kv_cache[0].bytes == 262_144 * 61 * 656


def test_a_dtype_that_the_heads_cannot_have_is_refused() -> None:
    with pytest.raises(BadRequest, match="--kv-dtype: a plain vector cannot be stored as fp8_ds_mla"):
        report("llama-3.1-70b", kv_dtype="fp8_ds_mla")
