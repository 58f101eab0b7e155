"""What ``plan`` and ``estimate`` do with the start-ups that ``observe`` stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwdetect.inventory import to_json
from moeplan import estimate, plan
from moeplan.observing import observe
from planner.errors import BadRequest
from planner.hardware import describe
from planner.options import Options
from planner.plan import Candidate, Plan
from tests.hwdetect.serving.test_vllm_log import LLAMA_19

GIB = 2**30
LLAMA = str(Path(__file__).parents[1] / "profiles" / "data" / "configs" / "Meta-Llama-3.1-8B.json")
SAME: dict[str, Any] = {
    "engine": "vllm", "engine_version": "0.19.0", "tp": 1, "max_model_len": 16384, "gpu_memory_utilization": 0.95,
}  # fmt: skip


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "moeplan" / "calibrations"


@pytest.fixture
def machine(tmp_path: Path) -> str:
    """An inventory of the observed machine."""
    path = tmp_path / "machine.json"
    path.write_text(to_json(describe(Options("kimi-k2.5", gpu=("1xH100",), ram="256GiB"))), encoding="utf-8")
    return str(path)


@pytest.fixture
def observed(tmp_path: Path, machine: str) -> str:
    """A calibration file of one start-up."""
    log = tmp_path / "vllm.log"
    log.write_text(LLAMA_19, encoding="utf-8")
    report = observe(str(log), LLAMA, options={"inventory": machine, "tp": "1"})
    assert report.calibration is not None
    return report.calibration


def only(found: Plan) -> Candidate:
    assert found.candidates, found.rejected[0].reason
    return found.candidates[0]


def evidence(candidate: Candidate) -> dict[str, str]:
    return {entry.what: entry.evidence for entry in candidate.memory.devices[0].ledger}


def test_the_same_start_up_is_what_was_measured(observed: str, machine: str) -> None:
    """58.11 GiB of KV cache, 14.99 of weights, 1.89 of activation, 0.25 outside PyTorch."""
    found = only(estimate(LLAMA, inventory=machine, **SAME))
    assert found.kv_cache.budget_bytes_per_rank / GIB == pytest.approx(58.11, abs=1e-6)
    terms = {entry.what: entry for entry in found.memory.devices[0].ledger}
    assert terms["weights as loaded"].bytes / GIB == pytest.approx(14.99)
    assert terms["peak activation"].bytes / GIB == pytest.approx(1.89)
    for what in ("weights as loaded", "peak activation", "memory outside PyTorch", "rest of the reserve"):
        assert terms[what].evidence == "measured"
        assert Path(observed).name in terms[what].source
    assert any("an observed start-up replaces terms" in warning for warning in found.warnings)


def test_other_sizes_move_by_what_the_observation_differed(observed: str, machine: str) -> None:
    plain = only(estimate(LLAMA, inventory=machine, calibration="none", max_num_seqs=256, **SAME))
    moved = only(estimate(LLAMA, inventory=machine, max_num_seqs=256, **SAME))
    assert {"weights as loaded", "peak activation"} <= set(evidence(moved))
    assert evidence(moved)["peak activation"] == "measured"
    difference = moved.kv_cache.budget_bytes_per_rank - plain.kv_cache.budget_bytes_per_rank
    # The log has 0.0035 GiB less activation, 0.0012 more weights and 0.01 less outside PyTorch than computed.
    assert 0 < difference / GIB < 0.03
    assert any("an observed start-up shifts terms" in warning for warning in moved.warnings)


@pytest.mark.parametrize("other", [{"text_only": True}, {"enforce_eager": True}, {"cpu_offload_gb": 1}])
def test_other_layouts_are_computed(observed: str, machine: str, other: dict[str, Any]) -> None:
    assert "weights as loaded" not in evidence(only(estimate(LLAMA, inventory=machine, **SAME | other)))


def test_another_version_is_stale_and_says_so(observed: str, machine: str) -> None:
    found = estimate(LLAMA, inventory=machine, **SAME | {"engine_version": "0.20"})
    assert "weights as loaded" not in evidence(only(found))
    assert any("is of vllm 0.19.0 and is not used for 0.20" in note for note in found.notes)


def test_described_hardware_reads_a_file_only_when_it_is_named(observed: str) -> None:
    assert "weights as loaded" not in evidence(only(estimate(LLAMA, gpu="1xH100", **SAME)))
    assert "weights as loaded" in evidence(only(estimate(LLAMA, gpu="1xH100", calibration=observed, **SAME)))


def test_another_machines_calibration_is_refused(observed: str, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(to_json(describe(Options("kimi-k2.5", gpu=("1xH200",), ram="256GiB"))), encoding="utf-8")
    with pytest.raises(BadRequest, match=r"^--calibration .*: it is of another machine, "):
        estimate(LLAMA, inventory=str(other), calibration=observed, **SAME)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("{}", "not a moeplan.calibration/1"), ("[", "not a moeplan.calibration/1")],
)
def test_a_file_that_is_no_calibration(tmp_path: Path, machine: str, content: str | None, message: str) -> None:
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(BadRequest, match=message):
        estimate(LLAMA, inventory=machine, calibration=str(path), **SAME)


def test_a_broken_file_that_nobody_named_is_left_out(observed: str, machine: str) -> None:
    Path(observed).write_text("[", encoding="utf-8")
    found = estimate(LLAMA, inventory=machine, **SAME)
    assert "weights as loaded" not in evidence(only(found))
    assert any("measurements of this machine are not used" in note for note in found.notes)


def test_a_start_up_that_cannot_be_priced_again_is_left_out(observed: str, machine: str) -> None:
    path = Path(observed)
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["startups"][0]["settings"]["tp"] = "7"
    path.write_text(json.dumps(stored), encoding="utf-8")
    found = estimate(LLAMA, inventory=machine, **SAME)
    assert "weights as loaded" not in evidence(only(found))
    assert any("cannot be priced again" in note for note in found.notes)


def test_the_search_reads_it_too(observed: str, machine: str) -> None:
    found = plan(
        LLAMA, inventory=machine, engine="vllm", engine_version="0.19.0", context=8192, concurrency=4, top=50
    )  # fmt: skip
    measured = [one for one in found.candidates if "weights as loaded" in evidence(one)]
    assert measured
    assert {one.parallel.tp for one in measured} == {1}
