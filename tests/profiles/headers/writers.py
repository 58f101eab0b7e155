"""Small writers of GGUF and safetensors files, right and wrong ones: every count and offset can be forged."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

ALIGNMENT = 32
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_CODES = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "B",
    U64: "Q",
    I64: "q",
    F64: "d",
}

Value: TypeAlias = "int | float | str | bytes | tuple[int, Sequence[Value]]"
"""Of a metadata entry; an array is (element type, elements)."""
Entry: TypeAlias = tuple[str | bytes, int, Value]


class GgufTensor(NamedTuple):
    """`dimensions` in GGUF's order, columns first; an `offset` of None is the next free one."""

    name: str | bytes
    dimensions: tuple[int, ...]
    type_id: int
    nbytes: int
    offset: int | None = None


def text(value: str | bytes, order: str = "<") -> bytes:
    """A GGUF string."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(f"{order}Q", len(raw)) + raw


def entry(key: str | bytes, type_id: int, value: Value, order: str = "<") -> bytes:
    """One metadata entry."""
    return text(key, order) + struct.pack(f"{order}I", type_id) + _value(type_id, value, order)


def _value(type_id: int, value: Value, order: str) -> bytes:
    if type_id == STRING:
        assert isinstance(value, str | bytes)
        return text(value, order)
    if isinstance(value, tuple):
        element_type, elements = value
        head = struct.pack(f"{order}IQ", element_type, len(elements))
        return head + b"".join(_value(element_type, element, order) for element in elements)
    return struct.pack(f"{order}{_CODES[type_id]}", value)


def gguf(
    entries: Sequence[Entry] = (),
    tensors: Sequence[GgufTensor] = (),
    *,
    order: str = "<",
    version: int = 3,
    alignment: int = ALIGNMENT,
    entry_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    """A whole file; its data section is zeros and ends with the last tensor, without padding."""
    head = b"GGUF" + struct.pack(
        f"{order}IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(entries) if entry_count is None else entry_count,
    )
    head += b"".join(entry(key, type_id, value, order) for key, type_id, value in entries)
    free = end = 0
    for tensor in tensors:
        offset = free if tensor.offset is None else tensor.offset
        head += text(tensor.name, order)
        head += struct.pack(f"{order}I{len(tensor.dimensions)}Q", len(tensor.dimensions), *tensor.dimensions)
        head += struct.pack(f"{order}IQ", tensor.type_id, offset)
        end = free + tensor.nbytes
        free = -(-end // alignment) * alignment
    padding = -len(head) % alignment if tensors else 0
    return head + bytes(padding + end)


def safetensors(
    header: dict[str, dict[str, object]] | bytes, data_bytes: int = 0, header_bytes: int | None = None
) -> bytes:
    """A whole file with zeros for data."""
    raw = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(raw) if header_bytes is None else header_bytes) + raw + bytes(data_bytes)


def tensor_entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    """What a safetensors header says of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
