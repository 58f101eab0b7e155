"""The GGUF reader against llama.cpp itself: its table of types, and files that it loads."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from profiles.headers import BadModelFile, read_gguf
from profiles.headers.ggmltypes import GGML_TYPES
from tests.profiles.headers.writers import ARRAY, BOOL, F32, STRING, U8, U32, GgufTensor, gguf
from tests.support.gguf_models import Mixture, kimi_k25_spec, routed_experts, uniform
from tests.support.gguf_writer import write_gguf
from tests.support.llama_cpp import GgufHeader, ggml_type_sizes, gguf_headers


def test_types_are_those_of_llama_cpp() -> None:
    pytest.importorskip("xllamacpp", exc_type=ModuleNotFoundError)
    theirs = [(name.upper(), elements, size) for name, elements, size in ggml_type_sizes(list(GGML_TYPES))]
    assert theirs == list(GGML_TYPES.values())


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(
    ("mixture", "tensor_bytes"),
    [(uniform("q8_0"), 1_091_046_901_760), (routed_experts("q4_0", "q8_0"), 583_703_889_920)],
    ids=["q8_0", "q4_0 experts"],
)
def test_reads_kimi_k25_at_full_size(tmp_path: Path, mixture: Mixture, tensor_bytes: int, splits: int) -> None:
    """Sizes as published: the second is bartowski's Q8_0, 583,710,875,200 bytes less its metadata."""
    paths = write_gguf(tmp_path / "k25.gguf", kimi_k25_spec(mixture), data="sparse", splits=splits)
    file = read_gguf(paths[-1])
    assert file.files == paths
    assert file.metadata["general.architecture"] == "deepseek2"
    assert file.metadata["deepseek2.block_count"] == 61
    assert len(file.tensors) == 1096
    assert sum(prod(tensor.shape) for tensor in file.tensors) == 1_026_408_232_448
    assert sum(tensor.nbytes for tensor in file.tensors) == tensor_bytes == file.file_bytes - file.metadata_bytes
    shapes = {tensor.name: tensor.shape for tensor in file.tensors}
    assert shapes["blk.60.attn_k_b.weight"] == (64, 512, 128)
    assert shapes["blk.1.ffn_down_exps.weight"] == (384, 7168, 2048)


def ours(path: Path) -> GgufHeader:
    file = read_gguf(path)
    tensors = tuple((tensor.name, tensor.type_name, tensor.nbytes, tensor.offset) for tensor in file.tensors)
    return GgufHeader(file.version, file.metadata_bytes, tensors)


def theirs(paths: list[Path]) -> list[GgufHeader | None]:
    def shouted(header: GgufHeader) -> GgufHeader:
        tensors = tuple((name, kind.upper(), nbytes, offset) for name, kind, nbytes, offset in header.tensors)
        return replace(header, tensors=tensors)

    return [header and shouted(header) for header in gguf_headers(paths)]


