"""What a command imports: ``--help`` next to nothing, ``--json`` no library that draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moeplan.cli import COMMANDS

REPOSITORY = Path(__file__).parents[2]
DRAWS = {"rich", "textual", "plotly"}
HEAVY = DRAWS | {"pydantic", "planner", "profiles", "hwdetect", "formulas", "pynvml", "psutil"}
PROBE = """
import sys
from moeplan.cli import main
code = main(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def imported(*argv: str) -> set[str]:
    """Top-level modules after a command."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *argv],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode in (0, 1, 3), done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("argv", [("--help",), ("--version",)])
def test_help_imports_next_to_nothing(argv: tuple[str, ...]) -> None:
    assert imported(*argv) & HEAVY == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_no_library(name: str) -> None:
    assert imported(name, "--help") & (DRAWS | {"pydantic", "pynvml", "psutil"}) == set()


@pytest.mark.parametrize(
    "argv",
    [
        ("plan", "kimi-k2.5", "--gpu", "8xH200"),
        ("estimate", "kimi-k2.5", "--gpu", "8xH200", "--engine", "vllm", "--tp", "8"),
        ("memory", "kimi-k2.5", "--claims"),
        ("detect",),
        ("check",),
        ("models",),
        ("hardware",),
        ("schema", "plan"),
    ],
)
def test_json_imports_nothing_that_draws(argv: tuple[str, ...]) -> None:
    assert imported(*argv, "--json") & (DRAWS | {"yaml"}) == set()


def test_only_the_chosen_command_is_imported() -> None:
    code = "import sys, moeplan.cli as cli; cli.main(['models', '--json']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    commands = {f"moeplan.cli.{name}" for name in COMMANDS}
    assert commands & set(done.stderr.split()) == {"moeplan.cli.models"}


def test_a_plan_of_a_built_in_model_loads_no_reader_of_other_models() -> None:
    argv = ["plan", "kimi-k2.5", "--gpu", "8xH200", "--json"]
    code = f"import sys, moeplan.cli as cli; cli.main({argv}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    readers = {"moeplan.hub", "profiles.weights", "profiles.headers.gguf", "profiles.headers.safetensors"}
    assert readers & set(done.stderr.split()) == set()


def test_a_plan_loads_no_other_report() -> None:
    argv = ["plan", "kimi-k2.5", "--gpu", "8xH200", "--json"]
    code = f"import sys, moeplan.cli as cli; cli.main({argv}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    others = ("calculator", "check", "compare", "costing", "fleet", "grid", "memory_report", "recommend", "verify")
    found = set(done.stderr.split())
    assert {f"planner.{name}" for name in (*others, "calibrate", "findings", "simulate")} & found == set()
    assert {
        "hwdetect.bench.result",
        "hwdetect.detect",
        "hwdetect.serving",
        "moeplan.launch",
        "difflib",
    } & found == set()
    assert "planner.assemble" in found
