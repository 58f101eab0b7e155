"""What is built from the checkout: the sdist, the wheel that is built from it, and that wheel installed."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest

import moeplan

SUFFIXES = {".css", ".js", ".json", ".py", ".tcss", ".toml", ".typed"}
ADDED_BY_HATCHLING = {".gitignore", "PKG-INFO", "pyproject.toml"}


class Built(NamedTuple):
    sdist: Path
    wheel: Path


def _run(command: Sequence[str | Path], folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, the wheel from the sdist, without the network."""
    folder = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, checkout], folder)
    return Built(next(folder.glob("*.tar.gz")), next(folder.glob("*.whl")))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel; its dependencies are those of the running one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    _run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(built.wheel)], folder)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # Appended to sys.path without its own .pth files: an editable install of the checkout stays out of reach.
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    return python


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(
    built: Built, checkout: Path, packages: list[str]
) -> None:
    files = {PurePosixPath(name) for name in zipfile.ZipFile(built.wheel).namelist()}
    ours = {path for path in files if not path.parts[0].endswith(".dist-info")}
    expected = {
        PurePosixPath(path.relative_to(checkout))
        for name in packages
        for path in (checkout / name).rglob("*")
        if path.is_file() and not any(part == "__pycache__" or part[0] == "." for part in path.parts[-3:])
    }
    assert ours == expected
    assert {path.suffix or path.name for path in ours} <= SUFFIXES


def test_the_wheel_tells_version_licence_and_requirements(built: Built, pyproject: dict[str, Any]) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(wheel.read(metadata).decode())
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
    assert headers["Version"] == moeplan.__version__
    assert headers["License-Expression"] == "Apache-2.0"
    always = [line for line in headers.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(always) == len(pyproject["project"]["dependencies"])


def test_the_sdist_holds_its_whitelist_and_nothing_else(built: Built, pyproject: dict[str, Any]) -> None:
    with tarfile.open(built.sdist) as sdist:
        top = {PurePosixPath(name).parts[1] for name in sdist.getnames()}
    listed = set(pyproject["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"])
    assert top == listed | ADDED_BY_HATCHLING


def test_the_installed_packages_come_from_the_wheel(installed: Path, packages: list[str], tmp_path: Path) -> None:
    script = f"import json; print(json.dumps([__import__(name).__file__ for name in {packages}]))"
    found = json.loads(_run([installed, "-I", "-c", script], tmp_path))
    (site_packages,) = installed.parents[1].glob("lib/python*/site-packages")
    assert found == [str(site_packages / name / "__init__.py") for name in packages]


def test_the_installed_program_plans(installed: Path, tmp_path: Path) -> None:
    """Facts and schemas travel with the wheel, or this has nothing to plan with."""
    moeplan_command = str(installed.with_name("moeplan"))
    answer = json.loads(_run([moeplan_command, "plan", "kimi-k2.5", "--gpu", "8xH200", "--json"], tmp_path))
    assert answer["schema"] == "moeplan.plan/1"
    assert answer["candidates"][0]["fits"] is True
