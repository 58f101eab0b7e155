"""``moeplan bench`` and ``moeplan validate`` with llama.cpp's real kernels, on a model small enough for a test."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator

import moeplan.benching as benching
from hwdetect.bench.measured import MeasuredPoint, MeasuredSeries
from hwdetect.bench.providers import PROVIDERS
from hwdetect.bench.worker import Worker
from moeplan.bench_report import BenchReport, measured_series
from moeplan.calibration import load_kernels, store_kernels
from moeplan.calibrations import place_of
from moeplan.cli import main
from moeplan.cli.schema import FOLDER
from planner.errors import BadRequest
from tests.support.gguf_models import kimi_k25_spec, routed_experts
from tests.support.gguf_writer import write_gguf

WORK = ("--context", "512", "--concurrency", "1", "--input-tokens", "48", "--output-tokens", "32")
QUICK = ("--quick", "--threads", "1")


POINT: dict[str, Any] = {"batch": 1, "median_s": 1.0, "low_s": 1.0, "high_s": 1.0, "bytes": 1e9, "flops": 0.0}


class Called(NamedTuple):
    code: int
    out: str
    err: str


def call(*argv: str) -> Called:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(argv))
    return Called(code, out.getvalue(), err.getvalue())


def checked(called: Called, schema: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(called.out)
    text = (FOLDER / f"{schema}.json").read_text(encoding="utf-8")
    Draft202012Validator(json.loads(text)).validate(answer)
    return answer


class Bench(NamedTuple):
    """A model, its plan, and a data folder in which its kernels were measured."""

    model: Path
    plan: Path
    data: Path
    report: dict[str, Any]


@pytest.fixture(scope="module")
def small_machine() -> Iterator[None]:
    """A machine with a small cache, and as few samples as there may be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benching, "last_level_cache_bytes", lambda: (1 << 20, True))
        patch.setattr(benching, "QUICK_SECONDS", 0.0)
        patch.setattr(benching, "QUICK_BUDGET_S", 600.0)
        yield


