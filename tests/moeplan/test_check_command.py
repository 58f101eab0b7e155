"""``moeplan check`` as it is typed: exit status, JSON, JUnit XML and what an operator sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hwdetect.inventory import to_json
from moeplan.cli import main
from moeplan.cli.schema import FOLDER
from moeplan.junit import junit_xml
from moeplan.text import drawn
from moeplan.text_check import check_view
from planner.findings import CheckReport, Finding
from planner.plan import Plan
from tests.support.check_document import h200_plan, report_of
from tests.support.healthy_host import BENCH, HOST
from tests.support.nvml_shim.machine import Shim


@pytest.fixture(scope="module")
def h200() -> Plan:
    return h200_plan()


@pytest.fixture
def files(shim: Shim, h200: Plan, tmp_path: Path) -> Callable[[str], list[str]]:
    """Arguments for a scenario: a plan, an inventory and a benchmark as files."""

    def write(scenario: str) -> list[str]:
        inventory, plan, bench = (tmp_path / name for name in ("inventory.json", "plan.json", "bench.json"))
        inventory.write_text(to_json(shim.inventory(scenario, HOST)))
        plan.write_text(h200.to_json())
        bench.write_text(json.dumps(BENCH))
        return ["check", str(plan), "--inventory", str(inventory), "--bench", str(bench)]

    return write


@pytest.mark.parametrize(
    ("scenario", "flags", "code"),
    [
        ("h200x8", (), 0),
        ("h200x8", ("--strict",), 0),
        ("power_capped", (), 0),
        ("power_capped", ("--strict",), 1),
        ("x8_link", (), 1),
        ("no_permission", (), 3),
        ("no_permission", ("--strict",), 1),
    ],
)
def test_exit_status(
    files: Callable[[str], list[str]],
    capsys: pytest.CaptureFixture[str],
    scenario: str,
    flags: tuple[str, ...],
    code: int,
) -> None:
    assert main([*files(scenario), *flags]) == code
    out = capsys.readouterr().out
    assert out.startswith({0: "GO", 1: "NO-GO", 3: "UNDETERMINED"}[code])


@pytest.mark.parametrize("scenario", ["h200x8", "xid", "gb10"])
def test_json(files: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str], scenario: str) -> None:
    main([*files(scenario), "--json"])
    report = json.loads(capsys.readouterr().out)
    schema = json.loads((FOLDER / "check.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(report)
    assert (report["schema"], report["nodes"]) == ("moeplan.check/1", ["node-a"])
    assert set(report["findings"][0]) >= {"code", "status", "evidence", "expected", "actual", "action"}
    assert report["verdict"] == {"h200x8": "go"}.get(scenario, "no_go")


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a driver there is nothing to be sure of, and the report says so."""
    code = main(["check", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == {"go": 0, "no_go": 1, "undetermined": 3}[report["verdict"]]
    assert report["checked_at"]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("check", "none.json"), "none.json: cannot be read: No such file or directory"),
        (("check", "--rank", "2"), "--rank needs a PLAN"),
        (("check", "--inventory", "none.json"), "--inventory none.json: No such file or directory"),
        (("check", "--inventory", "x", "--engine-python", "y"), "--inventory cannot be combined with --engine-python"),
        (("check", "--bench", "none.json"), "none.json: cannot be read: No such file or directory"),
        (("check", "--strickt"), "unknown flag '--strickt'; did you mean --strict?"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], complaint: str) -> None:
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert (out, complaint in err, err.count("\n")) == ("", True, 1)


def test_junit(files: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.xml"
    assert main([*files("xid"), "--junit", str(path)]) == 1
    capsys.readouterr()
    (suite,) = ElementTree.parse(path).getroot()
    assert (suite.get("name"), suite.get("failures"), suite.get("errors")) == ("node-a", "1", "0")
    assert int(suite.get("tests", "0")) == len(suite)
    (failed,) = [case for case in suite if case.find("failure") is not None]
    assert (failed.get("classname"), failed.get("name")) == ("moeplan.check.gpu_xid", "gpu_xid GPU 2")
    failure = failed.find("failure")
    assert failure is not None and "Xid 95" in failure.get("message", "")
    assert "action: stop everything on the GPU" in (failure.text or "")
    warned = [case for case in suite if case.find("system-out") is not None]
    assert {case.get("name") for case in warned} == {"gpu_xid GPU 5", "nvswitch_sxid NVSwitch 0000:05:00.0"}


def test_junit_of_a_strict_report_fails_what_the_verdict_fails(shim: Shim) -> None:
    report = report_of(shim, "gb10").model_copy(update={"strict": True})
    (suite,) = ElementTree.fromstring(junit_xml(report))
    wanted = report.counts["warn"] + report.counts["not_run"] + report.counts["fail"]
    assert (suite.get("failures"), suite.get("skipped")) == (str(wanted), "0")


@given(st.text(max_size=60))
def test_junit_is_xml_whatever_a_finding_says(text: str) -> None:
    finding = Finding(
        code="gpu_xid", status="fail", node="n", subject=text, evidence=text, expected=text, actual=text, action=text
    )
    report = CheckReport(
        schema="moeplan.check/1", generated_by="x", verdict="no_go", strict=False, checked_at=None, plan=None,
        nodes=("n",), counts={"fail": 1, "warn": 0, "not_run": 0, "pass": 0}, findings=(finding,),
    )  # fmt: skip
    (suite,) = ElementTree.fromstring(junit_xml(report))
    assert len(suite) == 1


def test_what_an_operator_sees(shim: Shim, h200: Plan, golden: Callable[[str, str], None]) -> None:
    golden("check_no_go.txt", drawn(check_view(report_of(shim, "xid", h200)), 80))
    golden("check_undetermined.txt", drawn(check_view(report_of(shim, "one_denied")), 80))
    golden("check_go_all.txt", drawn(check_view(report_of(shim, "rtx4090_48"), everything=True), 80))
