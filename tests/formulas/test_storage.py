"""Bytes of stored tensors: the formats' own figures, shards, fallbacks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulas.storage import (
    FORMATS,
    WHOLE_ROW,
    StorageFormat,
    UnalignedColumns,
    UnknownFormat,
    elements,
    storage_format,
    stored_format,
    tensor_bytes,
)

NAMES = st.sampled_from(sorted(FORMATS))
PADDED = st.sampled_from(sorted(name for name, fmt in FORMATS.items() if fmt.padded))
BY_ROW = st.sampled_from(sorted(name for name, fmt in FORMATS.items() if fmt.padded and not fmt.text_bytes))
"""Formats that store nothing but rows: no note with the tensor's own shape."""
DIMENSION = st.integers(1, 4096)


def scale_extent(extent: int) -> int:
    """Scales per whole row or column do not restrict how a shape divides."""
    return 1 if extent == WHOLE_ROW else extent


def divisible_shape(fmt: StorageFormat, parts: int, rows: int, columns: int) -> tuple[int, int]:
    """A shape whose ``parts`` row shards end on the format's blocks and scales."""
    rows *= scale_extent(fmt.scale_rows) * fmt.zero_rows
    return parts * rows, fmt.block * scale_extent(fmt.scale_columns) * columns


@given(NAMES)
def test_bits_per_weight_are_what_a_large_aligned_tensor_takes(name: str) -> None:
    fmt = FORMATS[name]
    shape = (1 << 20, 1 << 20)
    # What is constant per tensor or per column is not in the asymptotic figure.
    measured = tensor_bytes(fmt, shape) - fmt.tensor_bytes - shape[1] * fmt.column_bytes
    measured -= fmt.text_bytes + len("1048576, 1048576") if fmt.text_bytes else 0
    assert measured * 8 / elements(shape) == pytest.approx(fmt.bits_per_weight, rel=1e-9)


def test_known_bits_per_weight() -> None:
    published = {
        "Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625, "Q8_0": 8.5, "Q4_0": 4.5,
        "IQ1_S": 1.5625, "IQ1_M": 1.75, "IQ2_XXS": 2.0625, "IQ2_XS": 2.3125, "IQ2_S": 2.5625, "IQ3_XXS": 3.0625,
        "IQ3_S": 3.4375, "IQ4_NL": 4.5, "IQ4_XS": 4.25, "TQ1_0": 1.6875, "TQ2_0": 2.0625, "MXFP4": 4.25,
        "int4_g32": 4.5, "int4_g128": 4.125, "nvfp4": 4.5, "mxfp4": 4.25, "bf16": 16.0,
    }  # fmt: skip
    assert {name: FORMATS[name].bits_per_weight for name in published} == published


@given(PADDED, DIMENSION, DIMENSION, st.integers(0, 64), st.integers(0, 64))
def test_a_larger_tensor_never_takes_fewer_bytes(
    name: str, rows: int, columns: int, more_rows: int, more_columns: int
) -> None:
    fmt = FORMATS[name]
    assert tensor_bytes(fmt, (rows, columns)) <= tensor_bytes(fmt, (rows + more_rows, columns + more_columns))


@given(NAMES, DIMENSION, st.integers(1, 8), st.integers(0, 8))
def test_more_whole_blocks_never_take_fewer_bytes(name: str, rows: int, blocks: int, more: int) -> None:
    fmt = FORMATS[name]
    wide = fmt.block * 256
    assert tensor_bytes(fmt, (rows, wide * blocks)) <= tensor_bytes(fmt, (rows, wide * (blocks + more)))


