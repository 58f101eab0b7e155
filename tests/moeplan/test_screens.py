"""What the screens are handed: knobs become the plan that the command line makes, and errors find their knob."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moeplan.api import plan as make_plan
from moeplan.cli import main
from moeplan.screens import COLUMNS, TOP, answer_of, choices, described, program, replan
from moeplan.text import drawn
from planner.plan import Plan
from tests.moeplan.conftest import fitting
from tui.knobs import KNOBS, turned
from tui.latest import Stale
from tui.program import Refused


def silent(done: int, total: int) -> None:
    """Somebody still waits."""


def test_the_plan_of_the_knobs_is_that_of_the_flags() -> None:
    answer = replan({"model": "kimi-k2.5", "gpu": "8xH200", "context": "64k"}, None, silent)
    assert answer.plan == make_plan("kimi-k2.5", gpu="8xH200", context="64k", top=TOP)
    assert answer.in_force["context"] == "65536"


def test_without_hardware_the_plan_and_the_check_are_of_the_machine_that_was_detected() -> None:
    real = program()
    machine = real.detect()
    answer = real.replan({"model": "kimi-k2.5"}, machine, silent)
    assert answer.plan.hardware.source == "detected"
    assert answer.rows
    assert "checks" in drawn(real.check(machine, None, 1))
    assert machine.nodes[0].name in drawn(real.machine_view(machine))


@pytest.mark.parametrize(
    ("values", "knob"),
    [
        ({"model": "kimi-k2.5", "gpu": "8xH200", "context": "lots"}, "context"),
        ({"model": "kimi-k2.5", "gpu": "8xH200", "kv_dtype": "int3"}, "kv_dtype"),
        ({"model": "kimi-k2.5", "gpu": "8xNothing"}, "gpu"),
        ({"model": "kimi-k2.5", "gpu": "8xH200", "objective": "beauty"}, "objective"),
        ({"model": "no-such-model", "gpu": "8xH200"}, "model"),
        ({"gpu": "8xH200"}, "model"),
    ],
)
def test_a_refusal_names_its_knob(values: dict[str, str], knob: str) -> None:
    with pytest.raises(Refused) as refusal:
        replan(values, None, silent)
    assert (refusal.value.knob, "\n" in str(refusal.value)) == (knob, False)


def test_rows_have_a_cell_for_every_column_and_rejections_what_is_short(plan: Plan) -> None:
    rows = answer_of(plan).rows
    assert {len(row.cells) for row in rows} == {len(COLUMNS)}
    assert len({row.key for row in rows}) == len(rows)
    short = [row for row in rows if row.candidate is None and row.cells[2].startswith("-")]
    assert short
    assert "GiB short" in short[0].summary


def test_bars_are_the_sums_of_the_plan(plan: Plan) -> None:
    device = plan.candidates[0].memory.devices[0]
    bar = answer_of(plan).rows[0].bars[0]
    sizes = (device.weights_bytes, device.kv_cache_bytes, device.compute_bytes, device.overhead_bytes)
    assert tuple(part.bytes for part in bar.parts) == sizes
    assert bar.usable_bytes == device.usable_bytes


@pytest.mark.parametrize("name", [name for name, knob in KNOBS.items() if knob.listed])
def test_every_list_has_values_that_the_planner_takes(name: str) -> None:
    values = {"model": "kimi-k2.5", "gpu": "8xH200"}
    listed = choices(name, values)
    assert listed
    try:
        replan({**values, name: listed[0].value}, None, silent)
    except Refused as refusal:
        # A machine may be too small or the wrong kind; the value itself is understood.
        assert refusal.knob != name, refusal


@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8", "q8_0"])
def test_curves_are_those_of_the_plan_in_words(kv_dtype: str) -> None:
    values = {"model": "kimi-k2.5", "gpu": "8xH200", "kv_dtype": kv_dtype, "context": "96k", "concurrency": "3"}
    row = replan(values, None, silent).rows[0]
    assert row.candidate is not None
    cache, by_context, by_load = program().curves(values, None, row.candidate, silent)
    assert [line.name for line in cache.lines] == ["MLA", "GQA", "MHA"]
    assert (cache.here, by_context.here, by_load.here) == (96 * 1024, 96 * 1024, 3)
    for curve in (cache, by_context, by_load):
        places = [place for line in curve.lines for place, _ in line.points]
        assert curve.here in places
        assert {place for place, _ in curve.ticks} <= set(places) | {131072.0, 262144.0}
        text = drawn(curve.table, 80)
        assert max(len(part) for part in text.splitlines()) <= 80
    total = dict(by_load.lines[0].points)[3.0]
    assert total == pytest.approx(row.candidate.performance.decode_tokens_per_s_total.expected)
    for line in (*by_context.lines, *by_load.lines):
        assert all(
            low[1] <= point[1] <= high[1] for low, point, high in zip(line.low, line.points, line.high, strict=True)
        )


def test_a_rank_that_holds_a_part_of_the_cache_has_a_line_of_its_own() -> None:
    values = {"model": "kimi-k2.5", "gpu": "8xH200", "engine": "vllm", "quant": "int4", "tp": "8", "dcp": "8"}
    row = replan(values, None, silent).rows[0]
    assert row.candidate is not None
    cache = program().curves(values, None, row.candidate, silent)[0]
    assert [line.name for line in cache.lines] == ["a rank here", "MLA", "GQA", "MHA"]
    here, whole = (line.points[-1][1] for line in cache.lines[:2])
    assert whole == pytest.approx(8 * here, rel=0.01)


def test_a_candidate_that_the_knobs_do_not_find_again_has_no_curves() -> None:
    with pytest.raises(Refused, match="part of the machines"):
        program().curves({"model": "kimi-k2.5", "gpu": "1xH200"}, None, fitting(), silent)


def test_curves_end_when_nobody_waits_for_them() -> None:
    values = {"model": "kimi-k2.5", "gpu": "8xH200"}
    row = replan(values, None, silent).rows[0]
    assert row.candidate is not None

    def gone(done: int, total: int) -> None:
        raise Stale

    with pytest.raises(Stale):
        program().curves(values, None, row.candidate, gone)


def test_only_hardware_knobs_describe_hardware() -> None:
    assert not described({"model": "kimi-k2.5", "context": "64k"})
    assert described({"model": "kimi-k2.5", "ram": "1TiB"})


@pytest.mark.parametrize(
    ("name", "text", "up", "expected"),
    [
        ("nodes", "1", False, None),
        ("nodes", "3", True, "4"),
        ("context", "128k", False, "64k"),
        ("context", "nonsense", True, None),
        ("gpu", "none", True, None),
        ("gpu", "6xH100", True, "8xH100"),
        ("ram", "1TiB", True, None),
    ],
)
def test_turning(name: str, text: str, up: bool, expected: str | None) -> None:
    assert turned(KNOBS[name], text, up) == expected


def test_saving_keeps_what_is_there_until_told_otherwise(tmp_path: Path, plan: Plan) -> None:
    real = program()
    folder = tmp_path / "start"
    assert "2 files" in real.save(str(folder), {"launch.sh": "true\n", "README.md": "new\n"}, False)
    with pytest.raises(Refused, match="Ctrl"):
        real.save(str(folder), {"launch.sh": "false\n"}, False)
    assert (folder / "launch.sh").read_text(encoding="utf-8") == "true\n"
    real.save(str(folder), {"launch.sh": "false\n"}, True)
    assert (folder / "launch.sh").read_text(encoding="utf-8") == "false\n"
    real.save_plan(str(tmp_path / "plan.json"), plan, False)
    assert Plan.model_validate_json((tmp_path / "plan.json").read_bytes()) == plan
    with pytest.raises(Refused, match="No such file"):
        real.save_plan(str(tmp_path / "nowhere" / "plan.json"), plan, False)


def test_launch_files_of_the_sample_are_those_of_the_command(plan: Plan) -> None:
    assert "README.md" in program().launch_files(plan, fitting(), "shell").files


def test_without_a_terminal_it_says_what_else_prints_a_plan() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moeplan", "tui"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "terminal" in done.stderr


def test_it_prints_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tui", "--json"]) == 2
    assert "moeplan plan --json" in capsys.readouterr().err


def test_the_report_is_written_where_it_is_asked_for_and_kept_until_told_otherwise(tmp_path: Path, plan: Plan) -> None:
    real = program()
    place = tmp_path / "plan.html"
    assert str(place) in real.save_report(str(place), plan, plan.candidates[0].rank, False)
    page = place.read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    with pytest.raises(Refused, match=r"Ctrl\+O"):
        real.save_report(str(place), plan, 1, False)
    place.write_text("mine", encoding="utf-8")
    real.save_report(str(place), plan, 1, True)
    assert place.read_text(encoding="utf-8") == page
    with pytest.raises(Refused, match="No such file"):
        real.save_report(str(tmp_path / "nowhere" / "plan.html"), plan, 1, False)
