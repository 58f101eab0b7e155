"""Reader of GGUF headers, versions 2 and 3, either byte order, one file or a split set, never of weights.

Source: the public GGUF specification (ggml, docs/gguf.md) and the checks that llama.cpp's own loader makes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple, TypeAlias

from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.ggmltypes import GGML_TYPES
from profiles.headers.gguf_cursor import ByteOrder, Cursor
from profiles.headers.modelfile import open_model_file, os_errors_as_bad_file
from profiles.headers.tensorinfo import MAX_NAME_BYTES, MAX_SHARDS, TensorInfo

MAX_TENSORS = 65_536
"""Over all shards. The experts of a layer are one tensor here: Kimi K2.5 has 1,096."""
MAX_KEYS = 65_536
MAX_KEY_BYTES = 65_535
MAX_KEPT_NUMBERS = 1_024
"""Of one metadata array. A longer one is summarized."""
MAX_TEXT_BYTES = 262_144
"""Of one metadata string. A longer one (an embedded tokenizer.json) is summarized."""
MAX_KEPT_BYTES = 64_000_000
"""Of memory for everything that is kept of the metadata."""
MAX_ARRAY_STRINGS = 2_097_152
"""Each must be stepped over. The largest vocabularies have 0.8 million with their merges."""

_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {
    0: ("u8", "B", 1),
    1: ("i8", "b", 1),
    2: ("u16", "H", 2),
    3: ("i16", "h", 2),
    4: ("u32", "I", 4),
    5: ("i32", "i", 4),
    6: ("f32", "f", 4),
    7: ("bool", "B", 1),
    10: ("u64", "Q", 8),
    11: ("i64", "q", 8),
    12: ("f64", "d", 8),
}
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_SPLIT_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ArraySummary:
    """What is kept of a metadata value too large to keep: `length` elements of `element_type`.

    `element_type` is a GGUF name (`string`, `i32`, `f32`, ...), or `utf8` for the bytes of a long string.
    """

    length: int
    element_type: str


Number: TypeAlias = bool | int | float
MetadataValue: TypeAlias = Number | str | tuple[Number, ...] | ArraySummary


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The header of a GGUF model: of its one file, or of all its shards in order.

    `metadata` is the first shard's. `file_bytes` is the size of all files, `metadata_bytes` what lies before
    the tensor data in all of them.
    """

    metadata: dict[str, MetadataValue]
    tensors: tuple[TensorInfo, ...]
    version: int
    byte_order: ByteOrder
    files: tuple[Path, ...]
    file_bytes: int
    metadata_bytes: int


class _Shard(NamedTuple):
    metadata: dict[str, MetadataValue]
    tensors: list[TensorInfo]
    version: int
    byte_order: ByteOrder
    file_bytes: int
    metadata_bytes: int


