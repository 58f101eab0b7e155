"""``moeplan verify``: against a server that answers, and against one that fails in every way it can; it always ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hwdetect.serving.client import server_at
from hwdetect.serving.endpoint import read_endpoint
from hwdetect.serving.modes import check_mode
from moeplan.api import plan as planned
from moeplan.cli import main
from moeplan.verifying import Limits, verify
from planner.errors import BadRequest, Undetermined
from planner.plan import Plan
from planner.verify import kv_tokens_of
from planner.verify_report import VerifyReport
from tests.support.faulty_server import Behaviour, served
from tests.support.gguf_models import DeepSeek2Spec, routed_experts
from tests.support.gguf_writer import write_gguf
from tests.support.llama_server import running

LIMITS = Limits(total_s=8.0, request_s=1.0, requests=12, output_tokens=8)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned("kimi-k2.5", gpu=["8xH200"], concurrency=4, input_tokens=64, output_tokens=16, engine="vllm")


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("MOEPLAN_API_KEY", "VLLM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    yield


def verified(plan: Plan, behaviour: Behaviour, limits: Limits = LIMITS, **given: Any) -> VerifyReport:  # noqa: ANN401
    given.setdefault("calibration", "none")
    with served(behaviour) as url:
        started = time.monotonic()
        report = verify(url, plan, plan.candidates[0], limits=limits, **given)
        assert time.monotonic() - started < limits.total_s + 15
        return report


def test_a_server_that_answers_is_measured_and_compared(plan: Plan) -> None:
    about = Behaviour(token_s=0.01)
    report = verified(plan, about)
    assert [step.concurrency for step in report.steps] == [1, 4]
    assert sum(step.requests for step in report.steps) == report.requests <= LIMITS.requests
    assert all(step.failed == 0 and step.tokens_counted_by_server for step in report.steps)
    first = report.steps[0]
    assert first.input_tokens == pytest.approx(64, abs=2)
    assert first.output_tokens == 8
    assert first.tpot_s is not None and 0.01 <= first.tpot_s.p50 < 0.1
    terms = {(row.term, row.concurrency): row for row in report.compared}
    assert terms["engine", None].verdict == "holds"
    assert terms["kv_tokens", None].observed == 160_000
    assert terms["kv_tokens", None].verdict == "differs"
    assert "observe" in terms["kv_tokens", None].action
    tpot = terms["tpot", 1]
    assert tpot.predicted_for.startswith("1 at a time of 6")
    assert tpot.observed == first.tpot_s.p50
    checks = {check.name: check.status for check in report.checks}
    assert checks == {"thinking mode": "pass", "instant mode": "pass", "tool calls": "pass"}


def test_the_prompts_differ_so_that_no_cache_answers(plan: Plan) -> None:
    about = Behaviour()
    verified(plan, about)
    prompts = [body["messages"][0]["content"] for _, _, _, body in about.asked if body.get("stream")]
    assert len(set(prompts)) == len(prompts) > 4


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("429", "HTTP 429"), ("500", "HTTP 500"), ("503", "HTTP 503"), ("silent", "too late"), ("slow", "too late"),
        ("drip", "too late"), ("endless", "endless"), ("endless line", "endless"), ("cut", "cut off"),
        ("wrong JSON", "wrong JSON"), ("error event", "error event"), ("redirect", "redirect"),
        ("not a stream", "not a stream"), ("no token", "no token"),
    ],
)  # fmt: skip
def test_every_fault_is_named_and_the_run_ends(plan: Plan, fault: str, kind: str) -> None:
    report = verified(plan, Behaviour(fault=fault, redirect="http://127.0.0.1:9/"), Limits(4.0, 0.6, 6, 8))
    (step,) = report.steps
    assert step.errors == {kind: step.requests}
    assert report.verdict == "failed"
    assert report.differs_in[0] == "requests at 1"
    assert any("larger loads were not tried" in note for note in report.notes)


def test_an_answer_without_visible_text_is_served_but_has_no_times(plan: Plan) -> None:
    report = verified(plan, Behaviour(fault="no text"), Limits(4.0, 1.0, 6, 8))
    assert [step.failed for step in report.steps] == [0, 0]
    assert all(step.ttft_s is None and step.tpot_s is None and step.output_tokens == 8 for step in report.steps)
    assert any("had no visible text" in note for note in report.notes)


def test_a_redirect_is_never_followed(plan: Plan) -> None:
    other = Behaviour()
    with served(other) as elsewhere:
        verified(plan, Behaviour(fault="redirect", redirect=elsewhere + "/v1/chat/completions"), Limits(3.0, 0.5, 3, 4))
    assert other.asked == []


def test_time_for_everything_is_kept(plan: Plan) -> None:
    started = time.monotonic()
    verified(plan, Behaviour(fault="slow"), Limits(total_s=1.0, request_s=30.0, requests=50, output_tokens=200))
    assert time.monotonic() - started < 10


def test_parsers_that_are_missing_are_found(plan: Plan) -> None:
    report = verified(plan, Behaviour(reads_tools=False))
    (tools,) = [check for check in report.checks if check.name == "tool calls"]
    assert (tools.status, report.verdict) == ("fail", "failed")
    assert "--tool-call-parser" in tools.action


@pytest.mark.parametrize(
    ("reasoning", "mode", "switches", "status"),
    [
        (True, "thinking", {}, "pass"), (False, "thinking", {}, "fail"), (True, "instant", {"thinking": False}, "pass"),
        (True, "instant", {}, "fail"),
    ],
)  # fmt: skip
def test_modes_are_judged_by_what_the_answer_shows(
    reasoning: bool, mode: str, switches: dict[str, bool], status: str
) -> None:
    """A reasoning parser that is missing leaves its marks; a switch that is not handed on does not switch."""
    with served(Behaviour(reasoning=reasoning)) as url:
        check = check_mode(server_at(url), "kimi-k2.5", mode, switches, 5.0)
    assert (check.name, check.status) == (f"{mode} mode", status)


@pytest.mark.parametrize("listing", ["wrong JSON", "no list"])
def test_a_server_that_is_none_is_undetermined(plan: Plan, listing: str) -> None:
    with served(Behaviour(listing=listing)) as url, pytest.raises(Undetermined, match="/v1/models"):
        verify(url, plan, plan.candidates[0], limits=LIMITS, calibration="none")


def test_another_model_name_is_said_and_several_are_asked_for(plan: Plan) -> None:
    other = plan.model_copy(update={"model": plan.model.model_copy(update={"id": "x", "repository": "y", "name": "z"})})
    with served(Behaviour()) as url:
        report = verify(url, other, other.candidates[0], limits=Limits(5.0, 1.0, 3, 4), calibration="none")
    assert any("is taken for x" in note for note in report.notes)


def test_sglang_tells_its_tokens_too(plan: Plan) -> None:
    report = verified(plan, Behaviour(engine="sglang", kv_blocks=100_000))
    assert (report.endpoint.engine, report.endpoint.kv_tokens) == ("sglang", 1_600_000)
    (row,) = [row for row in report.compared if row.term == "engine"]
    assert (row.verdict, row.observed_text) == ("differs", "sglang")


@pytest.mark.parametrize(
    ("about", "tokens", "version", "source"),
    [
        (Behaviour(), 160_000, "0.33.0", "/metrics, vllm:cache_config_info"),
        (Behaviour(counts_tokens=False, version="0.19.0"), 160_000, "0.19.0", "/metrics, vllm:cache_config_info"),
        (Behaviour(engines=4), 160_000, "0.33.0", "/metrics, vllm:cache_config_info"),
        (Behaviour(engine="sglang"), 160_000, "0.5.23", "/metrics, sglang:max_total_num_tokens"),
        (Behaviour(engine="sglang", metrics=False), 160_000, "0.5.23", "/server_info"),
        (Behaviour(engine="sglang", metrics=False, server_info="/get_server_info", version="0.4.6"), 160_000, "0.4.6",
         "/get_server_info"),
    ],
    ids=["vllm", "older vllm", "vllm, data parallel", "sglang", "sglang without metrics", "older sglang"],
)  # fmt: skip
def test_engines_are_read_in_their_own_words(about: Behaviour, tokens: int, version: str, source: str) -> None:
    with served(about) as url:
        found = read_endpoint(server_at(url))
    assert (found.engine, found.version, found.max_model_len) == (about.engine, version, 32768)
    assert (found.kv_tokens, found.kv_source) == (tokens, source)
    assert found.notes == ()


def test_the_ranks_of_a_divided_context_hold_their_parts_of_it(plan: Plan) -> None:
    candidate = plan.candidates[0]
    divided = candidate.model_copy(update={"parallel": candidate.parallel.model_copy(update={"dcp": 8})})
    told = []
    for counts in (True, False):
        with served(Behaviour(counts_tokens=counts)) as url:
            told.append(kv_tokens_of(divided, read_endpoint(server_at(url)))[0])
    assert told == [160_000, 8 * 160_000]


def test_the_key_goes_to_the_server_and_nowhere_else(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "sk-secret-of-this-test"
    monkeypatch.setenv("MOEPLAN_API_KEY", key)
    file, store = tmp_path / "plan.json", tmp_path / "calibration.json"
    file.write_text(plan.to_json())
    about = Behaviour()
    with served(about) as url:
        for form in ([], ["--json"]):
            main(["verify", url, "--plan", str(file), "--requests", "6", "--output-tokens", "4", "--calibration",
                  str(store), *form])  # fmt: skip
    assert all(headers["Authorization"] == f"Bearer {key}" for _, _, headers, _ in about.asked)
    told = capsys.readouterr()
    assert key not in told.out + told.err + store.read_text()


def test_the_measurement_is_kept_beside_other_sections(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    for _ in range(2):
        report = verified(plan, Behaviour(), calibration=str(file))
        assert report.calibration == str(file)
        assert any(f"plan again with --calibration {file}" in note for note in report.notes)
    value = json.loads(file.read_text())
    assert len(value["loads"]) == 2
    assert value["loads"][0]["steps"][0]["concurrency"] == 1
    value["kernels"] = []
    file.write_text(json.dumps(value))
    verified(plan, Behaviour(), calibration=str(file))
    again = json.loads(file.read_text())
    assert (len(again["loads"]), again["kernels"]) == (3, [])
    file.write_text("{}")
    with pytest.raises(BadRequest, match="not a moeplan"):
        verified(plan, Behaviour(), calibration=str(file))


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["ftp://x"], 2, "not an address"),
        (["http://user:secret@127.0.0.1:1"], 2, "no user, password or query"),
        (["http://127.0.0.1:1"], 3, "nothing answers at http://127.0.0.1:1"),
        (["http://127.0.0.1:1", "--concurrency", "0"], 2, "--concurrency"),
        (["http://127.0.0.1:1", "--concurrency", "8,64", "--requests", "20"], 2, "--requests allows fewer"),
        (["http://127.0.0.1:1", "--max-time", "x"], 2, "--max-time"),
        (["http://127.0.0.1:1", "--rank", "99"], 2, "--rank"),
    ],
)
def test_bad_input_and_no_server_are_one_line(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, said: str
) -> None:
    file = tmp_path / "plan.json"
    file.write_text(plan.to_json())
    assert main(["verify", *argv, "--plan", str(file)]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err and len(told.err.splitlines()) == 1
    assert "secret" not in told.err


def test_a_plan_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "http://127.0.0.1:1"]) == 2
    assert "--plan" in capsys.readouterr().err


TINY = DeepSeek2Spec(
    name="tiny", vocabulary=512, hidden=512, layers=4, heads=8, context=8192, mixture=routed_experts("q4_0", "q8_0"),
    dense_layers=1, dense_ffn=1024, experts=16, experts_used=4, expert_ffn=256, shared_experts=1, q_lora=256,
    kv_lora=512, nope_head=128, rope_head=64, value_head=128, tokenizer="gpt2",
)  # fmt: skip


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="no llama.cpp for this platform")
def test_a_real_llama_server_of_a_model_of_k25_s_shape(tmp_path: Path) -> None:
    """Random weights, so that only what llama.cpp itself does is judged: its KV cache, its counts, its stream."""
    (weights,) = write_gguf(tmp_path / "tiny.gguf", TINY, data="random")
    made = planned(
        str(weights), gpu=["none"], ram="8GiB", cores=2, context=2048, concurrency=2, input_tokens=96, output_tokens=16
    )
    candidate = made.candidates[0]
    slots = candidate.settings["max_num_seqs"]
    unified = int("--kv-unified" in candidate.launch.argv)
    with running(weights, n_ctx=candidate.kv_cache.tokens, n_parallel=slots, kv_unified=unified) as url:
        report = verify(
            url, made, candidate, limits=Limits(60.0, 30.0, 8, 16), calibration=str(tmp_path / "calibration.json")
        )
    assert (report.endpoint.engine, report.endpoint.kv_tokens) == ("llama.cpp", candidate.kv_cache.tokens)
    assert [step.concurrency for step in report.steps] == [1, 2]
    assert all(step.failed == 0 and step.tokens_counted_by_server for step in report.steps)
    assert all(step.output_tokens == 16 for step in report.steps)
    assert all(step.input_tokens == pytest.approx(96, abs=6) for step in report.steps)
    rows = {(row.term, row.concurrency): row for row in report.compared}
    assert rows["engine", None].verdict == rows["kv_tokens", None].verdict == "holds"
    assert rows["tpot", 1].observed is not None and rows["tpot", 1].predicted is not None
    assert report.calibration is not None