@pytest.mark.parametrize("version", [2, 3])
def test_tensors_of_every_type_are_where_ggml_finds_them(tmp_path: Path, version: int) -> None:
    """Name, type, bytes and place of every tensor: one file for each type that ggml stores."""
    pytest.importorskip("xllamacpp", exc_type=ModuleNotFoundError)
    paths = []
    for number, (name, elements, block_bytes) in GGML_TYPES.items():
        each = [(f"{number}", (512, 3, 2)), ("vector", (256,)), ("last", (1024, 5))]
        tensors = [GgufTensor(name, shape, number, prod(shape) // elements * block_bytes) for name, shape in each]
        paths.append(tmp_path / f"{name}.gguf")
        paths[-1].write_bytes(gguf([("general.architecture", STRING, "llama")], tensors, version=version))
    assert theirs(paths) == [ours(path) for path in paths]


@pytest.mark.parametrize("splits", [1, 3])
def test_headers_of_a_whole_model_are_those_of_ggml(tmp_path: Path, splits: int) -> None:
    pytest.importorskip("xllamacpp", exc_type=ModuleNotFoundError)
    spec = kimi_k25_spec(routed_experts("iq2_xxs", "q6_k"))
    paths = write_gguf(tmp_path / "k25.gguf", spec, data="sparse", splits=splits)
    found = theirs(list(paths))
    assert [header for each in found if each for header in each.tensors] == [*ours(paths[0]).tensors]


A, B = GgufTensor("a", (32,), 8, 34), GgufTensor("b", (2, 2), 0, 16)
BOTH_READ = {
    "a vector and a matrix": gguf([], [A, B]),
    "version 2": gguf([], [A, B], version=2),
    "another alignment": gguf([("general.alignment", U32, 64)], [A, B], alignment=64),
    "a scalar": gguf([], [GgufTensor("a", (), 0, 4)]),
    "no elements": gguf([], [GgufTensor("a", (0,), 0, 0), B]),
    "no tensors": gguf([("k", U8, 1)]),
}
BOTH_REFUSE = {
    "version 1": gguf([], [A, B], version=1),
    "version 4": gguf([], [A, B], version=4),
    "a hole": gguf([], [A, GgufTensor("b", (2, 2), 0, 16, offset=128)]) + bytes(200),
    "out of order": gguf([], [GgufTensor("a", (8,), 0, 32, 32), GgufTensor("b", (8,), 0, 32, 0)]),
    "an overlap": gguf([], [A, GgufTensor("b", (2, 2), 0, 16, offset=32)]),
    "out of alignment": gguf([], [A, GgufTensor("b", (2, 2), 0, 16, offset=63)]) + bytes(64),
    "a tensor twice": gguf([], [A, A]),
    "a key twice": gguf([("k", U8, 1), ("k", U8, 1)], [A]),
    "an empty key": gguf([("", U8, 1)], [A]),
    "arrays of arrays": gguf([("k", ARRAY, (ARRAY, [(U8, [1])]))], [A]),
    "a row that is no block": gguf([], [GgufTensor("a", (31,), 8, 34)]),
    "five dimensions": gguf([], [GgufTensor("a", (1, 1, 1, 1, 1), 0, 4)]),
    "a removed type": gguf([], [GgufTensor("a", (32,), 4, 34)]),
    "an unknown type": gguf([], [GgufTensor("a", (32,), 43, 34)]),
}
WE_ALONE_READ = {
    "big-endian": gguf([], [A, B], order=">"),
    "big-endian version 2": gguf([], [A, B], order=">", version=2),
    "a name of 64 bytes": gguf([], [GgufTensor("a" * 64, (8,), 0, 32)]),
}
"""llama.cpp on a machine of the other byte order refuses the first two. Its names end at 63 bytes."""
WE_ALONE_REFUSE = {
    "not all there": gguf([], [A, B])[:-4],
    "not a number": gguf([("k", F32, float("nan"))], [A]),
    "not UTF-8": gguf([("k", STRING, b"\xff")], [A]),
    "a bool of 2": gguf([("k", BOOL, 2)], [A]),
}
"""What ggml's reader of headers leaves to others, or does not look at."""


def test_what_is_refused_is_what_ggml_refuses(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", exc_type=ModuleNotFoundError)
    contents = {**BOTH_READ, **BOTH_REFUSE, **WE_ALONE_READ, **WE_ALONE_REFUSE}
    paths = {name: tmp_path / f"{number}.gguf" for number, name in enumerate(contents)}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    found = dict(zip(contents, theirs(list(paths.values())), strict=True))
    assert {name for name, header in found.items() if header is None} == {*BOTH_REFUSE, *WE_ALONE_READ}
    for name, path in paths.items():
        if name in BOTH_READ:
            assert ours(path) == found[name], name
        elif name in WE_ALONE_READ:
            assert ours(path).tensors, name
        else:
            with pytest.raises(BadModelFile):
                read_gguf(path)
