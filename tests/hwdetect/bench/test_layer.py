"""A whole decode layer on a CPU: checked against float64, and put beside the sum of its parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.layer import layer_parts, layer_sums
from hwdetect.bench.suite import Settings, run
from hwdetect.bench.workers import ggml, ggml_layer, layers
from hwdetect.bench.workers.serve import CannotRun
from hwdetect.bench.workers.timing import Options, measure

SIZES = {
    "hidden": 512, "heads": 4, "q_lora": 256, "kv_lora": 256, "rope": 64, "nope": 64, "v": 64, "experts": 8,
    "top_k": 2, "inter": 256, "shared": 256,
}  # fmt: skip
OPTIONS = Options(seconds=0.0, cache_bytes=1 << 20, memory_bytes=256 << 20, largest_batch=4)


def layer(quantization: str = "Q4_K+Q8_0", *, batch: int = 1, **changes: int) -> KernelCase:
    return kernel_case("decode_layer", quantization, batch, 33, **{**SIZES, "gpu": 0, **changes})


def test_the_parts_are_put_beside_the_whole(small: Settings) -> None:
    whole = layer()
    outcome = run([*layer_parts(whole), whole], small)
    assert not outcome.missing
    (found,) = layer_sums(outcome.rows)
    rows = {row.series: row for row in outcome.rows}
    assert {row.kernel for row in rows.values()} == {
        "cpu_dense", "cpu_attention", "cpu_router", "cpu_moe", "decode_layer"
    }  # fmt: skip
    seconds = sum(rows[part.series].median_s for part in layer_parts(whole))
    assert found.parts_s == pytest.approx(seconds)
    assert found.parts_over_whole == pytest.approx(seconds / rows[whole.series].median_s)
    assert (found.batch, found.context, found.provider, found.missing) == (1, 33, "ggml", ())


def test_a_part_that_was_not_measured_is_named(small: Settings) -> None:
    whole = layer()
    (_, *parts) = layer_parts(whole)
    (found,) = layer_sums(run([*parts, whole], small).rows)
    assert (found.parts_s, found.parts_over_whole) == (None, None)
    assert found.missing == ("cpu_dense/Q8_0/in512.out576",)


@pytest.mark.parametrize("changes", [{"batch": 3}, {"shared": 0}, {"heads": 3, "v": 32}])
def test_a_layer_computes_what_float64_says(changes: dict[str, int]) -> None:
    case = layer("F16+F16", **changes)
    prepared = ggml.build("decode_layer", case.quantization, dict(case.dims), OPTIONS)(case.batch, case.context)
    assert prepared.error() < 0.003


def test_a_wrong_layer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = layer()
    real = layers.latent_attention
    monkeypatch.setattr(
        ggml_layer, "latent_attention",
        lambda sizes, pattern, tokens, cache: real(sizes, pattern, tokens, cache[:, ::-1, ::-1]),
    )  # fmt: skip
    prepared = ggml.build("decode_layer", case.quantization, dict(case.dims), OPTIONS)(1, 33)
    assert set(measure(prepared, OPTIONS)) == {"incorrect"}


def test_a_layer_of_a_gpu_is_none_of_a_cpu() -> None:
    with pytest.raises(CannotRun, match="has no layer of a GPU"):
        ggml.build("decode_layer", "int4_g32+bf16", {**SIZES, "gpu": 1}, OPTIONS)


def test_a_layer_that_memory_does_not_hold() -> None:
    tight = replace(OPTIONS, memory_bytes=3 << 20)
    with pytest.raises(MemoryError):
        ggml.build("decode_layer", "Q8_0+Q8_0", dict(layer("Q8_0+Q8_0").dims), tight)


def test_the_parts_of_a_gpu_are_kernels_of_a_gpu() -> None:
    parts = layer_parts(layer("int4_g32+bf16", gpu=1, shared=0))
    assert {part.kernel for part in parts} == {"dense", "mla_decode", "router", "grouped_moe"}
