"""What holds for the files of the checkout as such."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HIDDEN_BUT_OURS = {".ci", ".gitignore"}
NOT_OURS = {"__pycache__", "build", "dist"}
# Bracketed letters, so that this line does not find itself. Containers of engines do run as that home's owner.
MACHINE_PATH = re.compile(r"/wor[k]/|/tm[p]/(dev|bash_jobs)\b|/op[t]/(pypi|wheels)\b|/roo[t]/(?!\.cache/)|\.librar[y]/")


def _files(folder: Path) -> Iterator[Path]:
    """Every file that a commit could take: not hidden, not generated, in no virtual environment."""
    for entry in sorted(folder.iterdir()):
        hidden = entry.name.startswith(".") and entry.name not in HIDDEN_BUT_OURS
        if hidden or entry.name in NOT_OURS or (entry / "pyvenv.cfg").exists():
            continue
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


def test_every_package_is_typed(checkout: Path, packages: list[str]) -> None:
    assert [name for name in packages if not (checkout / name / "py.typed").is_file()] == []


def test_every_package_is_layered(packages: list[str], pyproject: dict[str, Any]) -> None:
    assert set(packages) == set(pyproject["tool"]["importlinter"]["root_packages"])


def test_every_folder_is_in_the_sdist_and_every_one_with_python_is_type_checked(
    checkout: Path, pyproject: dict[str, Any]
) -> None:
    tool = pyproject["tool"]
    inside = [path.relative_to(checkout) for path in _files(checkout) if path.parent != checkout]
    assert {path.parts[0] for path in inside} <= set(tool["hatch"]["build"]["targets"]["sdist"]["only-include"])
    assert {path.parts[0] for path in inside if path.suffix == ".py"} == set(tool["mypy"]["files"])


def test_no_file_names_a_path_of_the_machine_it_was_written_on(checkout: Path) -> None:
    found = [
        f"{path.relative_to(checkout)}:{number}: {line.strip()}"
        for path in _files(checkout)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_the_scripts_can_be_run(checkout: Path) -> None:
    scripts = [checkout / ".ci" / "run", *(checkout / "scripts").iterdir()]
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []
    assert [path.name for path in scripts if "set -euo pipefail" not in path.read_text(encoding="utf-8")] == []
