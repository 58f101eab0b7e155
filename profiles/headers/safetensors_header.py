"""The header of one safetensors file.

The general JSON parser is not used here. It would hold the whole header as objects of many times its size (a
hostile header of 100 MB becomes gigabytes) and is slower on the 208,550 tensors of Kimi K2.5. The header's
grammar is small and regular: one expression takes an entry at a time out of a window of a few megabytes, and
the checks then run over columns of thousands of entries.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, repeat
from operator import itemgetter, sub
from pathlib import Path
from typing import NamedTuple

from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.modelfile import ModelFile, open_model_file
from profiles.headers.strictjson import JsonValue, load_json_object
from profiles.headers.tensorinfo import MAX_NAME_BYTES, MAX_TENSORS_PER_FILE, TensorInfo

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

MAX_METADATA_BYTES = 4_194_304
"""Of `__metadata__`, a few dozen bytes in most files."""

DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element, as the reference implementation 0.8.0 accepts them."""

_WINDOW_BYTES = 1_048_576
_MAX_ENTRY_BYTES = MAX_METADATA_BYTES + 65_536

# Everything that repeats is possessive, so that no input makes the expression try twice. No group is captured
# inside a possessive or atomic one: Python 3.11 has bugs there.
_S = rb"[ \t\n\r]*+"
_TEXT = rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+'
_INT = rb"(?:0|[1-9][0-9]{0,18}+)"
_NO_COMMA_AT_END = rb"(?:,(?!" + _S + rb"\})|(?=\}))"
_METADATA = (
    rb'"__metadata__"' + _S + rb":" + _S
    + rb"(null|\{(?:" + _S + rb'"' + _TEXT + rb'"' + _S + rb":" + _S + rb'"' + _TEXT + rb'"' + _S
    + _NO_COMMA_AT_END + rb")*+" + _S + rb"\})"
)  # fmt: skip
_TENSOR = (
    rb'"(' + _TEXT + rb')"' + _S + rb":" + _S + rb"\{(?:" + _S + rb"(?:"
    + rb'"dtype"' + _S + rb":" + _S + rb'"([A-Z0-9_]{1,16}+)"'
    + rb'|"shape"' + _S + rb":" + _S + rb"(\[[0-9, \t\n\r]{0,512}+\])"
    + rb'|"data_offsets"' + _S + rb":" + _S + rb"\[" + _S + rb"(" + _INT + rb")" + _S + rb"," + _S
    + rb"(" + _INT + rb")" + _S + rb"\]"
    + rb")" + _S + _NO_COMMA_AT_END + rb"){3}" + _S + rb"\}"
)  # fmt: skip
_OPENING = re.compile(rb"\{" + _S + rb"(\})?")
# The last alternative takes all that is left, so that a search cannot wander past what is not an entry.
_ENTRY = re.compile(_S + rb"(?:" + _METADATA + rb"|" + _TENSOR + rb")" + _S + rb"([,}])|(?s:(.+))")
_SHAPE = re.compile(rb"\[" + _S + rb"(?:" + _INT + _S + rb"(?:," + _S + _INT + _S + rb"){0,15}+)?+\]")

# What `TensorInfo._make` does, without its call.
_NEW_TENSOR_INFO = partial(tuple.__new__, TensorInfo)

_Row = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
"""The groups of `_ENTRY`, empty where they are not part of the match: metadata, name, dtype, shape, begin,
end, separator, rest."""


class Header(NamedTuple):
    """`tensors` in the order of their data; `data_bytes` is all that follows the header."""

    path: Path
    tensors: list[TensorInfo]
    metadata: dict[str, JsonValue]
    header_bytes: int
    data_bytes: int


