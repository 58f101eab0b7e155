"""The GGUF reader against llama.cpp itself: its table of types, and files that it loads."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from profiles.headers import read_gguf
from profiles.headers.ggmltypes import GGML_TYPES
from tests.support.gguf_models import Mixture, kimi_k25_spec, routed_experts, uniform
from tests.support.gguf_writer import write_gguf
from tests.support.llama_cpp import ggml_type_sizes


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
