"""A bar on the terminal for work that takes over a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_S = 1.0
WIDTH = 40


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what to call with (done, total). Draws on stderr if that is a terminal, and clears up after."""
    started = time.monotonic()
    drawn = ""

    def draw(done: int, total: int) -> None:
        nonlocal drawn
        if not sys.stderr.isatty() or time.monotonic() - started < QUIET_S or total <= 0:
            return
        filled = WIDTH * min(done, total) // total
        line = f"{label} [{'#' * filled}{'-' * (WIDTH - filled)}] {done:,} of {total:,}"
        if line != drawn:
            sys.stderr.write(f"\r{line}")
            sys.stderr.flush()
            drawn = line

    try:
        yield draw
    finally:
        if drawn:
            sys.stderr.write("\r" + " " * len(drawn) + "\r")
            sys.stderr.flush()