@pytest.fixture(scope="module")
def measured(small_machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    spec = replace(
        kimi_k25_spec(routed_experts("q4_0", "q8_0")),
        layers=2, experts=8, experts_used=2, vocabulary=512, hidden=256, expert_ffn=256, dense_ffn=256, heads=4,
        q_lora=128,
    )  # fmt: skip
    write_gguf(folder / "tiny.gguf", spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        made = call(
            "plan", str(folder / "tiny.gguf"), "--engine", "llama.cpp", *WORK, "--calibration", "none", "--gpu", "none",
            "--ram", "8GiB", "--cores", "1", "--output", str(folder / "plan.json"),
        )  # fmt: skip
        assert made.code == 0, made.err
        # The plan's machine is described, so that it is the same wherever the test runs.
        answer = checked(call("bench", str(folder / "plan.json"), *QUICK, "--json"), "bench")
    yield Bench(folder / "tiny.gguf", folder / "plan.json", folder / "data", answer)


@pytest.fixture
def data(measured: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data folder."""
    shutil.copytree(measured.data, tmp_path / "data")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def test_every_kernel_of_the_plan_is_measured(measured: Bench) -> None:
    report = measured.report
    planned = json.loads(measured.plan.read_text(encoding="utf-8"))["candidates"][0]["kernels"]
    rows = {(row["series"], row["batch"], row["context"]) for row in report["rows"]}
    assert rows >= {(one["series"], one["batch"], one["context"]) for one in planned}
    assert report["ended"] == "done"
    assert report["not_measured"] == []
    experts = next(row for row in report["rows"] if row["kernel"] == "cpu_moe")
    assert experts["provider"] == "ggml" and experts["routing"]["distinct_experts"] == 2
    assert [one["provider"] for one in experts["not_run"]] == ["kt_kernel"]
    assert "serial" not in json.dumps(report)


def test_a_model_is_measured_with_a_whole_layer_of_it(
    measured: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    called = call("bench", str(measured.model), "--engine", "llama.cpp", *QUICK, "--calibration", "none", "--json")
    report = checked(called, "bench")
    (layer,) = report["layers"]
    assert layer["missing"] == [] and layer["parts_over_whole"] == layer["parts_s"] / layer["whole_s"]
    (row,) = [row for row in report["rows"] if row["kernel"] == "decode_layer"]
    assert row["quantization"] == "Q4_0+Q8_0" and row["shape"]["q_lora"] == 128
    from moeplan.text import drawn
    from moeplan.text_bench import bench_view

    text = drawn(bench_view(BenchReport.model_validate_json(json.dumps(report))), width=160)
    assert "A whole decode layer" in text and "sum of its parts" in text


def test_an_unfinished_run_is_forgotten_when_it_ends(measured: Bench) -> None:
    assert list((measured.data / "moeplan" / "bench").iterdir()) == []


def estimate(measured: Bench, *more: str) -> dict[str, Any]:
    called = call("estimate", str(measured.model), "--engine", "llama.cpp", *WORK, *more, "--json")
    assert called.code in (0, 1), called.err
    plan: dict[str, Any] = json.loads(called.out)
    return plan


def test_an_estimate_uses_the_calibration_of_its_machine(measured: Bench, data: Path) -> None:
    (file,) = (data / "moeplan" / "calibrations").glob("*.json")
    used = estimate(measured)["candidates"][0]["performance"]
    unused = estimate(measured, "--calibration", "none")["candidates"][0]["performance"]
    named = estimate(measured, "--calibration", str(file))["candidates"][0]["performance"]
    assert used["evidence"].startswith("calibrated: kernels of ")
    assert unused["evidence"] == "modelled"
    assert named == used and used["tpot_s"] != unused["tpot_s"]
    described = estimate(measured, "--gpu", "none", "--ram", "8GiB", "--cores", "1")["candidates"][0]["performance"]
    assert described["evidence"] == "modelled"


def rewritten(data: Path, **changes: object) -> Path:
    """The calibration with each series changed, or its own keys where a series has no such key."""
    (file,) = (data / "moeplan" / "calibrations").glob("*.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    for key, value in changes.items():
        for target in content["kernels"] if key in MeasuredSeries.model_fields else [content]:
            target[key] = value
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"date": "2020-01-02"}, "measured on 2020-01-02, more than 90 days ago"),
        ({"date": "yesterday"}, "they have no date"),
        ({"version": "ggml 0.1, xllamacpp 1.0"}, "is installed now; moeplan bench renews them"),
        ({"fingerprint": "0" * 16, "machine": "a laptop"}, "it is of another machine, a laptop"),
        ({"kernels": "all"}, "not a moeplan.calibration/1"),
    ],
)
def test_a_stale_or_foreign_calibration_is_refused_with_its_reason(
    changes: dict[str, object], reason: str, measured: Bench, data: Path
) -> None:
    file = rewritten(data, **changes)
    plan = estimate(measured)
    assert plan["candidates"][0]["performance"]["evidence"] == "modelled"
    assert any(reason in note for note in plan["notes"]), plan["notes"]
    if "fingerprint" in changes or "kernels" in changes:
        called = call("estimate", str(measured.model), "--engine", "llama.cpp", *WORK, "--calibration", str(file))
        assert called.code == 2 and reason in called.err and called.err.count("\n") == 1


def test_detect_carries_what_was_measured_of_the_memory(measured: Bench, data: Path) -> None:
    rows = [row for row in measured.report["rows"] if row["kernel"] == "memory_read"]
    rewritten(data, points=[{**POINT, "bytes": 8e9, "stable": True}], measured_at="2026-11-26T01:02:03Z")
    found = checked(call("detect", "--json"), "inventory")["nodes"][0]["memory"]["bandwidth_bytes_per_s"]
    assert (found["provenance"], found["at"]) == ("measured", "2026-11-26T01:02:03Z")
    assert found["value"] == 8e9 or "of memory on one of" in found["reason"]
    assert "moeplan bench on this machine, machine numpy" in found["source"] and len(rows) >= 1
    assert "8.0 GB/s" in call("detect").out


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"date": "2020-01-02"}, "measured on 2020-01-02, more than 90 days ago"),
        ({"points": []}, "every measurement of it was unstable"),
        ({"fingerprint": "0" * 16}, "it is of another machine"),
    ],
)
def test_detect_says_what_it_does_not_use(changes: dict[str, object], reason: str, measured: Bench, data: Path) -> None:
    rewritten(data, **changes)
    found = checked(call("detect", "--json"), "inventory")
    fact = found["nodes"][0]["memory"].get("bandwidth_bytes_per_s")
    assert fact is None or fact["value"] is None
    assert fact is None or reason in fact["reason"]
    assert any(reason in note for note in found["notes"])


def test_two_disks_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    disks = [
        MeasuredSeries(
            series="disk_read/bf16/bytes1", provider="machine", version="1", date="2026-11-26", device=mount, threads=1,
            points=(MeasuredPoint(**POINT),),
        )
        for mount in ("/", "/data")
    ]  # fmt: skip
    store_kernels(path, disks, machine="m", description="d", generated_by="g")
    kept = json.loads(path.read_text(encoding="utf-8"))["kernels"]
    assert [one["device"] for one in kept] == ["/", "/data"]


def test_a_new_point_replaces_the_old_one_and_a_new_version_all(tmp_path: Path) -> None:
    def series(version: str, *batches: int, seconds: float = 1.0) -> MeasuredSeries:
        points = [
            MeasuredPoint(batch=batch, median_s=seconds, low_s=seconds, high_s=seconds, bytes=1, flops=1)
            for batch in batches
        ]
        return MeasuredSeries(
            series="s", provider="p", version=version, date="2026-01-01", device="d", threads=1, points=tuple(points)
        )

    path = tmp_path / "calibration.json"

    def stored(one: MeasuredSeries) -> list[tuple[int, float]]:
        store_kernels(path, [one], machine="m", description="d", generated_by="g")
        (kept,) = json.loads(path.read_text(encoding="utf-8"))["kernels"]
        return [(point["batch"], point["median_s"]) for point in kept["points"]]

    assert stored(series("1", 1, 4)) == [(1, 1.0), (4, 1.0)]
    assert stored(series("1", 4, 8, seconds=2.0)) == [(1, 1.0), (4, 2.0), (8, 2.0)]
    assert stored(series("2", 8)) == [(8, 1.0)]
    with pytest.raises(BadRequest, match="of another machine"):
        store_kernels(path, [series("2", 8)], machine="other", description="d", generated_by="g")


def test_samples_stay_out_of_a_calibration(measured: Bench) -> None:
    report = BenchReport.model_validate_json(json.dumps(measured.report))
    for series in measured_series(report.rows):
        assert "samples" not in series.model_dump_json()
        assert series.date == report.date[:10]
        # The memory is read by one core and by all of them as well.
        assert series.threads == 1 or series.series.startswith("memory_read/")


def test_ctrl_c_keeps_what_there_is_and_the_next_run_goes_on(
    measured: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    ask, asked = Worker.ask, []

    def interrupted(worker: Worker, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if "kernel" in request:
            asked.append(request["kernel"])
            if len(asked) == 3:
                raise KeyboardInterrupt
        return ask(worker, request, timeout_s)

    monkeypatch.setattr(Worker, "ask", interrupted)
    first = call("bench", str(measured.plan), *QUICK, "--json")
    assert first.code == 130
    before = checked(first, "bench")
    assert (before["ended"], len(before["rows"])) == ("interrupted", 2)
    assert before["calibration"] is not None
    asked.extend([""] * 10)
    again = checked(call("bench", str(measured.plan), *QUICK, "--json"), "bench")
    # What is in doubt may change with the cases that it is put beside, but not what was measured.
    assert [row["samples_s"] for row in again["rows"][:2]] == [row["samples_s"] for row in before["rows"]]
    assert len(asked) - 13 == len(again["rows"]) - 2
    assert any("2 results of a run that ended early" in note for note in again["notes"])


def test_a_full_disk_costs_the_file_and_not_the_result(measured: Bench, tmp_path: Path) -> None:
    code = (
        "import sys, moeplan.benching as b; b.last_level_cache_bytes = lambda: (1 << 20, True); b.QUICK_SECONDS = 0.0; "
    )
    code += "from moeplan.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", str(measured.plan), *QUICK, "--json"],
        # A compiled module that is cut short would break whoever imports it next.
        env={"XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = checked(Called(0, done.stdout, ""), "bench")
    assert len(report["rows"]) == len(measured.report["rows"])
    assert report["calibration"] is None
    assert any(note.startswith("not stored: ") and "too large" in note.lower() for note in report["notes"])


def test_the_table_and_the_charts(measured: Bench, data: Path, tmp_path: Path) -> None:
    from moeplan.bench_plot import page
    from moeplan.text import drawn
    from moeplan.text_bench import bench_view

    report = BenchReport.model_validate_json(json.dumps(measured.report))
    text = " ".join(drawn(bench_view(report), width=160).split())
    assert "8 experts, 256 x 256, top 2" in text and "ggml 0." in text and "kt_kernel: No module named" in text
    first = report.rows[0].model_copy(update={"stable": False, "unstable_because": "of <i>a</i> test"})
    named = report.model_copy(update={"rows": (first, *report.rows[1:]), "machine": "<b>a machine</b>"})
    html = page(named)
    shown = html[: html.index('<script type="application/json"')]
    assert "<b>" not in shown and "unstable, because of &lt;i&gt;a&lt;/i&gt; test" in shown
    results = shown[shown.index('id="results"') : shown.index("</table>")]
    assert results.count("<tr>") == len(report.rows) + 1
    assert 'id="plot-roofline"' in shown and 'id="plot-batch"' in shown and "kt_kernel did not run: No module" in shown
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert policy and policy[1].startswith("default-src &#x27;none&#x27;; script-src &#x27;sha256-")
    assert "src=" not in shown and "<link" not in shown
    empty = page(named.model_copy(update={"rows": ()}))
    assert "<script" not in empty and "Nothing was measured" in empty


@pytest.mark.parametrize("rank", [1, 2])
def test_validating_a_plan(measured: Bench, data: Path, rank: int) -> None:
    """Each rank by itself: what the other candidate's kernels take must not stand for its own."""
    plan = json.loads(measured.plan.read_text(encoding="utf-8"))
    assert plan["candidates"][0]["kv_cache"]["dtype"] != plan["candidates"][1]["kv_cache"]["dtype"]
    called = call("validate", str(measured.plan), "--rank", str(rank), *QUICK, "--json")
    result = checked(called, "validation")
    assert result["verdict"] in ("holds", "differs"), (result["not_measured"], result["kernels"])
    assert called.code == {"holds": 0, "differs": 1}[result["verdict"]]
    assert result["corrected_tpot_s"]["expected"] != result["predicted_tpot_s"]["expected"]
    attention = [kernel for kernel in result["kernels"] if kernel["series"].startswith("cpu_attention/")]
    assert {kernel["quantization"] for kernel in attention} == {plan["candidates"][rank - 1]["kv_cache"]["dtype"]}
    assert any(kernel["times"] for kernel in attention)
    experts = next(kernel for kernel in result["kernels"] if kernel["what"] == "experts in RAM" and kernel["times"])
    assert experts["times"] == 1
    assert experts["ratio"] == pytest.approx(experts["measured_s"]["expected"] / experts["predicted_s"]["expected"])
    inside = result["predicted_tpot_s"]["low"] <= result["corrected_tpot_s"]["expected"] <= (
        result["predicted_tpot_s"]["high"]
    )  # fmt: skip
    assert (result["verdict"] == "holds") == inside
    if result["verdict"] == "differs":
        assert result["term"] is not None


def test_another_configuration_in_place_of_the_plans_own_is_told(measured: Bench, data: Path, tmp_path: Path) -> None:
    own = checked(call("validate", str(measured.plan), *QUICK, "--json"), "validation")
    assert not any("no configuration with all settings" in note for note in own["notes"])
    plan = json.loads(measured.plan.read_text(encoding="utf-8"))
    plan["candidates"][0]["settings"]["max_num_seqs"] = 77
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(plan), encoding="utf-8")
    other = checked(call("validate", str(changed), *QUICK, "--json"), "validation")
    assert any("no configuration with all settings of rank 1 any more" in note for note in other["notes"])


def test_a_plan_whose_kernels_nobody_runs_is_undetermined(
    measured: Bench, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kernel in tuple(PROVIDERS):
        monkeypatch.setitem(PROVIDERS, kernel, ())
    called = call("validate", str(measured.plan), *QUICK)
    assert called.code == 3
    printed = " ".join(called.out.split())
    assert "could not be determined" in printed and "no provider for cpu_moe is known" in printed


def test_a_plan_for_other_hardware_is_not_validated_here(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    call("plan", "kimi-k2.5", "--gpu", "8xH200", "--engine", "vllm", "--output", str(plan))
    called = call("validate", str(plan), *QUICK)
    assert called.code == 3
    assert "the plan is for h200-sxm-141, and this machine has none" in called.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("bench", "--threads", "0"), "--threads 0: a whole number from 1 to 4096 is needed"),
        (("bench", "--routing", "random"), "--routing random: uniform, power_law, replay are known"),
        (("bench", "--routing", "replay"), "--routing replay and --trace FILE belong together"),
        (("bench", "--engine-python", "/no/python"), "--engine-python /no/python: no such interpreter"),
        (("bench", "kimi-k9"), "unknown model"),
        (("validate", "no.json"), "no.json: No such file or directory"),
        (("validate", "no.json", "--rank", "0"), "--rank 0: a whole number from 1 is needed"),
    ],
)
def test_bad_input_is_one_line(argv: tuple[str, ...], message: str) -> None:
    called = call(*argv)
    assert called.code == 2
    assert message in called.err and called.err.count("\n") == 1


def test_a_file_that_is_no_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"schema": "moeplan.plan/1"}', encoding="utf-8")
    called = call("validate", str(path))
    assert called.code == 2 and "not a moeplan.plan/1" in called.err


