"""Reading a GGUF header front to back through a small window, whatever lengths the file claims."""

from __future__ import annotations

import struct
from typing import Any, Literal, TypeAlias

from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.modelfile import ModelFile

ByteOrder: TypeAlias = Literal["little", "big"]

MAX_HEADER_BYTES = 100_000_000
"""Kimi K2.5 has 7 million, most of it the vocabulary."""

VERSIONS = (2, 3)

_FIRST_WINDOW_BYTES = 65_536
_MAX_WINDOW_BYTES = 4_194_304


class Cursor:
    """A position in a GGUF header. All raise `BadModelFile` where the file ends or claims too much."""

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        self.byte_order: ByteOrder = "little"
        self._prefix = "<"
        self._window = b""
        self._window_start = 0
        self._at = 0
        self._next_window_bytes = _FIRST_WINDOW_BYTES

    @property
    def position(self) -> int:
        """Bytes from the start of the file."""
        return self._window_start + self._at

    def bad(self, problem: str) -> BadModelFile:
        """The error to raise about this file."""
        return self.file.bad(problem)

    def read_preamble(self) -> int:
        """Read magic and version, from which the byte order follows, and return the version."""
        magic = self._take(4)
        if magic != b"GGUF":
            raise self.bad(f"begins with {quoted(magic)}; a GGUF file begins with 'GGUF'")
        raw = self._take(4)
        orders: tuple[ByteOrder, ...] = ("little", "big")
        versions = {order: int.from_bytes(raw, order) for order in orders}
        for order, version in versions.items():
            if version in VERSIONS:
                self.byte_order = order
                self._prefix = "<" if order == "little" else ">"
                return version
        raise self.bad(f"GGUF version {min(versions.values())}; versions 2 and 3 are allowed")

    def unpack(self, layout: str) -> tuple[Any, ...]:
        """The values of a `struct` layout, in the file's byte order."""
        layout = self._prefix + layout
        length = struct.calcsize(layout)
        self._need(length)
        values = struct.unpack_from(layout, self._window, self._at)
        self._at += length
        return values

    def text(self, what: str, max_bytes: int) -> str:
        """A string with its length before it."""
        (length,) = self.unpack("Q")
        if length > max_bytes:
            raise self.bad(f"{what} claims {length:,} bytes; {max_bytes:,} are allowed")
        return self.text_of(length, what)

    def text_of(self, length: int, what: str) -> str:
        """A string of a known length."""
        raw = self._take(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.bad(f"{what}, {quoted(raw)}, is not UTF-8, which alone is allowed") from error

    def skip(self, length: int) -> None:
        """Step over `length` bytes without reading them."""
        self._at += length
        self._refuse_beyond(self.position)

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings, reading their lengths only."""
        length_at = struct.Struct(self._prefix + "Q").unpack_from
        window, at = self._window, self._at
        for _ in range(count):
            if at + 8 > len(window):
                self._at = at
                self._need(8)
                window, at = self._window, self._at
            at += 8 + length_at(window, at)[0]
        self._at = at
        self._refuse_beyond(self.position)

    def _take(self, length: int) -> bytes:
        self._need(length)
        taken = self._window[self._at : self._at + length]
        self._at += length
        return taken

    def _need(self, length: int) -> None:
        """Have the next `length` bytes in the window."""
        if self._at + length <= len(self._window):
            return
        self._refuse_beyond(self.position + length)
        self._window_start, self._at = self.position, 0
        self._window = self.file.read_at(self._window_start, max(length, self._next_window_bytes))
        self._next_window_bytes = min(2 * self._next_window_bytes, _MAX_WINDOW_BYTES)
        if len(self._window) < length:
            raise self.bad("became shorter while it was being read")

    def _refuse_beyond(self, position: int) -> None:
        if position > self.file.size_bytes:
            raise self.bad(
                f"ends after {self.file.size_bytes:,} bytes, inside a header of at least {position:,};"
                " a complete download is allowed"
            )
        if position > MAX_HEADER_BYTES:
            raise self.bad(f"a header of more than the {MAX_HEADER_BYTES:,} bytes that are allowed")