@given(BY_ROW, st.sampled_from((2, 4, 8, 16)), st.integers(1, 16), st.integers(1, 16))
def test_row_shards_of_a_divisible_tensor_add_up(name: str, ranks: int, rows: int, columns: int) -> None:
    fmt = FORMATS[name]
    shape = divisible_shape(fmt, ranks, rows, columns)
    shard = tensor_bytes(fmt, (shape[0] // ranks, shape[1]))
    # Every shard repeats the constant of a tensor and GPTQ's index of the columns.
    repeated = fmt.tensor_bytes + shape[1] * fmt.column_bytes
    assert ranks * shard == tensor_bytes(fmt, shape) + (ranks - 1) * repeated


@given(PADDED, st.integers(2, 64), DIMENSION, DIMENSION)
def test_a_shard_is_never_smaller_than_its_share(name: str, ranks: int, rows: int, columns: int) -> None:
    fmt = FORMATS[name]
    whole = tensor_bytes(fmt, (rows, columns))
    by_row = tensor_bytes(fmt, (-(-rows // ranks), columns))
    by_column = tensor_bytes(fmt, (rows, -(-columns // ranks)))
    assert by_row * ranks >= whole
    assert by_column * ranks >= whole


@given(NAMES, st.integers(1, 100_000))
def test_the_fallback_of_a_type_always_ends(name: str, columns: int) -> None:
    fmt = FORMATS[name]
    stored = stored_format(fmt, columns)
    assert stored.padded or columns % stored.block == 0
    assert stored_format(stored, columns) is stored


@given(NAMES)
def test_a_fallback_has_smaller_blocks(name: str) -> None:
    fmt = FORMATS[name]
    if fmt.fallback is not None:
        assert FORMATS[fmt.fallback].block < fmt.block


def test_columns_without_a_fallback_are_refused() -> None:
    stubborn = StorageFormat("x", 32, 18, padded=False)
    with pytest.raises(UnalignedColumns, match="32 columns, not 33"):
        tensor_bytes(stubborn, (4, 33))


@given(st.sampled_from(("int4", "awq", "gptq")), st.integers(1, 1 << 20))
def test_any_group_size_has_a_format(kind: str, group: int) -> None:
    fmt = storage_format(f"{kind}_g{group}")
    assert fmt.name == f"{kind}_g{group}"
    assert fmt.scale_columns == group


WRITTEN = [
    ("int4_g128_i64", (256, 512), 67_600),
    ("int4_g128_zp_i64", (256, 512), 68_112),
    ("int4_channel_i64", (256, 512), 66_064),
    ("int4_channel_zp_i64", (256, 512), 66_192),
    ("int4_g128_gidx_i64", (256, 512), 69_648),
    ("int8_channel_i64", (256, 512), 131_600),
    ("int8_g128_zp_i64", (256, 512), 134_160),
    ("int3_g128_i64", (256, 512), 55_312),
    ("int2_g64_i64", (256, 512), 36_880),
    ("int8_channel_bf16", (256, 512), 131_584),
    ("int8_static_bf16", (256, 512), 131_076),
    ("fp8_channel_bf16", (256, 512), 131_584),
    ("fp8_static_bf16", (256, 512), 131_076),
    ("fp8_block128_bf16", (256, 512), 131_088),
    ("nvfp4", (256, 512), 73_736),
    ("nvfp4_a16", (256, 512), 73_732),
    ("mxfp4", (256, 512), 69_632),
    ("mxfp8", (256, 512), 135_168),
    ("nf4", (256, 512), 73_872),
    ("nf4", (300, 100), 17_020),
    ("fp4", (4096, 11008), 25_362_579),
    ("nf4_nested17", (256, 512), 68_872),
    ("nf4_nested17", (300, 100), 16_733),
    ("bnb_int8", (256, 512), 132_097),
]
"""What the libraries themselves write for one matrix, all its tensors together: compressed-tensors 0.17.0 and
bitsandbytes 0.50.2, with torch 2.13.0."""


@pytest.mark.parametrize(("name", "shape", "nbytes"), WRITTEN)
def test_formats_are_what_the_libraries_write(name: str, shape: tuple[int, ...], nbytes: int) -> None:
    assert tensor_bytes(storage_format(name), shape) == nbytes


def test_gptq_packs_three_bits_without_gaps() -> None:
    """AutoGPTQ 0.7.1: qweight and qzeros pack 32 values into 3 words; scales F16, g_idx I32."""
    qweight, qzeros, scales, g_idx = 4096 * 3 // 32 * 1024 * 4, 32 * 1024 * 3 // 32 * 4, 32 * 1024 * 2, 4096 * 4
    assert tensor_bytes(storage_format("gptq3_g128"), (1024, 4096)) == qweight + qzeros + scales + g_idx


@pytest.mark.parametrize(
    "name",
    ["", "int4", "int4_g0", "int4_g", "int4_g-1", "int4_g3.5", "INT4_G32", "q4_k", "int4_g٣", "int4_g032",
     "int9_g32", "int4_i64", "gptq5_g128", "fp8_block0", "fp8_block64x64", "fp8_block"],
)  # fmt: skip
def test_unknown_formats_are_refused(name: str) -> None:
    with pytest.raises(UnknownFormat, match="unknown storage format"):
        storage_format(name)


@pytest.mark.parametrize("shape", [(), (0,), (4, 0), (-1, 4)])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dimensions of at least 1"):
        tensor_bytes(FORMATS["bf16"], shape)


@given(BY_ROW, st.integers(1, 16), DIMENSION, DIMENSION)
def test_a_stack_of_matrices_takes_its_number_of_times(name: str, count: int, rows: int, columns: int) -> None:
    fmt = FORMATS[name]
    one = tensor_bytes(fmt, (rows, columns)) - fmt.tensor_bytes
    assert tensor_bytes(fmt, (count, rows, columns)) == count * one + fmt.tensor_bytes
