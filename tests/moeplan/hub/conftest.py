"""A hub of one's own, and the program run against it with nothing but the environment that users have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.moeplan.hub.server import HubServer

REPOSITORY = Path(__file__).parents[3]

Moeplan = Callable[..., "subprocess.CompletedProcess[str]"]


def assert_refused(done: subprocess.CompletedProcess[str], code: int, line: str) -> None:
    """That line alone, and that exit code."""
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"moeplan: {line}\n")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.stop()


@pytest.fixture
def environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """As a user sets it: mirror, cache and token, and a home without cards."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "XDG_"))}
    return {
        **kept,
        "HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_SecretSecretSecret",
        # Else the client asks, once a day, for things of its own.
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(REPOSITORY),
    }


@pytest.fixture
def moeplan(environment: dict[str, str], tmp_path: Path) -> Moeplan:
    """Runs the program in an empty folder; an environment variable of None is taken away."""
    (tmp_path / "empty").mkdir()

    def run(*arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        changed = {**environment, **variables}
        done = subprocess.run(
            [sys.executable, "-m", "moeplan", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path / "empty",
            env={name: value for name, value in changed.items() if value is not None},
            check=False,
        )
        assert "hf_Secret" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run
