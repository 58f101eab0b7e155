"""Bytes of a tensor in a storage format, exact for any shape.

A tensor of shape ``(..., rows, columns)`` is stored row by row. Along the columns, ``block`` elements share
``block_bytes`` bytes (scales inside the block included). Some formats keep their scales in a second tensor, one
scale per ``scale_rows x scale_columns`` elements, some zero points in a third, ``zero_rows`` of them packed into
``zero_bytes`` (or scales of scales, one per ``zero_columns``), and some add constant bytes to every tensor::

    bytes = prod(leading) * rows * ceil(columns / block) * block_bytes
          + prod(leading) * ceil(rows / scale_rows) * ceil(columns / scale_columns) * scale_bytes
          + prod(leading) * ceil(rows / zero_rows) * ceil(columns / (zero_columns or scale_columns)) * zero_bytes
          + columns * column_bytes + tensor_bytes

A ``_gidx`` name has an I32 group index per column, and so has GPTQ. A ``_bf16`` name has scales in bf16 where the plain
one has F32, an ``_e8m0`` name in one-byte powers of two.

Sources: ggml block sizes from gguf 0.19.0 ``GGML_QUANT_SIZES``; compressed-tensors 0.8 to 0.17 (``pack-quantized``: I32
words of as many values as fit, scales in the model's dtype, zero points packed over the rows, a shape tensor of two
I64; Kimi K2.5 was packed by its publisher, with a shape of two I32); DeepSeek-V3 FP8 checkpoints (one F32 scale per
128 x 128 block); vLLM 0.33.0 ``quantization/fp8.py`` (static FP8 has an input scale beside the weight's); NVIDIA
modelopt NVFP4 (one FP8 scale per 16 elements and two F32 scalars per tensor, one when activations are not quantized);
OCP Microscaling MXFP4 and MXFP8 (one E8M0 scale per 32 elements); AutoAWQ 0.2.9 ``linear/gemm.py``; AutoGPTQ 0.7.1
``qlinear_cuda_old.py``; bitsandbytes 0.50.2 ``Linear4bit`` and ``Linear8bitLt``.
"""

from __future__ import annotations

from math import prod
from typing import Final, NamedTuple

WHOLE_ROW = 1 << 62
"""Scale extent that covers a whole row or column."""


