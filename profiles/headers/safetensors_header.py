"""The header of one safetensors file, checked by columns: thousands of tensors have a handful of distinct kinds."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import sub
from pathlib import Path

from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.modelfile import ModelFile, open_model_file
from profiles.headers.safetensors_text import MAX_METADATA_BYTES, Columns, read_columns
from profiles.headers.strictjson import JsonValue, load_json_object
from profiles.headers.tensorinfo import (
    MAX_NAME_BYTES,
    MAX_TENSORS_PER_FILE,
    TensorInfo,
    TensorKind,
    is_printable,
)

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

MAX_KINDS = 16_384
"""Of tensors, by type and shape. Kimi K2.5 has 34."""

DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element, as the reference implementation 0.8.0 accepts them."""

_S = r"[ \t\n\r]*+"
_INT = r"(?:0|[1-9][0-9]{0,18}+)"
_SHAPE = re.compile(r"\[" + _S + r"(?:" + _INT + _S + r"(?:," + _S + _INT + _S + r"){0,15}+)?+\]")

_Triple = tuple[str, str, int]
"""dtype, shape and bytes of a tensor, as they are spelled."""


class _BadKind(Exception):
    """A triple that no tensor may have, and why."""

    def __init__(self, triple: _Triple, problem: str) -> None:
        super().__init__(triple, problem)
        self.triple = triple
        self.problem = problem


class Kinds(dict[_Triple, TensorKind]):
    """Every kind of tensor met so far; a new one is checked. Raises `_BadKind`."""

    def __missing__(self, triple: _Triple) -> TensorKind:
        raw_dtype, raw_shape, nbytes = triple
        if len(self) >= MAX_KINDS:
            raise _BadKind(triple, f"is of one more than the {MAX_KINDS:,} types and shapes that are allowed")
        bits = DTYPE_BITS.get(raw_dtype)
        if bits is None:
            raise _BadKind(triple, f"has dtype {quoted(raw_dtype)}; {', '.join(DTYPE_BITS)} are allowed")
        spelled = raw_shape.strip(":,")
        if not _SHAPE.fullmatch(spelled):
            raise _BadKind(triple, f"has shape {quoted(spelled)}; up to 16 whole numbers are allowed")
        lengths = spelled[1:-1].strip()
        shape = tuple(map(int, lengths.split(","))) if lengths else ()
        if math.prod(shape) * bits != nbytes * 8:
            raise _BadKind(
                triple,
                f"has {nbytes:,} bytes, which do not fit dtype {raw_dtype} and shape {list(shape)}, as they must",
            )
        kind = self[triple] = TensorKind(raw_dtype, shape, nbytes)
        return kind


@dataclass(slots=True)
class Header:
    """What one file holds. `names` and `kinds` are those of its tensors, in the order of their data.

    The data of the first begins at `data_start`, that of each other where the one before it ends.
    """

    path: Path
    names: list[str]
    kinds: list[TensorKind]
    metadata: dict[str, JsonValue]
    header_bytes: int
    data_bytes: int

    @property
    def data_start(self) -> int:
        """Where the data begins, in bytes from the start of the file."""
        return 8 + self.header_bytes

    def tensors(self) -> Iterator[TensorInfo]:
        """Name, kind and place of every tensor."""
        offsets = accumulate((kind.nbytes for kind in self.kinds), initial=self.data_start)
        for name, kind, offset in zip(self.names, self.kinds, offsets, strict=False):
            yield TensorInfo(name, *kind, self.path, offset)


