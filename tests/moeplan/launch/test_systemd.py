"""Units, checked by systemd-analyze and read back by the rules of systemd.service(5) and systemd.exec(5)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.errors import BadRequest
from planner.plan import Plan
from tests.moeplan.launch.launching import (
    HOSTILE,
    KINDS,
    called,
    commands,
    fake,
    planned,
    put,
    run,
    with_arguments,
    with_launch,
    written,
)

ANALYZE = shutil.which("systemd-analyze")
ESCAPES = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "t": "\t", "s": " "}
HOST = {"HEAD_ADDRESS": "10.0.0.1", "MODEL_FOLDER": "/my weights"}


def settings(unit: str) -> dict[str, list[str]]:
    """Values by key in the order of the file, continued lines joined."""
    found: dict[str, list[str]] = {}
    for line in unit.replace("\\\n", " ").splitlines():
        if line and line[0] not in "#;[":
            key, separator, value = line.partition("=")
            assert separator, line
            found.setdefault(key, []).append(value)
    return found


def words(text: str) -> Iterator[str]:
    """The words of a value: quotes at their begin and end, C escapes. What systemd would warn of, fails."""
    place = 0
    while place < len(text):
        if text[place] == " ":
            place += 1
            continue
        quote = text[place] if text[place] in "\"'" else ""
        place += len(quote)
        word = ""
        while True:
            if place == len(text):
                assert not quote, f"an open quote in {text}"
                break
            character = text[place]
            if character == "\\":
                word += ESCAPES[text[place + 1]]
                place += 2
                continue
            if character == quote:
                place += 1
                assert place == len(text) or text[place] == " ", f"text behind a quote in {text}"
                break
            if not quote:
                if character == " ":
                    break
                assert character not in "\"';", f"{character} in a bare word of {text}"
            word += character
            place += 1
        yield word


def with_percents(word: str) -> str:
    """``%%`` is one; any other specifier would be replaced."""
    assert not re.search(r"%(?!%)", word.replace("%%", "")), word
    return word.replace("%%", "%")


def command(value: str, variables: dict[str, str]) -> list[str]:
    """An Exec line as systemd starts it: ``$$`` one dollar, ``${NAME}`` within a word, ``$NAME`` alone split."""

    def one(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], "")

    argv: list[str] = []
    for word in words(value):
        text = with_percents(word)
        alone = re.fullmatch(r"\$([A-Za-z_][A-Za-z0-9_]*)", text)
        if alone:
            argv += variables.get(alone[1], "").split()
        else:
            argv.append(re.sub(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}", one, text))
    return argv


def units(files: dict[str, str]) -> list[str]:
    return [text for name, text in files.items() if name.endswith(".service")]


def started(unit: str, folder: Path, program: str, **variables: str) -> tuple[str, ...]:
    """The command of the unit, executed."""
    (value,) = settings(unit)["ExecStart"]
    place = fake(folder, program)
    done = run(command(value, {**HOST, **variables}), folder, place, **HOST, **variables)
    assert done.returncode == 0, done.stderr
    return called(folder).argv


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_systemd_accepts_every_unit(kind: str, tmp_path: Path) -> None:
    put(written(planned(kind), "systemd"), tmp_path)
    assert ANALYZE is not None
    paths = [str(path) for path in tmp_path.glob("*.service")]
    for path in paths:
        Path(path).chmod(0o644)
    done = subprocess.run([ANALYZE, "verify", *paths], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_every_unit_starts_the_plans_command(kind: str, tmp_path: Path) -> None:
    plan = planned(kind)
    release = plan.candidates[0].quantization.release
    folder = plan.candidates[0].engine.name == "ktransformers"
    for unit, argv in zip(units(written(plan, "systemd")), commands(plan), strict=True):
        here = [text.replace("HEAD_ADDRESS", "10.0.0.1") for text in argv]
        here = ["/my weights" if folder and text == release else text for text in here]
        assert started(unit, tmp_path, argv[0]) == tuple(here)


def test_hostile_arguments_and_variables_arrive_byte_for_byte(plan: Plan, tmp_path: Path) -> None:
    env = {f"V{number}": text for number, text in enumerate(HOSTILE)}
    (unit,) = units(written(with_launch(plan, ("engine", *HOSTILE), env), "systemd"))
    assert started(unit, tmp_path, "engine") == ("engine", *HOSTILE)
    given = [with_percents(word) for value in settings(unit)["Environment"] for word in words(value)]
    read = dict(pair.split("=", 1) for pair in given)
    assert {name: read[name] for name in env} == env


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
def test_systemd_accepts_hostile_text(plan: Plan, tmp_path: Path) -> None:
    env = {f"V{number}": text for number, text in enumerate(HOSTILE)}
    (unit,) = units(written(with_launch(plan, ("engine", *HOSTILE), env), "systemd"))
    path = tmp_path / "model-a.service"
    path.write_text(unit, encoding="utf-8")
    assert ANALYZE is not None
    done = subprocess.run([ANALYZE, "verify", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("key", ["", "a key's $value"])
def test_a_key_as_a_flag_comes_from_the_settings(plan: Plan, tmp_path: Path, key: str) -> None:
    keyed = with_arguments(plan, "--port", "8000", api_key_flag="--api-key", api_key_variable="A_KEY")
    (unit,) = units(written(keyed, "systemd"))
    wanted = ("engine", "--port", "8000", *(("--api-key", key) if key else ()))
    assert started(unit, tmp_path, "engine", A_KEY=key) == wanted


@pytest.mark.parametrize("address", ["", "10.0.0.1"])
def test_without_the_heads_address_nothing_starts(tmp_path: Path, address: str) -> None:
    unit = units(written(planned("sglang on 2 x 8xH100"), "systemd"))[1]
    (value,) = settings(unit)["ExecStartPre"]
    done = run(command(value, {}), tmp_path, HEAD_ADDRESS=address)
    message = "HEAD_ADDRESS: set it to the address of node 0 that the other nodes reach\n"
    assert (done.returncode, done.stderr) == ((0, "") if address else (1, message))


def test_a_unit_is_active_when_the_server_answers_and_failed_when_it_ended(plan: Plan, tmp_path: Path) -> None:
    """A curl that fails twice, then finds the server; and one that never does while the main process is gone."""
    (unit,) = units(written(plan, "systemd"))
    (value,) = settings(unit)["ExecStartPost"]
    place = tmp_path / "bin"
    place.mkdir()
    (place / "curl").write_text('#!/bin/sh\necho "$@" >> asked\n[ "$(wc -l < asked)" -gt 2 ]\n')
    (place / "sleep").write_text("#!/bin/sh\n")
    for path in place.iterdir():
        path.chmod(0o755)
    sleeping = subprocess.Popen(["/bin/sleep", "60"])
    try:
        assert run(command(value, {}), tmp_path, place, MAINPID=str(sleeping.pid)).returncode == 0
    finally:
        sleeping.kill()
        sleeping.wait()
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 3 and asked[0].endswith("http://127.0.0.1:8000/health")
    (tmp_path / "asked").unlink()
    assert run(command(value, {}), tmp_path, place, MAINPID=str(sleeping.pid)).returncode == 1


def test_the_settings_hold_no_secret_and_name_what_is_required(two_node_plan: Plan) -> None:
    files = written(two_node_plan, "systemd")
    lines = files["model-a.env"].splitlines()
    # Empty, so that the unit stops until somebody says it.
    assert "HEAD_ADDRESS=" in lines
    assert {"#VLLM_API_KEY=", "#HF_TOKEN="} <= set(lines)
    assert all("EnvironmentFile=/etc/moeplan/model-a.env\n" in unit for unit in units(files))


def test_a_machine_without_systemd_is_refused(plan: Plan) -> None:
    with pytest.raises(BadRequest, match="systemd is Linux's, these GPUs are Apple's"):
        written(with_arguments(plan, gpu_vendor="apple"), "systemd")
