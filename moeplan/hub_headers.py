"""The headers of weight files on the hub, as sparse files on the disk for the readers of ``profiles``.

A sparse file has the true header and the true size; of its data nothing is fetched and nothing is stored.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from moeplan.hub_client import Hub, Repository
from planner.errors import BadRequest, Undetermined
from profiles.headers import gguf_cursor, safetensors_header
from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.gguf import read_gguf
from profiles.headers.tensorinfo import MAX_SHARDS

FIRST_BYTES = 1 << 20
"""Of a weight file, fetched at once: most headers are smaller."""
MAX_FETCHED_BYTES = 512_000_000
"""Of all files of a model. DeepSeek R1 has 163, of each of which `FIRST_BYTES` are fetched."""
_GROWTH = 4
# What the reader says of a header that goes on where the file ends; it has no kind of error for that alone.
_CUT_OFF = "inside a header of at least"


def fetch_headers(hub: Hub, repository: Repository, paths: tuple[str, ...], folder: Path) -> tuple[Path, ...]:
    """Sparse copies, in ``folder``, of safetensors or GGUF files; whether they are good, their reader says.

    Raises what ``Hub`` raises, and ``BadRequest`` for more files or bytes than a model may have.
    """
    if len(paths) > MAX_SHARDS:
        raise BadRequest(f"{repository.id} names {len(paths):,} shards; {MAX_SHARDS:,} are allowed")
    hub.expect(len(paths))
    copies = []
    fetched_bytes = 0
    for path in paths:
        copy = folder / PurePosixPath(path).name
        fetched_bytes += _Copy(hub, repository, path, copy).fetch()
        if fetched_bytes > MAX_FETCHED_BYTES:
            raise BadRequest(f"{repository.id}: more than the {MAX_FETCHED_BYTES:,} bytes of headers allowed")
        copies.append(copy)
        hub.step_done()
    return tuple(copies)


class _Copy:
    """One weight file, fetched from its start until its header is whole."""

    def __init__(self, hub: Hub, repository: Repository, path: str, copy: Path) -> None:
        self._hub, self._repository, self._path, self._copy = hub, repository, path, copy
        self._bytes = b""
        self._size_bytes = 0

    def fetch(self) -> int:
        """Write the copy and return how many bytes were fetched."""
        self._fetch_until(FIRST_BYTES)
        if self._path.endswith(".gguf"):
            self._fetch_gguf_header()
        else:
            length = int.from_bytes(self._bytes[:8], "little")
            # A longer one is refused by the reader, which needs no more than the length for that.
            if length <= safetensors_header.MAX_HEADER_BYTES:
                self._fetch_until(8 + length)
        self._write(self._copy, self._size_bytes)
        return len(self._bytes)

    def _fetch_until(self, end: int) -> None:
        start = len(self._bytes)
        if start == 0 or start < min(end, self._size_bytes):
            part, self._size_bytes = self._hub.part(self._repository, self._path, start, end)
            self._bytes += part

    def _fetch_gguf_header(self) -> None:
        """A GGUF header does not say how long it is: fetch more as long as its reader runs into the end."""
        while len(self._bytes) < self._size_bytes and self._is_cut_off():
            if len(self._bytes) >= gguf_cursor.MAX_HEADER_BYTES:
                raise BadRequest(
                    f"{quoted(self._path)}: a header of more than the {len(self._bytes):,} bytes that are allowed"
                )
            self._fetch_until(min(_GROWTH * len(self._bytes), gguf_cursor.MAX_HEADER_BYTES))

    def _is_cut_off(self) -> bool:
        # Under a name that is no shard's: its set is not there yet.
        probe = self._copy.with_name("header.gguf.part")
        self._write(probe, len(self._bytes))
        try:
            read_gguf(probe)
        except BadModelFile as bad:
            return _CUT_OFF in bad.problem
        finally:
            probe.unlink()
        return False

    def _write(self, path: Path, size_bytes: int) -> None:
        try:
            with path.open("wb") as file:
                file.write(self._bytes)
                file.truncate(size_bytes)
        except OSError as error:
            raise Undetermined(
                f"{path.parent} cannot hold a sparse file of {size_bytes:,} bytes ({error.strerror}); set TMPDIR to a"
                " folder that can"
            ) from None
