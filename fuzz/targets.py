"""What is fuzzed, and what must hold whatever the input: a result that is consistent, or `BadModelFile` in one line.

Any other exception, a result that contradicts the file, and more than a second of processor time are findings.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

from profiles.headers import BadModelFile, TensorInfo, load_json_object, read_gguf, read_safetensors
from profiles.headers.safetensors_header import DTYPE_BITS
from profiles.headers.strictjson import JsonValue
from profiles.headers.tensorinfo import MAX_NAME_BYTES

CORPUS = Path(__file__).parents[1] / "tests" / "profiles" / "headers" / "corpus"
MAX_PROCESSOR_S = 1.0
_JSON_LIMIT_BYTES = 1_000_000


class Finding(AssertionError):
    """A property that did not hold."""


class Target(NamedTuple):
    """`check(path)` reads the input from a file called `file_name`."""

    file_name: str
    check: Callable[[Path], None]


def check(target: str, content: bytes, folder: Path) -> None:
    """Put one input into `folder` and check everything that must hold. Raises `Finding`, or what escaped."""
    path = folder / TARGETS[target].file_name
    path.write_bytes(content)
    start_s = time.process_time()
    try:
        TARGETS[target].check(path)
    except BadModelFile as bad:
        if not str(bad).isprintable() or not str(bad).startswith(str(folder)):
            raise Finding(f"not one line that names the file: {bad!r}") from bad
    elapsed_s = time.process_time() - start_s
    if elapsed_s > MAX_PROCESSOR_S:
        raise Finding(f"took {elapsed_s:.1f} s")


def _check_gguf(path: Path) -> None:
    file = read_gguf(path)
    _require(file.version in (2, 3) and file.files == (path,), "version and files")
    _require(file.file_bytes == path.stat().st_size >= file.metadata_bytes, "sizes")
    _check_tensors(file.tensors, file.metadata_bytes, file.file_bytes)


def _check_safetensors(path: Path) -> None:
    content = path.read_bytes()
    expected = _reference(content)
    try:
        checkpoint = read_safetensors(path)
    except BadModelFile:
        _require(expected is None, "refused what the reference accepts")
        raise
    tensors = checkpoint.tensors
    assert tensors is not None
    _require(checkpoint.names == tuple(tensor.name for tensor in tensors), "names")
    _check_tensors(tensors, 8, len(content))
    if _comparable(content):
        _require(expected is not None, "accepted what the reference refuses")
        read = {tensor.name: (tensor.type_name, list(tensor.shape), tensor.offset, tensor.nbytes) for tensor in tensors}
        _require(read == expected, "differs from the reference")


def _check_index(path: Path) -> None:
    checkpoint = read_safetensors(path)
    expected = load_json_object(path, _JSON_LIMIT_BYTES, "fuzzed")
    _require(isinstance(expected.get("weight_map"), dict), "a weight_map that the general parser does not see")
    _require(checkpoint.names == tuple(cast("dict[str, str]", expected["weight_map"])), "names")
    _require(checkpoint.metadata == expected.get("metadata", {}), "metadata")
    _require(checkpoint.tensors is None and checkpoint.files == (), "found shards where there are none")


def _check_json(path: Path) -> None:
    value = load_json_object(path, _JSON_LIMIT_BYTES, "fuzzed")
    _require(value == load_json_object(path.read_bytes(), _JSON_LIMIT_BYTES, "fuzzed"), "path and bytes differ")
    pending: list[JsonValue] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str):
            item.encode("utf-8")
        elif isinstance(item, float):
            _require(math.isfinite(item), "a number that is not finite")
        elif item is not None:
            _require(-(2**63) <= item < 2**63, "an integer beyond 64 bits")


TARGETS = {
    "gguf": Target("input.gguf", _check_gguf),
    "safetensors": Target("input.safetensors", _check_safetensors),
    "index": Target("input.safetensors.index.json", _check_index),
    "json": Target("input.json", _check_json),
}


def _check_tensors(tensors: tuple[TensorInfo, ...], data_start: int, file_bytes: int) -> None:
    _require(len({tensor.name for tensor in tensors}) == len(tensors), "tensor names")
    end = data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        _require(tensor.offset >= end and tensor.nbytes >= 0, "tensors overlap")
        _require(all(length >= 0 for length in tensor.shape), "shape")
        _require(tensor.name.isprintable(), "name")
        end = tensor.offset + tensor.nbytes
    _require(end <= file_bytes, "tensors beyond the file")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Finding(what)


def _comparable(content: bytes) -> bool:
    """Of the ways to write the same header, the reader refuses escapes in keys and types, and a minus zero."""
    return b"\\" not in content and b"-" not in content


def _reference(content: bytes) -> dict[str, tuple[str, list[int], int, int]] | None:
    """The same format read naively through the general parser: name -> dtype, shape, offset, bytes; None if refused."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = content[8:start]
    if start > len(content) or len(content) < 8 or header[:1] != b"{" or not _comparable(content):
        return None
    try:
        entries = load_json_object(header, len(header), "header")
    except BadModelFile:
        return None
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return None
    tensors = {}
    for name, item in entries.items():
        if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
            return None
        dtype, shape, offsets = item["dtype"], _whole_numbers(item["shape"]), _whole_numbers(item["data_offsets"])
        if shape is None or offsets is None or len(shape) > 16 or len(offsets) != 2 or not isinstance(dtype, str):
            return None
        if dtype not in DTYPE_BITS or math.prod(shape) * DTYPE_BITS[dtype] != 8 * (offsets[1] - offsets[0]):
            return None
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES or not name.isprintable():
            return None
        tensors[name] = (dtype, shape, start + offsets[0], offsets[1] - offsets[0])
    for _, _, offset, nbytes in sorted(tensors.values(), key=lambda tensor: tensor[2:]):
        if offset != start:
            return None
        start += nbytes
    return tensors if start == len(content) else None


def _whole_numbers(value: JsonValue) -> list[int] | None:
    if not isinstance(value, list):
        return None
    numbers = [item for item in value if type(item) is int and item >= 0]
    return numbers if len(numbers) == len(value) else None