def test_where_a_calibration_lies_is_decided_by_the_machine(data: Path) -> None:
    from hwdetect.detect import detect
    from moeplan.calibration import fingerprint

    here = detect()
    kernels, notes = load_kernels("auto", here)
    assert kernels and not notes
    assert place_of("auto", fingerprint(here)) is not None


def test_the_bench_screen_measures_the_plan_and_plans_with_what_it_kept(
    measured: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textual.pilot import Pilot
    from textual.widgets import DataTable, Static

    from moeplan.screens import program
    from tui.app import MoeplanApp

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(benching, "SECONDS", 0.0)
    values = {"engine": "llama.cpp", "context": "512", "concurrency": "1", "input_tokens": "48", "output_tokens": "32"}
    app = MoeplanApp(program(), {"model": str(measured.model), **values})

    async def until(pilot: Pilot[None], holds: Callable[[], object]) -> None:
        end = time.monotonic() + 300
        while not holds():
            assert time.monotonic() < end, app.screen.query_one("#status", Static).content
            await pilot.pause(0.05)

    async def script() -> None:
        async with app.run_test(size=(120, 40)) as pilot:
            plan: Any = app.screen
            await until(pilot, lambda: plan.is_up_to_date)
            before = plan.answer
            evidence = before.plan.candidates[0].performance.evidence
            assert evidence == "modelled"
            plan.query_one(DataTable).focus()
            await pilot.press("f5", "down", "enter")
            status = app.screen.query_one("#status", Static)
            await until(pilot, lambda: "The prediction" in str(status.content))
            table = app.screen.query_one(DataTable)
            kernels = {str(table.get_row_at(place)[0]) for place in range(table.row_count)}
            assert kernels >= {one.kernel for one in before.plan.candidates[0].kernels}
            assert not (tmp_path / "moeplan" / "calibrations").exists()
            await pilot.press("u")
            await until(pilot, lambda: "Kept in" in str(status.content))
            assert list((tmp_path / "moeplan" / "calibrations").glob("*.json"))
            await until(pilot, lambda: plan.is_up_to_date and plan.answer is not before)
            # What was measured can be slower than what the model expects of another KV dtype, which then comes first.
            said = {one.kv_cache.dtype: one.performance.evidence for one in plan.answer.plan.candidates}
            assert said[before.plan.candidates[0].kv_cache.dtype].startswith("calibrated: kernels of ")

    asyncio.run(script())
