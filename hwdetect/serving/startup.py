"""One log, whichever engine wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Protocol

from hwdetect.serving import llamacpp, sglang, vllm
from hwdetect.serving.observation import Observation

MAX_MARKED_LINES: Final = 50_000
"""A start-up has some hundred lines that matter; a log with more than this many is not read further."""

# Names end on terminals and in one-line messages.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Fifty substring searches are three times as fast as one pattern of fifty alternatives.
_MARKS: Final = tuple(dict.fromkeys((*vllm.MARKS, *sglang.MARKS, *llamacpp.MARKS)))


class Reader(Protocol):
    """Reads the start-up log of one engine, line by line."""

    def feed(self, line: str) -> None:
        """One line of the log, any line."""
        ...

    def observation(self) -> Observation | None:
        """What was found; None where the engine did not write the log."""
        ...


def read_startup(lines: Iterable[str]) -> Observation | None:
    """What the last start-up in a log shows; None where no engine that is known wrote it.

    Where lines of several engines are in it, the one with most terms counts.
    """
    readers: tuple[Reader, ...] = (vllm.VllmReader(), sglang.SglangReader(), llamacpp.LlamaCppReader())
    marked = 0
    for line in lines:
        if not any(mark in line for mark in _MARKS):
            continue
        marked += 1
        if marked > MAX_MARKED_LINES:
            break
        plain = _CONTROL.sub("\ufffd", line)
        for reader in readers:
            reader.feed(plain)
    found = [observation for reader in readers if (observation := reader.observation()) is not None]
    return max(found, key=lambda observation: len(observation.measurements), default=None)
