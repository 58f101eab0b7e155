from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pytest

from tests.support.gguf_models import (
    DeepSeek2Spec,
    LlamaSpec,
    Mixture,
    ModelSpec,
    Qwen3MoeSpec,
    kimi_k25_spec,
    routed_experts,
    uniform,
)
from tests.support.gguf_writer import GGML_TYPES, write_gguf
from tests.support.llama_cpp import LlamaCppError, decode_tokens, ggml_type_sizes, load_breakdown

K25_PARAMETERS = 1_026_408_232_448
K25_Q8_0_BYTES = 1_091_046_901_760


def deepseek2(mixture: Mixture) -> DeepSeek2Spec:
    return DeepSeek2Spec(
        name="small-mla",
        vocabulary=320,
        hidden=256,
        layers=3,
        heads=4,
        context=1024,
        mixture=mixture,
        dense_layers=1,
        dense_ffn=512,
        experts=8,
        experts_used=2,
        expert_ffn=256,
        shared_experts=1,
        q_lora=256,
        kv_lora=256,
        nope_head=64,
        rope_head=32,
        value_head=64,
        tokenizer="gpt2",
    )


def qwen3moe(mixture: Mixture) -> Qwen3MoeSpec:
    return Qwen3MoeSpec(
        name="small-gqa-moe",
        vocabulary=320,
        hidden=256,
        layers=2,
        heads=4,
        context=1024,
        mixture=mixture,
        kv_heads=2,
        head=64,
        ffn=512,
        experts=8,
        experts_used=2,
        expert_ffn=256,
    )


def llama(mixture: Mixture) -> LlamaSpec:
    return LlamaSpec(
        name="small-dense",
        vocabulary=320,
        hidden=256,
        layers=2,
        heads=4,
        context=1024,
        mixture=mixture,
        kv_heads=2,
        head=64,
        ffn=512,
    )


Model = Callable[[Mixture], ModelSpec]
SMALL: tuple[Model, ...] = (deepseek2, qwen3moe, llama)


class Parsed(NamedTuple):
    """What `parse` found: tensors are name -> (shape, type number, offset from `data_start` in bytes)."""

    version: int
    metadata: dict[str, object]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]
    data_start: int


def parse(path: Path) -> Parsed:
    """Reads a header from the format's specification alone, nothing of the writer's."""
    with path.open("rb") as file:
        magic, version, n_tensors, n_fields = read(file, "4sIQQ")
        assert magic == b"GGUF"
        metadata = {text(file): value(file, *read(file, "I")) for _ in range(n_fields)}
        tensors = {}
        for _ in range(n_tensors):
            name, (dimensions,) = text(file), read(file, "I")
            shape = read(file, f"{dimensions}Q")
            tensors[name] = (shape, *read(file, "IQ"))
        return Parsed(version, metadata, tensors, -(-file.tell() // 32) * 32)


def read(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))


def text(file: BinaryIO) -> str:
    (length,) = read(file, "Q")
    return file.read(length).decode()


def value(file: BinaryIO, kind: int) -> object:
    if kind == 8:
        return text(file)
    if kind == 9:
        element, count = read(file, "IQ")
        return [value(file, element) for _ in range(count)]
    return read(file, {2: "H", 4: "I", 5: "i", 6: "f", 7: "?"}[kind])[0]


@pytest.fixture
def llama_cpp() -> None:
    """Skips where the wheel is absent; a wheel that is there but broken fails."""
    pytest.importorskip("xllamacpp", exc_type=ModuleNotFoundError)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("model", SMALL)
def test_header_is_read_back_from_the_specification(model: Model, version: int, tmp_path: Path) -> None:
    spec = model(routed_experts("q4_0", "q8_0"))
    (path,) = write_gguf(tmp_path / "model.gguf", spec, version=version)
    parsed = parse(path)
    assert parsed.version == version
    assert parsed.metadata == {
        field.key: pytest.approx(field.value) if field.kind == "f32" else field.value for field in spec.fields()
    }
    assert parsed.metadata[f"{spec.architecture}.embedding_length"] == 256
    assert parsed.tensors["token_embd.weight"] == ((256, 320), 8, 0)
    assert parsed.tensors["blk.0.attn_norm.weight"][:2] == ((256,), 0)


def test_tensor_data_is_aligned_disjoint_and_ends_with_the_file(tmp_path: Path) -> None:
    spec = deepseek2(routed_experts("q4_0", "q8_0"))
    (path,) = write_gguf(tmp_path / "model.gguf", spec)
    parsed = parse(path)
    end = 0
    for tensor in spec.tensors():
        shape, number, offset = parsed.tensors[tensor.name]
        assert (shape, number) == (tensor.shape, GGML_TYPES[tensor.kind].number)
        assert offset % 32 == 0
        assert end <= offset < end + 32
        end = offset + tensor.size_bytes
    assert parsed.data_start + end <= path.stat().st_size < parsed.data_start + end + 32


def test_mixture_may_be_a_mapping_of_names() -> None:
    by_name = {tensor.name: "q8_0" for tensor in llama(uniform("f16")).tensors()}
    by_name["blk.1.ffn_down.weight"] = "q6_k"
    kinds = {tensor.name: tensor.kind for tensor in llama(by_name).tensors()}
    assert kinds["blk.0.ffn_down.weight"] == "q8_0"
    assert kinds["blk.1.ffn_down.weight"] == "q6_k"
    assert kinds["blk.1.ffn_norm.weight"] == "f32"


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        ("q4_k", "q5_0"),
        ("q5_k", "q5_1"),
        ("q6_k", "q8_0"),
        ("q2_k", "q4_0"),
        ("tq1_0", "q4_0"),
        ("iq1_s", "iq4_nl"),
    ],
)
def test_columns_that_a_block_does_not_divide_take_the_fallback(kind: str, stored: str) -> None:
    kinds = {tensor.name: tensor.kind for tensor in kimi_k25_spec(uniform(kind)).tensors()}
    assert kinds["blk.0.attn_k_b.weight"] == stored  # 128 columns
    assert kinds["blk.0.attn_v_b.weight"] == kind  # 512 columns


