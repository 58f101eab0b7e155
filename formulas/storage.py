"""Bytes of a tensor in a storage format, exact for any shape.

A tensor of shape ``(..., rows, columns)`` is stored row by row. Along the columns, ``block`` elements share
``block_bytes`` bytes (scales inside the block included). Some formats keep their scales in a second tensor, one
scale per ``scale_rows x scale_columns`` elements, and some add constant bytes to every tensor::

    bytes = prod(leading) * rows * ceil(columns / block) * block_bytes
          + prod(leading) * ceil(rows / scale_rows) * ceil(columns / scale_columns) * scale_bytes
          + columns * column_bytes + tensor_bytes

GPTQ stores one I32 group index per column. A ``_bf16`` name has scales in bf16 where the plain one has F32.

Sources: ggml block sizes from gguf 0.19.0 ``GGML_QUANT_SIZES``; compressed-tensors (``pack-quantized``: I32
words of eight 4-bit values, scales in the model's dtype, a shape tensor of two I32); DeepSeek-V3 FP8 checkpoints
(one F32 scale per 128 x 128 block); vLLM 0.33.0 ``quantization/fp8.py`` (static FP8 has an input scale beside the
weight's); NVIDIA modelopt NVFP4 (one FP8 scale per 16 elements and two F32 scalars per tensor, one when
activations are not quantized); OCP Microscaling MXFP4 (one E8M0 scale per 32 elements).
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

WHOLE_ROW = 1 << 62
"""Scale extent that covers a whole row or column."""


class StorageFormat(NamedTuple):
    """How the elements of one tensor are stored.

    ``block`` elements along the columns take ``block_bytes`` bytes. ``scale_bytes`` is the size of one external scale,
    0 when there are none. ``padded`` says whether a partial last block is stored as a whole one; a ggml type refuses it
    and names its ``fallback`` instead.
    """

    name: str
    block: int
    block_bytes: int
    scale_rows: int = 1
    scale_columns: int = 1
    scale_bytes: int = 0
    tensor_bytes: int = 0
    column_bytes: int = 0
    padded: bool = True
    fallback: str | None = None

    @property
    def bits_per_weight(self) -> float:
        """Asymptotic bits per element, scales included.

        >>> FORMATS["int4_g32"].bits_per_weight, FORMATS["Q2_K"].bits_per_weight
        (4.5, 2.625)
        """
        scales = self.scale_bytes / (min(self.scale_rows, 1 << 20) * min(self.scale_columns, 1 << 20))
        return 8 * (self.block_bytes / self.block + scales)


class UnknownFormat(ValueError):
    """A storage format that has no entry in ``FORMATS``."""


class UnalignedColumns(ValueError):
    """Columns that the format cannot store, when it has no fallback."""


def int4_group(group: int) -> StorageFormat:
    """Symmetric INT4 of compressed-tensors ``pack-quantized`` with one bf16 scale per ``group`` columns.

    >>> tensor_bytes(int4_group(32), (2048, 7168))          # one K2.5 expert projection
    8257544
    """
    return StorageFormat(f"int4_g{group}", 8, 4, 1, group, 2, 8)


def int4_zero_point(name: str, group: int) -> StorageFormat:
    """Asymmetric INT4 of AWQ and GPTQ: an f16 scale and a 4-bit zero point per ``group`` rows of input.

    The zero points of eight neighbouring outputs share one I32 word, 0.5 byte each.
    Scales and zeros are counted per column group: ``2 + 0.5`` bytes, stored here as 5 bytes per two rows.
    GPTQ also stores the group of every input column (I32).

    >>> [tensor_bytes(int4_zero_point(name, 128), (4096, 4096)) for name in ("awq", "gptq")]
    [8716288, 8732672]
    """
    return StorageFormat(f"{name}_g{group}", 8, 4, 2, group, 5, column_bytes=4 if name == "gptq" else 0)


def _ggml(name: str, block: int, block_bytes: int, fallback: str | None = None) -> StorageFormat:
    return StorageFormat(name, block, block_bytes, padded=False, fallback=fallback)


_PLAIN = (
    StorageFormat("bf16", 1, 2),
    StorageFormat("f16", 1, 2),
    StorageFormat("f32", 1, 4),
    StorageFormat("int64", 1, 8),
    StorageFormat("int8", 1, 1, 1, WHOLE_ROW, 4),
    StorageFormat("int8_channel_bf16", 1, 1, 1, WHOLE_ROW, 2),
    StorageFormat("fp8", 1, 1, tensor_bytes=4),
    StorageFormat("fp8_static", 1, 1, tensor_bytes=8),
    StorageFormat("fp8_tensor_bf16", 1, 1, tensor_bytes=2),
    StorageFormat("fp8_static_bf16", 1, 1, tensor_bytes=4),
    StorageFormat("fp8_channel", 1, 1, 1, WHOLE_ROW, 4),
    StorageFormat("fp8_channel_bf16", 1, 1, 1, WHOLE_ROW, 2),
    StorageFormat("fp8_block128", 1, 1, 128, 128, 4),
    StorageFormat("fp8_block128_bf16", 1, 1, 128, 128, 2),
    StorageFormat("mxfp8", 32, 33),
    StorageFormat("nvfp4", 2, 1, 1, 16, 1, 8),
    StorageFormat("nvfp4_a16", 2, 1, 1, 16, 1, 4),
    StorageFormat("mxfp4", 2, 1, 1, 32, 1),
    StorageFormat("int4_channel", 8, 4, 1, WHOLE_ROW, 2, 8),
    int4_group(32),
    int4_group(64),
    int4_group(128),
    int4_zero_point("awq", 128),
    int4_zero_point("gptq", 128),
)

# The fallback is what llama.cpp's quantizer stores when columns are not divisible by 256.
_GGML = (
    _ggml("F32", 1, 4),
    _ggml("F16", 1, 2),
    _ggml("BF16", 1, 2),
    _ggml("Q4_0", 32, 18, "F16"),
    _ggml("Q4_1", 32, 20, "F16"),
    _ggml("Q5_0", 32, 22, "F16"),
    _ggml("Q5_1", 32, 24, "F16"),
    _ggml("Q8_0", 32, 34, "F16"),
    _ggml("Q8_1", 32, 36, "F16"),
    _ggml("Q2_K", 256, 84, "Q4_0"),
    _ggml("Q3_K", 256, 110, "Q4_0"),
    _ggml("Q4_K", 256, 144, "Q5_0"),
    _ggml("Q5_K", 256, 176, "Q5_1"),
    _ggml("Q6_K", 256, 210, "Q8_0"),
    _ggml("Q8_K", 256, 292, "Q8_0"),
    _ggml("IQ1_S", 256, 50, "IQ4_NL"),
    _ggml("IQ1_M", 256, 56, "IQ4_NL"),
    _ggml("IQ2_XXS", 256, 66, "IQ4_NL"),
    _ggml("IQ2_XS", 256, 74, "IQ4_NL"),
    _ggml("IQ2_S", 256, 82, "IQ4_NL"),
    _ggml("IQ3_XXS", 256, 98, "IQ4_NL"),
    _ggml("IQ3_S", 256, 110, "IQ4_NL"),
    _ggml("IQ4_NL", 32, 18, "F16"),
    _ggml("IQ4_XS", 256, 136, "IQ4_NL"),
    _ggml("TQ1_0", 256, 54, "Q4_0"),
    _ggml("TQ2_0", 256, 66, "Q4_0"),
    _ggml("MXFP4", 32, 17, "F16"),
    _ggml("NVFP4", 64, 36, "F16"),
    _ggml("Q1_0", 128, 18, "F16"),
    _ggml("Q2_0", 64, 18, "F16"),
    _ggml("I8", 1, 1),
    _ggml("I16", 1, 2),
    _ggml("I32", 1, 4),
    _ggml("I64", 1, 8),
    _ggml("F64", 1, 8),
)

FORMATS: dict[str, StorageFormat] = {f.name: f for f in (*_PLAIN, *_GGML)}
"""Every storage format by name; ggml types carry their upper-case ggml name."""


def storage_format(name: str) -> StorageFormat:
    """The format of that name; ``int4_gN`` exists for every positive group N.

    Raises ``UnknownFormat``.
    """
    found = FORMATS.get(name)
    if found is not None:
        return found
    for prefix in ("int4", "awq", "gptq"):
        group = name.removeprefix(f"{prefix}_g")
        if group != name and group.isascii() and group.isdigit() and 0 < int(group) < WHOLE_ROW:
            return int4_group(int(group)) if prefix == "int4" else int4_zero_point(prefix, int(group))
    raise UnknownFormat(f"unknown storage format {name!r}")


def stored_format(fmt: StorageFormat, columns: int) -> StorageFormat:
    """The format really written for rows of ``columns`` elements: ``fmt``, or its fallback when they do not divide.

    >>> stored_format(FORMATS["Q4_K"], 128).name       # attn_k_b of K2.5 has 128 columns
    'Q5_0'
    """
    while not fmt.padded and columns % fmt.block:
        if fmt.fallback is None:
            raise UnalignedColumns(f"{fmt.name} stores blocks of {fmt.block} columns, not {columns}")
        fmt = FORMATS[fmt.fallback]
    return fmt


def tensor_bytes(fmt: StorageFormat, shape: tuple[int, ...]) -> int:
    """Bytes of one tensor of ``shape`` (row-major, columns last), scales and constants included.

    Raises ``ValueError`` for an empty shape or a dimension below 1.

    >>> tensor_bytes(FORMATS["bf16"], (163840, 7168))                 # K2.5 embedding
    2348810240
    >>> tensor_bytes(FORMATS["fp8_block128"], (576, 7168))            # kv_a: 5 row blocks for 576 rows
    4129888
    """
    if not shape or min(shape) < 1:
        raise ValueError(f"a tensor needs dimensions of at least 1, not {shape}")
    columns = shape[-1]
    rows = shape[-2] if len(shape) > 1 else 1
    leading = prod(shape[:-2])
    fmt = stored_format(fmt, columns)
    total = leading * rows * -(-columns // fmt.block) * fmt.block_bytes
    if fmt.scale_bytes:
        total += leading * -(-rows // fmt.scale_rows) * -(-columns // fmt.scale_columns) * fmt.scale_bytes
    return total + leading * columns * fmt.column_bytes + fmt.tensor_bytes


def elements(shape: tuple[int, ...]) -> int:
    """Number of elements of a tensor.

    >>> elements((384, 2048, 7168))
    5637144576
    """
    return prod(shape)
