"""What the compare and bench screens are handed: the command line's own reports, and one line where one is refused."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from moeplan.api import plan as make_plan
from moeplan.cli import main
from moeplan.screens import program
from moeplan.screens_bench import keep, lines_of
from moeplan.screens_compare import COST_FLAGS, RECOMMEND_FLAGS, compare, cost, recommend
from moeplan.text import drawn
from moeplan.text_compare import Compared, aspects
from planner.plan import Plan, Range
from tests.moeplan.conftest import fitting, offloaded, plan_of
from tests.tui import samples
from tui.latest import Stale
from tui.marks import Mark
from tui.program import Refused

VALUES = {"model": "kimi-k2.5", "gpu": "8xH200"}


def silent(done: int, total: int) -> None:
    """Somebody still waits."""


def marks_of(plan: Plan, **values: str) -> tuple[Mark, ...]:
    return tuple(Mark(f"row {one.rank}", values, plan, one) for one in plan.candidates)


def printed(*argv: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(list(argv))
    return out.getvalue()


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def real() -> Plan:
    return make_plan("kimi-k2.5", gpu="8xH200", top=2)


def test_what_differs_comes_first_and_the_rest_once(plan: Plan) -> None:
    text = drawn(compare(marks_of(plan), {}), width=80)
    differs, same = text.split("the same in all")
    assert max(len(line) for line in text.splitlines()) <= 80
    for word in ("engine", "verdict", "free, GiB", "bound by", "quality", "warnings"):
        assert word in differs
    assert "KV tokens" in same
    assert same.count("1,576,297") == 1
    assert "knob:" not in text


def test_knobs_that_differ_say_what_an_empty_one_was_taken_for(plan: Plan) -> None:
    marks = (*marks_of(plan)[:1], *marks_of(plan, context="128k", gpu="8xB200")[:1])
    text = drawn(compare(marks, {"context": "128k", "gpu": "8xB200"}), width=100)
    assert "A: rank 1, pinned" in text
    assert text.count("pinned") == 1
    (context,) = [line.split() for line in text.splitlines() if "knob: context" in line]
    assert context[2:] == ["(32768)", "128k"]
    (gpus,) = [squeezed(line) for line in text.splitlines() if "knob: GPUs" in line]
    assert gpus == "knob: GPUs (this machine) 8xB200"


def test_only_what_is_better_whatever_happens_is_marked() -> None:
    first, second = fitting(), offloaded()
    faster = Range(low=60.0, expected=70.0, high=80.0)
    speed = second.performance.model_copy(update={"decode_tokens_per_s_per_request": faster})
    plan = plan_of((first, second.model_copy(update={"performance": speed})))
    rows = {row.name: row for row in aspects([Compared(one, plan, {}, True) for one in plan.candidates])}
    assert rows["tok/s each"].best == 1
    assert rows["tok/s in total"].best is None
    assert rows["  free, GiB"].best == 0
    assert rows["USD an hour"].best is None


def test_the_cost_is_that_of_the_command(real: Plan, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(real.to_json(), encoding="utf-8")
    text = squeezed(drawn(cost(marks_of(real), COST_FLAGS)))
    for rank in ("1", "2"):
        command = printed("cost", str(tmp_path / "plan.json"), "--rank", rank, *COST_FLAGS.split())
        assert squeezed(command) in text
    assert text.startswith("A: ") and " B: " in text


def test_what_has_no_price_is_told_under_its_letter(real: Plan) -> None:
    free = plan_of((fitting(),)).model_copy(update={"hardware": real.hardware.model_copy(update={"gpus": ()})})
    text = squeezed(drawn(cost((*marks_of(free), *marks_of(real)), "")))
    assert "no API offer of model-a is known" in text
    assert "API, dollars per million tokens" in text


def test_the_recommendation_is_that_of_the_command() -> None:
    flags = "--tokens-per-s 20 --top 1"
    values = {**VALUES, "concurrency": "4", "tpot": "1ms", "objective": "cost"}
    seen: list[tuple[int, int]] = []
    text = squeezed(drawn(recommend(values, None, flags, lambda done, total: seen.append((done, total)))))
    command = printed("recommend", "kimi-k2.5", "--concurrency", "4", *flags.split(), "--have", "8xH200")
    assert squeezed(command) == text
    assert seen and all(done <= total for done, total in seen)


def test_without_described_hardware_the_machine_at_hand_is_this_one() -> None:
    machine = program().detect()
    text = squeezed(drawn(recommend({"model": "kimi-k2.5"}, machine, "--top 1", silent)))
    assert "The machine at hand" in text
    assert "The machine at hand" not in squeezed(drawn(recommend({"model": "kimi-k2.5"}, None, "--top 1", silent)))


def test_a_search_nobody_waits_for_ends() -> None:
    def gone(done: int, total: int) -> None:
        raise Stale

    with pytest.raises(Stale):
        recommend({"model": "kimi-k2.5", "gpu": "8xH200"}, None, RECOMMEND_FLAGS, gone)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--years", "--years: expected one argument; --prices, "),
        ("--yeers 3", "unknown flag '--yeers'; did you mean --years?; --prices, "),
        ("3", "unexpected argument '3'"),
        ("--years '3", "No closing quotation"),
        ("--help", "--prices, --tokens-per-month"),
        ("--rank 2", "unknown flag '--rank'"),
        ("--years lots", "--years: 'lots' is not a number above zero"),
        ("--prices nowhere.toml", "--prices"),
        ("--tokens-per-month 1e9 --utilization 0.5", "cannot be combined"),
    ],
)
def test_a_wrong_flag_is_one_line(flags: str, reason: str, real: Plan) -> None:
    with pytest.raises(Refused, match=r"^[^\n]+$") as refusal:
        cost(marks_of(real), flags)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "flags", "reason"),
    [
        (VALUES, "--tokens-per-s 30 --tpot 20ms", "cannot be combined"),
        (VALUES, "--have 8xH200", "unknown flag '--have'"),
        ({"model": "nothing-known"}, "", "nothing-known"),
        ({}, "", "a model is needed"),
        ({**VALUES, "context": "lots"}, "", "--context"),
    ],
)
def test_a_wrong_search_is_one_line(values: dict[str, str], flags: str, reason: str) -> None:
    with pytest.raises(Refused, match=r"^[^\n]+$") as refusal:
        recommend(values, None, flags, silent)
    assert reason in str(refusal.value)


def test_rows_of_a_run_have_a_cell_for_every_column_and_a_key_each() -> None:
    real_program = program().bench()
    lines = lines_of(samples.ROWS, (samples.MISSING,))
    assert {len(line.cells) for line in lines} == {len(real_program.columns)}
    assert len({line.key for line in lines}) == len(lines)
    assert [line.state for line in lines] == ["stable"] * 4 + ["unstable", "missing"]


def test_keeping_says_why_it_could_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file where the folder would be: that no user, not even root, writes into.
    (tmp_path / "moeplan").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(Refused, match=r"not stored: .*Not a directory"):
        keep(samples.report())
    (tmp_path / "moeplan").unlink()
    assert keep(samples.report()).startswith("Kept in ")
    assert list((tmp_path / "moeplan" / "calibrations").glob("0123456789abcdef.json"))
