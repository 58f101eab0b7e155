"""GGUF files that are no model, no known architecture, or not what their metadata says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moeplan.cli import main
from profiles.config_reader import UnknownFamily
from profiles.headers import BadModelFile
from profiles.library import load_model
from tests.profiles.headers.writers import STRING, gguf
from tests.profiles.weights.architectures import (
    HIDDEN,
    LATENT,
    MODELS,
    SHARED_MOE,
    Gguf,
    build,
    deepseek_ffn,
    heads,
    latent,
    repeated,
    t,
)
from tests.support.gguf_writer import Tensor, write_gguf


def write(folder: Path, spec: Gguf, name: str = "model") -> Path:
    return write_gguf(folder / f"{name}.gguf", spec, data="sparse")[0]


def changed(spec: Gguf, change: Callable[[Tensor], Tensor | None]) -> Gguf:
    tensors = (change(tensor) for tensor in spec.listed)
    return Gguf(spec.metadata, tuple(tensor for tensor in tensors if tensor is not None))


def refusal(folder: Path, spec: Gguf) -> str:
    """The one line that a bad file gets."""
    path = write(folder, spec)
    with pytest.raises(BadModelFile) as caught:
        load_model(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    assert len(line) < len(str(path)) + 300
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("falcon", "no reader for the GGUF architecture 'falcon'; known: llama, "),
        ("deepseek4", "the GGUF architecture 'deepseek4' is not read: its KV cache holds one state per several tokens"),
        ("kimi-k3", "the GGUF architecture 'kimi-k3' is not read: "),
        ("x" * 500, "no reader for the GGUF architecture 'xxx"),
    ],
)
def test_an_unknown_architecture_is_named_and_could_not_be_determined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], architecture: str, reason: str
) -> None:
    path = write(tmp_path, build(architecture, repeated(heads)))
    with pytest.raises(UnknownFamily, match=reason):
        load_model(path)
    assert main(["memory", str(path)]) == 3
    assert reason in capsys.readouterr().err


def test_experts_one_by_one_are_refused_as_llama_cpp_does(tmp_path: Path) -> None:
    def layer(number: int) -> list[Tensor]:
        each = [t(f"blk.{number}.ffn_down.{expert}.weight", 512, HIDDEN) for expert in range(2)]
        return [*heads(number), t(f"blk.{number}.ffn_gate_inp.weight", HIDDEN, 2), *each]

    path = write(tmp_path, build("llama", repeated(layer), {"expert_count": 2, "expert_used_count": 1}))
    with pytest.raises(UnknownFamily, match="one tensor per expert"):
        load_model(path)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"general__architecture": "clip"}, "a vision projector, not a model; name the model's GGUF file"),
        ({"general__type": "mmproj"}, "a vision projector, not a model"),
        ({"general__type": "adapter"}, "an adapter (LoRA), not a model"),
        ({"general__type": "imatrix"}, "an importance matrix, not a model"),
    ],
)
def test_what_is_no_model_is_told(tmp_path: Path, metadata: dict[str, str], said: str) -> None:
    assert said in refusal(tmp_path, MODELS["llama"].with_metadata(**metadata))


def test_a_vocabulary_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(gguf([("general.architecture", STRING, "llama")]))
    with pytest.raises(BadModelFile, match=r"vocabulary\.gguf: holds no tensors"):
        load_model(path)


@pytest.mark.parametrize("key", ["block_count", "context_length", "embedding_length", "attention.head_count"])
def test_missing_metadata_is_named(tmp_path: Path, key: str) -> None:
    assert refusal(tmp_path, MODELS["llama"].without(f"llama.{key}")) == f"llama.{key} is missing"


@pytest.mark.parametrize("key", ["attention.kv_lora_rank", "rope.dimension_count", "attention.value_length_mla"])
def test_missing_latent_metadata_is_named(tmp_path: Path, key: str) -> None:
    assert refusal(tmp_path, MODELS["deepseek2"].without(f"deepseek2.{key}")) == f"deepseek2.{key} is missing"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("deepseek32", "attention.key_length_mla"),
        ("deepseek2", "expert_count"),
        ("deepseek2", "expert_used_count"),
        ("gpt-oss", "attention.sliding_window"),
        ("qwen35moe", "ssm.state_size"),
        ("kimi-linear", "kda.head_dim"),
    ],
)
def test_what_an_architecture_needs_is_named(tmp_path: Path, name: str, key: str) -> None:
    assert f"{key} is missing" in refusal(tmp_path, MODELS[name].without(f"{name}.{key}"))


@pytest.mark.parametrize("value", [0, 2**32 - 1, 1.5, True, "61", [4, 4]])
@pytest.mark.parametrize("key", ["block_count", "context_length", "attention.kv_lora_rank", "expert_used_count"])
def test_absurd_metadata_is_refused(tmp_path: Path, key: str, value: object) -> None:
    spec = MODELS["deepseek2"].with_metadata(**{f"deepseek2.{key}": value})  # type: ignore[arg-type]
    assert refusal(tmp_path, spec).startswith(f"deepseek2.{key} must be ")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("attention.head_count_kv", 3, "attention.head_count 4 must be divisible by attention.head_count_kv 3"),
        ("attention.head_count_kv", 0, "attention.head_count 4 must be divisible by attention.head_count_kv 0"),
        ("attention.head_count_kv", 4, "blk.{layer}.attn_k.weight has shape [128, 256], but"),
        ("attention.head_count_kv", [2, 2], "llama.attention.head_count_kv must have 4 entries, not 2"),
        ("attention.head_count_kv", [2, 2, -2, 2], "llama.attention.head_count_kv[2] must be from 0 to 65536, not -2"),
        ("attention.head_count", 0, "attention.head_count must be at least 1"),
        ("attention.key_length", 128, "blk.{layer}.attn_k.weight has shape [128, 256], but"),
        ("embedding_length", 512, "embedding_length is 512, but token_embd.weight has 256"),
        ("block_count", 3, "tensor 'blk.3.attn_norm.weight' is of layer 3, but block_count is 3"),
        ("block_count", 9, "but layer 4 has no tensors"),
        ("nextn_predict_layers", 4, "llama.nextn_predict_layers must be from 0 to 3, not 4"),
    ],
)
def test_metadata_and_tensors_must_agree(tmp_path: Path, key: str, value: object, said: str) -> None:
    spec = MODELS["llama"].with_metadata(**{f"llama.{key}": value})  # type: ignore[arg-type]
    assert said in refusal(tmp_path, spec)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("expert_count", 16, "ffn_gate_exps.weight has shape [8, 256, 256], but expert_count is 16"),
        ("expert_used_count", 9, "expert_used_count 9 must be at most expert_count 8"),
        ("attention.kv_lora_rank", 512, "attn_kv_a_mqa.weight has shape [160, 256], but"),
        ("attention.key_length_mla", 32, "attention.key_length_mla 32 must exceed rope.dimension_count 32"),
        ("attention.key_length_mla", 128, "attn_k_b.weight has shape [4, 128, 64], but"),
    ],
)
def test_latent_metadata_and_tensors_must_agree(tmp_path: Path, key: str, value: int, said: str) -> None:
    assert said in refusal(tmp_path, MODELS["deepseek2"].with_metadata(**{f"deepseek2.{key}": value}))


def test_latent_attention_that_is_not_split_is_refused_as_llama_cpp_does(tmp_path: Path) -> None:
    tensors = repeated(lambda i: [*latent(i, split=False), *deepseek_ffn(i)])
    spec = build("deepseek2", tensors, {**LATENT, **SHARED_MOE})
    assert refusal(tmp_path, spec) == "layer 0 has no attn_k_b tensor, as llama.cpp needs one here"


def test_a_layer_without_keys_is_refused(tmp_path: Path) -> None:
    spec = changed(MODELS["qwen3"], lambda each: None if each.name == "blk.2.attn_k.weight" else each)
    assert refusal(tmp_path, spec) == "layer 2 has no attn_k tensor, as llama.cpp needs one here"


def test_linear_attention_everywhere_is_refused(tmp_path: Path) -> None:
    spec = MODELS["kimi-linear"].with_metadata(**{"kimi-linear.attention.head_count_kv": [0, 0, 0, 0]})
    assert "all its layers have linear attention" in refusal(tmp_path, spec)


def test_an_embedding_is_needed(tmp_path: Path) -> None:
    spec = changed(MODELS["llama"], lambda each: None if each.name.startswith("token_embd") else each)
    assert "'token_embd.weight' is missing" in refusal(tmp_path, spec)


def test_a_tensor_without_elements_is_refused(tmp_path: Path) -> None:
    empty = t("blk.0.attn_norm.bias", 0)
    spec = Gguf(MODELS["llama"].metadata, (*MODELS["llama"].listed, empty))
    assert refusal(tmp_path, spec) == "tensor 'blk.0.attn_norm.bias' has no elements; at least one is needed"


def test_a_file_type_that_is_no_number_is_refused(tmp_path: Path) -> None:
    assert "general.file_type must be" in refusal(tmp_path, MODELS["llama"].with_metadata(general__file_type="Q8_0"))
