"""Settings of every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.nvml_shim.machine import Shim

# What runs in the tests' subprocesses is no test itself.
collect_ignore_glob = ["support/*"]

# A slow machine is no failure. (Where CI is set, Hypothesis is reproducible by its own profile, the parent here.)
settings.register_profile("moeplan", settings(), deadline=None)
settings.load_profile("moeplan")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``pytest --update-golden`` writes tests/golden/*.txt anew, to be read before they are committed.

    It stands here because options of a folder below the test paths come too late for a run of everything.
    """
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.txt anew")


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What was measured on this machine changes what is planned for it, and a terminal's size what is printed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """The NVML library of the scenarios, built once."""
    return Shim(tmp_path_factory.mktemp("nvml"))