class _Raw(NamedTuple):
    """A tensor before it is known where the data begins."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    nbytes: int
    offset_in_data: int


def read_gguf(path: str | PathLike[str]) -> GgufFile:
    """Read the header of a GGUF file; any shard (`name-00001-of-00005.gguf`) stands for its whole set.

    Raises `BadModelFile` for anything that is not a complete, consistent GGUF model.
    """
    paths = _all_shards(Path(path))
    budget = _Budget()
    shards = [_read_shard(shard_path, budget) for shard_path in paths]
    _check_split(paths, shards)
    first = shards[0]
    return GgufFile(
        metadata=first.metadata,
        tensors=tuple(tensor for shard in shards for tensor in shard.tensors),
        version=first.version,
        byte_order=first.byte_order,
        files=tuple(paths),
        file_bytes=sum(shard.file_bytes for shard in shards),
        metadata_bytes=sum(shard.metadata_bytes for shard in shards),
    )


def _all_shards(path: Path) -> list[Path]:
    split = _SPLIT_NAME.fullmatch(path.name)
    if split is None:
        return [path]
    count, number = int(split["count"]), int(split["number"])
    if not 1 <= number <= count <= MAX_SHARDS:
        raise BadModelFile(path, f"the name says shard {number} of {count}; 1 to {MAX_SHARDS:,} shards are allowed")
    paths = [path.with_name(f"{split['prefix']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    with os_errors_as_bad_file(path):
        missing = [shard for shard in paths if not shard.exists()]
    if path in missing:
        return [path]
    if missing:
        raise BadModelFile(
            path,
            f"{len(missing)} of {count} shards are missing, first {quoted(missing[0].name)}; all are needed",
        )
    return paths


def _check_split(paths: list[Path], shards: list[_Shard]) -> None:
    count = len(paths)
    if count == 1:
        stated = shards[0].metadata.get("split.count", 1)
        if stated not in (0, 1):
            raise BadModelFile(
                paths[0],
                f"one shard of {stated!r:.40}; a shard must be named like name-00001-of-00002.gguf",
            )
        return
    tensor_count = sum(len(shard.tensors) for shard in shards)
    for number, (path, shard) in enumerate(zip(paths, shards, strict=True)):
        expected = {"split.count": count, "split.no": number, "split.tensors.count": tensor_count}
        for key, value in expected.items():
            if shard.metadata.get(key) != value:
                raise BadModelFile(path, f"{key} is {shard.metadata.get(key)!r:.40}; in this set it must be {value}")
        if (shard.version, shard.byte_order) != (shards[0].version, shards[0].byte_order):
            raise BadModelFile(path, "differs from the first shard in GGUF version or byte order; one is allowed")


class _Budget:
    """What one call may take in over all shards, so that its time and memory are bounded."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._array_strings = 0
        self._kept_bytes = 0

    def spend_array_strings(self, cursor: Cursor, count: int) -> None:
        self._array_strings += count
        if self._array_strings > MAX_ARRAY_STRINGS:
            raise cursor.bad(f"more than the {MAX_ARRAY_STRINGS:,} strings in metadata arrays that are allowed")

    def spend_kept(self, cursor: Cursor, size_bytes: int) -> None:
        self._kept_bytes += size_bytes
        if self._kept_bytes > MAX_KEPT_BYTES:
            raise cursor.bad(f"metadata needs more than the {MAX_KEPT_BYTES:,} bytes of memory that are allowed")


def _read_shard(path: Path, budget: _Budget) -> _Shard:
    with open_model_file(path) as file:
        cursor = Cursor(file)
        version = cursor.read_preamble()
        tensor_count, key_count = cursor.unpack("QQ")
        if len(budget.names) + tensor_count > MAX_TENSORS:
            raise cursor.bad(f"claims {tensor_count:,} tensors; {MAX_TENSORS:,} in all shards are allowed")
        if key_count > MAX_KEYS:
            raise cursor.bad(f"claims {key_count:,} metadata keys; {MAX_KEYS:,} are allowed")
        metadata = _read_metadata(cursor, key_count, budget)
        alignment = _alignment(cursor, metadata)
        raw = [_read_tensor(cursor, budget) for _ in range(tensor_count)]
        _check_places(cursor, raw, alignment)
        data_start = _aligned(cursor.position, alignment) if raw else cursor.position
        return _Shard(
            metadata=metadata,
            tensors=list(_located(cursor, raw, data_start)),
            version=version,
            byte_order=cursor.byte_order,
            file_bytes=file.size_bytes,
            metadata_bytes=data_start,
        )


def _read_metadata(cursor: Cursor, key_count: int, budget: _Budget) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for _ in range(key_count):
        key = cursor.text("a metadata key", MAX_KEY_BYTES)
        if not key.isprintable() or not key:
            raise cursor.bad(f"metadata key {quoted(key)} is not printable text, which alone is allowed")
        if key in metadata:
            raise cursor.bad(f"metadata key {quoted(key)} appears twice; once is allowed")
        budget.spend_kept(cursor, 200 + 4 * len(key))
        (type_id,) = cursor.unpack("I")
        metadata[key] = _read_value(cursor, key, type_id, budget)
    return metadata


def _read_value(cursor: Cursor, key: str, type_id: int, budget: _Budget) -> MetadataValue:
    if type_id == _STRING:
        (length,) = cursor.unpack("Q")
        if length > MAX_TEXT_BYTES:
            cursor.skip(length)
            return ArraySummary(length, "utf8")
        budget.spend_kept(cursor, 4 * length)
        return cursor.text_of(length, f"the value of metadata key {quoted(key)}")
    if type_id == _ARRAY:
        return _read_array(cursor, key, budget)
    return _read_numbers(cursor, key, type_id, 1)[0]


