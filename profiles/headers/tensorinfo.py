"""One tensor as a file header describes it, and how many a reader takes in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

MAX_TENSORS_PER_FILE = 98_304
"""Kimi K2.5 has 208,550 over 64 files. The limit keeps one file, however hostile, under a second and 200 MB."""

MAX_TENSORS = 655_360
"""Over all shards of a model. Kimi K3 has 497,220."""

MAX_SHARDS = 4_096

MAX_NAME_BYTES = 256
"""Of a tensor's name. ggml itself stops at 64, and published safetensors names stay under 150."""

MAX_SET_NAME_BYTES = 64_000_000
"""Of all tensor names of a model. Those of Kimi K3 have 37 million."""


class TensorKind(NamedTuple):
    """What tensors of one shape and type share. `shape` is row-major: rows first, columns last."""

    type_name: str
    shape: tuple[int, ...]
    nbytes: int


class TensorInfo(NamedTuple):
    """`shape` is row-major: rows first, columns last. `offset` counts from the start of `file`, in bytes."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    offset: int


_PRINTABLE_ASCII = bytes(range(0x20, 0x7F))


def is_printable(text: str) -> bool:
    """What `str.isprintable` says, four times as fast on the megabytes of names that are all ASCII."""
    return not text.encode("ascii").translate(None, _PRINTABLE_ASCII) if text.isascii() else text.isprintable()
