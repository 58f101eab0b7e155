"""Cards: what they say, what they refuse, and what reading one costs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from profiles.cards import CARDS_FOLDER, BadCard, card_ids, load_card, read_card
from profiles.mixtures import base_type

HEAD = """
id = "card"
name = "Card"
repository = "someone/Card"
config = "kimi-k2.5.json"
source = "https://example.org/config.json"
license = "MIT"
license_source = "https://example.org/license"
trust_remote_code = false
"""
RELEASE = """
[[release]]
quantization = "Q8_0"
publisher = "someone"
release = "someone/Card-GGUF"
container = "gguf"
source = "https://example.org/files"
"""
QUALITY = """
[[quality]]
suite = "s"
metric = "ppl"
source = "https://example.org/ppl"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    (tmp_path / "configs").mkdir()
    shutil.copy(CARDS_FOLDER / "configs" / "kimi-k2.5.json", tmp_path / "configs")

    def card(text: str) -> Path:
        path = tmp_path / "card.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return card


def test_every_card_reads_and_every_fact_has_a_public_source() -> None:
    assert set(card_ids()) == {
        "deepseek-r1",
        "deepseek-v3",
        "deepseek-v3.2",
        "deepseek-v4-flash",
        "deepseek-v4-pro",
        "glm-5",
        "glm-5.1",
        "glm-5.2",
        "glm-5.3",
        "gpt-oss-120b",
        "gpt-oss-20b",
        "kimi-k2",
        "kimi-k2-thinking",
        "kimi-k2.5",
        "kimi-k2.6",
        "kimi-k2.7-code",
        "kimi-k3",
        "kimi-linear-48b-a3b",
        "llama-3.1-405b",
        "llama-3.1-70b",
        "llama-3.1-8b",
        "llama-4-maverick",
        "minimax-m2.5",
        "minimax-m2.7",
        "minimax-m3",
        "mixtral-8x22b",
        "mixtral-8x7b",
        "qwen3-235b-a22b",
        "qwen3-32b",
        "qwen3-coder-480b-a35b",
        "qwen3.5-397b-a17b",
    }
    for card_id in card_ids():
        card = load_card(card_id)
        losses = [quality.loss for quality in card.type_quality]
        losses += [loss for release in card.releases for loss in release.quality]
        sources = [*card.sources, *(loss.source for loss in losses), *(mode.source for mode in card.chat)]
        sources += [release.source for release in card.releases]
        assert len(card.sources) == 3
        assert all(source.startswith("https://") for source in sources), card_id


def test_every_gguf_release_is_named_for_a_type_that_llama_cpp_loads() -> None:
    for card_id in card_ids():
        for release in load_card(card_id).releases:
            if release.container == "gguf":
                assert not base_type(release.quantization).needs_ik_llama, (card_id, release.quantization)


def test_models_with_the_same_tensors_share_a_configuration() -> None:
    for card_id in ("kimi-k2.6", "kimi-k2.7-code"):
        assert load_card(card_id).same_tensors_as == "kimi-k2.5"
        assert load_card(card_id).config == load_card("kimi-k2.5").config
    thinking = load_card("kimi-k2-thinking")
    whole = load_card("kimi-k2.5").config
    assert whole is not None
    assert thinking.config == whole["text_config"]
    assert thinking.max_context == 262_144


def test_the_same_name_of_two_publishers_is_two_releases() -> None:
    sizes = {
        (release.publisher, release.quantization): release.published_bytes
        for release in load_card("kimi-k2.5").releases
    }
    assert sizes["bartowski", "Q8_0"] == 583_703_889_920
    assert sizes["bartowski", "Q4_K_M"] == 580_355_550_784
    assert sizes["unsloth", "Q4_K_M"] == 621_235_000_000
    assert sizes["unsloth", "Q8_0"] is None
    assert sizes["unsloth", "UD-Q2_K_XL"] == 374_764_330_144
    assert sizes["moonshotai", "int4"] == 595_148_192_736
    assert len([key for key in sizes if key[0] == "bartowski"]) == 26


def test_how_well_a_size_and_a_mixture_are_known() -> None:
    releases = {(r.publisher, r.quantization): r for r in load_card("kimi-k2.5").releases}
    assert releases["bartowski", "IQ2_XXS"].size_evidence == "exact"
    assert not releases["bartowski", "IQ2_XXS"].mixture_known
    assert releases["unsloth", "UD-TQ1_0"].size_evidence == "stated"
    assert releases["unsloth", "Q8_0"].size_evidence == "computed"
    assert releases["unsloth", "Q8_0"].mixture_known
    assert not releases["unsloth", "Q8_0"].includes_vision
    assert releases["nvidia", "nvfp4"].includes_vision