def read_header(path: Path, kinds: Kinds) -> Header:
    """Read and check the header of a file; `kinds` may come from other files of the set. Raises `BadModelFile`."""
    with open_model_file(path) as file:
        header_bytes = int.from_bytes(file.read_at(0, 8), "little")
        if file.size_bytes < 8:
            raise file.bad(f"has {file.size_bytes} bytes; a safetensors file begins with 8 of header length")
        if header_bytes > MAX_HEADER_BYTES:
            raise file.bad(f"claims a header of {header_bytes:,} bytes; {MAX_HEADER_BYTES:,} are allowed")
        if 8 + header_bytes > file.size_bytes:
            raise file.bad(f"claims a header of {header_bytes:,} bytes but has {file.size_bytes:,}; it must fit inside")
        header = Header(path, [], [], {}, header_bytes, file.size_bytes - 8 - header_bytes)
        begins: list[int] = []
        seen = {"__metadata__"}
        metadata_texts: list[bytes] = []
        for columns in read_columns(file, header.data_start):
            metadata_texts += columns.metadata
            if columns.names:
                _check_names(file, columns.names)
                seen.update(columns.names)
                header.names += columns.names
                header.kinds += _kinds(file, columns, kinds)
                begins += columns.begins
            if len(header.names) > MAX_TENSORS_PER_FILE:
                raise file.bad(f"holds more than the {MAX_TENSORS_PER_FILE:,} tensors that are allowed")
        header.metadata.update(_metadata(file, metadata_texts))
        if len(seen) <= len(header.names):
            raise file.bad(f"tensor name {quoted(_repeated(header.names))} appears twice or is reserved")
        _put_in_order(file, header, begins)
        return header


def _metadata(file: ModelFile, texts: list[bytes]) -> dict[str, JsonValue]:
    if len(texts) > 1:
        raise file.bad("__metadata__ appears twice; once is allowed")
    if texts in ([], [b"null"]):
        return {}
    try:
        return load_json_object(texts[0], MAX_METADATA_BYTES, "__metadata__")
    except BadModelFile as bad:
        raise file.bad(f"__metadata__: {bad.problem}") from bad


def _check_names(file: ModelFile, names: Sequence[str]) -> None:
    if "" in names:
        raise file.bad("has a tensor without a name; 1 to 256 bytes are allowed")
    text = "".join(names)
    if not is_printable(text):
        unprintable = next(name for name in names if not name.isprintable())
        raise file.bad(f"tensor name {quoted(unprintable)} is not printable text, which alone is allowed")
    longest = max(names, key=len if text.isascii() else _utf8_bytes)
    if _utf8_bytes(longest) > MAX_NAME_BYTES:
        raise file.bad(
            f"tensor name {quoted(longest)} has {_utf8_bytes(longest):,} bytes; {MAX_NAME_BYTES} are allowed"
        )


def _utf8_bytes(name: str) -> int:
    return len(name.encode())


def _kinds(file: ModelFile, columns: Columns, kinds: Kinds) -> list[TensorKind]:
    triples = zip(columns.dtypes, columns.shapes, map(sub, columns.ends, columns.begins), strict=True)
    try:
        return list(map(kinds.__getitem__, triples))
    except _BadKind as bad:
        triples = zip(columns.dtypes, columns.shapes, map(sub, columns.ends, columns.begins), strict=True)
        raise file.bad(f"tensor {quoted(columns.names[list(triples).index(bad.triple)])} {bad.problem}") from bad


def _repeated(names: list[str]) -> str:
    return next((name for name, count in Counter(names).items() if count > 1), "__metadata__")


def _put_in_order(file: ModelFile, header: Header, begins: list[int]) -> None:
    """Sort by place; refuse tensors that overlap, leave a hole, or do not end with the file."""
    expected = list(accumulate([kind.nbytes for kind in header.kinds], initial=0))
    if begins != expected[:-1]:
        rows = sorted(zip(begins, [kind.nbytes for kind in header.kinds], range(len(begins)), strict=True))
        header.names[:] = [header.names[at] for _, _, at in rows]
        header.kinds[:] = [header.kinds[at] for _, _, at in rows]
        expected = list(accumulate([nbytes for _, nbytes, _ in rows], initial=0))
        for (begin, _, _), end, name in zip(rows, expected, header.names, strict=False):
            if begin != end:
                raise file.bad(f"tensor {quoted(name)} begins at {begin:,}, not where another ends, as it must")
    described = header.data_start + expected[-1]
    if described != file.size_bytes:
        raise file.bad(
            f"has {file.size_bytes:,} bytes where its header describes {described:,}; a complete file is allowed"
        )
