"""The one error that a bad model file, or a bad configuration beside it, may cause."""

from __future__ import annotations

from os import PathLike, fspath

_QUOTED_CHARACTERS = 80


class BadModelFile(ValueError):
    """A file that cannot be read as what it claims to be.

    `str()` is one printable line: the file, what is wrong, and what is allowed.
    """

    def __init__(self, file: str | PathLike[str], problem: str) -> None:
        super().__init__(file, problem)
        self.file = file
        self.problem = problem

    def __str__(self) -> str:
        return f"{_printable(fspath(self.file))}: {_printable(self.problem)}"


def quoted(untrusted: str | bytes) -> str:
    """Text from an untrusted file as it may appear in a message: ASCII, quoted, at most about 80 characters.

    >>> quoted("a" * 1000)[-5:]
    "aaa'…"
    >>> print(quoted("clear\\x1b[2J"))
    'clear\\x1b[2J'
    """
    text = untrusted[: _QUOTED_CHARACTERS + 1]
    shown = ascii(text[:_QUOTED_CHARACTERS]).removeprefix("b")
    return shown if len(text) <= _QUOTED_CHARACTERS else f"{shown}…"


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]
