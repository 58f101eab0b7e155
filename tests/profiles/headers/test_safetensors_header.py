"""The safetensors reader: exact values of files that were written here, sharded sets, and attacks."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from profiles.headers import BadModelFile, TensorInfo, read_gguf, read_safetensors
from tests.profiles.headers.writers import safetensors, tensor_entry

Write = Callable[[str, bytes], Path]

INDEX = "model.safetensors.index.json"

SMALL = safetensors(
    {
        "__metadata__": {"format": "pt"},
        "model.norm.weight": tensor_entry("BF16", [4], 0, 8),
        "model.layers.0.mlp.experts.0.down_proj.weight_packed": tensor_entry("I32", [2, 3], 8, 32),
    },
    32,
)


def test_reads_exact_values(write: Write) -> None:
    header: dict[str, dict[str, object]] = {
        "__metadata__": {"format": "pt"},
        "a": tensor_entry("BF16", [7168, 2], 0, 28_672),
        "scalar": tensor_entry("F32", [], 28_672, 28_676),
        "b.weight_shape": tensor_entry("I32", [2], 28_676, 28_684),
        "empty": tensor_entry("F8_E4M3", [0, 7], 28_684, 28_684),
        "层": tensor_entry("U8", [1, 1, 1], 28_684, 28_685),
    }
    content = safetensors(header, 28_685)
    path = write("model.safetensors", content)
    data = len(content) - 28_685

    checkpoint = read_safetensors(path)

    assert checkpoint.tensors == (
        TensorInfo("a", "BF16", (7168, 2), 28_672, path, data),
        TensorInfo("scalar", "F32", (), 4, path, data + 28_672),
        TensorInfo("b.weight_shape", "I32", (2,), 8, path, data + 28_676),
        TensorInfo("empty", "F8_E4M3", (0, 7), 0, path, data + 28_684),
        TensorInfo("层", "U8", (1, 1, 1), 1, path, data + 28_684),
    )
    assert checkpoint.names == ("a", "scalar", "b.weight_shape", "empty", "层")
    assert checkpoint.metadata == {"format": "pt"}
    assert checkpoint.total_bytes == 28_685
    assert checkpoint.files == (path,)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6), ("BOOL", 8), ("U8", 8), ("I8", 8), ("F8_E5M2", 8), ("F8_E4M3", 8),
        ("F8_E8M0", 8), ("F8_E4M3FNUZ", 8), ("F8_E5M2FNUZ", 8), ("I16", 16), ("U16", 16), ("F16", 16), ("BF16", 16),
        ("I32", 32), ("U32", 32), ("F32", 32), ("I64", 64), ("U64", 64), ("F64", 64), ("C64", 64),
    ],
)  # fmt: skip
def test_knows_the_size_of_every_dtype(write: Write, dtype: str, bits: int) -> None:
    path = write("m.safetensors", safetensors({"t": tensor_entry(dtype, [2, 8], 0, 2 * bits)}, 2 * bits))
    checkpoint = read_safetensors(path)
    assert checkpoint.tensors is not None
    assert [(tensor.type_name, tensor.nbytes) for tensor in checkpoint.tensors] == [(dtype, 2 * bits)]
    path = write("m.safetensors", safetensors({"t": tensor_entry(dtype, [2, 8], 0, 2 * bits + 1)}, 2 * bits + 1))
    with pytest.raises(BadModelFile, match="do not fit dtype"):
        read_safetensors(path)


@pytest.mark.parametrize(
    "header",
    [
        b'{"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b'{"a":{"data_offsets":[0,1],"shape":[1],"dtype":"U8"},"b":{"shape":[2],"dtype":"U8","data_offsets":[1,3]}}',
        b'{ "a" : { "dtype" : "U8" , "shape" : [ 1 ] , "data_offsets" : [ 0 , 1 ] } ,\n\t"b":{"dtype":"U8",'
        b'"shape":[\r2],"data_offsets":[1,3]} }   \n',
        b'{"__metadata__":null,"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
    ],
    ids=["unordered tensors", "unordered keys", "white space", "escapes"],
)
def test_reads_every_way_to_write_the_same_header(write: Write, header: bytes) -> None:
    checkpoint = read_safetensors(write("m.safetensors", safetensors(header, 3)))
    assert checkpoint.tensors is not None
    assert [(name, *tensor[1:4]) for name, tensor in zip(checkpoint.names, checkpoint.tensors, strict=True)] == [
        ("a", "U8", (1,), 1),
        ("b", "U8", (2,), 2),
    ]


def test_a_file_without_tensors(write: Write) -> None:
    assert read_safetensors(write("m.safetensors", safetensors(b"{}"))).tensors == ()
    assert read_safetensors(write("m.safetensors", safetensors({"__metadata__": {"a": "b"}}))).metadata == {"a": "b"}


def test_entries_across_window_boundaries_are_read_whole(write: Write) -> None:
    spaces = b" " * 700_000
    entries = [b'"%d":{%s"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}' % (i, spaces, i, i + 1) for i in range(6)]
    checkpoint = read_safetensors(write("m.safetensors", safetensors(b"{" + b",".join(entries) + b"}" + spaces, 6)))
    assert checkpoint.names == ("0", "1", "2", "3", "4", "5")


def test_every_truncation_is_refused(write: Write) -> None:
    assert read_safetensors(write("m.safetensors", SMALL)).total_bytes == 32
    for length in range(len(SMALL)):
        path = write("m.safetensors", SMALL[:length])
        with pytest.raises(BadModelFile) as caught:
            read_safetensors(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()


def entry(name: str, rest: str = '"dtype":"U8","shape":[1],"data_offsets":[0,1]') -> bytes:
    return f'"{name}":{{{rest}}}'.encode()


def only(rest: str, data_bytes: int = 1) -> bytes:
    return safetensors(b"{" + entry("t", rest) + b"}", data_bytes)


ATTACKS = {
    "empty": (b"", "has 0 bytes"),
    "7 bytes": (b"\0" * 7, "has 7 bytes"),
    "a header of nothing": (safetensors(b""), "its header begins with ''"),
    "a header of 2^64-1 bytes": (safetensors(b"{}", 0, 2**64 - 1), "claims a header of 18,446,744,073,709,551,615"),
    "a header of 100,000,001 bytes": (safetensors(b"{}", 0, 100_000_001), "100,000,000 are allowed"),
    "a header longer than the file": (safetensors(b"{}", 0, 3), "claims a header of 3 bytes but has 10"),
    "a GGUF file": (b"GGUF\3\0\0\0" + bytes(64), "claims a header of"),
    "an array": (safetensors(b"[]"), "a JSON object is allowed"),
    "a space before the object": (safetensors(b" {}"), "a JSON object is allowed"),
    "a byte order mark": (safetensors(b"\xef\xbb\xbf{}"), "a JSON object is allowed"),
    "no end": (safetensors(b"{"), "begins no entry: ''"),
    "a comma at the end": (safetensors(b"{" + entry("t") + b",}", 1), "begins no entry: '}'"),
    "no comma": (safetensors(b"{" + entry("t") + entry("u") + b"}", 1), "begins no entry"),
    "two objects": (safetensors(b"{}{}"), "goes on after the closing brace"),
    "an entry after the object": (safetensors(b"{" + entry("t") + b"}" + entry("u") + b"}", 1), "goes on after"),
    "null bytes after the object": (safetensors(b"{}\0\0"), "goes on after"),
    "null bytes after megabytes of padding": (safetensors(b"{}" + b" " * 3_000_000 + b"\0"), "goes on after"),
    "100,000 open brackets": (safetensors(b'{"a":' + b"[" * 100_000), "begins no entry"),
    "a name that is not UTF-8": (safetensors(b'{"\xff":' + entry("t")[4:] + b"}", 1), "not UTF-8"),
    "a name of two lines": (safetensors(b"{" + entry("a\\nb") + b"}", 1), "is not printable"),
    "a raw control character": (safetensors(b"{" + entry("a\nb") + b"}", 1), "is not printable"),
    "half a surrogate pair": (safetensors(b"{" + entry("\\ud800") + b"}", 1), "is not printable"),
    "text that runs backwards": (safetensors(b"{" + entry("‮evil") + b"}", 1), r"'\\u202eevil' is not printable"),
    "no name": (safetensors(b"{" + entry("") + b"}", 1), "without a name"),
    "a name of 257 bytes": (safetensors(b"{" + entry("x" * 257) + b"}", 1), "has 257 bytes; 256 are allowed"),
    "a tensor twice": (safetensors(b"{" + entry("t") + b"," + entry("t") + b"}", 1), "'t' appears twice"),
    "a tensor twice by escape": (safetensors(b"{" + entry("t") + b"," + entry("\\u0074") + b"}", 1), "appears twice"),
    "a tensor named as the metadata": (safetensors(b"{" + entry("__metadata__") + b"}", 1), "'__metadata__' appears"),
    "the metadata twice": (safetensors(b'{"__metadata__":{},"__metadata__":{}}'), "__metadata__ appears twice"),
    "a metadata key twice": (safetensors(b'{"__metadata__":{"a":"1","a":"2"}}'), "__metadata__: key 'a' appears twice"),
    "metadata that is no text": (safetensors(b'{"__metadata__":{"a":1}}'), "begins no entry"),
    "metadata that is nested": (safetensors(b'{"__metadata__":{"a":{"b":"c"}}}'), "begins no entry"),
    "a dtype twice": (only('"dtype":"U8","dtype":"U8","data_offsets":[0,1]'), "'t' needs one each of dtype, shape"),
    "no dtype": (only('"shape":[1],"data_offsets":[0,1]'), "begins no entry"),
    "an unknown key": (only('"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1'), "begins no entry"),
    "an unknown dtype": (only('"dtype":"U4","shape":[1],"data_offsets":[0,1]'), "'t' has dtype 'U4'; F4, .* are"),
    "a fraction": (only('"dtype":"U8","shape":[1.0],"data_offsets":[0,1]'), "has shape"),
    "a negative length": (only('"dtype":"U8","shape":[-1],"data_offsets":[0,1]'), "has shape"),
    "a leading zero": (only('"dtype":"U8","shape":[01],"data_offsets":[0,1]'), "has shape '\\[01\\]'"),
    "a comma in the shape": (only('"dtype":"U8","shape":[1,],"data_offsets":[0,1]'), "has shape"),
    "two numbers in one": (only('"dtype":"U8","shape":[1 1],"data_offsets":[0,1]'), "has shape"),
    "17 dimensions": (only(f'"dtype":"U8","shape":{[1] * 17},"data_offsets":[0,1]'), "has shape"),
    "NaN": (only('"dtype":"U8","shape":[NaN],"data_offsets":[0,1]'), "has shape"),
    "10,000 digits": (only(f'"dtype":"U8","shape":[{"9" * 10_000}],"data_offsets":[0,1]'), "has shape"),
    "2^63 elements": (only(f'"dtype":"U8","shape":[{2**63}],"data_offsets":[0,1]'), "has 1 bytes, which do not fit"),
    "a product beyond 2^64": (only(f'"dtype":"U8","shape":{[2**62] * 16},"data_offsets":[0,1]'), "do not fit"),
    "a huge offset": (only(f'"dtype":"U8","shape":[1],"data_offsets":[{2**62},{2**62 + 1}]'), "'t' begins at"),
    "an offset that lies by one": (only('"dtype":"U8","shape":[1],"data_offsets":[0,2]'), "has 2 bytes"),
    "an end before its begin": (only('"dtype":"U8","shape":[1],"data_offsets":[1,0]'), "has -1 bytes"),
    "half a byte": (only('"dtype":"F4","shape":[3],"data_offsets":[0,1]'), "do not fit dtype F4"),
    "a hole at the start": (only('"dtype":"U8","shape":[1],"data_offsets":[1,2]', 2), "begins at 1"),
    "a hole": (
        safetensors({"a": tensor_entry("U8", [1], 0, 1), "b": tensor_entry("U8", [1], 2, 3)}, 3), "'b' begins at 2"
    ),
    "an overlap": (
        safetensors({"a": tensor_entry("U8", [2], 0, 2), "b": tensor_entry("U8", [2], 1, 3)}, 3), "'b' begins at 1"
    ),
    "bytes after the last tensor": (only('"dtype":"U8","shape":[1],"data_offsets":[0,1]', 2), "a complete file"),
    "bytes missing": (only('"dtype":"U8","shape":[1],"data_offsets":[0,1]', 0), "a complete file is allowed"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_refuses_attacks_with_one_clear_line(write: Write, attack: str) -> None:
    content, message = ATTACKS[attack]
    path = write("evil.safetensors", content)
    with pytest.raises(BadModelFile, match=message) as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 600


def test_refuses_what_is_not_a_readable_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    for name, reason in {
        "absent.safetensors": "No such file",
        "absent.index.json": "No such file",
        "pipe.safetensors": "not a regular file",
        "loop.safetensors": "symbolic links",
        "nul\0.safetensors": "null",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(BadModelFile, match=reason) as caught:
            read_safetensors(tmp_path / name)
        assert str(caught.value).isprintable()


def shards() -> dict[str, bytes]:
    return {
        "model-00001-of-000002.safetensors": safetensors({"a": tensor_entry("BF16", [2], 0, 4)}, 4),
        "model-00002-of-000002.safetensors": safetensors(
            {"b": tensor_entry("F32", [1], 0, 4), "c": tensor_entry("U8", [1], 4, 5)}, 5
        ),
    }


def index(weight_map: object, total_size: object = 9) -> bytes:
    return json.dumps({"metadata": {"total_size": total_size}, "weight_map": weight_map}).encode()


WEIGHT_MAP = dict(zip("abc", [*shards(), list(shards())[1]], strict=True))


@pytest.mark.parametrize("given", ["", INDEX, *shards()], ids=["folder", "index", "first shard", "last shard"])
def test_reads_a_sharded_checkpoint(write: Write, tmp_path: Path, given: str) -> None:
    paths = [write(name, content) for name, content in shards().items()]
    write(INDEX, index(WEIGHT_MAP))
    checkpoint = read_safetensors(tmp_path / given)
    assert checkpoint.tensors is not None
    assert [(tensor.name, tensor.file) for tensor in checkpoint.tensors] == [
        ("a", paths[0]), ("b", paths[1]), ("c", paths[1]),
    ]  # fmt: skip
    assert checkpoint.metadata == {"total_size": 9}
    assert checkpoint.total_bytes == 9
    assert checkpoint.files == tuple(paths)


def test_tensors_that_the_index_leaves_out_are_read_too(write: Write, tmp_path: Path) -> None:
    for name, content in shards().items():
        write(name, content)
    write(INDEX, index({name: WEIGHT_MAP[name] for name in "ab"}))
    assert read_safetensors(tmp_path).names == ("a", "b", "c")


@pytest.mark.parametrize(("stated", "total_bytes"), [(9, 9), (9.0, 9), (None, None)])
def test_reads_an_index_whose_shards_are_not_there(
    write: Write, tmp_path: Path, stated: object, total_bytes: int | None
) -> None:
    write(INDEX, index(WEIGHT_MAP, stated))
    checkpoint = read_safetensors(tmp_path)
    assert checkpoint.names == ("a", "b", "c")
    assert (checkpoint.tensors, checkpoint.total_bytes, checkpoint.files) == (None, total_bytes, ())


@pytest.mark.parametrize("stated", [-1, 0.5, "9", True, [9]])
def test_refuses_a_total_that_is_no_number_of_bytes(write: Write, stated: object) -> None:
    path = write(INDEX, index(WEIGHT_MAP, stated))
    with pytest.raises(BadModelFile, match=r"total_size is .*; a whole number of bytes is allowed"):
        read_safetensors(path)


def test_refuses_a_set_with_a_shard_missing(write: Write) -> None:
    name, content = list(shards().items())[1]
    write(name, content)
    path = write(INDEX, index(WEIGHT_MAP))
    with pytest.raises(BadModelFile, match=r"1 of its 2 shards are missing, 'model-00001-of-000002.safetensors' first"):
        read_safetensors(path)


@pytest.mark.parametrize("given", ["", *shards()], ids=["folder", "first shard", "last shard"])
def test_a_whole_set_is_read_without_its_index(write: Write, tmp_path: Path, given: str) -> None:
    paths = [write(name, content) for name, content in shards().items()]
    checkpoint = read_safetensors(tmp_path / given)
    assert (checkpoint.names, checkpoint.total_bytes) == (("a", "b", "c"), 9)
    assert (checkpoint.files, checkpoint.lacks_index) == (tuple(paths), True)
    write(INDEX, index(WEIGHT_MAP))
    assert not read_safetensors(tmp_path / given).lacks_index


@pytest.mark.parametrize("kept", [0, 1])
def test_refuses_part_of_a_set_without_its_index(write: Write, tmp_path: Path, kept: int) -> None:
    names = list(shards())
    path = write(names[kept], shards()[names[kept]])
    line = rf"1 of the 2 shards are missing, '{names[1 - kept]}' first; without '{INDEX}' all are needed"
    for given in (path, tmp_path):
        with pytest.raises(BadModelFile, match=line):
            read_safetensors(given)


def test_refuses_two_sets_without_an_index(write: Write, tmp_path: Path) -> None:
    for name, content in shards().items():
        write(name, content)
        write(f"other-{name}", content)
    with pytest.raises(BadModelFile, match=r"holds 4 files named \*.safetensors; name the one to read"):
        read_safetensors(tmp_path)


def test_refuses_a_tensor_that_two_shards_without_an_index_hold(write: Write) -> None:
    for name in shards():
        path = write(name, shards()["model-00001-of-000002.safetensors"])
    with pytest.raises(BadModelFile, match="two of its shards hold a tensor of the same name"):
        read_safetensors(path)


def test_refuses_more_shards_than_are_allowed_before_looking_for_them(write: Write) -> None:
    path = write("model-00001-of-999999.safetensors", SMALL)
    with pytest.raises(BadModelFile, match=r"one of 999,999 shards; 4,096 are allowed"):
        read_safetensors(path)


@pytest.mark.parametrize("has_shards", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        index(WEIGHT_MAP),
        json.dumps({"metadata": {"total_size": 9}, "weight_map": WEIGHT_MAP}, indent=2).encode(),
        index(WEIGHT_MAP).replace(b'"b"', b'"\\u0062"'),
        json.dumps({"weight_map": WEIGHT_MAP, "metadata": {"total_size": 9}}).encode(),
    ],
    ids=["as published", "indented", "escaped", "metadata last"],
)
def test_every_truncation_of_an_index_is_refused(write: Write, content: bytes, has_shards: bool) -> None:
    for name, shard in shards().items() if has_shards else ():
        write(name, shard)
    assert read_safetensors(write(INDEX, content)).total_bytes == 9
    for length in range(len(content)):
        path = write(INDEX, content[:length])
        with pytest.raises(BadModelFile) as caught:
            read_safetensors(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (WEIGHT_MAP | {"a": WEIGHT_MAP["b"]}, "shard 'model-00002-of-000002.safetensors' does not hold tensor 'a'"),
        (WEIGHT_MAP | {"d": WEIGHT_MAP["b"]}, "does not hold tensor 'd'"),
        ({}, "has no weight_map"),
        (None, "has no weight_map"),
        ([["a", "b"]], "has no weight_map"),
        ({"a": 1}, "a shard that is not a string"),
        ({"x" * 257: "a.safetensors"}, "a tensor name that is not printable text of 1 to 256 bytes"),
        ({"\x1b[2J": "a.safetensors"}, "not printable text"),
    ],
)
def test_refuses_an_index_that_contradicts_the_shards(write: Write, weight_map: object, message: str) -> None:
    for name, content in shards().items():
        write(name, content)
    path = write(INDEX, index(weight_map))
    with pytest.raises(BadModelFile, match=message):
        read_safetensors(path)


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "C:model.safetensors",
        ".hidden.safetensors",
        ".safetensors",
        "..",
        "",
        "nul\0.safetensors",
        "line\n.safetensors",
        "x" * 300 + ".safetensors",
        INDEX,
        "model.gguf",
        "/dev/zero",
    ],
)
def test_refuses_shards_that_are_not_files_of_the_folder(write: Write, shard: str) -> None:
    path = write(INDEX, index({"a": shard}))
    with pytest.raises(BadModelFile, match=r"names the shard .*; \*.safetensors files of the same folder are allowed"):
        read_safetensors(path)


def test_refuses_the_same_tensor_in_two_shards(write: Write) -> None:
    for name in shards():
        write(name, safetensors({"a": tensor_entry("U8", [1], 0, 1)}, 1))
    path = write(INDEX, index({"a": next(iter(shards())), "b": list(shards())[1]}))
    with pytest.raises(BadModelFile, match="hold a tensor of the same name"):
        read_safetensors(path)


def test_refuses_a_shard_that_links_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(safetensors({"a": tensor_entry("U8", [1], 0, 1)}, 1))
    (folder / "m.safetensors").symlink_to("../secret.safetensors")
    (folder / INDEX).write_bytes(index({"a": "m.safetensors"}))
    with pytest.raises(BadModelFile, match=r"its shard 'm.safetensors' links outside the folder"):
        read_safetensors(folder)


def test_refuses_a_shard_that_links_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to("b.safetensors")
    (tmp_path / "b.safetensors").symlink_to("a.safetensors")
    (tmp_path / INDEX).write_bytes(index({"a": "a.safetensors", "b": "b.safetensors"}))
    with pytest.raises(BadModelFile, match=r"a.safetensors: cannot be read: Too many levels of symbolic links"):
        read_safetensors(tmp_path)


def test_refuses_a_shard_that_links_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to("absent.safetensors")
    (tmp_path / INDEX).write_bytes(index({"a": "a.safetensors"}))
    with pytest.raises(BadModelFile, match=r"a.safetensors: cannot be read: No such file"):
        read_safetensors(tmp_path)


def test_refuses_two_shards_that_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(safetensors({"a": tensor_entry("U8", [1], 0, 1)}, 1))
    (tmp_path / "b.safetensors").symlink_to("a.safetensors")
    (tmp_path / INDEX).write_bytes(index({"a": "a.safetensors", "b": "b.safetensors"}))
    with pytest.raises(BadModelFile, match="hold a tensor of the same name"):
        read_safetensors(tmp_path)


def test_reads_the_links_of_the_hugging_face_cache(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--org--name" / "blobs", tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, (name, content) in enumerate([*shards().items(), (INDEX, index(WEIGHT_MAP))]):
        (blobs / f"{number}").write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    checkpoint = read_safetensors(snapshot)
    assert checkpoint.names == ("a", "b", "c")
    assert [file.name for file in checkpoint.files] == list(shards())


def test_chooses_in_a_folder(write: Write, tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match=r"holds no \*.safetensors"):
        read_safetensors(tmp_path)
    only_file = write("adapter.safetensors", safetensors(b"{}"))
    assert read_safetensors(tmp_path).files == (only_file,)
    write("other.safetensors", safetensors(b"{}"))
    with pytest.raises(BadModelFile, match=r"holds 2 files named \*.safetensors; name the one to read"):
        read_safetensors(tmp_path)
    main = write("model.safetensors", SMALL)
    assert read_safetensors(tmp_path).files == (main,)
    for name, content in shards().items():
        write(name, content)
    write(INDEX, index(WEIGHT_MAP))
    assert read_safetensors(tmp_path).names == ("a", "b", "c")


def test_garbage_collection_goes_on_as_before(write: Write) -> None:
    read_safetensors(write("m.safetensors", SMALL))
    assert gc.isenabled()
    with pytest.raises(BadModelFile):
        read_safetensors(write("m.safetensors", b""))
    assert gc.isenabled()
    gc.disable()
    try:
        read_safetensors(write("m.safetensors", SMALL))
        assert not gc.isenabled()
    finally:
        gc.enable()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 4998663696\n"


def test_a_pointer_in_place_of_the_file_is_named(write: Write) -> None:
    with pytest.raises(BadModelFile, match="a Git LFS pointer, not the file that it stands for; `git lfs pull`"):
        read_safetensors(write("m.safetensors", POINTER))
    with pytest.raises(BadModelFile, match="a Git LFS pointer"):
        read_gguf(write("m.gguf", POINTER))
