"""What ``plan`` and ``estimate`` do with the loads that ``verify`` stored."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hwdetect.inventory import to_json
from moeplan import estimate, plan
from moeplan.verifying import Limits, verify
from planner.errors import BadRequest
from planner.hardware import describe
from planner.options import Options
from planner.plan import Candidate, Plan
from planner.verify_report import VerifyReport
from tests.moeplan.test_verify import TINY
from tests.support.faulty_server import Behaviour, served
from tests.support.gguf_writer import write_gguf
from tests.support.llama_server import running

WORK: dict[str, Any] = {
    "concurrency": 4, "input_tokens": 64, "output_tokens": 16, "engine": "vllm", "quant": "int4", "tp": 8, "dcp": 1,
    "top": 50,
}  # fmt: skip
LIMITS = Limits(total_s=60.0, request_s=30.0, requests=16, output_tokens=16)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in ("MOEPLAN_API_KEY", "VLLM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "data" / "moeplan" / "calibrations"


@pytest.fixture
def machine(tmp_path: Path) -> str:
    """An inventory of the served machine."""
    path = tmp_path / "machine.json"
    path.write_text(to_json(describe(Options("kimi-k2.5", gpu=("8xH200",)))), encoding="utf-8")
    return str(path)


def planned(machine: str, **more: Any) -> Plan:  # noqa: ANN401
    return plan("kimi-k2.5", inventory=machine, **WORK | more)


def stored(machine: str, tokens: int = 16 * 50_000, **steps: tuple[float, float]) -> tuple[Plan, str]:
    """A plan, and the calibration with a load of its first candidate: ``at_4=(0.02, 0.5)`` are TPOT and TTFT."""
    made = planned(machine)
    with served(Behaviour(kv_blocks=tokens // 16)) as url:
        report = verify(url, made, made.candidates[0], limits=LIMITS)
    assert report.calibration is not None
    value = json.loads(Path(report.calibration).read_text())
    (load,) = value["loads"]
    template = load["steps"][0]
    load["steps"] = [
        template | {
            "concurrency": int(name.removeprefix("at_")), "requests": 12, "failed": 0, "sustained": True,
            "input_tokens": 64.0, "output_tokens": 16.0, "output_tokens_per_s": None,
            "tpot_s": {"p50": tpot, "p90": tpot * 1.1, "p99": tpot * 1.2},
            "ttft_s": {"p50": ttft, "p90": ttft * 1.1, "p99": ttft * 1.2},
        }
        for name, (tpot, ttft) in steps.items()
    ]  # fmt: skip
    Path(report.calibration).write_text(json.dumps(value))
    return made, report.calibration


def same_row(found: Plan, like: Candidate) -> Candidate:
    """The candidate with the layout of another plan's."""
    (row,) = [one for one in found.candidates if is_same(one, like)]
    return row


