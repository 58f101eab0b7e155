"""A real terminal; without MOEPLAN_TERMINAL nothing here is collected."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

collect_ignore_glob = [] if os.environ.get("MOEPLAN_TERMINAL") else ["*"]

WAIT_S = 60
REPOSITORY = Path(__file__).parents[2]


class Terminal(NamedTuple):
    """A tmux server of its own with one window, in which programs start in ``folder``."""

    socket: Path
    folder: Path

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self.socket), "-f", "/dev/null", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    def start(self, *argv: str, size: tuple[int, int] = (80, 24), variables: str = "") -> None:
        """The program in a window of this size, with variables as ``NAME=value``; the window stays when it ends."""
        program = shlex.join([sys.executable, "-m", "moeplan", *argv])
        # pytest's plugins set a size, which would overrule the terminal's own.
        where = f"-u COLUMNS -u LINES PYTHONPATH={shlex.quote(str(REPOSITORY))} LC_ALL=C.UTF-8"
        where += f" XDG_DATA_HOME={shlex.quote(str(self.folder / 'data'))}"
        where += f" {variables}"
        line = f"cd {shlex.quote(str(self.folder))} && env {where} {program}; echo ended with $?; cat"
        self.tmux("new-session", "-d", "-s", "test", "-x", str(size[0]), "-y", str(size[1]), line)

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", "-t", "test", *keys)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-t", "test", "-l", text)

    def shown(self, *flags: str) -> str:
        return self.tmux("capture-pane", "-p", *flags, "-t", "test")

    def wait_for(self, text: str) -> str:
        """What is shown once the text is in it."""
        end = time.monotonic() + WAIT_S
        while text not in (shown := self.shown()):
            assert time.monotonic() < end, f"{text!r} did not appear:\n{shown}"
            time.sleep(0.1)
        return shown


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(tmp_path / "tmux", tmp_path)
    yield found
    subprocess.run(["tmux", "-S", str(found.socket), "kill-server"], capture_output=True, timeout=30, check=False)
