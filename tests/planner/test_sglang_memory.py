"""SGLang's fraction by version, and its pool beside published start-ups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.engines.base import Priced
from tests.planner.planning import priced_of

GIB = 2**30
CONFIGS = Path(__file__).parents[1] / "profiles" / "data" / "configs"


def sglang(model: str = "deepseek-r1", **given: object) -> Priced:
    return priced_of(model, **({"gpu": "8xH200", "engine": "sglang", "tp": 8} | given))


@pytest.mark.parametrize(
    ("gpu", "version", "given", "mib_reserved"),
    [
        ("H200", "0.5.9", {}, 512 + 1.5 * 8192 + 2 * 512 + 1024),
        ("H200", "0.5.12", {}, 512 + 1.5 * 8192 + 2 * 512 + 1024 + 1536),
        ("H200", "0.5.23", {"max_num_batched_tokens": 2048, "max_num_seqs": 32}, 10240),
        ("B200", "0.5.23", {}, 512 + 1.5 * 16384 + 2 * 512 + 1024 + 1536),
        ("H200", "0.5.23", {"enforce_eager": True}, 512 + 1.5 * 8192 + 1024),
        ("H200", "0.5.9", {"speculative": "mtp"}, 512 + 1.5 * 8192 + 2 * 512 + 1024 + 2048),
        ("H200", "0.5.23", {"dp": 8}, 512 + 1.5 * 8192 + 2 * 512 + 1024 + 1536 + 512 * 8 * 4.5),
        ("H200", "0.4.9", {}, (12 + 8 / 2) * 1024),
    ],
)  # fmt: skip
def test_the_fraction_by_version(gpu: str, version: str, given: dict[str, Any], mib_reserved: float) -> None:
    priced = sglang(gpu=f"8x{gpu}", engine_version=version, **given)
    assert priced.config.group is not None
    capacity = priced.config.group.gpu.capacity / 2**20
    assert priced.config.utilization == pytest.approx(round((capacity - mib_reserved) / capacity, 3), abs=1e-9)


@pytest.mark.parametrize(("tp", "fraction"), [(4, 0.85), (8, 0.81)])
def test_0_4_6_goes_by_ranks(tp: int, fraction: float) -> None:
    assert sglang("llama-3.1-70b", gpu="8xA100-80", tp=tp, engine_version="0.4.6").config.utilization == fraction


def test_a_vision_tower_takes_a_tenth() -> None:
    """27 layers of 1,152 leave Kimi K2.5 0.9097 of the fraction that Kimi K2, the same without a tower, has."""
    whole, text = sglang("kimi-k2.5"), sglang("kimi-k2")
    assert whole.config.utilization / text.config.utilization == pytest.approx(0.9097, abs=1e-4)


def test_the_pool_of_qwen3_on_four_h100() -> None:
    """16.46 GiB at 0.93 (github.com/vllm-project/vllm/issues/21348)."""
    model = str(CONFIGS / "Qwen3-235B-A22B-FP8.json")
    pool = sglang(model, gpu="4xH100", tp=4, engine_version="0.4.9", gpu_memory_utilization=0.93).pool
    assert pool.budget / GIB == pytest.approx(16.46, abs=0.1)
    assert pool.tokens == pytest.approx(367_404, rel=0.01)


def test_the_weights_of_deepseek_r1_on_mi308x() -> None:
    """81.66 GiB, with a copy of the shared experts per rank (github.com/sgl-project/sglang/issues/6001)."""
    old, new = (sglang(gpu="8xMI300X", engine_version=version).devices[0] for version in ("0.4.6", "0.5.9"))
    assert old.total("weights") / GIB == pytest.approx(81.66, abs=0.1)
    assert "copies of the shared experts" not in {one.what for one in new.entries}
