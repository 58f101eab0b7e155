"""What ``moeplan tui`` costs until its first screen stands in a terminal.

Run: ``python -m benchmarks.first_paint``. Prints CPU seconds (user and system) and seconds by the clock of fresh
processes in a pseudo terminal, from their start until the knobs are drawn, the median of several runs; exits with 1
where the CPU seconds are more than ``LIMIT_S``. The clock tells nothing on a busy machine.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Final, NamedTuple

import psutil

LIMIT_S: Final = 0.6
WAIT_S: Final = 60.0
REPOSITORY: Final = Path(__file__).parents[1]
LAST_DRAWN: Final = b"Layout"
"""What stands at the end of the first screen."""
ARGV: Final = ("-m", "moeplan", "tui", "--gpu", "8xH200")


class Paint(NamedTuple):
    """One start: seconds until the first screen."""

    cpu_s: float
    wall_s: float


def first_paint(size: tuple[int, int] = (120, 40)) -> Paint:
    """Start the program in a terminal of its own, and end it once it has drawn. Raises ``TimeoutError``."""
    begun = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(size[0]), "LINES": str(size[1])}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        os.execve(sys.executable, [sys.executable, *ARGV], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    try:
        seen = b""
        while LAST_DRAWN not in seen:
            if not select.select([terminal], [], [], WAIT_S)[0]:
                raise TimeoutError(f"nothing was drawn within {WAIT_S:g} s")
            seen += os.read(terminal, 1 << 16)
        used = psutil.Process(pid).cpu_times()
        return Paint(used.user + used.system, time.monotonic() - begun)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    # The first run reads from disk and writes byte code.
    first_paint()
    runs = [first_paint() for _ in range(repeats)]
    for name, values in (("CPU", [run.cpu_s for run in runs]), ("clock", [run.wall_s for run in runs])):
        print(f"{name:6} median {statistics.median(values):.2f} s, {min(values):.2f} to {max(values):.2f}")
    return 0 if statistics.median(run.cpu_s for run in runs) <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