def _read_array(cursor: Cursor, key: str, budget: _Budget) -> tuple[Number, ...] | ArraySummary:
    type_id, length = cursor.unpack("IQ")
    if type_id == _ARRAY:
        raise cursor.bad(f"metadata key {quoted(key)} is an array of arrays; arrays of scalars are allowed")
    if type_id == _STRING:
        budget.spend_array_strings(cursor, length)
        cursor.skip_strings(length)
        return ArraySummary(length, "string")
    if type_id in _NUMBERS and length > MAX_KEPT_NUMBERS:
        name, _, size_bytes = _NUMBERS[type_id]
        cursor.skip(length * size_bytes)
        return ArraySummary(length, name)
    budget.spend_kept(cursor, 40 * length)
    return _read_numbers(cursor, key, type_id, length)


def _read_numbers(cursor: Cursor, key: str, type_id: int, length: int) -> tuple[Number, ...]:
    if type_id not in _NUMBERS:
        raise cursor.bad(f"metadata key {quoted(key)} has the unknown value type {type_id}; 0 to 12 are allowed")
    name, code, _ = _NUMBERS[type_id]
    values: tuple[Number, ...] = cursor.unpack(f"{length}{code}")
    if type_id == _BOOL:
        if not set(values) <= {0, 1}:
            raise cursor.bad(f"metadata key {quoted(key)} holds a bool of neither 0 nor 1, which are allowed")
        return tuple(map(bool, values))
    if not all(map(math.isfinite, values)):
        raise cursor.bad(f"metadata key {quoted(key)} holds an {name} that is not finite, as it must be")
    return values


def _alignment(cursor: Cursor, metadata: dict[str, MetadataValue]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise cursor.bad(f"general.alignment is {alignment!r:.40}; a power of two is allowed")
    return alignment


def _read_tensor(cursor: Cursor, budget: _Budget) -> _Raw:
    name = cursor.text("a tensor name", MAX_NAME_BYTES)
    if not name.isprintable():
        raise cursor.bad(f"tensor name {quoted(name)} is not printable text, which alone is allowed")
    if name in budget.names:
        raise cursor.bad(f"tensor {quoted(name)} appears twice; once is allowed")
    budget.names.add(name)
    (n_dimensions,) = cursor.unpack("I")
    if n_dimensions > _MAX_DIMENSIONS:
        raise cursor.bad(f"tensor {quoted(name)} has {n_dimensions} dimensions; {_MAX_DIMENSIONS} are allowed")
    *dimensions, type_id, offset = cursor.unpack(f"{n_dimensions}QIQ")
    ggml_type = GGML_TYPES.get(type_id)
    if ggml_type is None:
        raise cursor.bad(
            f"tensor {quoted(name)} has ggml type id {type_id}, which is unknown;"
            f" those of ggml up to {max(GGML_TYPES)} are allowed"
        )
    columns = dimensions[0] if dimensions else 1
    if columns % ggml_type.block_elements:
        raise cursor.bad(
            f"tensor {quoted(name)} has rows of {columns}; {ggml_type.name} allows multiples of"
            f" {ggml_type.block_elements}"
        )
    nbytes = math.prod(dimensions) // ggml_type.block_elements * ggml_type.block_bytes
    # GGUF counts dimensions from the fastest-moving one, the columns.
    return _Raw(name, ggml_type.name, tuple(reversed(dimensions)), nbytes, offset)


def _check_places(cursor: Cursor, raw: list[_Raw], alignment: int) -> None:
    """That the tensors lie one after another, as ggml's own reader requires: none overlap, and nothing is hidden."""
    end = 0
    for tensor in raw:
        if tensor.offset_in_data % alignment:
            raise cursor.bad(
                f"tensor {quoted(tensor.name)} is at offset {tensor.offset_in_data};"
                f" multiples of the alignment {alignment} are allowed"
            )
        expected = _aligned(end, alignment)
        if tensor.offset_in_data != expected:
            what = "leaves a hole before it" if tensor.offset_in_data > expected else "overlaps the one before it"
            raise cursor.bad(
                f"tensor {quoted(tensor.name)} is at offset {tensor.offset_in_data:,} and {what}; only {expected:,},"
                " where that one ends, is allowed"
            )
        end = expected + tensor.nbytes


def _located(cursor: Cursor, raw: list[_Raw], data_start: int) -> Iterator[TensorInfo]:
    size_bytes, path = cursor.file.size_bytes, cursor.file.path
    for name, type_name, shape, nbytes, offset_in_data in raw:
        offset = data_start + offset_in_data
        if offset + nbytes > size_bytes:
            raise cursor.bad(
                f"tensor {quoted(name)} ends at byte {offset + nbytes:,} of a file of {size_bytes:,};"
                " a complete download is allowed"
            )
        yield TensorInfo(name, type_name, shape, nbytes, path, offset)


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
