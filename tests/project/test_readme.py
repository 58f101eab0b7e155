"""The README's commands, example, table and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moeplan.cli import COMMANDS


@pytest.fixture(scope="module")
def readme(checkout: Path) -> str:
    return (checkout / "README.md").read_text(encoding="utf-8")


def test_its_commands_are_one_line_each_and_ci_runs_them(readme: str, checkout: Path) -> None:
    commands = dict(re.findall(r"^<!-- command: (\w+) -->\n```sh\n(python3 .+)\n```$", readme, flags=re.MULTILINE))
    ci = (checkout / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^run_readme_command (\w+)$", ci, flags=re.MULTILINE) == list(commands) == ["plan", "test"]
    assert commands["plan"].endswith(" && .venv/bin/moeplan plan kimi-k2.5 --gpu 8xH200")
    assert commands["test"].endswith(" && .venv/bin/python -m pytest -n 2 --dist loadfile")


def test_it_lists_every_command_in_the_programs_order(readme: str) -> None:
    assert re.findall(r"^\| `moeplan ([\w-]+)", readme, flags=re.MULTILINE) == list(COMMANDS)


def test_its_python_example_runs(readme: str, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.+?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    first, launch = capsys.readouterr().out.splitlines()
    assert "kimi" in launch.lower()
    assert "tp=" in first


def test_the_files_and_folders_it_names_exist(readme: str, checkout: Path) -> None:
    named = re.findall(r"`((?:\w+/)+\w*|[A-Z]+\.md)`", readme)
    assert {"docs/adr/", "profiles/", "scripts/check"} <= set(named)
    assert [path for path in named if not (checkout / path).exists()] == []
