"""Reader of `*.safetensors.index.json`: which shard holds which tensor.

Indexes are the largest JSON files of a release (Kimi K3's has 59 million bytes), nearly all of it one object of
names. Those names are taken through a window, cut at their quotes; what lies around them goes to the general
parser, and so does an index that is written in any way that this does not follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.modelfile import ModelFile, open_model_file
from profiles.headers.strictjson import JsonValue, load_json_object
from profiles.headers.tensorinfo import MAX_NAME_BYTES, MAX_SET_NAME_BYTES, MAX_SHARDS, MAX_TENSORS, is_printable

MAX_INDEX_BYTES = 80_000_000
MAX_UNUSUAL_INDEX_BYTES = 25_000_000
"""Of an index that only the general parser can read."""

_WHAT = "safetensors index"
_WINDOW_BYTES = 1_048_576
_MAX_AROUND_BYTES = 65_536
"""Before the names, and after them."""
_WEIGHT_MAP = re.compile(rb'"weight_map"[ \t\n\r]*+:[ \t\n\r]*+\{')
_CLOSING = re.compile(rb'"[ \t\n\r]*+\}')
_SPACE = re.compile(r"[ \t\n\r]*+")
_COLON = re.compile(r"[ \t\n\r]*+:[ \t\n\r]*+")
_COMMA = re.compile(r"[ \t\n\r]*+,[ \t\n\r]*+")


class SafetensorsIndex(NamedTuple):
    """`weight_map` is the file name of the shard of every tensor."""

    metadata: dict[str, JsonValue]
    weight_map: dict[str, str]


class _UnusualError(Exception):
    """The index is written in another way than this module follows."""


class _Entries(NamedTuple):
    """Some names with their shards, and the offset of the brace behind them where they are the last."""

    names: list[str]
    shards: list[str]
    closed_at: int | None


def read_index(path: Path) -> SafetensorsIndex:
    """Read an index. Raises `BadModelFile`; whether its shards are there it does not ask."""
    with open_model_file(path) as file:
        if file.size_bytes > MAX_INDEX_BYTES:
            raise file.bad(f"{_WHAT}: larger than the {MAX_INDEX_BYTES:,} bytes that are allowed")
        try:
            return _usual(file)
        except _UnusualError:
            if file.size_bytes > MAX_UNUSUAL_INDEX_BYTES:
                raise file.bad(
                    f"{_WHAT}: more than {MAX_UNUSUAL_INDEX_BYTES:,} bytes are allowed only of"
                    ' {"metadata":{...},"weight_map":{"NAME":"SHARD",...}} in ASCII without escapes'
                ) from None
    content = load_json_object(path, MAX_UNUSUAL_INDEX_BYTES, _WHAT)
    return SafetensorsIndex(_metadata(path, content), _weight_map(path, content.get("weight_map")))


def _usual(file: ModelFile) -> SafetensorsIndex:
    head = file.read_at(0, _MAX_AROUND_BYTES)
    opening = _WEIGHT_MAP.search(head)
    if opening is None:
        raise _UnusualError
    # Only where it is a key of the outermost object does that object close here.
    before = head[: opening.end()] + b"}"
    _around(before + b"}")
    weight_map: dict[str, str] = {}
    shards: dict[str, str] = {}
    tensor_count = name_bytes = 0
    closed_at = opening.end()
    for names, found, closed in _entries(file, opening.end()):
        closed_at = closed or closed_at
        # Many names have few shards: one text of each is kept.
        weight_map.update(zip(names, map(shards.setdefault, found, found), strict=True))
        tensor_count += len(names)
        _check_names(file.path, names)
        name_bytes += sum(map(len, names))
        if tensor_count > MAX_TENSORS or name_bytes > MAX_SET_NAME_BYTES:
            raise file.bad(
                f"names more than the {MAX_TENSORS:,} tensors or {MAX_SET_NAME_BYTES:,} bytes of names that are allowed"
            )
        if len(shards) > MAX_SHARDS:
            raise file.bad(f"names more than the {MAX_SHARDS:,} shards that are allowed")
        if len(weight_map) < tensor_count:
            weight_map.clear()  # whose memory the search for the name needs
            raise file.bad(f"{_WHAT}: key {quoted(_repeated(file, opening.end()))} appears twice in one object")
    if file.size_bytes - closed_at > _MAX_AROUND_BYTES:
        raise _UnusualError
    content = _around(before + file.read_at(closed_at + 1, _MAX_AROUND_BYTES))
    if content.get("weight_map") != {}:
        raise _UnusualError
    return SafetensorsIndex(_metadata(file.path, content), weight_map)


def _around(text: bytes) -> dict[str, JsonValue]:
    try:
        return load_json_object(text, 2 * _MAX_AROUND_BYTES, _WHAT)
    except BadModelFile:
        raise _UnusualError from None


def _entries(file: ModelFile, start: int) -> Iterator[_Entries]:
    """The names from `start`, thousands at a time. Raises `_UnusualError`."""
    while True:
        window = file.read_at(start, _WINDOW_BYTES)
        closing = _CLOSING.search(window) if b"}" in window else None
        end = closing.start() + 1 if closing else window.rfind(b'",') + 1
        text = window[:end]
        if not text.isascii() or b"\\" in text:
            raise _UnusualError
        parts = text.decode("ascii").split('"')
        if len(parts) < 5 or len(parts) % 4 != 1 or not _SPACE.fullmatch(parts[0]):
            raise _UnusualError
        commas = set(parts[4:-1:4])
        if not all(map(_COLON.fullmatch, set(parts[2::4]))) or not all(map(_COMMA.fullmatch, commas)):
            raise _UnusualError
        closed_at = start + closing.end() - 1 if closing else None
        yield _Entries(parts[1::4], parts[3::4], closed_at)
        if closing:
            return
        start += end + 1


def _repeated(file: ModelFile, start: int) -> str:
    seen: set[str] = set()
    for names, _, _ in _entries(file, start):
        for name in names:
            if name in seen:
                return name
            seen.add(name)
    return ""


def _metadata(path: Path, content: dict[str, JsonValue]) -> dict[str, JsonValue]:
    metadata = content.get("metadata", {})
    if not isinstance(metadata, dict):
        raise BadModelFile(path, "metadata must be an object")
    return metadata


def _weight_map(path: Path, weight_map: JsonValue) -> dict[str, str]:
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadModelFile(path, "has no weight_map; an object of tensor names and shard files is needed")
    _check_names(path, list(weight_map))
    if set(map(type, weight_map.values())) != {str}:
        raise BadModelFile(path, "weight_map names a shard that is not a string; file names are allowed")
    return cast("dict[str, str]", weight_map)


def _check_names(path: Path, names: list[str]) -> None:
    if max(map(len, names)) > MAX_NAME_BYTES or not is_printable("".join(names)) or "" in names:
        raise BadModelFile(path, f"has a tensor name that is not printable text of 1 to {MAX_NAME_BYTES} bytes")
