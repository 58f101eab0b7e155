"""Kernels of a calibration file in plans: taken for the machine they are of, refused otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwdetect.inventory import GpuStatus, Inventory, Node, Software, TextFact
from moeplan import estimate
from moeplan.calibration import _environment, load_kernels
from planner.errors import BadRequest

EXPERTS = "grouped_moe/int4_g32/experts384.experts_total384.hidden7168.inter256.top_k8"
ASKED: dict[str, Any] = {"gpu": "8xH200", "engine": "vllm", "quant": "int4", "tp": 8, "concurrency": 16}


def calibration_of(folder: Path, seconds: float) -> str:
    point = {"batch": 16, "median_s": seconds, "low_s": seconds, "high_s": seconds, "bytes": 3.4e8, "flops": 1e9}
    series = {
        "series": EXPERTS, "provider": "vllm", "version": "0.33.0", "date": "2026-11-26", "device": "NVIDIA H200",
        "points": [point],
    }  # fmt: skip
    path = folder / "calibration.json"
    path.write_text(
        json.dumps({
            "schema": "moeplan.calibration/1", "generated_by": "test", "fingerprint": "f" * 16, "machine": "8x H200",
            "kernels": [series],
        })
    )  # fmt: skip
    return str(path)


def test_a_slow_kernel_that_was_measured_makes_the_plan_slow(tmp_path: Path) -> None:
    plain = estimate("kimi-k2.5", **ASKED).candidates[0].performance
    path = calibration_of(tmp_path, 2e-3)
    measured = estimate("kimi-k2.5", calibration=path, **ASKED).candidates[0].performance
    experts = next(entry for entry in measured.budget if entry.what == "routed experts")
    assert experts.evidence == "measured" and "vllm 0.33.0 on 2026-11-26" in experts.source
    assert experts.seconds > 0.05 > plain.tpot_s.expected
    assert measured.evidence.startswith("calibrated")
    assert plain.evidence == "modelled"
    assert estimate("kimi-k2.5", calibration="none", **ASKED).candidates[0].performance == plain


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": "moeplan.calibration/1", "kernels": [1]}'])
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(BadRequest, match="--calibration"):
        estimate("kimi-k2.5", calibration=str(path), **ASKED)
    with pytest.raises(BadRequest, match="no such file"):
        estimate("kimi-k2.5", calibration=str(tmp_path / "missing.json"), **ASKED)


@pytest.mark.parametrize(
    ("measured", "package", "now", "place", "is_used"),
    [
        ("vllm 0.19.0, torch 2.10.0+cu128", "vllm", "0.19.0", "/engine/bin/python", True),
        ("vllm 0.19.0, torch 2.10.0+cu128", "vllm", "0.33.0", "/engine/bin/python", False),
        ("vllm 0.19.0, torch 2.10.0+cu128", "torch", "2.10.0", "/engine/bin/python", True),
        ("vllm 0.19.0, torch 2.10.0+cu128", "torch", "2.14.0", "/engine/bin/python", False),
        ("kt-kernel 0.7.2 (avx512)", "kt-kernel", "0.7.3", "/engine/bin/../bin/python", False),
        ("kt-kernel 0.7.2 (avx512)", "kt-kernel", "0.7.3", "/another/bin/python", True),
        ("kt-kernel 0.7.2 (avx512)", "vllm", "0.33.0", "/engine/bin/python", True),
    ],
)
def test_an_engine_that_was_renewed_in_its_interpreter_makes_its_kernels_stale(
    tmp_path: Path, measured: str, package: str, now: str, place: str, is_used: bool
) -> None:
    path = Path(calibration_of(tmp_path, 2e-3))
    content = json.loads(path.read_text())
    content["kernels"][0] |= {"version": measured, "python": "/engine/bin/python"}
    path.write_text(json.dumps(content))
    installed = Software(name=package, version=TextFact.reported(now, "importlib.metadata"), place=place)
    node = Node(name="n", gpu_status=GpuStatus(code="no_devices", detail=""), software=(installed,))
    kept, reasons = load_kernels(str(path), Inventory(nodes=(node,)), detected=False)
    assert bool(kept) == is_used
    assert is_used or f"/engine/bin/python has {package} {now} now" in reasons[-1]


def test_an_environment_is_the_same_under_each_name_of_its_interpreter(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    names = [str(folder / name) for name in ("python", "python3")]
    assert len({_environment(name) for name in names}) == 2
    (tmp_path / "pyvenv.cfg").touch()
    assert {_environment(name) for name in names} == {tmp_path.resolve()}
