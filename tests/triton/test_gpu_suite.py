"""benchmarks/gpu_suite.py from its first line to its last, with small shapes and Triton in its interpreter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_suite
from hwdetect.bench.providers import GLOO, NCCL, PROVIDERS, TORCH_GPU, TRITON

RUNS_HERE = (TRITON, TORCH_GPU, GLOO)


def test_the_whole_suite_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel, providers in PROVIDERS.items():
        monkeypatch.setitem(PROVIDERS, kernel, tuple(one for one in providers if one in RUNS_HERE or one is NCCL))
    place = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu_suite.py", "--interpret", "-o", str(place)])
    gpu_suite.main()
    found = json.loads(place.read_text(encoding="utf-8"))
    assert found["complete"] and found["interpreted"]
    measured = {(row["provider"], row["kernel"]) for row in found["rows"]}
    assert measured == {
        ("triton_gpu", "grouped_moe"), ("triton_gpu", "mla_decode"), ("triton_gpu", "mla_prefill"),
        ("torch_gpu", "mla_prefill"), ("triton_gpu", "gqa_decode"), ("torch_gpu", "gqa_decode"),
        ("triton_gpu", "gqa_prefill"), ("torch_gpu", "gqa_prefill"), ("torch_gpu", "dense"), ("torch_gpu", "router"),
        ("gloo_cpu", "all_reduce"), ("gloo_cpu", "all_to_all"), ("triton_gpu", "decode_layer"),
    }  # fmt: skip
    assert len(found["layers"]) == 2 and all(layer["parts_over_whole"] for layer in found["layers"])
    assert {row["batch"] for row in found["warm_rows"]} == {1, 2}
    assert all("the same experts each time" in row["note"] for row in found["warm_rows"])
    reasons = {reason["reason"] for one in found["not_measured"] for reason in one["reasons"]}
    assert not [reason for reason in reasons if "Error" in reason]
    assert found["machine"]["packages"] and found["machine"]["cpu"]
