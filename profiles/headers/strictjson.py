"""Strict JSON for files that nobody vouches for: `config.json`, safetensors indexes, plans, inventories."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.modelfile import open_model_file

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_DEPTH = 64
MAX_VALUES = 250_000
"""A value may take a hundred times the memory of its text: bounding the file alone is not enough."""
MAX_NON_ASCII_BYTES = 16_000_000
"""One character outside ASCII makes Python hold the whole text in up to four bytes a character."""
MAX_NUMBER_CHARACTERS = 1_100
"""The exact decimal expansion of any double is shorter."""

# Matches at every byte but a bracket, even at a string without an end: a search that failed there would start
# over at each of its quotes.
_BETWEEN_BRACKETS = re.compile(rb'(?:"(?:[^"\\]++|\\.)*+"?|[^\[\]{}"]++)++', re.DOTALL)
_PAIRED_ESCAPES = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F]).{4}|\\u[dD][89abAB].{2}\\u[dD][c-fC-F].{2})*+", re.DOTALL
)


class _StrictnessError(Exception):
    """What is wrong with a text, before it is known which file it came from."""


def load_json_object(source: str | PathLike[str] | bytes, max_bytes: int, what: str) -> dict[str, JsonValue]:
    """Read a JSON object from a file (a path) or from `bytes`, and refuse what JSON readers disagree about.

    Allowed is UTF-8 without a byte order mark, of at most `max_bytes`, at most 64 levels and 250,000
    values, with an object at the top. No key twice in an object, no NaN or Infinity, no integer outside 64
    signed bits, no number that overflows a double, no half of a surrogate pair. `what` names the kind of file
    in the message ("model configuration").

    Raises `BadModelFile`.

    >>> load_json_object(b'{"num_hidden_layers": 61}', 1000, "model configuration")
    {'num_hidden_layers': 61}
    """
    try:
        if isinstance(source, bytes):
            return _object_of(_checked_text(source, max_bytes))
        with open_model_file(Path(source)) as file:
            text = _checked_text(file.read_at(0, max_bytes + 1), max_bytes)
        return _object_of(text)
    except _StrictnessError as refused:
        if isinstance(source, bytes):
            raise BadModelFile(what, str(refused)) from refused.__cause__
        raise BadModelFile(source, f"{what}: {refused}") from refused.__cause__


def _object_of(text: str) -> dict[str, JsonValue]:
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object_of_unique_keys,
            parse_int=_int64,
            parse_float=_finite_float,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        raise _StrictnessError(f"not JSON: {error.msg} (line {error.lineno} column {error.colno})") from error
    except RecursionError as error:
        raise _StrictnessError("nested too deeply for the memory left on the stack") from error
    if not isinstance(value, dict):
        raise _StrictnessError("the top level must be an object, {...}")
    return value


def _checked_text(data: bytes, max_bytes: int) -> str:
    """Check all that can be seen in linear time, before memory is spent on parsing."""
    if len(data) > max_bytes:
        raise _StrictnessError(f"larger than the {max_bytes:,} bytes that are allowed")
    if data.startswith(b"\xef\xbb\xbf"):
        raise _StrictnessError("begins with a byte order mark; plain UTF-8 is allowed")
    if len(data) > MAX_NON_ASCII_BYTES and not data.isascii():
        raise _StrictnessError(f"only ASCII is allowed in a file of more than {MAX_NON_ASCII_BYTES:,} bytes")
    opened = data.count(b"[") + data.count(b"{")
    closed = data.count(b"]") + data.count(b"}")
    if max(opened + data.count(b","), closed, data.count(b'"') // 4) > MAX_VALUES:
        raise _StrictnessError(f"more than the {MAX_VALUES:,} values that are allowed")
    if opened > MAX_DEPTH:
        _refuse_depth(data)
    if b"\\ud" in data or b"\\uD" in data:
        paired = _PAIRED_ESCAPES.match(data)
        if paired and paired.end() < len(data):
            raise _StrictnessError(f"byte {paired.end()} begins half of a surrogate pair; only whole pairs are allowed")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _StrictnessError(f"byte {error.start} is not UTF-8, which alone is allowed") from error


def _refuse_depth(data: bytes) -> None:
    depth = 0
    for bracket in _BETWEEN_BRACKETS.sub(b"", data):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise _StrictnessError(f"nested more than the {MAX_DEPTH} levels that are allowed")
        if depth < 0:
            raise _StrictnessError("not JSON: a bracket closes that was never opened")


def _object_of_unique_keys(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _StrictnessError(f"key {quoted(twice)} appears twice in one object; once is allowed")
    return unique


def _int64(text: str) -> int:
    # The length first: Python refuses to convert thousands of digits with an error of its own.
    if len(text) <= 20 and -(2**63) <= (value := int(text)) < 2**63:
        return value
    raise _StrictnessError(f"integer {quoted(text)} does not fit the 64 signed bits that are allowed")


def _finite_float(text: str) -> float:
    if len(text) <= MAX_NUMBER_CHARACTERS and math.isfinite(value := float(text)):
        return value
    raise _StrictnessError(f"number {quoted(text)} is beyond a double; a finite one is allowed")


def _no_constant(text: str) -> JsonValue:
    raise _StrictnessError(f"{text} is not JSON; finite numbers are allowed")
