"""The entries of a safetensors header, thousands at a time, out of its text.

The general JSON parser is not used here. It would hold the whole header as objects of many times its size (a
hostile header of 100 MB becomes gigabytes) and is slower on the 208,550 tensors of Kimi K2.5. The text is taken
through a window of a few megabytes. Nearly every published file is written by one serializer, whose entries all
have their quotes in the same places: those windows are cut at the quotes and checked by column. For all other
spellings one expression takes an entry at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from profiles.headers.errors import quoted
from profiles.headers.modelfile import ModelFile

MAX_METADATA_BYTES = 4_194_304
"""Of `__metadata__`, a few dozen bytes in most files."""

_WINDOW_BYTES = 1_048_576
_MAX_ENTRY_BYTES = MAX_METADATA_BYTES + 65_536
_MAX_DIGITS = 19

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
_LEADING_METADATA = re.compile(_METADATA + rb",")
# The last alternative takes all that is left, so that a search cannot wander past what is not an entry.
_ENTRY = re.compile(_S + rb"(?:" + _METADATA + rb"|" + _TENSOR + rb")" + _S + rb"([,}])|(?s:(.+))")

_PERIOD = 10
_BETWEEN_QUOTES = {2: ":{", 3: "dtype", 4: ":", 6: ",", 7: "shape", 9: "data_offsets"}
"""Of `"NAME":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},`, by what number of quotes lies before."""

_Row = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
"""The groups of `_ENTRY`, empty where they are not part of the match: metadata, name, dtype, shape, begin,
end, separator, rest."""


class Columns(NamedTuple):
    """Some tensors of a header, in its order.

    `shapes` are as they are spelled, perhaps with the colon before and the comma after. `metadata` are the texts of
    `__metadata__` among them.
    """

    names: Sequence[str]
    dtypes: Sequence[str]
    shapes: Sequence[str]
    begins: Sequence[int]
    ends: Sequence[int]
    metadata: tuple[bytes, ...]


class _Taken(NamedTuple):
    """What was read of a window: so many of its bytes, with or without the brace that closes the header."""

    columns: Columns
    length: int
    closed: bool


def read_columns(file: ModelFile, header_end: int) -> Iterator[Columns]:
    """All entries of the header that begins after 8 bytes. Raises `BadModelFile` for a text that is no header."""
    window = file.read_at(8, min(_WINDOW_BYTES, header_end - 8))
    opening = _OPENING.match(window)
    if opening is None:
        raise file.bad(f"its header begins with {quoted(window)}; a JSON object is allowed")
    start = 8 + opening.end()
    closed = opening[1] is not None
    while not closed:
        window = file.read_at(start, min(_WINDOW_BYTES, header_end - start))
        taken = _compact(window, is_last=start + len(window) == header_end) or _spelled(file, start, header_end)
        start += taken.length
        closed = taken.closed
        yield taken.columns
    while start < header_end and (window := file.read_at(start, min(_WINDOW_BYTES, header_end - start))):
        if window.strip(b" \t\n\r"):
            raise file.bad(f"its header goes on after the closing brace: {quoted(window)}; spaces are allowed")
        start += len(window)


def _compact(window: bytes, *, is_last: bool) -> _Taken | None:
    """A window in the serializer's own spelling; None for any other."""
    leading = _LEADING_METADATA.match(window)
    start = leading.end() if leading else 0
    end = len(window.rstrip(b" ")) - 1 if is_last else window.rfind(b'},"') + 1
    if window[start : start + 1] != b'"' or window[end - 1 : end + 1] != (b"}}" if is_last else b"},"):
        return None
    text = window[start:end]
    if not text.isascii() or b"\\" in text:
        return None
    parts = text.decode("ascii").split('"')
    count, rest = divmod(len(parts), _PERIOD)
    if rest != 1 or not count:
        return None
    if any(parts[at::_PERIOD].count(constant) != count for at, constant in _BETWEEN_QUOTES.items()):
        return None
    shapes = parts[8::_PERIOD]
    if any(shape[:2] != ":[" or shape[-2:] != "]," for shape in set(shapes)):
        return None
    parts[-1] += ","
    offsets = _offsets(parts[_PERIOD::_PERIOD])
    if offsets is None:
        return None
    metadata = (leading[1],) if leading else ()
    return _Taken(Columns(parts[1::_PERIOD], parts[5::_PERIOD], shapes, *offsets, metadata), end + 1, is_last)


def _offsets(parts: list[str]) -> tuple[list[int], list[int]] | None:
    """Begins and ends out of many `:[0,12]},`; None if one is anything else."""
    text = "\n".join(parts)
    if text[:2] != ":[" or text[-3:] != "]},":
        return None
    text = text[2:-3].replace("]},\n:[", "\n")
    if text.encode("ascii").translate(None, b"0123456789") != (b",\n" * len(parts))[:-1]:
        return None
    text = text.replace("\n", ",")
    numbers = text.split(",")
    # What begins with a zero must be one, and nothing may be empty.
    if f",{text}".count(",0") != numbers.count("0") or "" in numbers or max(map(len, numbers)) > _MAX_DIGITS:
        return None
    ends = list(map(int, numbers[1::2]))
    if numbers[2::2] == numbers[1:-1:2]:
        return [int(numbers[0]), *ends[:-1]], ends
    return list(map(int, numbers[::2])), ends


def _spelled(file: ModelFile, start: int, header_end: int) -> _Taken:
    """A window in whatever spelling. Raises `BadModelFile` where no entry begins at `start`."""
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
    separators = [row[6] for row in rows]
    closed = b"}" in separators
    if closed and separators.index(b"}") < len(rows) - 1:
        raise file.bad("its header goes on after the closing brace; spaces are allowed")
    metadata = tuple(row[0] for row in rows if row[0])
    if metadata:
        rows = [row for row in rows if not row[0]]
    return _Taken(_columns(file, rows, metadata), len(window) - len(rest), closed)


def _columns(file: ModelFile, rows: list[_Row], metadata: tuple[bytes, ...]) -> Columns:
    if not rows:
        return Columns((), (), (), (), (), metadata)
    _, raw_names, raw_dtypes, raw_shapes, raw_begins, raw_ends, _, _ = zip(*rows, strict=True)
    names = _names(file, raw_names)
    for column in (raw_dtypes, raw_shapes, raw_ends):
        if b"" in column:
            name = names[column.index(b"")]
            raise file.bad(f"tensor {quoted(name)} needs one each of dtype, shape and data_offsets")
    dtypes, shapes = ([raw.decode("ascii") for raw in column] for column in (raw_dtypes, raw_shapes))
    return Columns(names, dtypes, shapes, list(map(int, raw_begins)), list(map(int, raw_ends)), metadata)


def _names(file: ModelFile, raw_names: Sequence[bytes]) -> list[str]:
    try:
        # A null byte cannot be in the names: the expression admits no raw control character.
        text = b"\0".join(raw_names).decode("utf-8")
    except UnicodeDecodeError as error:
        raise file.bad("has a tensor name that is not UTF-8, which alone is allowed") from error
    names = text.split("\0")
    return [json.loads(f'"{name}"') for name in names] if "\\" in text else names
