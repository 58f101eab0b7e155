"""The program from outside: exit codes, one-line errors, and JSON alone on stdout."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from moeplan.cli import COMMANDS, main
from moeplan.cli.output import write_whole
from moeplan.cli.schema import FOLDER, SCHEMAS, derived
from planner.errors import BadRequest
from planner.plan import Plan

Moeplan = Callable[..., "subprocess.CompletedProcess[str]"]
H200 = ("kimi-k2.5", "--gpu", "8xH200")


def call(*argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a call in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(argv))
    return code, out.getvalue(), err.getvalue()


def schema(name: str) -> Draft202012Validator:
    """The checked-in schema."""
    return Draft202012Validator(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("plan", *H200), 0),
        (("plan", "kimi-k2.5", "--gpu", "RTX4090", "--engine", "vllm"), 1),
        (("estimate", *H200, "--engine", "vllm", "--tp", "8"), 0),
        (("estimate", "kimi-k2.5", "--gpu", "8xH100", "--engine", "vllm", "--tp", "8"), 1),
        (("memory", "kimi-k2.5"), 0),
        (("memory", "kimi-k2.5", "--claims"), 0),
        (("detect",), 0),
        (("models",), 0),
        (("hardware",), 0),
        (("schema", "plan"), 0),
        (("--help",), 0),
        (("--version",), 0),
        *(((name, "--help"), 0) for name in COMMANDS),
    ],
)
def test_exit_codes(argv: tuple[str, ...], code: int) -> None:
    found, out, err = call(*argv)
    assert found == code
    assert out
    assert "Traceback" not in err


BAD = [
    ((), "moeplan: error: a command is needed: plan, estimate"),
    (("plam",), "moeplan: error: 'plam' is not a command; did you mean plan?"),
    (("--jsn",), "moeplan: error: unknown flag '--jsn'"),
    (("plan",), "moeplan plan: error: MODEL is missing; see moeplan plan --help"),
    (("plan", "kimi-k2.5", "more"), "moeplan plan: error: unexpected argument 'more'"),
    (("plan", "kimi-k2.5", "--contxt", "5"), "unknown flag '--contxt'; did you mean --context?"),
    (("plan", "kimi-k2.5", "--conte", "5"), "unknown flag '--conte'; did you mean --context?"),
    (("plan", "kimi-k2.5", "--gpu"), "moeplan plan: error: argument --gpu: expected one argument"),
    (("plan", "kimi-k2.5", "--gpu", "--json"), "--gpu needs a value, and '--json' is a flag"),
    (("plan", "kimi-k2.5", "--context", ""), "moeplan: --context: a value is needed"),
    (("plan", "kimi-k2.5", "--gpu", " "), "moeplan: --gpu: a value is needed"),
    (("plan", *H200, "--context", "-5"), "moeplan: --context: '-5' is not a number of tokens; write 32768 or 128k"),
    (("plan", *H200, "--context", "-5k"), "moeplan: --context: '-5k' is not a number of tokens"),
    (("plan", *H200, "--context=-5"), "moeplan: --context: '-5' is not a number of tokens"),
    (("plan", *H200, "--tp", "-1"), "moeplan: --tp: '-1' is not a whole number"),
    (("plan", "kimi-k2.5", "--ram", "-24G"), "moeplan: --ram: '-24G' is not a size"),
    (("plan", *H200, "--objective", "fast"), "moeplan: --objective: 'fast' is not allowed"),
    (("plan", *H200, "--top", "0"), "moeplan: --top: '0' is not a whole number from 1"),
    (("plan", *H200, "--ttft", "soon"), "moeplan: --ttft: 'soon' is not a duration"),
    (("plan", "kimi-k2.5", "--gpu", "8xA100"), "a100-sxm-80"),
    (("plan", "kimi-k9"), "moeplan: unknown model 'kimi-k9'; nearest:"),
    (("plan", "/nowhere/config.json"), "moeplan: unknown file or folder '/nowhere/config.json'"),
    (("plan", "kimi-k2.5", "--inventory", "/nowhere"), "moeplan: --inventory /nowhere: No such file"),
    (("plan", *H200, "--output", "/nowhere/p.json"), "moeplan: --output /nowhere/p.json: No such file"),
    (("plan", *H200, "--output", "/dev/null"), "moeplan: --output /dev/null: not a regular file"),
    (("estimate", *H200, "--flash-attention", "maybe", "--engine", "vllm"), "moeplan: --flash-attention: 'maybe'"),
    (("memory", "kimi-k2.5", "--quant", "q99"), "moeplan: --quant: unknown quantization 'q99'"),
    (("memory", "kimi-k2.5", "--gpu", "8xH200"), "moeplan memory: error: unknown flag '--gpu'"),
    (("schema",), "moeplan: which schema?"),
    (("schema", "plam"), "moeplan: 'plam' is no schema; did you mean plan?"),
    (("launch", "/nowhere.json"), "moeplan: /nowhere.json: cannot be read: No such file"),
    (("launch", "/dev/zero"), "moeplan: /dev/zero: not a regular file"),
    (("plan", "a\x1b[2J\nb"), r"a\x1b[2J\nb"),
    (("plan", "kimi\udcff"), "an argument is not UTF-8"),
]


@pytest.mark.parametrize(("argv", "message"), BAD)
def test_bad_input_is_one_line_and_two(argv: tuple[str, ...], message: str) -> None:
    code, out, err = call(*argv)
    assert (code, out) == (2, "")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.startswith("moeplan")
    assert message in err


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ('{"model_type": "nobody_knows"}', 3),
        ('{"model_type": 3}', 2),
        ("[]", 2),
        ("{", 2),
        ('{"model_type": "deepseek_v3"}', 2),
    ],
)
def test_a_configuration_of_ones_own(tmp_path: Path, config: str, code: int) -> None:
    path = tmp_path / "config.json"
    path.write_text(config)
    found, out, err = call("memory", str(tmp_path))
    assert (found, out, err.count("\n")) == (code, "", 1)


def test_an_unknown_gpu_that_was_detected_cannot_be_determined(tmp_path: Path) -> None:
    gpu = {"index": 0, "name": {"value": "Unheard Of 9000", "source": "nvml", "provenance": "reported"}}
    node = {"name": "a", "gpus": [gpu], "gpu_status": {"code": "ok", "detail": "1 GPU"}}
    path = tmp_path / "inventory.json"
    path.write_text(json.dumps({"schema": "moeplan.inventory/1", "nodes": [node]}))
    code, out, err = call("plan", "kimi-k2.5", "--inventory", str(path))
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "Unheard Of 9000" in err


FLAGS = sorted(
    {
        word.split("=")[0].rstrip(",")
        for name in COMMANDS
        for word in call(name, "--help")[1].split()
        if word.startswith("--") and word not in ("--write", "--help")
    }
)
VALUES = [
    "kimi-k2.5", "llama-3.1-70b", "8xH200", "none", "RTX4090", "2xepyc-9004", "512GiB", "1", "8", "-1", "0", "128k",
    "99999999999999999999", "1e9", "nan", "inf", "-inf", "0.9", "vllm", "llama.cpp", "int4", "Q4_K_M", "bf16", "fp8",
    "on", "2s", "50ms", "chat", "400GB/s", "2TB@7GB/s", "plan", ".", "/", "-", "--", "=", "%s", "{}",
    "\0", "é", "\u202e", "\x1b",
]  # fmt: skip
TOKENS = st.one_of(st.sampled_from(FLAGS), st.sampled_from(VALUES), st.text(max_size=12))


@settings(max_examples=250)
@given(
    command=st.one_of(st.sampled_from(sorted(COMMANDS)), st.text(max_size=8)),
    model=st.sampled_from(["kimi-k2.5", "llama-3.1-70b", ""]),
    rest=st.lists(TOKENS, max_size=7),
)
def test_no_arguments_make_a_traceback(command: str, model: str, rest: list[str]) -> None:
    before = Path.cwd()
    # Benchmarks of a whole model take minutes: here they end where measuring would begin.
    unmeasured = mock.patch("moeplan.benching.run", side_effect=BadRequest("nothing is measured here"))
    with contextlib.chdir(os.environ["MOEPLAN_SCRATCH"]), unmeasured:
        code, out, err = call(command, model, *rest)
    assert Path.cwd() == before
    assert code in (0, 1, 2, 3)
    assert code in (0, 1) or (out == "" and err.startswith("moeplan") and err.count("\n") >= 1)
    assert all(line.isprintable() for line in err.splitlines())


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where random arguments may write."""
    monkeypatch.setenv("MOEPLAN_SCRATCH", str(tmp_path))


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (("plan", *H200), "plan"),
        (("plan", "kimi-k2.5", "--gpu", "RTX4090", "--engine", "vllm"), "plan"),
        (("estimate", *H200, "--engine", "sglang", "--tp", "8"), "plan"),
        (("memory", "kimi-k2.5", "--claims"), "memory"),
        (("detect",), "inventory"),
    ],
)
def test_json_is_alone_on_stdout_and_valid(moeplan: Moeplan, argv: tuple[str, ...], name: str) -> None:
    done = moeplan(*argv, "--json")
    assert done.returncode in (0, 1)
    schema(name).validate(json.loads(done.stdout))
    assert all(line.startswith("moeplan: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize("argv", [("models",), ("hardware",), ("schema", "memory"), ("schema", "inventory")])
def test_every_list_is_json_too(argv: tuple[str, ...]) -> None:
    code, out, _ = call(*argv, "--json")
    assert code == 0
    assert isinstance(json.loads(out), dict)


def test_hardware_lists_everything() -> None:
    listed = json.loads(call("hardware", "--json")[1])
    assert len(listed["gpus"]) == 67
    assert len(listed["cpus"]) == 25


def test_notes_go_to_stderr_beside_json() -> None:
    _, out, err = call("plan", "kimi-k2.5", "--gpu", "8xH200", "--ram", "512GB", "--json")
    json.loads(out)
    assert "moeplan: note: --gpu 8xH200 is read as h200-sxm-141" in err
    assert "memory modules are sold in GiB" in err


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_those_of_the_types(name: str) -> None:
    checked_in = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert checked_in == derived(name), "the schema has drifted; mend it with: python -m moeplan schema --write"
    Draft202012Validator.check_schema(json.loads(checked_in))


@pytest.mark.parametrize("broken", [("candidates", 3), ("schema", "moeplan.plan/2"), ("model", None)])
def test_the_schema_refuses_what_is_no_plan(plan: Plan, broken: tuple[str, Any]) -> None:
    value = json.loads(plan.to_json())
    schema("plan").validate({**value, "a_later_key": 1})
    assert not schema("plan").is_valid({**value, broken[0]: broken[1]})
    del value[broken[0]]
    assert not schema("plan").is_valid(value)


def test_a_tight_best_is_no_unless_allowed(monkeypatch: pytest.MonkeyPatch, tight_plan: Plan) -> None:
    import moeplan.api

    monkeypatch.setattr(moeplan.api, "plan", lambda *_, **__: tight_plan)
    assert call("plan", "kimi-k2.5")[0] == 1
    assert call("plan", "kimi-k2.5", "--allow-tight")[0] == 0


def test_output_writes_the_plan_as_printed(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")
    code, out, _ = call("plan", *H200, "--json", "--output", str(path))
    assert code == 0
    assert path.read_text() == out
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(BadRequest, match="surrogates not allowed"):
        write_whole(path, "new\udcff", "-o")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    link = tmp_path / "link"
    link.symlink_to(path)
    write_whole(link, "new", "-o")
    assert (path.read_text(), link.is_symlink()) == ("new", True)
    with pytest.raises(BadRequest, match="not a regular file"):
        write_whole(tmp_path, "x", "-o")


def test_ctrl_c_is_one_line_and_130() -> None:
    code = (
        "import signal, sys, time, moeplan.api, moeplan.cli\n"
        # A parent that runs its children in the background has them ignore the signal.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def slow(*_, **__):\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
        "moeplan.api.plan = slow\n"
        "sys.exit(moeplan.cli.main(['plan', 'kimi-k2.5']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "moeplan: interrupted\n")


@pytest.mark.parametrize("argv", [("hardware", "--json"), ("hardware",), ("models",)])
def test_a_reader_that_goes_away_is_no_error(argv: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "moeplan", *argv],
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_output_survives_a_terminal_that_knows_ascii_alone(moeplan: Moeplan) -> None:
    done = moeplan("plan", *H200, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert json.loads(moeplan("plan", *H200, "--json", PYTHONIOENCODING="ascii").stdout)


def test_the_width_is_the_terminals(moeplan: Moeplan) -> None:
    wide = max(len(row) for row in moeplan("plan", *H200, "--explain", COLUMNS="160").stdout.splitlines())
    assert 100 < wide <= 160


def test_progress_shows_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from moeplan.cli import progress

    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    with progress.progress_bar("searching") as draw:
        draw(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.progress_bar("searching") as draw:
        time.sleep(0.001)
        draw(1, 2)
        draw(0, 0)
    drawn = capsys.readouterr().err
    assert "searching [####################--------------------] 1 of 2" in drawn
    assert drawn.endswith("\r")
