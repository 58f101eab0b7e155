"""One tensor as a file header describes it, and how many a reader takes in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

MAX_TENSORS_PER_FILE = 131_072
"""Kimi K2.5 has 208,550 over 64 files. The limit keeps one file under a second and 200 MB."""

MAX_TENSORS = 393_216
"""Over all shards of a model."""

MAX_SHARDS = 4_096

MAX_NAME_BYTES = 256
"""Of a tensor's name. ggml itself stops at 64, and published safetensors names stay under 150."""


class TensorInfo(NamedTuple):
    """`shape` is row-major: rows first, columns last. `offset` counts from the start of `file`, in bytes."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    offset: int
