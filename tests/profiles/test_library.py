"""Models by name and from disk, and the releases that a quantization means."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from profiles.cards import CARDS_FOLDER, card_ids, load_card
from profiles.headers.errors import BadModelFile
from profiles.library import find_releases, load_model, model_ids, quality_of
from profiles.mixtures import release_tensors
from profiles.model import Release, active_parameters
from profiles.names import UnknownName


def _one(model_id: str, quantization: str) -> Release:
    (release,) = find_releases(load_model(model_id), quantization)
    return release


def _bytes(model_id: str, quantization: str) -> int:
    return release_tensors(load_model(model_id), _one(model_id, quantization)).bytes


@pytest.mark.parametrize(
    ("text", "model_id"),
    [
        ("kimi-k2.5", "kimi-k2.5"),
        ("KIMI K2.5", "kimi-k2.5"),
        ("moonshotai/Kimi-K2.5", "kimi-k2.5"),
        ("Kimi_K2.5", "kimi-k2.5"),
        ("moonshotai/Kimi-K2-Instruct", "kimi-k2"),
        ("Kimi-K2-Thinking", "kimi-k2-thinking"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1"),
        ("DeepSeek-V3", "deepseek-v3"),
        ("Qwen/Qwen3-235B-A22B", "qwen3-235b-a22b"),
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b"),
    ],
)
def test_names_and_aliases(text: str, model_id: str) -> None:
    assert load_model(text).id == model_id


def test_no_name_means_two_models() -> None:
    named: dict[str, str] = {}
    for card_id in card_ids():
        card = load_card(card_id)
        for name in {card_id, card.repository.casefold(), *(alias.casefold() for alias in card.aliases)}:
            assert named.setdefault(name, card_id) == card_id


@pytest.mark.parametrize("model_id", model_ids())
def test_every_release_of_every_model_has_tensors(model_id: str) -> None:
    model = load_model(model_id)
    assert model.id == model_id
    for release in model.releases:
        found = release_tensors(model, release)
        assert sum(group.bytes for group in found.groups) * found.scale == pytest.approx(found.bytes)
        if release.published_bytes is not None:
            assert found.bytes == pytest.approx(release.published_bytes, rel=0.002), release.quantization


def test_a_published_total_is_met_to_the_byte_or_the_difference_is_told() -> None:
    """Of every checkpoint in safetensors whose publisher states how large it is."""
    differing = set()
    for model_id in model_ids():
        model = load_model(model_id)
        for release in model.releases:
            if release.container == "safetensors" and release.size_evidence == "exact":
                found = release_tensors(model, release)
                if found.evidence != "exact" or found.bytes != release.published_bytes:
                    differing.add(release.release)
    assert differing == {"moonshotai/Kimi-K2-Instruct"}
    assert any("61 tensors" in note for note in load_model("kimi-k2").notes)


@pytest.mark.parametrize(
    ("text", "model_id"),
    [("glm-5", "glm-5"), ("GLM-5-FP8", "glm-5"), ("deepseek-v4", "deepseek-v4-pro"), ("MiniMax M2.5", "minimax-m2.5"),
     ("openai/gpt-oss-120b", "gpt-oss-120b"), ("qwen3-coder", "qwen3-coder-480b-a35b"), ("k3", "kimi-k3"),
     ("DeepSeek V3.2", "deepseek-v3.2"), ("mixtral 8x7b", "mixtral-8x7b"), ("Llama 4 Maverick", "llama-4-maverick")],
)  # fmt: skip
def test_what_users_type_is_found(text: str, model_id: str) -> None:
    assert load_model(text).id == model_id


def test_kimi_k2_5_to_the_byte() -> None:
    model = load_model("kimi-k2.5")
    assert model.parameters == 1_026_879_376_368
    assert active_parameters(model, with_embedding=True) == 32_861_500_928
    assert _bytes("kimi-k2.5", "int4") == 595_148_192_736
    assert release_tensors(model, _one("kimi-k2.5", "int4")).evidence == "exact"
    assert _bytes("kimi-k2.5", "bartowski/Q8_0") == 583_703_889_920
    assert _bytes("kimi-k2.5", "unsloth/Q8_0") == 1_091_046_901_760
    assert _bytes("kimi-k2.5", "bf16") == 2_053_758_798_816
    assert _bytes("kimi-k2.5", "hypothetical/F16") == 2_053_148_825_600
    assert (model.tool_call_parser, model.reasoning_parser) == ("kimi_k2", "kimi_k2")
    assert model.trust_remote_code


def test_other_models_to_the_byte() -> None:
    assert _bytes("kimi-k2.6", "int4") == _bytes("kimi-k2.7-code", "int4") == 595_148_192_736
    assert _bytes("deepseek-v3", "fp8") == _bytes("deepseek-r1", "fp8") == 688_574_839_360
    assert load_model("qwen3-235b-a22b").parameters == 235_093_634_560
    thinking = load_model("kimi-k2-thinking")
    assert thinking.vision is None
    assert thinking.max_context == 262_144
    assert _bytes("kimi-k2-thinking", "int4") == 595_148_192_736 - 942_287_840


def test_what_kimi_k2_does_not_explain_is_said_and_not_patched() -> None:
    model = load_model("kimi-k2")
    release = _one("kimi-k2", "fp8")
    found = release_tensors(model, release)
    assert release.published_bytes == 1_029_173_256_720
    assert (found.bytes, found.evidence) == (1_029_173_249_888, "modelled")
    assert any("61 tensors" in note for note in model.notes)


# The ignore list of nvidia/Kimi-K2.5-NVFP4 spares neither shared experts nor the dense layer; wafer-ai states
# 590 GB, 550 GiB, for the same split of K2.6, and nvidia's K2.6 spares both.
def test_nvfp4_follows_what_each_publisher_excluded() -> None:
    assert _bytes("kimi-k2.5", "nvfp4") == 590_779_957_656
    assert _bytes("kimi-k2.6", "wafer-ai/nvfp4") == 590_779_957_656
    assert _bytes("kimi-k2.6", "nvidia/nvfp4") == 595_148_192_736


def test_a_quantization_means_every_publisher() -> None:
    model = load_model("kimi-k2.5")
    assert {r.publisher for r in find_releases(model, "q8_0")} == {"bartowski", "unsloth"}
    assert {r.publisher for r in find_releases(model, "Q4_K_M")} == {"bartowski", "unsloth"}
    assert [r.publisher for r in find_releases(model, "Bartowski/q8_0")] == ["bartowski"]
    assert len(find_releases(model, "unsloth/Kimi-K2.5-GGUF")) == 6


def test_a_dynamic_type_is_found_without_its_prefix() -> None:
    assert _one("kimi-k2.5", "TQ1_0").quantization == "UD-TQ1_0"
    assert _one("kimi-k2.5", "q2_k_xl").published_bytes == 374_764_330_144


def test_fp16_means_bf16() -> None:
    assert _one("kimi-k2.5", "fp16") == _one("kimi-k2.5", "BF16")
    assert _one("kimi-k2.5", "bf16").status == "hypothetical"
    assert _one("llama-3.1-70b", "fp16").status == "published"


def test_a_format_is_hypothetical_only_where_nobody_published_it() -> None:
    for model_id in model_ids():
        releases = load_model(model_id).releases
        published = {r.quantization.casefold() for r in releases if r.status == "published"}
        hypothetical = {r.quantization for r in releases if r.status == "hypothetical"}
        assert published.isdisjoint(hypothetical)
        assert {"bf16", "fp8"} <= published | hypothetical


def test_an_unpublished_gguf_type_follows_the_plain_rules() -> None:
    release = _one("qwen3-235b-a22b", "iq2_xxs")
    assert (release.status, release.mixture, release.container) == ("hypothetical", "gguf:IQ2_XXS", "gguf")


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("int5", "moonshotai/int4"),
        ("UD-Q2_K_XXL", "unsloth/UD-Q2_K_XL"),
        ("bartowski/int4", "moonshotai/int4"),
        ("nobody/Q8_0", "unsloth/Q8_0"),
        ("", "moonshotai/int4"),
        ("/", "moonshotai/int4"),
    ],
)
def test_an_unknown_quantization_names_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UnknownName) as caught:
        find_releases(load_model("kimi-k2.5"), text)
    assert nearest in caught.value.candidates
    assert 1 <= len(caught.value.candidates) <= 8


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("kimi-k25x", "kimi-k2.5"), ("deepseek-v9", "deepseek-v3"), ("qwen3", "qwen3-235b-a22b")],
)
def test_an_unknown_model_names_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UnknownName) as caught:
        load_model(text)
    assert nearest in caught.value.candidates


@pytest.mark.parametrize("text", ["", "no/such/config.json", "x" * 5000, "nul\0"])
def test_what_is_neither_a_name_nor_a_path(text: str) -> None:
    with pytest.raises(UnknownName) as caught:
        load_model(text)
    assert len(str(caught.value)) < 400


def test_a_configuration_on_disk_has_the_format_it_declares(tmp_path: Path) -> None:
    folder = tmp_path / "My Model"
    folder.mkdir()
    shutil.copy(CARDS_FOLDER / "configs" / "kimi-k2.json", folder / "config.json")
    by_folder = load_model(folder)
    assert by_folder.tensors == load_model(str(folder / "config.json")).tensors
    assert (by_folder.id, by_folder.name) == ("my-model", "My Model")
    (release,) = by_folder.releases
    assert (release.publisher, release.quantization) == ("local", "fp8")
    assert release_tensors(by_folder, release).bytes == 1_029_173_249_888
    assert quality_of(by_folder.id, release) == ()
    (bf16,) = find_releases(by_folder, "bf16")
    assert bf16.status == "hypothetical"


def test_a_quantization_beside_the_configuration_counts(tmp_path: Path) -> None:
    config = json.loads((CARDS_FOLDER / "configs" / "qwen3-235b-a22b.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    beside = {"quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    (release,) = load_model(tmp_path).releases
    assert release.quantization == "nvfp4"


def test_bad_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": NaN}')
    with pytest.raises(BadModelFile):
        load_model(tmp_path)
    weights = tmp_path / "model.gguf"
    weights.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"model\.gguf: ends after 4 bytes"):
        load_model(weights)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_model(empty)


def test_quality_is_the_releases_own_or_that_of_its_type() -> None:
    own = _one("kimi-k2.6", "UD-Q2_K_XL")
    assert [loss.value for loss in quality_of("kimi-k2.6", own)] == [2.4131]
    of_type = quality_of("kimi-k2.5", _one("kimi-k2.5", "UD-Q2_K_XL"))
    assert {(loss.metric, loss.value) for loss in of_type} == {("kld", 0.2953), ("ppl", 4.4072)}
    assert all("every quantizable tensor in this one type" in loss.note for loss in of_type)
    baseline = quality_of("kimi-k2.5", _one("kimi-k2.5", "bartowski/Q8_0"))
    assert [(loss.metric, loss.value, loss.baseline) for loss in baseline] == [("ppl", 3.419, 3.419)]
    # The other Q8_0 has its experts in Q8_0: nobody measured it.
    assert quality_of("kimi-k2.5", _one("kimi-k2.5", "unsloth/Q8_0")) == ()
    assert quality_of("kimi-k2.5", _one("kimi-k2.5", "int4")) == ()