def read_header(path: Path) -> Header:
    """Read one file's header and check it by the format's rules. Raises `BadModelFile`."""
    with open_model_file(path) as file:
        header_bytes = int.from_bytes(file.read_at(0, 8), "little")
        if file.size_bytes < 8:
            raise file.bad(f"has {file.size_bytes} bytes; a safetensors file begins with 8 of header length")
        if header_bytes > MAX_HEADER_BYTES:
            raise file.bad(f"claims a header of {header_bytes:,} bytes; {MAX_HEADER_BYTES:,} are allowed")
        data_start = 8 + header_bytes
        if data_start > file.size_bytes:
            raise file.bad(f"claims a header of {header_bytes:,} bytes but has {file.size_bytes:,}; it must fit inside")
        header = Header(path, [], {}, header_bytes, file.size_bytes - data_start)
        names: set[str] = {"__metadata__"}
        metadata_texts: list[bytes] = []
        for rows in _rows(file, data_start):
            metadata_texts += filter(None, (row[0] for row in rows))
            tensors = [row for row in rows if not row[0]] if metadata_texts else rows
            if tensors:
                header.tensors.extend(_tensors(file, tensors, data_start, names))
            if len(header.tensors) > MAX_TENSORS_PER_FILE:
                raise file.bad(f"holds more than the {MAX_TENSORS_PER_FILE:,} tensors that are allowed")
        header.metadata.update(_metadata(file, metadata_texts))
        if len(names) <= len(header.tensors):
            raise file.bad(f"tensor name {quoted(_repeated(header.tensors))} appears twice or is reserved")
        _put_in_order(file, header.tensors, data_start)
        return header


def _rows(file: ModelFile, header_end: int) -> Iterator[list[_Row]]:
    """The entries of the header, thousands at a time, through a moving window."""
    window = file.read_at(8, min(_WINDOW_BYTES, header_end - 8))
    opening = _OPENING.match(window)
    if opening is None:
        raise file.bad(f"its header begins with {quoted(window)}; a JSON object is allowed")
    start = 8 + opening.end()
    closed = opening[1] is not None
    while not closed:
        for window_bytes in (_WINDOW_BYTES, _MAX_ENTRY_BYTES):
            window = file.read_at(start, min(window_bytes, header_end - start))
            rows: list[_Row] = _ENTRY.findall(window)
            rest = rows.pop()[-1] if rows and rows[-1][-1] else b""
            if rows:
                break
        else:
            raise file.bad(
                f"byte {start} of its header begins no entry: {quoted(rest)};"
                ' "NAME":{"dtype":"BF16","shape":[...],"data_offsets":[begin,end]} is allowed'
            )
        start += len(window) - len(rest)
        separators = [row[6] for row in rows]
        closed = b"}" in separators
        if closed and separators.index(b"}") < len(rows) - 1:
            raise file.bad("its header goes on after the closing brace; spaces are allowed")
        yield rows
    while start < header_end and (window := file.read_at(start, min(_WINDOW_BYTES, header_end - start))):
        if window.strip(b" \t\n\r"):
            raise file.bad(f"its header goes on after the closing brace: {quoted(window)}; spaces are allowed")
        start += len(window)


def _metadata(file: ModelFile, texts: list[bytes]) -> dict[str, JsonValue]:
    if len(texts) > 1:
        raise file.bad("__metadata__ appears twice; once is allowed")
    if texts in ([], [b"null"]):
        return {}
    try:
        return load_json_object(texts[0], MAX_METADATA_BYTES, "__metadata__")
    except BadModelFile as bad:
        raise file.bad(f"__metadata__: {bad.problem}") from bad


def _tensors(file: ModelFile, rows: list[_Row], data_start: int, seen: set[str]) -> Iterator[TensorInfo]:
    """Checked columnwise: thousands of tensors have a handful of distinct (dtype, shape, size) triples."""
    _, raw_names, raw_dtypes, raw_shapes, raw_begins, raw_ends, _, _ = zip(*rows, strict=True)
    names = _names(file, raw_names)
    seen.update(names)
    for column in (raw_dtypes, raw_shapes, raw_ends):
        if b"" in column:
            name = names[column.index(b"")]
            raise file.bad(f"tensor {quoted(name)} needs one each of dtype, shape and data_offsets")
    begins = list(map(int, raw_begins))
    sizes = list(map(sub, map(int, raw_ends), begins))
    dtypes: dict[bytes, str] = {}
    shapes: dict[bytes, tuple[int, ...]] = {}
    for triple in set(zip(raw_dtypes, raw_shapes, sizes, strict=True)):
        problem = _triple_problem(triple, dtypes, shapes)
        if problem:
            name = names[list(zip(raw_dtypes, raw_shapes, sizes, strict=True)).index(triple)]
            raise file.bad(f"tensor {quoted(name)} {problem}")
    return map(
        _NEW_TENSOR_INFO,
        zip(
            names,
            map(dtypes.__getitem__, raw_dtypes),
            map(shapes.__getitem__, raw_shapes),
            sizes,
            repeat(file.path),
            [data_start + begin for begin in begins],
            strict=False,
        ),
    )


