"""Where the checkout is, and what its pyproject.toml says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def checkout() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def pyproject(checkout: Path) -> dict[str, Any]:
    return tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def packages(pyproject: dict[str, Any]) -> list[str]:
    """The import packages that the wheel installs."""
    found: list[str] = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return found
