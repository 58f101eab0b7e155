"""The GGUF reader: exact values of files that were written here, split sets, and attacks."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from profiles.headers import ArraySummary, BadModelFile, read_gguf
from tests.profiles.headers.writers import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Entry,
    GgufTensor,
    Value,
    gguf,
    text,
)

Write = Callable[[str, bytes], Path]

Q4_K, Q8_0, F32_TENSOR = 12, 8, 0

ENTRIES: list[Entry] = [
    ("general.architecture", STRING, "deepseek2"),
    ("general.name", STRING, "Kimi K2.5 · 月之暗面"),
    ("u8", U8, 255),
    ("i8", I8, -128),
    ("u16", U16, 65_535),
    ("i16", I16, -32_768),
    ("deepseek2.block_count", U32, 61),
    ("i32", I32, -(2**31)),
    ("deepseek2.rope.freq_base", F32, 50_000.0),
    ("deepseek2.expert_weights_norm", BOOL, 1),
    ("u64", U64, 2**64 - 1),
    ("i64", I64, -(2**63)),
    ("f64", F64, 0.1),
    ("few numbers", ARRAY, (I32, [1, -2, 3])),
    ("few bools", ARRAY, (BOOL, [1, 0])),
    ("none", ARRAY, (U8, [])),
    ("many numbers", ARRAY, (F32, [0.5] * 1025)),
    ("tokenizer.ggml.tokens", ARRAY, (STRING, ["a", "bc", ""])),
]
TENSORS = [
    GgufTensor("token_embd.weight", (512, 4), Q4_K, 4 * 2 * 144),
    GgufTensor("output_norm.weight", (10,), F32_TENSOR, 40),
    GgufTensor("blk.0.ffn_up_exps.weight", (64, 3, 5), Q8_0, 5 * 3 * 2 * 34),
    GgufTensor("scalar", (), F32_TENSOR, 4),
]

SMALL = gguf(
    [
        ("general.architecture", STRING, "llama"),
        ("llama.block_count", U32, 1),
        ("list", ARRAY, (STRING, ["x"])),
    ],
    [GgufTensor("a", (32,), Q8_0, 34), GgufTensor("b", (2, 2), F32_TENSOR, 16)],
)


@pytest.mark.parametrize(("order", "byte_order"), [("<", "little"), (">", "big")])
@pytest.mark.parametrize("version", [2, 3])
def test_reads_exact_values(write: Write, order: str, byte_order: str, version: int) -> None:
    content = gguf(ENTRIES, TENSORS, order=order, version=version)
    path = write("model.gguf", content)

    file = read_gguf(path)

    assert file.metadata == {
        "general.architecture": "deepseek2",
        "general.name": "Kimi K2.5 · 月之暗面",
        "u8": 255,
        "i8": -128,
        "u16": 65_535,
        "i16": -32_768,
        "deepseek2.block_count": 61,
        "i32": -(2**31),
        "deepseek2.rope.freq_base": 50_000.0,
        "deepseek2.expert_weights_norm": True,
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f64": 0.1,
        "few numbers": (1, -2, 3),
        "few bools": (True, False),
        "none": (),
        "many numbers": ArraySummary(1025, "f32"),
        "tokenizer.ggml.tokens": ArraySummary(3, "string"),
    }
    assert file.metadata["deepseek2.expert_weights_norm"] is True
    data = file.metadata_bytes
    assert data % 32 == 0
    assert file.file_bytes == len(content) == data + 1152 + 64 + 1024 + 4
    assert [tuple(tensor) for tensor in file.tensors] == [
        ("token_embd.weight", "Q4_K", (4, 512), 1152, path, data),
        ("output_norm.weight", "F32", (10,), 40, path, data + 1152),
        ("blk.0.ffn_up_exps.weight", "Q8_0", (5, 3, 64), 1020, path, data + 1152 + 64),
        ("scalar", "F32", (), 4, path, data + 1152 + 64 + 1024),
    ]
    assert (file.version, file.byte_order, file.files) == (version, byte_order, (path,))


# Bits per weight as published for each type, an independent statement of the block sizes.
@pytest.mark.parametrize(
    ("type_id", "name", "bits"),
    [
        (0, "F32", 32), (1, "F16", 16), (2, "Q4_0", 4.5), (3, "Q4_1", 5), (6, "Q5_0", 5.5), (7, "Q5_1", 6),
        (8, "Q8_0", 8.5), (9, "Q8_1", 9), (10, "Q2_K", 2.625), (11, "Q3_K", 3.4375), (12, "Q4_K", 4.5),
        (13, "Q5_K", 5.5), (14, "Q6_K", 6.5625), (15, "Q8_K", 9.125), (16, "IQ2_XXS", 2.0625),
        (17, "IQ2_XS", 2.3125), (18, "IQ3_XXS", 3.0625), (19, "IQ1_S", 1.5625), (20, "IQ4_NL", 4.5),
        (21, "IQ3_S", 3.4375), (22, "IQ2_S", 2.5625), (23, "IQ4_XS", 4.25), (24, "I8", 8), (25, "I16", 16),
        (26, "I32", 32), (27, "I64", 64), (28, "F64", 64), (29, "IQ1_M", 1.75), (30, "BF16", 16),
        (34, "TQ1_0", 1.6875), (35, "TQ2_0", 2.0625), (39, "MXFP4", 4.25), (40, "NVFP4", 4.5),
        (41, "Q1_0", 1.125), (42, "Q2_0", 2.25),
    ],
)  # fmt: skip
def test_knows_the_size_of_every_type(write: Write, type_id: int, name: str, bits: float) -> None:
    nbytes = int(7168 * 3 * bits / 8)
    tensor = read_gguf(write("m.gguf", gguf([], [GgufTensor("t", (7168, 3), type_id, nbytes)]))).tensors[0]
    assert (tensor.type_name, tensor.nbytes) == (name, nbytes)


@pytest.mark.parametrize("type_id", [4, 5, 31, 32, 33, 36, 37, 38, 43, 137, 2**32 - 1])
def test_refuses_an_unknown_type_by_its_number(write: Write, type_id: int) -> None:
    path = write("m.gguf", gguf([], [GgufTensor("t", (256,), type_id, 1)]))
    with pytest.raises(BadModelFile, match=f"type id {type_id}, which is unknown"):
        read_gguf(path)


def test_keeps_numbers_up_to_the_limit_and_summarizes_a_long_string(write: Write) -> None:
    entries: list[Entry] = [
        ("kept", ARRAY, (U8, [7] * 1024)),
        ("summarized", ARRAY, (U8, [7] * 1025)),
        ("text", STRING, "x" * 300_000),
    ]
    metadata = read_gguf(write("m.gguf", gguf(entries))).metadata
    assert metadata["kept"] == (7,) * 1024
    assert metadata["summarized"] == ArraySummary(1025, "u8")
    assert metadata["text"] == ArraySummary(300_000, "utf8")


def test_honours_the_alignment_that_the_file_states(write: Write) -> None:
    tensors = [GgufTensor("a", (3,), F32_TENSOR, 12), GgufTensor("b", (3,), F32_TENSOR, 12)]
    path = write("m.gguf", gguf([("general.alignment", U32, 256)], tensors, alignment=256))
    assert [tensor.offset for tensor in read_gguf(path).tensors] == [256, 512]


def test_a_file_without_tensors_has_only_metadata(write: Write) -> None:
    content = gguf([("a", U8, 1)])
    file = read_gguf(write("m.gguf", content))
    assert (file.tensors, file.metadata_bytes, file.file_bytes) == ((), len(content), len(content))


def test_every_truncation_is_refused(write: Write) -> None:
    assert read_gguf(write("m.gguf", SMALL)).file_bytes == len(SMALL)
    for length in range(len(SMALL)):
        path = write("m.gguf", SMALL[:length])
        with pytest.raises(BadModelFile) as caught:
            read_gguf(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()


def split_set(wrong: dict[str, tuple[int, Value]] | None = None) -> dict[str, bytes]:
    """A set whose first shard has the metadata and no tensor; `wrong` overrides keys of the last shard."""
    shards, count = {}, 3
    for number in range(count):
        stated: dict[str, tuple[int, Value]] = {
            "split.no": (U16, number),
            "split.count": (U16, count),
            "split.tensors.count": (I32, 4),
            **(wrong if wrong and number == count - 1 else {}),
        }
        entries: list[Entry] = [("general.architecture", STRING, "llama")] if number == 0 else []
        entries += [(key, *value) for key, value in stated.items()]
        tensors = [GgufTensor(f"t{number}.{i}", (32, 2), Q8_0, 68) for i in range(2 if number else 0)]
        shards[f"model-{number + 1:05}-of-{count:05}.gguf"] = gguf(entries, tensors)
    return shards


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_shard_finds_the_others(write: Write, given: int) -> None:
    shards = split_set()
    paths = [write(name, content) for name, content in shards.items()]
    file = read_gguf(paths[given])
    assert file.files == tuple(paths)
    assert file.file_bytes == sum(map(len, shards.values()))
    assert file.metadata["general.architecture"] == "llama"
    assert [(tensor.name, tensor.file) for tensor in file.tensors] == [
        ("t1.0", paths[1]), ("t1.1", paths[1]), ("t2.0", paths[2]), ("t2.1", paths[2]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split.no": (U16, 0)}, "split.no is 0; in this set it must be 2"),
        ({"split.count": (U16, 4)}, "split.count is 4; in this set it must be 3"),
        ({"split.count": (STRING, "3")}, "split.count is '3'"),
        ({"split.tensors.count": (I32, 5)}, "split.tensors.count is 5; in this set it must be 4"),
        ({"split.tensors.count": (I32, -1)}, "split.tensors.count is -1"),
    ],
)
def test_refuses_shards_that_contradict_their_names(
    write: Write, wrong: dict[str, tuple[int, Value]], message: str
) -> None:
    paths = [write(name, content) for name, content in split_set(wrong).items()]
    with pytest.raises(BadModelFile, match=message) as caught:
        read_gguf(paths[0])
    assert caught.value.file == paths[2]


def test_refuses_an_incomplete_set(write: Write) -> None:
    paths = [write(name, content) for name, content in split_set().items()]
    paths[1].unlink()
    with pytest.raises(BadModelFile, match=r"1 of 3 shards are missing, first 'model-00002-of-00003.gguf'"):
        read_gguf(paths[2])


def test_refuses_a_shard_under_another_name(write: Write) -> None:
    name, content = list(split_set().items())[1]
    with pytest.raises(BadModelFile, match="one shard of 3; a shard must be named"):
        read_gguf(write(f"renamed-{name}.part.gguf", content))


def test_refuses_the_same_tensor_in_two_shards(write: Write) -> None:
    names = list(split_set())
    for number, name in enumerate(names):
        keys = [("split.no", U16, number), ("split.count", U16, 3), ("split.tensors.count", I32, 3)]
        write(name, gguf(keys, [GgufTensor("t", (1,), F32_TENSOR, 4)]))
    path = write(names[0], gguf(keys, [GgufTensor("t", (1,), F32_TENSOR, 4)]))
    with pytest.raises(BadModelFile, match="tensor 't' appears twice"):
        read_gguf(path)


def test_refuses_shards_of_two_byte_orders(write: Write) -> None:
    for number, order in enumerate("<>"):
        keys = [("split.no", U16, number), ("split.count", U16, 2), ("split.tensors.count", I32, 0)]
        path = write(f"m-0000{number + 1}-of-00002.gguf", gguf(keys, order=order))
    with pytest.raises(BadModelFile, match="byte order"):
        read_gguf(path)


@pytest.mark.parametrize("name", ["m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "m-00001-of-99999.gguf"])
def test_refuses_impossible_shard_names(write: Write, name: str) -> None:
    with pytest.raises(BadModelFile, match="the name says shard"):
        read_gguf(write(name, SMALL))


HEAD = b"GGUF" + struct.pack("<I", 3)
ONE_KEY = HEAD + struct.pack("<QQ", 0, 1)
ATTACKS = {
    "empty": (b"", "ends after 0 bytes"),
    "another format": (b"\x80\x02}q\x00" * 10, "begins with '.*'; a GGUF file begins with 'GGUF'"),
    "terminal codes for magic": (b"\x1b[2J" * 10, r"begins with '\\x1b\[2J'"),
    "version 1": (gguf(version=1), "GGUF version 1; versions 2 and 3 are allowed"),
    "version 4": (gguf(version=4), "GGUF version 4"),
    "version 0": (gguf(version=0), "GGUF version 0"),
    "2^63 tensors": (gguf(tensor_count=2**63), "claims 9,223,372,036,854,775,808 tensors"),
    "2^64 keys": (gguf(entry_count=2**64 - 1), "claims 18,446,744,073,709,551,615 metadata keys"),
    "a key of 2^63 bytes": (ONE_KEY + struct.pack("<Q", 2**63), "a metadata key claims .* bytes; 65,535 are allowed"),
    "a string of 2^63 bytes": (ONE_KEY + text("k") + struct.pack("<IQ", STRING, 2**63), "ends after"),
    "a string of 200 bytes in 10": (ONE_KEY + text("k") + struct.pack("<IQ", STRING, 200) + b"x" * 10, "ends after"),
    "2^63 numbers": (ONE_KEY + text("k") + struct.pack("<IIQ", ARRAY, F64, 2**63), "ends after"),
    "2^63 strings": (ONE_KEY + text("k") + struct.pack("<IIQ", ARRAY, STRING, 2**63), "strings in metadata arrays"),
    "a token of 2^64 bytes": (
        ONE_KEY + text("k") + struct.pack("<IIQQ", ARRAY, STRING, 2, 2**64 - 1) + b"x" * 100, "ends after"
    ),
    "arrays of arrays": (
        ONE_KEY + text("k") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 100_000, "array of arrays"
    ),
    "a value type of 13": (ONE_KEY + text("k") + struct.pack("<I", 13), "unknown value type 13"),
    "an element type of 99": (ONE_KEY + text("k") + struct.pack("<IIQ", ARRAY, 99, 2), "unknown value type 99"),
    "a key twice": (gguf([("k", U8, 1), ("k", U8, 1)]), "metadata key 'k' appears twice"),
    "an empty key": (gguf([("", U8, 1)]), "metadata key '' is not printable"),
    "a key that clears the screen": (gguf([("\x1b[2J", U8, 1)]), r"metadata key '\\x1b\[2J' is not printable"),
    "a key that is not UTF-8": (gguf([(b"\xff\xfe", U8, 1)]), "not UTF-8"),
    "a value that is not UTF-8": (gguf([("k", STRING, b"\xff")]), "not UTF-8"),
    "NaN": (gguf([("k", F32, math.nan)]), "holds an f32 that is not finite"),
    "infinity in an array": (gguf([("k", ARRAY, (F64, [0.0, -math.inf]))]), "holds an f64 that is not finite"),
    "a bool of 2": (gguf([("k", BOOL, 2)]), "holds a bool of neither 0 nor 1"),
    "an alignment of 0": (gguf([("general.alignment", U32, 0)]), "general.alignment is 0; a power of two"),
    "an alignment of 33": (gguf([("general.alignment", U32, 33)]), "general.alignment is 33"),
    "an alignment of True": (gguf([("general.alignment", BOOL, 1)]), "general.alignment is True"),
    "an alignment in text": (gguf([("general.alignment", STRING, "32")]), "general.alignment is '32'"),
    "an alignment beyond the file": (
        gguf([("general.alignment", U32, 2**31)], [GgufTensor("t", (1,), 0, 4)]), "ends at byte 2,147,483,652"
    ),
    "a tensor twice": (gguf([], [GgufTensor("t", (1,), 0, 4)] * 2), "tensor 't' appears twice"),
    "a tensor name of 257 bytes": (gguf([], [GgufTensor("t" * 257, (1,), 0, 4)]), "claims 257 bytes; 256 are allowed"),
    "a tensor name of two lines": (gguf([], [GgufTensor("a\nb", (1,), 0, 4)]), r"'a\\nb' is not printable"),
    "5 dimensions": (gguf([], [GgufTensor("t", (1,) * 5, 0, 4)]), "has 5 dimensions; 4 are allowed"),
    "2^32-1 dimensions": (
        HEAD + struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<I", 2**32 - 1), "has 4294967295 dimensions"
    ),
    "a product beyond 2^64": (gguf([], [GgufTensor("t", (2**62, 2**62, 2**62, 2**62), 0, 4)]), "complete download"),
    "a broken block": (gguf([], [GgufTensor("t", (100, 2), Q4_K, 100)]), "rows of 100; Q4_K allows multiples of 256"),
    "an offset beyond the file": (gguf([], [GgufTensor("t", (1,), 0, 4, offset=2**63)]), "leaves a hole"),
    "an offset that is not aligned": (gguf([], [GgufTensor("t", (1,), 0, 40, offset=4)]), "is at offset 4; multiples"),
    "tensors that overlap": (
        gguf([], [GgufTensor("a", (32,), 0, 128), GgufTensor("b", (8,), 0, 32, offset=96)]), "at offset 96 and overlaps"
    ),
    "tensors in one place": (
        gguf([], [GgufTensor("a", (8,), 0, 32), GgufTensor("b", (8,), 0, 32, offset=0)]), "overlap"
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_refuses_attacks_with_one_clear_line(write: Write, attack: str) -> None:
    content, message = ATTACKS[attack]
    path = write("evil.gguf", content)
    with pytest.raises(BadModelFile, match=message) as caught:
        read_gguf(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 400


def test_refuses_metadata_that_would_fill_the_memory(write: Write) -> None:
    array = struct.pack("<IIQ", ARRAY, F32, 1024) + bytes(4096)
    entries = b"".join(text(f"k{i}") + array for i in range(1600))
    with pytest.raises(BadModelFile, match="bytes of memory that are allowed"):
        read_gguf(write("m.gguf", HEAD + struct.pack("<QQ", 0, 1600) + entries))


def test_refuses_what_is_not_a_readable_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    for name, reason in {
        "absent.gguf": "No such file",
        "absent-00001-of-00002.gguf": "No such file",
        "pipe.gguf": "not a regular file",
        ".": "not a regular file",
        "loop.gguf": "symbolic links",
        "nul\0.gguf": "null",
        "x" * 300 + ".gguf": "File name too long",
        "x" * 300 + "-00001-of-00002.gguf": "File name too long",
    }.items():
        with pytest.raises(BadModelFile, match=reason) as caught:
            read_gguf(tmp_path / name)
        assert str(caught.value).isprintable()