def _names(file: ModelFile, raw_names: Sequence[bytes]) -> list[str]:
    if b"" in raw_names:
        raise file.bad("has a tensor without a name; 1 to 256 bytes are allowed")
    longest = max(raw_names, key=len)
    if len(longest) > MAX_NAME_BYTES:
        raise file.bad(f"tensor name {quoted(longest)} has {len(longest):,} bytes; {MAX_NAME_BYTES} are allowed")
    try:
        # A null byte cannot be in the names: the expression admits no raw control character.
        text = b"\0".join(raw_names).decode("utf-8")
    except UnicodeDecodeError as error:
        raise file.bad("has a tensor name that is not UTF-8, which alone is allowed") from error
    names = text.split("\0")
    if "\\" in text:
        names = [json.loads(f'"{name}"') for name in names]
    if not "".join(names).isprintable():
        unprintable = next(name for name in names if not name.isprintable())
        raise file.bad(f"tensor name {quoted(unprintable)} is not printable text, which alone is allowed")
    return names


def _triple_problem(
    triple: tuple[bytes, bytes, int], dtypes: dict[bytes, str], shapes: dict[bytes, tuple[int, ...]]
) -> str | None:
    """What is wrong with a (dtype, shape, size); when nothing is, enter it into `dtypes` and `shapes`."""
    raw_dtype, raw_shape, size = triple
    dtype = raw_dtype.decode("ascii")
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        return f"has dtype {quoted(dtype)}; {', '.join(DTYPE_BITS)} are allowed"
    if not _SHAPE.fullmatch(raw_shape):
        return f"has shape {quoted(raw_shape)}; up to 16 whole numbers are allowed"
    lengths = raw_shape[1:-1]
    shape = tuple(map(int, lengths.split(b","))) if lengths.strip() else ()
    if math.prod(shape) * bits != size * 8:
        return f"has {size:,} bytes, which do not fit dtype {dtype} and shape {list(shape)}, as they must"
    dtypes[raw_dtype] = dtype
    shapes[raw_shape] = shape
    return None


def _repeated(tensors: list[TensorInfo]) -> str:
    names = Counter(tensor.name for tensor in tensors)
    return next((name for name, count in names.items() if count > 1), "__metadata__")


def _put_in_order(file: ModelFile, tensors: list[TensorInfo], data_start: int) -> None:
    """Sort by place; refuse tensors that overlap, leave a hole, or do not end with the file."""
    if _first_misplaced(tensors, data_start) is not None:
        tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    misplaced = _first_misplaced(tensors, data_start)
    if misplaced is not None:
        begin = misplaced.offset - data_start
        raise file.bad(f"tensor {quoted(misplaced.name)} begins at {begin:,}, not where another ends, as it must")
    end = tensors[-1].offset + tensors[-1].nbytes if tensors else data_start
    if end != file.size_bytes:
        raise file.bad(f"has {file.size_bytes:,} bytes where its header describes {end:,}; a complete file is allowed")


def _first_misplaced(tensors: list[TensorInfo], data_start: int) -> TensorInfo | None:
    sizes = map(itemgetter(TensorInfo._fields.index("nbytes")), tensors)
    expected = list(accumulate(sizes, initial=data_start))[:-1]
    offsets = list(map(itemgetter(TensorInfo._fields.index("offset")), tensors))
    if offsets == expected:
        return None
    return next(tensor for tensor, at in zip(tensors, expected, strict=True) if tensor.offset != at)