def is_same(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates are started in the same way."""
    return one.launch.argv == other.launch.argv


def change(path: str, **fields: Any) -> None:  # noqa: ANN401
    """Other values in every stored load."""
    value = json.loads(Path(path).read_text())
    for load in value["loads"]:
        load |= fields
    Path(path).write_text(json.dumps(value))


def test_what_was_measured_at_a_load_is_predicted_of_it(machine: str) -> None:
    before, _ = stored(machine, at_1=(0.02, 0.3), at_4=(0.05, 0.9))
    row = same_row(planned(machine), before.candidates[0])
    speed = row.performance
    assert speed.tpot_s.expected == pytest.approx(0.05)
    assert (speed.tpot_s.low, speed.tpot_s.high) == pytest.approx((0.05 / 1.1, 0.05 * 1.1), rel=0.01)
    assert speed.ttft_s.expected == pytest.approx(0.9)
    assert speed.decode_tokens_per_s_total.expected == pytest.approx(4 / 0.05)
    assert speed.evidence.startswith("measured by verify on 2") and speed.evidence.endswith(" at 4 at a time")
    assert sum(entry.seconds for entry in speed.budget) == pytest.approx(0.05)


def test_between_and_beyond_what_was_measured_the_factor_is_carried(machine: str) -> None:
    plain = {n: same_row(planned(machine, concurrency=n, calibration="none"), planned(machine).candidates[0])
             for n in (1, 2, 4, 64)}  # fmt: skip
    predicted = {n: row.performance.tpot_s.expected for n, row in plain.items()}
    stored(machine, at_1=(predicted[1] * 2, 0.3), at_4=(predicted[4] * 8, 0.9))
    at = {n: same_row(planned(machine, concurrency=n), plain[n]).performance for n in plain}
    assert at[2].tpot_s.expected == pytest.approx(predicted[2] * 4)
    assert at[64].tpot_s.expected == pytest.approx(predicted[64] * 8)
    # Steps that disagree, and a load far from them, make the range wide; what was measured is narrow.
    wide = {n: speed.tpot_s.high / speed.tpot_s.low for n, speed in at.items()}
    assert wide[1] == pytest.approx(1.21, abs=0.01) and wide[4] == pytest.approx(1.21, abs=0.01)
    assert wide[2] > 3.9 and wide[64] > wide[4]
    assert wide[64] >= plain[64].performance.tpot_s.high / plain[64].performance.tpot_s.low
    assert at[2].evidence.startswith("corrected to 2 at a time from what verify measured on 2")
    assert at[2].evidence.endswith(" at 1, 4")


def test_an_estimate_of_the_served_configuration_is_as_measured_too(machine: str) -> None:
    stored(machine, at_4=(0.05, 0.9))
    asked = {key: value for key, value in WORK.items() if key != "top"}
    (found,) = estimate("kimi-k2.5", inventory=machine, **asked).candidates
    assert found.performance.tpot_s.expected == pytest.approx(0.05)
    (plain,) = estimate("kimi-k2.5", inventory=machine, calibration="none", **asked).candidates
    assert plain.performance.evidence == "modelled"


def test_other_layouts_and_cache_types_are_modelled(machine: str) -> None:
    before, _ = stored(machine, at_4=(0.05, 0.9))
    found = planned(machine)
    verified = [one for one in found.candidates if "verify" in one.performance.evidence]
    assert verified and len(verified) < len(found.candidates)
    served = before.candidates[0]
    assert {one.parallel for one in verified} == {served.parallel}
    assert {one.kv_cache.dtype for one in verified} == {served.kv_cache.dtype}


def test_the_cache_that_the_server_reported_is_exact_for_its_own_command_alone(machine: str) -> None:
    before, _ = stored(machine, at_4=(0.05, 0.9))
    row = same_row(planned(machine), before.candidates[0])
    cache = row.kv_cache
    assert cache.tokens == 800_000 != before.candidates[0].kv_cache.tokens
    assert cache.budget_low_bytes_per_rank == cache.budget_bytes_per_rank == cache.budget_high_bytes_per_rank
    device = row.memory.devices[0]
    assert device.free_low_bytes == device.free_bytes == device.free_high_bytes
    (rest,) = [entry for entry in device.ledger if entry.what == "rest of the reserve"]
    assert rest.evidence == "measured" and rest.source.startswith("verify of 2")
    assert sum(entry.bytes for entry in device.ledger) + device.free_bytes == device.usable_bytes
    assert any("as its server reported it" in warning for warning in row.warnings)
    longer = planned(machine, context=65536)
    assert all(one.kv_cache.tokens != 800_000 for one in longer.candidates)


def test_a_cache_too_small_for_the_work_no_longer_fits(machine: str) -> None:
    before, _ = stored(machine, tokens=1600, at_4=(0.05, 0.9))
    found = planned(machine)
    assert found.candidates
    assert not any(is_same(one, before.candidates[0]) for one in found.candidates)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"engine_version": "0.19.0"}, "vllm 0.19.0 ran, and 0.33.0 is planned"),
        ({"engine_version": "a-build", "planned_version": "0.19.0"}, "vllm a-build ran, and 0.33.0 is planned"),
        ({"measured_at": "2025-01-01T00:00:00Z"}, "more than 90 days ago"),
        ({"measured_at": "yesterday"}, "it has no date"),
    ],
)
def test_what_is_stale_is_not_used_and_said(machine: str, fields: dict[str, str], said: str) -> None:
    _, path = stored(machine, at_4=(0.05, 0.9))
    change(path, **fields)
    found = planned(machine)
    assert all("verify" not in one.performance.evidence for one in found.candidates)
    assert any("is not used: " in note and said in note for note in found.notes)


def test_a_build_without_a_version_stands_for_the_planned_one(machine: str) -> None:
    before, path = stored(machine, at_4=(0.05, 0.9))
    change(path, engine_version="a-build")
    assert "verify" in same_row(planned(machine), before.candidates[0]).performance.evidence


def test_another_machine_s_loads_are_refused(machine: str, tmp_path: Path) -> None:
    _, path = stored(machine, at_4=(0.05, 0.9))
    other = tmp_path / "other.json"
    other.write_text(to_json(describe(Options("kimi-k2.5", gpu=("8xH100",)))), encoding="utf-8")
    with pytest.raises(BadRequest, match=r"^--calibration .*: it is of another machine, "):
        planned(str(other), calibration=path)


def test_described_hardware_needs_the_file_named_and_says_which(machine: str) -> None:
    _, path = stored(machine, at_4=(0.05, 0.9))
    silent = plan("kimi-k2.5", gpu="8xH200", **WORK)
    assert all("verify" not in one.performance.evidence for one in silent.candidates)
    assert any(f"--calibration {path} plans with it" in note for note in silent.notes)
    named = plan("kimi-k2.5", gpu="8xH200", calibration=path, **WORK)
    assert any("verify" in one.performance.evidence for one in named.candidates)


def test_a_load_of_another_engine_is_not_kept(machine: str, data: Path) -> None:
    made = planned(machine)
    with served(Behaviour(engine="sglang")) as url:
        report = verify(url, made, made.candidates[0], limits=LIMITS)
    assert report.calibration is None and not data.exists()
    assert any("sglang answered" in note for note in report.notes)


def test_a_plan_that_rests_on_a_verification_is_held_against_it(machine: str) -> None:
    """The imitation's 20 ms a token are far from eight H200; planned with, they hold."""
    about = Behaviour(token_s=0.02)
    made = planned(machine)

    def verified(made: Plan, candidate: Candidate) -> VerifyReport:
        with served(about) as url:
            return verify(url, made, candidate, limits=LIMITS)

    first = verified(made, made.candidates[0])
    again = planned(machine)
    row = same_row(again, made.candidates[0])
    second = verified(again, row)
    predicted = [{(one.term, one.concurrency): one.predicted for one in report.compared} for report in (first, second)]
    measured = {(one.term, one.concurrency): one.observed for one in first.compared}
    assert measured["tpot", 4] is not None
    assert predicted[0]["tpot", 4] != predicted[1]["tpot", 4]
    second_tpot = predicted[1]["tpot", 4]
    assert second_tpot is not None and second_tpot.expected == pytest.approx(measured["tpot", 4], rel=1e-6)


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="no llama.cpp for this platform")
def test_a_real_llama_server_is_predicted_as_it_was_measured(tmp_path: Path) -> None:
    """Plan, serve, verify, plan again: the new prediction lies where the server was."""
    (weights,) = write_gguf(tmp_path / "tiny.gguf", TINY, data="random")
    asked: dict[str, Any] = {
        "gpu": ["none"], "ram": "8GiB", "cores": 2, "context": 2048, "concurrency": 2, "input_tokens": 96,
        "output_tokens": 16,
    }  # fmt: skip
    made = plan(str(weights), **asked)
    candidate = made.candidates[0]
    slots, unified = candidate.settings["max_num_seqs"], int("--kv-unified" in candidate.launch.argv)
    kept = str(tmp_path / "calibration.json")
    with running(weights, n_ctx=candidate.kv_cache.tokens, n_parallel=slots, kv_unified=unified) as url:
        report = verify(url, made, candidate, limits=Limits(120.0, 60.0, 16, 16), calibration=kept)
    assert report.calibration == kept
    last = report.steps[-1]
    assert last.concurrency == 2 and last.tpot_s is not None and last.ttft_s is not None
    row = same_row(plan(str(weights), calibration=kept, **asked), candidate)
    speed = row.performance
    assert "measured by verify on 2" in speed.evidence
    # Prompts of the load may differ by some tokens from those asked for.
    assert speed.tpot_s.expected == pytest.approx(last.tpot_s.p50, rel=0.02)
    assert speed.tpot_s.low <= last.tpot_s.p50 <= speed.tpot_s.high
    assert speed.ttft_s.low <= last.ttft_s.p50 <= speed.ttft_s.high
    assert speed.tpot_s.high >= last.tpot_s.p90 * 0.98
