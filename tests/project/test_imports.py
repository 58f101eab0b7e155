"""The layers, kept by import-linter, and the names of the packages."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

STANDARD_MODULES_OF_FORMULAS = {"__future__", "collections.abc", "functools", "itertools", "math", "typing"}
# One import per contract that it must not survive.
BREACHES = {
    "layers": ("profiles", "import hwdetect"),
    "formulas": ("formulas", "import numpy"),
    "planner": ("planner", "import hwdetect.nvidia"),
    "tui": ("tui", "import formulas"),
    "nvml": ("hwdetect", "import pynvml"),
    "textual": ("moeplan", "import textual"),
    "plotly": ("tui", "import plotly"),
    "yaml": ("planner", "import yaml"),
}


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    # The command is a console script; started like this it is the one of this interpreter.
    script = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    command = [sys.executable, "-c", script, "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_every_contract_is_kept(checkout: Path) -> None:
    result = _lint_imports(checkout)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_contract_can_be_broken(
    checkout: Path, packages: list[str], pyproject: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copy(checkout / "pyproject.toml", tmp_path)
    for name in packages:
        shutil.copytree(checkout / name, tmp_path / name, ignore=shutil.ignore_patterns("*.toml", "*.json"))
    for number, (package, statement) in enumerate(BREACHES.values()):
        (tmp_path / package / f"breach_{number}.py").write_text(f"{statement}\n", encoding="utf-8")

    contracts = {contract["id"]: contract["name"] for contract in pyproject["tool"]["importlinter"]["contracts"]}
    assert set(contracts) == set(BREACHES)
    result = _lint_imports(tmp_path)
    broken = re.findall(r"^(.+?) BROKEN", result.stdout, flags=re.MULTILINE)
    assert set(broken) == set(contracts.values()), result.stdout + result.stderr


def test_formulas_imports_arithmetic_and_types_only(checkout: Path) -> None:
    imported: set[str] = set()
    for path in (checkout / "formulas").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}: a relative import"
                imported.add(node.module or "")
    foreign = {name for name in imported if name.partition(".")[0] != "formulas"}
    assert foreign <= STANDARD_MODULES_OF_FORMULAS


def test_no_other_installed_distribution_provides_a_package_of_ours(packages: list[str]) -> None:
    """docs/adr/0001: such a distribution and this one would overwrite each other's files."""
    owners = packages_distributions()
    assert {name: owners[name] for name in packages if set(owners.get(name, ())) - {"moeplan"}} == {}
