"""llama.cpp's own kernels, checked against float64 at small sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.result import BenchRow
from hwdetect.bench.suite import Settings, run
from hwdetect.bench.workers import ggml, ggml_api, memory
from hwdetect.bench.workers.blocks import expert_layer
from hwdetect.bench.workers.timing import Options, measure

TYPES = (
    "IQ2_XXS", "TQ1_0", "Q2_K", "Q4_K", "Q4_0", "Q8_0", "MXFP4", "BF16",
)  # fmt: skip


def experts(kind: str, batch: int = 1) -> KernelCase:
    return kernel_case("cpu_moe", kind, batch=batch, experts=8, experts_total=8, top_k=2, hidden=512, inter=256)


def measured(cases: list[KernelCase], settings: Settings) -> list[BenchRow]:
    outcome = run(cases, settings)
    assert not outcome.missing, outcome.missing
    return outcome.rows


def test_experts_in_every_type(small: Settings) -> None:
    rows = measured([experts(kind) for kind in TYPES], small)
    assert [row.quantization for row in rows] == list(TYPES)
    # Activations are rounded for quantized types and not for the others: an error of 0 would compare nothing.
    assert all(row.correctness.max_relative_error > 0 for row in rows)


def test_experts_of_many_tokens(small: Settings) -> None:
    rows = measured([experts("Q4_K", batch) for batch in (1, 5, 33)], small)
    assert [row.batch for row in rows] == [1, 5, 33]


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0", "F32"])
def test_projections(kind: str, small: Settings) -> None:
    measured([kernel_case("cpu_dense", kind, batch=batch, in_=512, out=96) for batch in (1, 9)], small)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head", "v"), [(8, 1, 576, 512), (8, 2, 64, 64)], ids=["latent", "grouped"]
)
@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_attention(heads: int, kv_heads: int, head: int, v: int, kind: str, small: Settings) -> None:
    dims = {"heads": heads, "kv_heads": kv_heads, "head": head, "v": v}
    measured([kernel_case("cpu_attention", kind, batch=2, context=cells, **dims) for cells in (33, 128)], small)


def test_attention_of_a_prompt_sees_no_later_token(small: Settings) -> None:
    dims = {"heads": 4, "kv_lora": 128, "rope": 64, "nope": 64, "v": 64}
    measured([kernel_case("mla_prefill", "f16", batch=16, context=cached, **dims) for cached in (0, 48)], small)


def test_threads_are_timed_by_the_wall_clock(small: Settings) -> None:
    (row,) = measured([experts("Q8_0")], replace(small, threads=2))
    assert (row.clock, row.threads) == ("wall", 2)


def test_the_check_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(seconds=0.0, cache_bytes=1 << 20, memory_bytes=256 << 20)
    monkeypatch.setattr(ggml, "expert_layer", lambda wide, *rest: expert_layer(wide[::-1], *rest))
    prepared = ggml.build("cpu_moe", "Q8_0", dict(experts("Q8_0").dims), options)(1, 0)
    assert set(measure(prepared, options)) == {"incorrect"}


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_router_chooses_the_largest(kind: str, small: Settings) -> None:
    dims = {"experts": 48, "hidden": 256, "top_k": 8}
    rows = measured([kernel_case("cpu_router", kind, batch=batch, **dims) for batch in (1, 9)], small)
    assert [row.provider for row in rows] == ["ggml", "ggml"]


def test_a_router_that_chooses_wrongly_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(seconds=0.0, cache_bytes=1 << 20, memory_bytes=256 << 20)
    prepared = ggml.build("cpu_router", "F32", {"experts": 48, "hidden": 256, "top_k": 8}, options)(1, 0)
    assert prepared.error() <= prepared.bound
    get = ggml_api.Ggml.get

    def reversed_(library: ggml_api.Ggml, tensor: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        found = get(library, tensor, shape)
        return found if shape[-1] != 8 else (47 - found.view(np.int32)).view(np.float32)

    monkeypatch.setattr(ggml_api.Ggml, "get", reversed_)
    assert prepared.error() > prepared.bound


def test_weights_lie_in_huge_pages_where_the_system_has_them() -> None:
    options = Options(seconds=0.0, cache_bytes=8 << 20, memory_bytes=256 << 20)
    asked: list[tuple[int, int]] = []
    real = memory.huge_pages

    def huge_pages(address: int | None, size: int) -> None:
        asked.append((address or 0, size))
        real(address, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ggml_api, "huge_pages", huge_pages)
        prepared = ggml.build("cpu_dense", "Q8_0", {"in": 2048, "out": 2048}, options)(1, 0)
    # The weights of 4 MB each, and the small tensors of the work.
    assert max(size for _, size in asked) >= 32 << 20 and all(address for address, _ in asked)
    assert prepared.error() <= prepared.bound
