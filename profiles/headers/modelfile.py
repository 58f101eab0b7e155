"""Opening a model file for reading its head: regular files only, every failure a `BadModelFile`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from profiles.headers.errors import BadModelFile

_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER_BYTES = 1_024
"""Both as the specification of Git LFS has them. It is what a clone without Git LFS holds in place of weights."""


class ModelFile:
    """An open file of `size_bytes`, read by position.

    Never mapped into memory: a file that shrinks meanwhile must not kill the process.
    """

    def __init__(self, path: Path, stream: FileIO, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._stream = stream

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer only where the file ends."""
        self._stream.seek(offset)
        parts = []
        while length > 0 and (part := self._stream.read(length)):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def bad(self, problem: str) -> BadModelFile:
        """The error to raise about this file."""
        return BadModelFile(self.path, problem)


@contextmanager
def open_model_file(path: Path) -> Iterator[ModelFile]:
    """Open a regular file. A folder, pipe or device and every `OSError` inside become `BadModelFile`."""
    with os_errors_as_bad_file(path):
        # Asked before opening: opening a pipe would wait for its writer.
        try:
            mode = path.stat().st_mode
        except ValueError as error:  # such as a null byte, which no file system can hold
            raise BadModelFile(path, f"cannot be read: {error}") from error
        if not stat.S_ISREG(mode):
            raise BadModelFile(path, "not a regular file; a file is allowed, no folder, pipe or device")
        with FileIO(path) as stream:
            file = ModelFile(path, stream, os.fstat(stream.fileno()).st_size)
            if file.size_bytes <= _MAX_POINTER_BYTES and file.read_at(0, len(_POINTER)) == _POINTER:
                raise file.bad("a Git LFS pointer, not the file that it stands for; `git lfs pull` fetches that")
            yield file


@contextmanager
def os_errors_as_bad_file(path: Path) -> Iterator[None]:
    """Translate what the operating system says about `path`, with its reason, into `BadModelFile`."""
    try:
        yield
    except OSError as error:
        raise BadModelFile(path, f"cannot be read: {error.strerror or error}") from error
