"""Weight files through the public door: the calculator, a plan, an estimate, and the command that starts it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moeplan.api import estimate, memory, plan
from moeplan.cli import main
from planner.errors import BadRequest, Undetermined
from profiles.library import load_model
from tests.profiles.weights.architectures import MODELS, build, heads, repeated
from tests.profiles.weights.checkpoints import small_config, small_model, stored_tensors, write_checkpoint
from tests.profiles.weights.test_projector import projector
from tests.support.gguf_models import kimi_k25_spec, routed_experts
from tests.support.gguf_writer import write_gguf


@pytest.fixture
def kimi(tmp_path: Path) -> Path:
    """The first of three shards of Kimi K2.5 with its routed experts in Q2_K."""
    folder = tmp_path / "with space"
    folder.mkdir()
    spec = kimi_k25_spec(routed_experts("q2_k", "q8_0"))
    return write_gguf(folder / "Kimi-K2.5-Q2_K.gguf", spec, data="sparse", splits=3)[0]


def test_memory_of_a_gguf_file(kimi: Path) -> None:
    report = memory(str(kimi))
    (row,) = report.weights
    assert (row.quantization, row.publisher, row.evidence) == ("Q2_K", "local", "exact")
    assert row.release == str(kimi)
    assert row.bytes == sum(row.bytes_by_class.values()) == 345_886_853_120
    assert report.parameters.total == 1_026_408_232_448
    mla = {each.dtype: each.bytes_per_token for each in report.kv_cache if each.layout == "mla"}
    assert mla["bf16"] == 70_272


def test_a_plan_starts_the_file_itself(kimi: Path) -> None:
    # Named by another shard and relative to nowhere: the command has the first one, in full.
    found = plan(str(kimi.with_name(kimi.name.replace("00001", "00003"))), gpu="8xH200", ram="1TiB")
    assert found.candidates
    for candidate in found.candidates:
        assert candidate.engine.name == "llama.cpp"
        argv = candidate.launch.argv
        assert argv[argv.index("--model") + 1] == str(kimi)
        weights = sum(device.weights_bytes for device in candidate.memory.devices if device.kind != "disk")
        assert weights == 345_886_853_120
        assert "maker" not in str(candidate.quality)


def test_a_relative_path_is_written_out(kimi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kimi.parent)
    (candidate,) = estimate(kimi.name, gpu="8xH200", ram="1TiB", engine="llama.cpp").candidates
    argv = candidate.launch.argv
    assert argv[argv.index("--model") + 1] == str(kimi)


def test_quality_of_a_file_is_not_taken_for_lossless(kimi: Path) -> None:
    bounds = {"max_kld": 0.01, "quality_suite": "wikitext"}
    found = plan(str(kimi), gpu="8xH200", ram="1TiB", **bounds)  # type: ignore[arg-type]
    assert not found.candidates
    assert "was not measured" in found.rejected[0].reason


def test_an_estimate_in_another_type_is_hypothetical(kimi: Path) -> None:
    (candidate,) = estimate(str(kimi), gpu="8xH200", ram="2TiB", engine="llama.cpp", quant="Q4_K_M").candidates
    weights = sum(device.weights_bytes for device in candidate.memory.devices if device.kind != "disk")
    assert weights == pytest.approx(620_550_916_096, rel=1e-9)


def test_a_projector_is_in_the_weights_and_not_in_the_plan_for_text(kimi: Path) -> None:
    before = memory(str(kimi)).weights[0]
    write_gguf(kimi.with_name("mmproj-F16.gguf"), projector(leads_to=7168), data="sparse")
    after = memory(str(kimi)).weights[0]
    assert after.bytes - before.bytes == after.bytes_by_class["vision"] > 0
    assert "mmproj-F16.gguf" in after.note
    (candidate,) = estimate(str(kimi), gpu="8xH200", ram="1TiB", engine="llama.cpp").candidates
    assert "--mmproj" not in candidate.launch.argv
    weights = sum(device.weights_bytes for device in candidate.memory.devices if device.kind != "disk")
    assert weights == before.bytes


@pytest.mark.parametrize(
    "name", ["gpt-oss", "kimi-linear", "qwen35moe mtp", "glm-dsa shared", "llama tied", "qwen2moe"]
)
def test_every_kind_of_cache_is_planned(tmp_path: Path, name: str) -> None:
    (path,) = write_gguf(tmp_path / "model.gguf", MODELS[name], data="sparse")
    assert memory(str(path), context=2048, sequences=2).kv_cache
    found = plan(str(path), gpu="2xA100-80", ram="64GiB", context=2048, input_tokens=512, output_tokens=128)
    assert found.candidates
    assert found.candidates[0].fits


@pytest.mark.parametrize("name", ["Kimi-K2.5", "DeepSeek-V3", "gpt-oss-20b", "Qwen3.5-397B-A17B"])
def test_a_checkpoint_is_planned(tmp_path: Path, name: str) -> None:
    tensors = stored_tensors(small_model(name))
    folder = write_checkpoint(tmp_path / "model", tensors, small_config(name), 2)
    (row,) = memory(str(folder)).weights
    assert (row.bytes, row.evidence) == (sum(each.nbytes for each in tensors.values()), "exact")
    found = plan(str(folder), gpu="8xH200", ram="1TiB", engine="vllm")
    assert found.candidates
    assert str(folder) in found.candidates[0].launch.argv


def test_shards_without_an_index_are_planned_and_told(tmp_path: Path) -> None:
    tensors = stored_tensors(small_model("Kimi-K2.5"))
    folder = write_checkpoint(tmp_path / "model", tensors, small_config("Kimi-K2.5"), 3)
    (folder / "model.safetensors.index.json").unlink()
    report = memory(str(folder))
    assert report.weights[0].bytes == sum(each.nbytes for each in tensors.values())
    assert any(note.startswith("no index names the 3 shards") for note in report.notes)


def test_an_unexplained_tensor_is_told_with_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.profiles.weights.checkpoints import Stored

    tensors = stored_tensors(small_model("Qwen3-32B"))
    tensors |= {f"model.layers.{layer}.odd": Stored("F32", (28,)) for layer in range(4)}
    folder = write_checkpoint(tmp_path / "model", tensors, small_config("Qwen3-32B"))
    assert main(["memory", str(folder), "--json"]) == 0
    said = capsys.readouterr()
    report: dict[str, Any] = json.loads(said.out)
    assert any(note.startswith("4 tensors of 112 bytes are in the files") for note in report["notes"])


def _unknown(folder: Path) -> Path:
    return write_gguf(folder / "model.gguf", build("falcon", repeated(heads)), data="sparse")[0]


def _alone(folder: Path) -> Path:
    return write_gguf(folder / "mmproj-F16.gguf", projector(), data="sparse")[0]


def _no_config(folder: Path) -> Path:
    return write_checkpoint(folder / "model", stored_tensors(small_model("Qwen3-32B")))


def _shards(folder: Path) -> Path:
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00002-of-00003.safetensors").unlink()
    return folder


def _named(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _shard_missing(folder: Path) -> Path:
    paths = write_gguf(folder / "model.gguf", MODELS["llama"], data="sparse", splits=3)
    paths[0].unlink()
    return paths[1]


@pytest.mark.parametrize(
    ("make", "error", "code", "said"),
    [
        (_unknown, Undetermined, 3, "no reader for the GGUF architecture 'falcon'"),
        (_alone, BadRequest, 2, "a vision projector, not a model"),
        (_no_config, BadRequest, 2, "needs the config.json of the model"),
        (_shard_missing, BadRequest, 2, "1 of 3 shards are missing, first 'model-00001-of-00003.gguf'"),
        (lambda folder: folder / "absent.gguf", BadRequest, 2, "unknown file or folder '"),
        (lambda folder: folder / "absent" / "folder", BadRequest, 2, "unknown file or folder"),
        (lambda folder: folder, BadRequest, 2, "no config.json in this folder, and no weight files"),
        (lambda folder: _named(folder, "a.gguf", b""), BadRequest, 2, "ends after 0 bytes"),
        (
            lambda folder: _named(folder, "config.json", b""),
            BadRequest,
            2,
            "config.json: model configuration: not JSON",
        ),
        (lambda folder: _named(folder, "config.json", b"{}"), BadRequest, 2, "config.json: model_type is missing"),
        (lambda folder: _named(folder, "model.bin", b"x"), BadRequest, 2, "or a .gguf file is allowed"),
        (
            lambda folder: _shards(
                write_checkpoint(folder / "m", stored_tensors(small_model("Qwen3-32B")), small_config("Qwen3-32B"), 3)
            ),
            BadRequest,
            2,
            "1 of the 3 shards are missing, 'model-00002-of-00003.safetensors' first",
        ),
    ],
)
def test_refusals_are_one_line_with_their_exit_code(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], Path],
    error: type[Exception],
    code: int,
    said: str,
) -> None:
    path = make(tmp_path)
    with pytest.raises(error, match=said):
        plan(str(path), gpu="8xH200")
    assert main(["plan", str(path), "--gpu", "8xH200"]) == code
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


def test_a_folder_that_someone_quantized_is_not_called_the_makers(tmp_path: Path) -> None:
    config = small_config("Qwen3-32B") | {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_checkpoint(folder, stored_tensors(load_model(folder / "config.json")))
    (candidate, *_) = plan(str(folder), gpu="2xH100", ram="64GiB").candidates
    assert not candidate.quality.native
    assert "maker" not in candidate.quality.note
    bounds = {"max_kld": 0.01, "quality_suite": "wikitext"}
    found = plan(str(folder), gpu="2xH100", ram="64GiB", **bounds)  # type: ignore[arg-type]
    assert "was not measured" in found.rejected[0].reason


def test_a_folder_with_two_formats_says_which_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = stored_tensors(small_model("Qwen3-32B"))
    folder = write_checkpoint(tmp_path / "model", tensors, small_config("Qwen3-32B"))
    write_gguf(folder / "other.gguf", MODELS["llama"], data="sparse")
    assert main(["memory", str(folder)]) == 0
    assert "also holds GGUF files, which were not read" in " ".join("".join(capsys.readouterr()).split())
    assert main(["memory", str(folder / "other.gguf"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"][0]["quantization"] == "F32"
