"""Property tests: whatever is done to a valid file, the readers return something consistent or `BadModelFile`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.mutations import mutated
from fuzz.targets import CORPUS, TARGETS, check
from profiles.headers import read_gguf, read_safetensors
from tests.profiles.headers.writers import ARRAY, I64, GgufTensor, gguf, safetensors, tensor_entry

BOUNDED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

VALID = {target: [path.read_bytes() for path in sorted((CORPUS / target).glob("valid-*"))] for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
@settings(BOUNDED, max_examples=400)
@given(data=st.data())
def test_a_damaged_file_is_read_consistently_or_refused(tmp_path: Path, target: str, data: st.DataObject) -> None:
    check(target, data.draw(mutated(VALID[target])), tmp_path)


@pytest.mark.parametrize("target", TARGETS)
@settings(BOUNDED, max_examples=100)
@given(content=st.binary(max_size=200))
def test_noise_is_refused(tmp_path: Path, target: str, content: bytes) -> None:
    check(target, content, tmp_path)


_names = st.lists(
    st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20), min_size=1, max_size=5, unique=True
)
_shape = st.lists(st.integers(0, 300), max_size=4)


@BOUNDED
@given(names=_names, shapes=st.lists(_shape, min_size=5, max_size=5), order=st.sampled_from("<>"))
def test_what_is_written_as_gguf_is_read(tmp_path: Path, names: list[str], shapes: list[list[int]], order: str) -> None:
    tensors = [
        GgufTensor(name, tuple(reversed(shape)), 0, 4 * math.prod(shape))
        for name, shape in zip(names, shapes, strict=False)
        if math.prod(shape) <= 1024
    ]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([("k", ARRAY, (I64, [1, -1]))], tensors, order=order))
    read = read_gguf(path)
    assert read.metadata == {"k": (1, -1)}
    assert [(tensor.name, tensor.shape[::-1], tensor.nbytes) for tensor in read.tensors] == [
        tensor[:2] + tensor[3:4] for tensor in tensors
    ]


@BOUNDED
@given(names=_names, shapes=st.lists(_shape, min_size=5, max_size=5))
def test_what_is_written_as_safetensors_is_read(tmp_path: Path, names: list[str], shapes: list[list[int]]) -> None:
    header, end = {}, 0
    for name, shape in zip(names, shapes, strict=False):
        if math.prod(shape) <= 1024:
            header[name] = tensor_entry("BF16", shape, end, end + 2 * math.prod(shape))
            end += 2 * math.prod(shape)
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors(header, end))
    read = read_safetensors(path)
    assert read.tensors is not None
    assert {tensor.name: list(tensor.shape) for tensor in read.tensors} == {
        name: item["shape"] for name, item in header.items()
    }
    assert read.total_bytes == end
