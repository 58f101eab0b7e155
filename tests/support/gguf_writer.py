"""Writes GGUF files that the real llama.cpp loads: small ones it decodes with, and sparse ones of full size.

A *random* file holds small finite weights. A *sparse* file holds a true header and metadata followed by a
hole of the size of the tensor data, so that a model of a terabyte occupies kilobytes of disk; llama.cpp can
plan its memory from it but has nothing meaningful to compute with.

The file layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; tensor shapes are in
ggml order (columns first). Block sizes are those of ggml's type table.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol

ALIGNMENT = 32
F16_SMALL = 0x0C00  # 2**-12, the block scale of random quantized weights


class GgmlType(NamedTuple):
    """A ggml storage format: `block_elements` consecutive columns are stored in `block_bytes` bytes.

    `f16_offsets` are the places of the half-precision scales in a block, the only bytes of most formats that
    could make a random block infinite or NaN.
    """

    number: int
    block_elements: int
    block_bytes: int
    f16_offsets: tuple[int, ...] = ()


GGML_TYPES: Mapping[str, GgmlType] = {
    "f32": GgmlType(0, 1, 4),
    "f16": GgmlType(1, 1, 2),
    "q4_0": GgmlType(2, 32, 18, (0,)),
    "q4_1": GgmlType(3, 32, 20, (0, 2)),
    "q5_0": GgmlType(6, 32, 22, (0,)),
    "q5_1": GgmlType(7, 32, 24, (0, 2)),
    "q8_0": GgmlType(8, 32, 34, (0,)),
    "q2_k": GgmlType(10, 256, 84, (80, 82)),
    "q3_k": GgmlType(11, 256, 110, (108,)),
    "q4_k": GgmlType(12, 256, 144, (0, 2)),
    "q5_k": GgmlType(13, 256, 176, (0, 2)),
    "q6_k": GgmlType(14, 256, 210, (208,)),
    "iq2_xxs": GgmlType(16, 256, 66, (0,)),
    "iq2_xs": GgmlType(17, 256, 74, (0,)),
    "iq3_xxs": GgmlType(18, 256, 98, (0,)),
    "iq1_s": GgmlType(19, 256, 50, (0,)),
    "iq4_nl": GgmlType(20, 32, 18, (0,)),
    "iq3_s": GgmlType(21, 256, 110, (0,)),
    "iq2_s": GgmlType(22, 256, 82, (0,)),
    "iq4_xs": GgmlType(23, 256, 136, (0,)),
    "iq1_m": GgmlType(29, 256, 56),
    "bf16": GgmlType(30, 1, 2),
    "tq1_0": GgmlType(34, 256, 54, (52,)),
    "tq2_0": GgmlType(35, 256, 66, (64,)),
    "mxfp4": GgmlType(39, 32, 17),
}


class Tensor(NamedTuple):
    """A tensor of a file: `shape` in ggml order, `kind` a key of `GGML_TYPES`."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        stored = GGML_TYPES[self.kind]
        return self.elements // stored.block_elements * stored.block_bytes


class Field(NamedTuple):
    """A metadata entry: `kind` (of each element of a list) is `u16`, `u32`, `i32`, `f32`, `bool` or `str`."""

    key: str
    kind: str
    value: int | float | str | list[int] | list[str]


class Writable(Protocol):
    """What a file is made of; `tests.support.gguf_models` has the architectures."""

    def fields(self) -> tuple[Field, ...]: ...

    def tensors(self) -> tuple[Tensor, ...]: ...


Data = Literal["random", "sparse"] | Callable[[Tensor], Iterable[bytes]]
"""Or what gives the bytes of each tensor, in parts."""


