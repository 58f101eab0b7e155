"""Bytes of a log into clean lines, in bounded time and memory whatever the bytes are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

MAX_LINE_BYTES: Final = 256 * 1024
"""A longer line keeps its beginning. The longest that matters is SGLang's argument list, about 12 KB."""

_LINE_END: Final = re.compile(rb"[\r\n]")
# Colours: real escapes, and the octal form that syslog writes for them.
_ESCAPES: Final = re.compile(r"(?:\x1b|#033)\[[0-9;?]{0,32}[A-Za-z]")


class NotText(ValueError):
    """The log is no text."""


def clean_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines without colours; a carriage return ends a line too, as progress bars use it.

    Raises ``NotText`` where the first chunk holds zero bytes.
    """
    rest, skipping, first = b"", False, True
    for chunk in chunks:
        if first and b"\0" in chunk:
            raise NotText("it holds zero bytes")
        first = False
        *whole, rest_of_chunk = _LINE_END.split(rest + chunk)
        for line in whole:
            if not skipping:
                yield _clean(line)
            skipping = False
        rest = rest_of_chunk
        if len(rest) > MAX_LINE_BYTES:
            if not skipping:
                yield _clean(rest)
            rest, skipping = b"", True
    if rest and not skipping:
        yield _clean(rest)


def _clean(line: bytes) -> str:
    return _ESCAPES.sub("", line[:MAX_LINE_BYTES].decode("utf-8", errors="replace"))