class StorageFormat(NamedTuple):
    """How the elements of one tensor are stored.

    ``block`` elements along the columns take ``block_bytes`` bytes. ``scale_bytes`` is the size of one external scale,
    0 when there are none. ``padded`` says whether a partial last block is stored as a whole one; a ggml type refuses it
    and names its ``fallback`` instead. ``flat`` blocks run on over the end of a row. A format with ``text_bytes`` also
    stores its shape as decimal text, in a note that is otherwise so long.
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
    zero_rows: int = 1
    zero_columns: int = 0
    zero_bytes: int = 0
    flat: bool = False
    text_bytes: int = 0

    @property
    def bits_per_weight(self) -> float:
        """Asymptotic bits per element, scales included.

        >>> FORMATS["int4_g32"].bits_per_weight, FORMATS["Q2_K"].bits_per_weight
        (4.5, 2.625)
        """
        columns = min(self.scale_columns, 1 << 20)
        scales = self.scale_bytes / (min(self.scale_rows, 1 << 20) * columns)
        zeros = self.zero_bytes / (self.zero_rows * (self.zero_columns or columns))
        return 8 * (self.block_bytes / self.block + scales + zeros)


class UnknownFormat(ValueError):
    """A storage format that has no entry in ``FORMATS``."""


class UnalignedColumns(ValueError):
    """Columns that the format cannot store, when it has no fallback."""


def packed_int(
    bits: int, group: int | None, *, zero_points: bool = False, group_index: bool = False, i64_shape: bool = False
) -> StorageFormat:
    """INT of compressed-tensors ``pack-quantized``: a bf16 scale per ``group`` columns, or (None) per row.

    As many ``bits`` wide values as fit share an I32 word, and so do the zero points of neighbouring rows.

    >>> tensor_bytes(packed_int(4, 32), (2048, 7168))          # one K2.5 expert projection
    8257544
    >>> tensor_bytes(packed_int(4, 128, zero_points=True, i64_shape=True), (256, 512))
    68112
    """
    words = 32 // bits
    name = f"int{bits}_{'channel' if group is None else f'g{group}'}"
    name += "_zp" * zero_points + "_gidx" * group_index + "_i64" * i64_shape
    return StorageFormat(
        name, words, 4, 1, group or WHOLE_ROW, 2, 16 if i64_shape else 8, 4 if group_index else 0,
        zero_rows=words, zero_bytes=4 if zero_points else 0,
    )  # fmt: skip


def transposed_int(name: str, bits: int, group: int | None) -> StorageFormat:
    """INT of AWQ and GPTQ, stored input by input: an f16 scale and a zero point per ``group`` inputs (None: all).

    Values are packed into I32 words without gaps, 32 of them into ``bits`` words where they do not fill one; so are
    the zero points of neighbouring outputs. GPTQ also stores the group of every input column (I32).

    >>> [tensor_bytes(transposed_int(name, 4, 128), (4096, 4096)) for name in ("awq", "gptq")]
    [8716288, 8732672]
    """
    values, size = (32 // bits, 4) if 32 % bits == 0 else (32, 4 * bits)
    named = f"{name}{'' if bits == 4 else bits}_{'channel' if group is None else f'g{group}'}"
    columns = 4 if name == "gptq" else 0
    return StorageFormat(
        named, values, size, 1, group or WHOLE_ROW, 2, column_bytes=columns, zero_rows=values, zero_bytes=size
    )


def blocked_fp8(rows: int, columns: int, scale_bytes: int) -> StorageFormat:
    """FP8 with one scale of 4 (F32), 2 (bf16) or 1 (E8M0) bytes per block of ``rows x columns``.

    >>> tensor_bytes(blocked_fp8(128, 128, 4), (576, 7168))            # kv_a of a DeepSeek-style FP8 Kimi K2
    4129888
    """
    block = f"{rows}" if rows == columns else f"{rows}x{columns}"
    end = {4: "", 2: "_bf16", 1: "_e8m0"}[scale_bytes]
    return StorageFormat(f"fp8_block{block}{end}", 1, 1, rows, columns, scale_bytes)


def bitsandbytes_4bit(name: str, dtype: str, digits: int = 0) -> StorageFormat:
    """Two 4-bit values a byte, a maximum per 64, a table of 16 F32, and a note that says so and states the shape.

    Maxima are F32. Nested, they are one byte, with an F32 maximum per 256 of them, a table of 256 F32, and their offset
    in the note, as decimal text of so many ``digits`` as its value needs.

    >>> tensor_bytes(bitsandbytes_4bit("nf4_nested18", "bfloat16", 18), (4096, 11008))
    23261164
    """
    note = f'{{"quant_type": "nf4", "blocksize": 64, "dtype": "{dtype}", "shape": []}}'
    if not digits:
        return StorageFormat(name, 2, 1, 1, 64, 4, 64, flat=True, text_bytes=len(note))
    nested = ', "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": '
    return StorageFormat(
        name, 2, 1, 1, 64, 1, 64 + 1024, zero_columns=64 * 256, zero_bytes=4, flat=True,
        text_bytes=len(note) + len(nested) + digits,
    )  # fmt: skip


def _ggml(name: str, block: int, block_bytes: int, fallback: str | None = None) -> StorageFormat:
    return StorageFormat(name, block, block_bytes, padded=False, fallback=fallback)


_PLAIN = (
    StorageFormat("bf16", 1, 2),
    StorageFormat("f16", 1, 2),
    StorageFormat("f32", 1, 4),
    StorageFormat("int64", 1, 8),
    StorageFormat("int8", 1, 1, 1, WHOLE_ROW, 4),
    StorageFormat("int8_channel_bf16", 1, 1, 1, WHOLE_ROW, 2),
    StorageFormat("int8_channel_static_bf16", 1, 1, 1, WHOLE_ROW, 2, 2),
    StorageFormat("int8_tensor_bf16", 1, 1, tensor_bytes=2),
    StorageFormat("int8_static_bf16", 1, 1, tensor_bytes=4),
    StorageFormat("fp8", 1, 1, tensor_bytes=4),
    StorageFormat("fp8_static", 1, 1, tensor_bytes=8),
    StorageFormat("fp8_tensor_bf16", 1, 1, tensor_bytes=2),
    StorageFormat("fp8_static_bf16", 1, 1, tensor_bytes=4),
    StorageFormat("fp8_channel", 1, 1, 1, WHOLE_ROW, 4),
    StorageFormat("fp8_channel_bf16", 1, 1, 1, WHOLE_ROW, 2),
    *(blocked_fp8(128, 128, size) for size in (4, 2, 1)),
    StorageFormat("mxfp8", 32, 33),
    StorageFormat("nvfp4", 2, 1, 1, 16, 1, 8),
    StorageFormat("nvfp4_a16", 2, 1, 1, 16, 1, 4),
    StorageFormat("mxfp4", 2, 1, 1, 32, 1),
    packed_int(4, None),
    packed_int(4, 32),
    packed_int(4, 64),
    packed_int(4, 128),
    transposed_int("awq", 4, 128),
    transposed_int("gptq", 4, 128),
    bitsandbytes_4bit("nf4", "bfloat16"),
    bitsandbytes_4bit("nf4_f16", "float16"),
    bitsandbytes_4bit("fp4", "bfloat16"),
    bitsandbytes_4bit("fp4_f16", "float16"),
    StorageFormat("bnb_int8", 1, 1, 1, WHOLE_ROW, 4, 1),
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


_TRANSPOSED: Final = frozenset([f"{family}{bits}" for family in ("awq", "gptq") for bits in ("", "2", "3", "8")])


def storage_format(name: str) -> StorageFormat:
    """The format of that name; groups, blocks and bit widths need no entry of their own in ``FORMATS``.

    Raises ``UnknownFormat``.

    >>> storage_format("int8_g64_zp_i64").bits_per_weight, storage_format("gptq3_g128").bits_per_weight
    (8.375, 3.1484375)
    """
    found = FORMATS.get(name)
    if found is not None:
        return found
    made = _made(name)
    if made is None or made.name != name:
        raise UnknownFormat(f"unknown storage format {name!r}")
    return made


def _made(name: str) -> StorageFormat | None:
    """A format from the words of its name; one that another name stands for is for the caller to tell."""
    kind, _, rest = name.partition("_")
    layout, *more = rest.split("_")
    group = _number(layout[1:]) if layout.startswith("g") else None
    grouped = bool(group) or layout == "channel"
    if kind.startswith("int") and kind[3:] in "2345678" and len(kind) == 4 and grouped:
        return packed_int(
            int(kind[3:]), group, zero_points="zp" in more, group_index="gidx" in more, i64_shape="i64" in more
        )
    if kind in _TRANSPOSED and grouped:
        family = kind.rstrip("238")
        return transposed_int(family, int(kind[len(family) :] or 4), group)
    if kind in ("nf4", "fp4") and (digits := _number(layout.removeprefix("nested"))) and digits < 100:
        f16 = more == ["f16"]
        return bitsandbytes_4bit(f"{kind}_nested{digits}{'_f16' * f16}", "float16" if f16 else "bfloat16", digits)
    if kind == "fp8":
        rows, _, columns = layout.removeprefix("block").partition("x")
        size = (_number(rows), _number(columns or rows))
        if size[0] and size[1]:
            return blocked_fp8(size[0], size[1], {"bf16": 2, "e8m0": 1}.get("_".join(more), 4))
    return None


def _number(text: str) -> int | None:
    """A positive decimal number of at most 18 digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 and text[0] != "0" else None


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
    >>> tensor_bytes(FORMATS["nf4"], (4096, 11008))                    # as bitsandbytes 0.50.2 writes it
    25362579
    """
    if not shape or min(shape) < 1:
        raise ValueError(f"a tensor needs dimensions of at least 1, not {shape}")
    fmt = stored_format(fmt, shape[-1])
    total = fmt.tensor_bytes
    if fmt.text_bytes:
        total += fmt.text_bytes + len(", ".join(map(str, shape)))
    if fmt.flat:
        shape = (prod(shape),)
    columns = shape[-1]
    rows = shape[-2] if len(shape) > 1 else 1
    leading = prod(shape[:-2])
    total += leading * rows * -(-columns // fmt.block) * fmt.block_bytes
    if fmt.scale_bytes:
        total += leading * -(-rows // fmt.scale_rows) * -(-columns // fmt.scale_columns) * fmt.scale_bytes
        zeros = -(-columns // (fmt.zero_columns or fmt.scale_columns))
        total += leading * -(-rows // fmt.zero_rows) * zeros * fmt.zero_bytes
    return total + leading * columns * fmt.column_bytes


def elements(shape: tuple[int, ...]) -> int:
    """Number of elements of a tensor.

    >>> elements((384, 2048, 7168))
    5637144576
    """
    return prod(shape)