def test_measurements_are_attached_to_the_mixture_they_were_made_on() -> None:
    k2 = {(r.publisher, r.quantization): r for r in load_card("kimi-k2").releases}
    assert [loss.value for loss in k2["gabriellarson", "Q2_K"].quality] == [4.9829]
    assert [loss.value for loss in k2["unsloth", "UD-IQ3_XXS"].quality] == [3.1467]
    assert k2["unsloth", "UD-IQ2_XXS"].quality == ()  # the file that was measured had another size
    k2_5 = {(r.publisher, r.quantization): r for r in load_card("kimi-k2.5").releases}
    assert [loss.value for loss in k2_5["AesSedai", "Q4_X"].quality] == [3.4190]
    assert k2_5["unsloth", "UD-Q2_K_XL"].quality == ()


def test_what_does_not_follow_from_the_configuration_is_said() -> None:
    (difference,) = load_card("kimi-k2").differences
    assert difference.published_bytes - difference.computed_bytes == 61 * 112
    assert "61 tensors" in difference.what


def test_a_card_costs_less_than_five_milliseconds() -> None:
    best = 1.0
    for _ in range(10):
        start = time.process_time()
        read_card(CARDS_FOLDER / "kimi-k2.5.toml")
        best = min(best, time.process_time() - start)
    assert best < 0.005


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HEAD + "colour = 'red'", "card.toml: unknown colour"),
        (HEAD + RELEASE + "bits = 8", "card.toml: release 1: unknown bits"),
        (HEAD.replace('license = "MIT"', ""), "card.toml: license is missing"),
        (HEAD.replace("= false", "= 0"), "card.toml: trust_remote_code must be bool, not 0"),
        (HEAD + 'aliases = ["a", 1]', "card.toml: aliases must be a list of strings"),
        (HEAD + RELEASE + "stated_bytes = true", "card.toml: release 1: stated_bytes must be int, not True"),
        (HEAD + RELEASE + "stated_bytes = 1\nfile_bytes = 1", "tensor_bytes"),
        (HEAD + RELEASE.replace('"gguf"', '"zip"'), "card.toml: release 1: container must be one of"),
        (HEAD + RELEASE.replace('"gguf"', '"safetensors"'), "card.toml: release 1: mixture is missing"),
        (HEAD + RELEASE.replace('"Q8_0"', '"Q8_9"'), "card.toml: no GGUF file type"),
        (
            HEAD + RELEASE.replace('quantization = "Q8_0"', ""),
            "card.toml: release 1: quantization is missing",
        ),
        (HEAD + RELEASE + RELEASE, "card.toml: someone/Q8_0 stated twice"),
        (HEAD + RELEASE + "[release.stated_bytes]\nQ4_0 = 1", "one quantization has one size"),
        (HEAD + QUALITY, "card.toml: quality 1: values are missing"),
        (HEAD + QUALITY + "values = {Q4_0 = 1}", "quality 1: values: Q4_0 must be float, not 1"),
        (HEAD + QUALITY + 'values = {Q4_0 = 1.0}\npublisher = "someone"', "someone has no release Q4_0"),
        (HEAD + QUALITY + 'values = {Q4_0 = 1.0}\nremarks = {Q8_0 = "?"}', "remarks on what has no value"),
        (HEAD.replace("kimi-k2.5.json", "absent.json"), "card.toml: configuration absent.json"),
        (
            HEAD + 'config_section = "speech_config"',
            "card.toml: configuration kimi-k2.5.json: 'speech_config'",
        ),
        (HEAD.replace('id = "card"', 'id = "other"'), "card.toml: its id is 'other'"),
        (HEAD + "[chat]", "card.toml: chat must be list"),
        ("id = ", "card.toml: Invalid value"),
    ],
)
def test_a_broken_card_is_refused_by_name(write: Callable[[str], Path], text: str, problem: str) -> None:
    path = write(text)
    with pytest.raises(BadCard) as caught:
        read_card(path)
    message = str(caught.value)
    assert message.startswith("card.toml: ")
    assert problem in message or (problem == "tensor_bytes" and "exclude each other" in message)


def test_the_smallest_card(write: Callable[[str], Path]) -> None:
    card = read_card(write(HEAD + RELEASE))
    (release,) = card.releases
    assert (release.mixture, release.mixture_known, release.size_evidence) == ("gguf:Q8_0", False, "computed")
    assert release.published_bytes is None