def test_splits_hold_every_tensor_once_under_llama_cpp_names(tmp_path: Path) -> None:
    spec = llama(uniform("q8_0"))
    paths = write_gguf(tmp_path / "model.gguf", spec, splits=3)
    assert [path.name for path in paths] == [f"model-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    parts = [parse(path) for path in paths]
    for number, part in enumerate(parts):
        split = {key: part.metadata[key] for key in ("split.no", "split.count", "split.tensors.count")}
        assert split == {"split.no": number, "split.count": 3, "split.tensors.count": 21}
    assert [name for part in parts for name in part.tensors] == [tensor.name for tensor in spec.tensors()]
    assert ["general.architecture" in part.metadata for part in parts] == [True, False, False]


@pytest.mark.parametrize("splits", [0, 22])
def test_more_splits_than_tensors_are_refused(splits: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="splits must be 1 to 21"):
        write_gguf(tmp_path / "model.gguf", llama(uniform("q8_0")), splits=splits)


def test_sparse_kimi_k25_has_the_published_size_and_occupies_kilobytes(tmp_path: Path) -> None:
    spec = kimi_k25_spec(uniform("q8_0"))
    (path,) = write_gguf(tmp_path / "k25.gguf", spec, data="sparse")
    parsed = parse(path)
    assert len(parsed.tensors) == 1096
    assert sum(tensor.elements for tensor in spec.tensors()) == K25_PARAMETERS
    assert sum(tensor.elements for tensor in spec.tensors() if tensor.kind == "f32") == 166_180_352
    assert path.stat().st_size == parsed.data_start + K25_Q8_0_BYTES
    assert path.stat().st_blocks * 512 < 200_000
    assert parsed.tensors["blk.60.attn_k_b.weight"][0] == (128, 512, 64)
    assert parsed.tensors["blk.60.attn_v_b.weight"][0] == (512, 128, 64)
    assert "blk.0.ffn_gate.weight" in parsed.tensors
    assert parsed.tensors["blk.1.ffn_down_exps.weight"][0] == (2048, 7168, 384)


@pytest.mark.usefixtures("llama_cpp")
def test_type_table_is_that_of_llama_cpp() -> None:
    expected = [(name, kind.block_elements, kind.block_bytes) for name, kind in GGML_TYPES.items()]
    actual = ggml_type_sizes([kind.number for kind in GGML_TYPES.values()])
    assert [(name.lower(), elements, size) for name, elements, size in actual] == expected


@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("model", SMALL)
def test_llama_cpp_decodes_each_architecture(model: Model, tmp_path: Path) -> None:
    spec = model(routed_experts("q4_k", "q8_0"))
    (path,) = write_gguf(tmp_path / "model.gguf", spec)
    decoded = decode_tokens(path, 1)
    assert decoded.logit_range is not None
    low, high = decoded.logit_range
    assert low < high
    loaded = load_breakdown(path, n_ctx=256)
    assert loaded.tensors == len(spec.tensors())
    assert loaded.parameters == sum(tensor.elements for tensor in spec.tensors())
    assert loaded.model_bytes == sum(tensor.size_bytes for tensor in spec.tensors())


@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("kind", GGML_TYPES)
def test_random_weights_of_every_type_give_finite_logits(kind: str, tmp_path: Path) -> None:
    (path,) = write_gguf(tmp_path / "model.gguf", deepseek2(uniform(kind)))
    decoded = decode_tokens(path, 1)
    assert decoded.logit_range is not None
    low, high = decoded.logit_range
    assert low < high


@pytest.mark.usefixtures("llama_cpp")
def test_splits_decode_to_the_tokens_of_the_whole(tmp_path: Path) -> None:
    spec = deepseek2(uniform("q8_0"))
    (whole,) = write_gguf(tmp_path / "whole.gguf", spec)
    first, *_ = write_gguf(tmp_path / "parts.gguf", spec, splits=4)
    assert decode_tokens(first, 4, prompt="Hällo") == decode_tokens(whole, 4, prompt="Hällo")


@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize(
    ("mixture", "model_bytes"),
    [(uniform("q8_0"), K25_Q8_0_BYTES), (routed_experts("q4_0", "q8_0"), 583_703_889_920)],
    ids=["q8_0", "q4_0-experts"],
)
def test_llama_cpp_loads_kimi_k25_at_full_size(mixture: Mixture, model_bytes: int, tmp_path: Path) -> None:
    (path,) = write_gguf(tmp_path / "k25.gguf", kimi_k25_spec(mixture), data="sparse")
    loaded = load_breakdown(path, n_ctx=8192)
    assert loaded.tensors == 1096
    assert loaded.parameters == K25_PARAMETERS
    assert loaded.model_bytes == model_bytes
    assert loaded.kv_cache_bytes == 61 * 8192 * 576 * 2 == 575_668_224
    assert loaded.compute_bytes > 0
    assert list(loaded.buffers) == ["CPU"]


@pytest.mark.usefixtures("llama_cpp")
def test_context_parameters_reach_llama_cpp(tmp_path: Path) -> None:
    first, *_ = write_gguf(tmp_path / "k25.gguf", kimi_k25_spec(uniform("q8_0")), data="sparse", splits=3)
    plain = load_breakdown(first, n_ctx=8192)
    quantized = load_breakdown(first, n_ctx=8192, type_k="q8_0", type_v="q8_0")
    assert quantized.kv_cache_bytes == 61 * 8192 * 576 * 34 // 32
    assert load_breakdown(first, n_ctx=8192, n_ubatch=2048).compute_bytes > 3 * plain.compute_bytes
    assert load_breakdown(first, n_ctx=8192, n_outputs_max=4).compute_bytes < plain.compute_bytes
    assert load_breakdown(first, n_ctx=8192, flash_attention="off").compute_bytes > 2 * plain.compute_bytes
    # 4 sequences of 1,024 cells each, against one pool of 3,900 rounded up to 4,096.
    for kv_unified, n_ctx in ((False, 4096), (True, 3900)):
        shared = load_breakdown(first, n_ctx=n_ctx, n_seq_max=4, kv_unified=kv_unified)
        assert shared.kv_cache_bytes == 61 * 4096 * 576 * 2


@pytest.mark.usefixtures("llama_cpp")
def test_a_refusal_of_llama_cpp_is_an_error(tmp_path: Path) -> None:
    (path,) = write_gguf(tmp_path / "model.gguf", deepseek2(uniform("q8_0")))
    with pytest.raises(LlamaCppError, match="cannot create a context"):
        load_breakdown(path, n_ctx=256, type_k="q8_0", type_v="f16")
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(LlamaCppError, match="cannot load"):
        load_breakdown(path, n_ctx=256)