def write_gguf(
    path: Path,
    spec: Writable,
    *,
    data: Data = "random",
    splits: int = 1,
    version: int = 3,
) -> tuple[Path, ...]:
    """Writes `spec` and returns the files written.

    With `splits` > 1 the files are named `STEM-00001-of-0000N.gguf` beside `path`, the tensors divided evenly
    by count and the metadata in the first. `version` is written as given; versions 2 and 3 share this layout.
    """
    tensors = spec.tensors()
    if not 1 <= splits <= len(tensors):
        raise ValueError(f"splits must be 1 to {len(tensors)}, not {splits}")
    if splits == 1:
        _write_file(path, version, spec.fields(), tensors, data)
        return (path,)
    written = []
    for number in range(splits):
        split_fields = (
            Field("split.no", "u16", number),
            Field("split.count", "u16", splits),
            Field("split.tensors.count", "i32", len(tensors)),
        )
        part = tensors[number * len(tensors) // splits : (number + 1) * len(tensors) // splits]
        target = path.with_name(f"{path.stem}-{number + 1:05d}-of-{splits:05d}.gguf")
        fields = (*spec.fields(), *split_fields) if number == 0 else split_fields
        _write_file(target, version, fields, part, data)
        written.append(target)
    return tuple(written)


def _write_file(path: Path, version: int, fields: Sequence[Field], tensors: Sequence[Tensor], data: Data) -> None:
    offsets = []
    end = 0
    for tensor in tensors:
        offsets.append(end)
        end = _aligned(end + tensor.size_bytes)
    with path.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(fields)))
        for field in fields:
            file.write(_string(field.key) + _value(field))
        for tensor, offset in zip(tensors, offsets, strict=True):
            file.write(_string(tensor.name) + struct.pack("<I", len(tensor.shape)))
            file.write(struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape))
            file.write(struct.pack("<IQ", GGML_TYPES[tensor.kind].number, offset))
        start = _aligned(file.tell())
        if data != "sparse":
            for tensor, offset in zip(tensors, offsets, strict=True):
                file.seek(start + offset)
                if data == "random":
                    _write_random(file, tensor)
                else:
                    file.writelines(data(tensor))
        file.truncate(start + end)


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


# The number by which the file names each kind, and how its values are packed.
_KINDS: Mapping[str, tuple[int, str]] = {
    "u16": (2, "<H"),
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<?"),
    "str": (8, ""),
}
_ARRAY = 9


def _value(field: Field) -> bytes:
    number, code = _KINDS[field.kind]
    values = field.value if isinstance(field.value, list) else [field.value]
    packed = b"".join(_string(value) if isinstance(value, str) else struct.pack(code, value) for value in values)
    if isinstance(field.value, list):
        return struct.pack("<IIQ", _ARRAY, number, len(values)) + packed
    return struct.pack("<I", number) + packed


def _write_random(file: BinaryIO, tensor: Tensor) -> None:
    """The same tensor always gets the same weights; rows differ because the pattern's length is prime."""
    pattern = _pattern(tensor.kind, near_one="norm" in tensor.name)
    stored = GGML_TYPES[tensor.kind]
    start = random.Random(tensor.name).randrange(_PATTERN_BLOCKS) * stored.block_bytes
    pattern = pattern[start:] + pattern[:start]
    whole, rest = divmod(tensor.size_bytes, len(pattern))
    for _ in range(whole):
        file.write(pattern)
    file.write(pattern[:rest])


_PATTERN_BLOCKS = 4099


@cache
def _pattern(kind: str, *, near_one: bool) -> bytes:
    """`_PATTERN_BLOCKS` blocks of small finite weights (about 1 where `near_one`, as norms are)."""
    generator = random.Random(kind)
    if kind in ("f32", "f16", "bf16"):
        centre = 1.0 if near_one else 0.0
        values = [centre + generator.uniform(-0.05, 0.05) for _ in range(_PATTERN_BLOCKS)]
        if kind == "bf16":  # the upper half of a single
            return b"".join(struct.pack("<f", value)[2:] for value in values)
        return struct.pack(f"<{_PATTERN_BLOCKS}{'f' if kind == 'f32' else 'e'}", *values)
    stored = GGML_TYPES[kind]
    blocks = bytearray(generator.randbytes(_PATTERN_BLOCKS * stored.block_bytes))
    for block in range(0, len(blocks), stored.block_bytes):
        for offset in stored.f16_offsets:
            struct.pack_into("<H", blocks, block + offset, F16_SMALL)
        if kind == "mxfp4":
            blocks[block] = 119  # the block's exponent, biased by 127
        elif kind == "iq1_m":  # the four upper nibbles of the scales spell the half-precision block scale
            for word in range(4):
                upper = block + 48 + 2 * word + 1
                blocks[upper] = blocks[upper] & 0x0F | (F16_SMALL >> 4 * word & 0xF) << 4
    return bytes(blocks)
