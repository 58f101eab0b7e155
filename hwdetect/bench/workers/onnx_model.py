"""ONNX models written without the onnx package: the few messages of onnx.proto that an expert needs.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (ONNX IR version 8).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
FLOAT, UINT8, INT64 = 1, 2, 7
_KINDS = {np.dtype(np.float32): FLOAT, np.dtype(np.uint8): UINT8, np.dtype(np.int64): INT64}
_ATTRIBUTE_INT = 2


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _int(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _bytes(field: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def initializer(name: str, data: Array) -> bytes:
    """A constant tensor (TensorProto)."""
    dims = b"".join(_int(1, size) for size in data.shape)
    return dims + _int(2, _KINDS[data.dtype]) + _bytes(8, name) + _bytes(9, data.tobytes())


def node(kind: str, inputs: list[str], output: str, domain: str = "", more: str = "", **integers: int) -> bytes:
    """An operation with integer attributes (NodeProto); ``more`` is a second output."""
    outputs = [_bytes(2, name) for name in (output, more) if name]
    parts = [*(_bytes(1, name) for name in inputs), *outputs, _bytes(3, output), _bytes(4, kind)]
    for name, number in integers.items():
        parts.append(_bytes(5, _bytes(1, name) + _int(3, number) + _int(20, _ATTRIBUTE_INT)))
    return b"".join([*parts, _bytes(7, domain)])


def value(name: str, columns: int, kind: int = FLOAT) -> bytes:
    """A matrix of any number of rows (ValueInfoProto)."""
    shape = _bytes(1, _bytes(2, "rows")) + _bytes(1, _int(1, columns))
    return _bytes(1, name) + _bytes(2, _bytes(1, _int(1, kind) + _bytes(2, shape)))


def model(nodes: list[bytes], constants: list[bytes], given: bytes, *results: bytes) -> bytes:
    """A model of one input (ModelProto)."""
    graph = b"".join(_bytes(1, one) for one in nodes) + _bytes(2, "expert")
    graph += b"".join(_bytes(5, one) for one in constants) + _bytes(11, given)
    graph += b"".join(_bytes(12, one) for one in results)
    versions = _bytes(8, _bytes(1, "") + _int(2, 17)) + _bytes(8, _bytes(1, "com.microsoft") + _int(2, 1))
    return _int(1, 8) + versions + _bytes(7, graph)
