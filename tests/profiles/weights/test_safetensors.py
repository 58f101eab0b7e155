"""Safetensors beside their ``config.json``: where both agree, and where the files win."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from profiles.config_reader import UnknownQuantization, read_config
from profiles.headers import BadModelFile
from profiles.library import find_releases, load_model
from profiles.mixtures import release_tensors
from profiles.model import ModelSpec, bytes_by_class
from tests.profiles.weights.checkpoints import (
    CONFIGS,
    Stored,
    Tensors,
    quant_config,
    small_config,
    small_model,
    stored_tensors,
    write_checkpoint,
    write_index,
)

READ = (
    "DeepSeek-R1", "DeepSeek-V3", "DeepSeek-V3.1-NVFP4", "DeepSeek-V3.2", "DeepSeek-V3.2-NVFP4", "GLM-5", "GLM-5-FP8",
    "GLM-5.2", "GLM-5.3", "Kimi-K2-Instruct", "Kimi-K2.5", "Kimi-K2.5-NVFP4", "Kimi-K2.6-NVFP4", "Kimi-K3",
    "Llama-4-Maverick-17B-128E-Instruct", "Meta-Llama-3.1-8B", "MiniMax-M2.7", "Mixtral-8x7B-v0.1", "Qwen3-32B",
    "Qwen3-235B-A22B", "Qwen3-235B-A22B-FP8", "Qwen3.5-397B-A17B", "gpt-oss-20b", "DeepSeek-V4-Flash",
    "DeepSeek-V4-Pro", "Kimi-Linear-48B-A3B-Instruct", "MiniMax-M3", "MiniMax-M3-VL", "MiniMax-M3-MXFP8",
)  # fmt: skip
"""Published configurations, at least one of every family."""


def asymmetric(bits: int, strategy: str, group: int | None) -> dict[str, object]:
    """A compressed-tensors configuration with packed integers and zero points."""
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": group, "symmetric": False}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "version": "0.10.2",
        "config_groups": groups, "ignore": ["lm_head"],
    }  # fmt: skip


def size(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def write(folder: Path, name: str, tensors: Tensors, shards: int = 1) -> Path:
    write_checkpoint(folder, tensors, small_config(name), shards)
    beside = quant_config(name)
    if beside is not None:
        (folder / "hf_quant_config.json").write_text(json.dumps(beside))
    return folder


def assert_the_files_win(spec: ModelSpec, tensors: Tensors) -> None:
    """Bytes are those of the headers, and nothing calls them anything but exact."""
    (release,) = spec.releases
    found = release_tensors(spec, release)
    assert found.bytes == release.published_bytes == size(tensors) == sum(group.bytes for group in spec.tensors)
    assert (found.evidence, found.scale) == ("exact", 1.0)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", READ)
def test_files_hold_what_the_configuration_implies(tmp_path: Path, name: str, shards: int) -> None:
    implied = small_model(name)
    tensors = stored_tensors(implied)
    spec = load_model(write(tmp_path / "model", name, tensors, shards))
    assert spec.tensors == implied.tensors
    assert spec.notes == implied.notes
    assert_the_files_win(spec, tensors)


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
        {"quant_method": "gptq", "bits": 4, "group_size": 64},
        {"quant_method": "fp8", "activation_scheme": "static"},
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        {"quant_method": "modelopt", "quant_algo": "MXFP8", "ignore": ["lm_head"]},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        asymmetric(4, "group", 128),
        asymmetric(8, "channel", None),
    ],
    ids=lambda each: "-".join(str(value) for value in each.values() if isinstance(value, str)),
)
def test_other_quantizations_are_read_too(tmp_path: Path, quantization: dict[str, object]) -> None:
    config = small_config("Qwen3-32B") | {"quantization_config": quantization}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    implied = load_model(folder / "config.json")
    write_checkpoint(folder, stored_tensors(implied))
    spec = load_model(folder)
    assert (spec.tensors, spec.notes) == (implied.tensors, implied.notes)


def test_any_way_to_name_the_files_is_the_same_model(tmp_path: Path) -> None:
    tensors = stored_tensors(small_model("Kimi-K2.5"))
    folder = write(tmp_path / "My Model", "Kimi-K2.5", tensors, 3)
    names = ("", "model.safetensors.index.json", "model-00002-of-00003.safetensors")
    models = [load_model(folder / name) for name in names]
    assert {(each.id, each.name, each.tensors) for each in models} == {("my-model", "My Model", models[0].tensors)}
    assert {each.releases[0].release for each in models} == {str(folder)}
    assert models[0].releases[0].container == "safetensors"
    assert find_releases(models[0], "local/bf16") == models[0].releases


def test_the_configuration_named_alone_stays_alone(tmp_path: Path) -> None:
    tensors = stored_tensors(small_model("Qwen3-32B"))
    del tensors["lm_head.weight"]
    folder = write(tmp_path / "model", "Qwen3-32B", tensors)
    assert load_model(folder / "config.json").tensors == small_model("Qwen3-32B").tensors
    assert load_model(folder).tensors != small_model("Qwen3-32B").tensors


def test_extra_tensors_are_counted_and_told(tmp_path: Path) -> None:
    """What Kimi K2 Instruct has: one more tensor of 112 bytes in every layer, which nothing explains."""
    implied = small_model("Kimi-K2-Instruct")
    plain = stored_tensors(implied)
    extra = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": Stored("F32", (28,)) for layer in range(4)}
    spec = load_model(write(tmp_path / "model", "Kimi-K2-Instruct", plain | extra))
    assert_the_files_win(spec, plain | extra)
    assert spec.notes[-2:] == (
        "4 tensors of 112 bytes are in the files and not explained by config.json, first"
        " 'model.layers.0.self_attn.rotary_emb.inv_freq'",
        f"the files hold {size(plain) + 448:,} bytes of tensors, where config.json implies {size(plain):,}",
    )
    with_extra, without = bytes_by_class(spec.tensors), bytes_by_class(implied.tensors)
    assert with_extra.pop("norms") == without.pop("norms") + 448
    assert with_extra == without


def test_extra_tensors_of_a_vision_tower_are_vision(tmp_path: Path) -> None:
    for name, text in (
        ("Llama-4-Maverick-17B-128E-Instruct", "vision_model.model.layers.7.fc"),
        ("Kimi-K2.5", "vision_tower.x"),
    ):
        tensors = stored_tensors(small_model(name)) | {f"{text}.weight": Stored("BF16", (8, 8))}
        spec = load_model(write(tmp_path / name, name, tensors))
        assert_the_files_win(spec, tensors)
        implied = bytes_by_class(small_model(name).tensors).get("vision", 0)
        assert bytes_by_class(spec.tensors)["vision"] == implied + 128


def test_missing_tensors_are_not_counted_and_told(tmp_path: Path) -> None:
    tensors = stored_tensors(small_model("Qwen3-235B-A22B"))
    missing = tensors.pop("model.layers.2.self_attn.q_norm.weight")
    spec = load_model(write(tmp_path / "model", "Qwen3-235B-A22B", tensors))
    assert_the_files_win(spec, tensors)
    assert spec.notes[-2] == (
        "1 tensor that config.json implies is not in the files: 'model.layers.2.self_attn.q_norm.weight'"
    )
    (norms,) = [group for group in spec.tensors if group.name.endswith("q_norm.weight")]
    assert norms.layers == (0, 1, 3)
    assert missing.nbytes == 256


def test_another_type_is_taken_from_the_files(tmp_path: Path) -> None:
    implied = small_model("Qwen3-32B")
    tensors = stored_tensors(implied)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name]._replace(dtype="F32")
    spec = load_model(write(tmp_path / "model", "Qwen3-32B", tensors))
    assert_the_files_win(spec, tensors)
    assert spec.parameters == implied.parameters
    down = {group.format: group.layers for group in spec.tensors if group.role == "dense_down"}
    assert down == {"f32": (1,), "bf16": (0, 2, 3)}
    assert f"is stored otherwise than config.json says: '{name}'" in spec.notes[-2]


def test_a_type_of_the_same_size_is_told_too(tmp_path: Path) -> None:
    tensors = {name: each._replace(dtype="F16") for name, each in stored_tensors(small_model("Qwen3-32B")).items()}
    spec = load_model(write(tmp_path / "model", "Qwen3-32B", tensors))
    assert_the_files_win(spec, tensors)
    assert spec.native_quantization == spec.releases[0].quantization == "f16"
    assert spec.notes[-2].startswith(
        f"47 tensors, {size(tensors):,} bytes in all, are stored otherwise than config.json"
    )


def test_experts_may_be_stored_otherwise_than_declared(tmp_path: Path) -> None:
    """A folder whose ``config.json`` does not say that its experts were quantized."""
    folder = write(tmp_path / "model", "Kimi-K2.5", stored_tensors(small_model("Kimi-K2.5")))
    config = small_config("Kimi-K2.5")
    del config["text_config"]["quantization_config"]
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config))
    spec = load_model(folder)
    assert_the_files_win(spec, stored_tensors(small_model("Kimi-K2.5")))
    assert spec.parameters == small_model("Kimi-K2.5").parameters
    assert {g.format for g in spec.tensors if g.tensor_class == "routed_experts"} == {"int4_g32"}


def test_experts_that_differ_are_told_apart(tmp_path: Path) -> None:
    tensors = stored_tensors(small_model("Qwen3-235B-A22B"))
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    tensors[name] = tensors[name]._replace(dtype="F32")
    spec = load_model(write(tmp_path / "model", "Qwen3-235B-A22B", tensors))
    assert_the_files_win(spec, tensors)
    up = {(g.format, g.layers, g.per_layer) for g in spec.tensors if g.role == "expert_up"}
    assert up == {("bf16", (0, 2, 3), 4), ("bf16", (1,), 3), ("f32", (1,), 1)}
    assert f"'{name}'" in spec.notes[-2]


def test_a_missing_expert_is_one(tmp_path: Path) -> None:
    tensors = stored_tensors(small_model("Qwen3-235B-A22B"))
    for part in ("gate", "up", "down"):
        del tensors[f"model.layers.3.mlp.experts.0.{part}_proj.weight"]
    spec = load_model(write(tmp_path / "model", "Qwen3-235B-A22B", tensors))
    assert_the_files_win(spec, tensors)
    gates = {(g.layers, g.per_layer) for g in spec.tensors if g.role == "expert_gate"}
    assert gates == {((0, 1, 2), 4), ((3,), 3)}


def test_fused_experts_may_have_another_type(tmp_path: Path) -> None:
    implied = small_model("Qwen3.5-397B-A17B")
    tensors = stored_tensors(implied)
    fused = [name for name in tensors if name.endswith("experts.gate_up_proj")]
    tensors |= {name: tensors[name]._replace(dtype="F32") for name in fused}
    spec = load_model(write(tmp_path / "model", "Qwen3.5-397B-A17B", tensors))
    assert_the_files_win(spec, tensors)
    assert spec.parameters == implied.parameters
    formats = {(g.role, g.format) for g in spec.tensors if g.tensor_class == "routed_experts"}
    assert formats == {("expert_gate", "f32"), ("expert_up", "f32"), ("expert_down", "bf16")}


def test_prediction_layers_beyond_the_configuration_are_known_by_their_names(tmp_path: Path) -> None:
    config = small_config("DeepSeek-V3")
    tensors = stored_tensors(small_model("DeepSeek-V3"))
    folder = tmp_path / "model"
    write_checkpoint(folder, tensors, config | {"num_nextn_predict_layers": 0})
    spec = load_model(folder)
    assert_the_files_win(spec, tensors)
    implied = bytes_by_class(small_model("DeepSeek-V3").tensors)
    assert bytes_by_class(spec.tensors) == implied
    assert all(layer < 4 for g in spec.tensors if g.tensor_class != "mtp" for layer in g.layers)


def test_what_has_no_storage_format_counts_by_its_parts(tmp_path: Path) -> None:
    """Shapes of 64-bit integers, as newer compressed-tensors writes them, and weights without any scale."""
    tensors = stored_tensors(small_model("Kimi-K2.5"))
    for name in [name for name in tensors if name.endswith("weight_shape")]:
        tensors[name] = Stored("I64", (2,))
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name]._replace(dtype="F8_E4M3")
    spec = load_model(write(tmp_path / "model", "Kimi-K2.5", tensors))
    assert_the_files_win(spec, tensors)
    classes, implied = bytes_by_class(spec.tensors), bytes_by_class(small_model("Kimi-K2.5").tensors)
    assert classes["routed_experts"] == implied["routed_experts"] + 3 * 4 * 3 * 8
    assert classes["dense_ffn"] == implied["dense_ffn"] - tensors[name].nbytes


def test_tensors_without_elements_change_nothing(tmp_path: Path) -> None:
    tensors = stored_tensors(small_model("Qwen3-32B")) | {"model.layers.0.empty": Stored("BF16", (0, 8))}
    spec = load_model(write(tmp_path / "model", "Qwen3-32B", tensors))
    assert spec.tensors == small_model("Qwen3-32B").tensors


def test_the_index_alone_is_compared_by_names_and_total(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    implied = small_model("Kimi-K2.5")
    tensors = stored_tensors(implied)
    (folder / "config.json").write_text(json.dumps(small_config("Kimi-K2.5")))
    weight_map = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")

    def loaded(total_bytes: int | None, names: dict[str, str] = weight_map) -> ModelSpec:
        write_index(folder, names, total_bytes)
        return load_model(folder)

    agreeing = loaded(size(tensors))
    assert (agreeing.tensors, agreeing.notes) == (implied.tensors, implied.notes)
    assert release_tensors(agreeing, agreeing.releases[0]).evidence == "exact"
    assert agreeing.releases[0].note == (
        "only the index is there, no weight file; its total_size is what config.json implies"
    )
    other = loaded(size(tensors) + 112)
    assert other.releases[0].published_bytes == size(tensors) + 112
    assert release_tensors(other, other.releases[0]).evidence == "modelled"
    assert f"the index states {size(tensors) + 112:,} bytes of tensors, where" in other.notes[-1]
    silent = loaded(None)
    assert silent.releases[0].published_bytes is None
    assert "states no total_size" in silent.releases[0].note
    shard = "model-00001-of-00001.safetensors"
    renamed = loaded(size(tensors), {name.replace("lm_head", "head"): shard for name in weight_map})
    assert renamed.notes[-2:] == (
        "1 tensor is in the index and not explained by config.json: 'language_model.head.weight'",
        "1 tensor that config.json implies is not in the index: 'language_model.lm_head.weight'",
    )


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_without_a_configuration_there_is_no_model(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "model", stored_tensors(small_model("Qwen3-32B")))
    with pytest.raises(ValueError, match=r"needs the config\.json of the model beside the safetensors files"):
        load_model(folder / name)


def test_the_files_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "Qwen3-32B", stored_tensors(small_model("Kimi-K2.5")))
    with pytest.raises(BadModelFile, match=r"has not the tensors that the config\.json beside it describes: of 47 it"):
        load_model(folder)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    lora = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_A.weight": Stored("BF16", (16, 5120))
        for layer in range(4)
    }
    folder = write(tmp_path / "model", "Qwen3-32B", lora)
    with pytest.raises(BadModelFile, match="it holds 4, of the 47 or more"):
        load_model(folder)


def test_what_mlx_quantized_is_refused(tmp_path: Path) -> None:
    tensors = stored_tensors(small_model("Qwen3-32B"))
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, columns = tensors[name].shape
        module = name.removesuffix("weight")
        tensors[name] = Stored("U32", (rows, columns // 8))
        tensors |= {f"{module}{part}": Stored("BF16", (rows, columns // 64)) for part in ("scales", "biases")}
    with pytest.raises(UnknownQuantization, match="weights quantized by MLX have no exact reader"):
        load_model(write(tmp_path / "model", "Qwen3-32B", tensors))


def test_an_absurd_configuration_is_refused_at_once(tmp_path: Path) -> None:
    config = small_config("Qwen3-235B-A22B") | {"num_hidden_layers": 10_000, "num_experts": 100_000}
    tensors = stored_tensors(small_model("Qwen3-235B-A22B"))
    tensors["model.layers.1.mlp.experts.2.up_proj.weight"] = Stored("F32", (1,))
    folder = write_checkpoint(tmp_path / "model", tensors, config)
    began = time.perf_counter()
    with pytest.raises(BadModelFile, match="it holds 87, of the 3,000,"):
        load_model(folder)
    assert time.perf_counter() - began < 1


def nested(tensors: Tensors) -> Tensors:
    """The same checkpoint with the nested statistics of bitsandbytes, whose note has an offset of 17 characters."""
    changed = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(".absmax"):
            (count,) = tensor.shape
            matrix = name.removesuffix(".absmax")
            changed[name] = Stored("U8", (count,))
            changed[f"{matrix}.nested_absmax"] = Stored("F32", (-(-count // 256),))
            changed[f"{matrix}.nested_quant_map"] = Stored("F32", (256,))
            note = f"{matrix}.quant_state.bitsandbytes__nf4"
            added = len(', "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": ') + 17
            changed[note] = Stored("U8", (tensors[note].shape[0] + added,))
    return changed


NESTED = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}  # fmt: skip


def test_headers_are_read_where_the_declaration_has_no_exact_reader(tmp_path: Path) -> None:
    config = small_config("Qwen3-32B")
    plain = NESTED | {"bnb_4bit_use_double_quant": False}
    tensors = nested(stored_tensors(read_config(config | {"quantization_config": plain}, id="small")))
    folder = write_checkpoint(tmp_path / "model", tensors, config | {"quantization_config": NESTED})
    spec = load_model(folder)
    assert_the_files_win(spec, tensors)
    assert spec.parameters == small_model("Qwen3-32B").parameters
    assert {group.format for group in spec.tensors if group.role == "q"} == {"nf4_nested17"}
    assert any("bnb_4bit_use_double_quant" in note for note in spec.notes)


def test_an_index_alone_does_not_say_how_they_are_stored(tmp_path: Path) -> None:
    config = small_config("Qwen3-32B") | {"quantization_config": NESTED}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    names = stored_tensors(small_model("Qwen3-32B"))
    write_index(folder, dict.fromkeys(names, "model.safetensors"), size(names))
    with pytest.raises(UnknownQuantization, match="bnb_4bit_use_double_quant"):
        load_model(folder)


FP8 = {"quant_method": "fp8", "activation_scheme": "static"}


def full_size(folder: Path, changed: dict[str, object], extra: Tensors | None = None) -> ModelSpec:
    """The 70B that is built in, all of its tensors, as a folder on disk."""
    folder.mkdir()
    config = json.loads((CONFIGS / "Meta-Llama-3.1-70B.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps(config))
    write_checkpoint(folder, stored_tensors(load_model(folder / "config.json")) | (extra or {}), config, 4)
    return load_model(folder)


def test_a_folder_is_the_makers_only_where_a_built_in_model_says_so(tmp_path: Path) -> None:
    """The same tensors in the same formats as the maker's. What anybody made of them is not."""
    (release,) = full_size(tmp_path / "as published", {}).releases
    assert (release.by_maker, release.publisher) == (True, "local")
    assert load_model(tmp_path / "as published" / "config.json").releases[0].by_maker
    assert not full_size(tmp_path / "quantized", {"quantization_config": FP8}).releases[0].by_maker
    assert not load_model(tmp_path / "quantized" / "config.json").releases[0].by_maker
    assert not full_size(tmp_path / "one more", {}, {"model.odd": Stored("F32", (1,))}).releases[0].by_maker


def test_a_model_that_is_not_built_in_has_no_known_maker(tmp_path: Path) -> None:
    spec = load_model(write(tmp_path / "model", "Kimi-K2.5", stored_tensors(small_model("Kimi-K2.5"))))
    assert [release.by_maker for release in spec.releases] == [False]


def test_of_a_built_in_model_the_makers_release_alone_is_the_makers() -> None:
    of_makers = [release for release in load_model("kimi-k2.5").releases if release.by_maker]
    assert [(each.publisher, each.quantization) for each in of_makers] == [("moonshotai", "int4")]
