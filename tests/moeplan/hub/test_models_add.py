"""``moeplan models add``: cards of the user's own, written whole, found by name, never in front of a built-in model."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from profiles.cards import CARDS_FOLDER, user_models_folder
from tests.moeplan.hub.conftest import Moeplan, assert_refused
from tests.moeplan.hub.models import LLAMA_BYTES, LLAMA_CONFIG, checkpoint, kimi_gguf
from tests.moeplan.hub.server import COMMIT, HubServer
from tests.profiles.weights.checkpoints import small_config, small_model, stored_tensors, write_checkpoint
from tests.support.gguf_models import uniform


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    return tmp_path / "data" / "moeplan" / "models"


def test_card_of_the_hub_replaces_the_hub(hub: HubServer, moeplan: Moeplan, cards: Path) -> None:
    repo = hub.repos["acme/Big-Llama"] = checkpoint(shards=3)
    repo.extra["cardData"] = {"license": "llama3.1"}
    done = moeplan("models", "add", "acme/Big-Llama")
    assert (done.returncode, done.stdout) == (0, f"big-llama: {cards / 'big-llama.toml'}\n"), done.stderr
    card = tomllib.loads((cards / "big-llama.toml").read_text())
    source = f"{hub.url}/acme/Big-Llama/blob/{COMMIT}/config.json, 2026-01-29"
    assert (card["source"], card["license"], card["repository"]) == (source, "llama3.1", "acme/Big-Llama")
    assert card["release"][0]["tensor_bytes"] == LLAMA_BYTES
    assert (cards / "configs" / "big-llama.json").read_bytes() == LLAMA_CONFIG
    assert {path.name for path in cards.iterdir()} == {"big-llama.toml", "configs"}
    hub.requests.clear()
    for name in ("big-llama", "Big Llama", "acme/Big-Llama"):
        report = json.loads(moeplan("memory", name, "--json").stdout)
        (native,) = (row for row in report["weights"] if row["publisher"] == "acme")
        assert (report["model"], native["bytes"], native["evidence"]) == ("big-llama", LLAMA_BYTES, "exact")
    assert hub.requests == []


def test_card_of_more_than_the_configuration_explains(hub: HubServer, moeplan: Moeplan, cards: Path) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(total_size=None, extra=[("model.surprise.weight", (1 << 20, 1024))])
    from_hub = json.loads(moeplan("memory", "acme/Big-Llama", "--json").stdout)["weights"][0]
    assert (from_hub["bytes"], from_hub["evidence"]) == (LLAMA_BYTES + (2 << 30), "exact")
    assert moeplan("models", "add", "acme/Big-Llama").returncode == 0
    from_card = json.loads(moeplan("memory", "big-llama", "--json").stdout)["weights"][0]
    assert (from_card["bytes"], from_card["evidence"]) == (LLAMA_BYTES + (2 << 30), "assumed")


def test_card_is_listed(hub: HubServer, moeplan: Moeplan, cards: Path) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    added = json.loads(moeplan("models", "add", "acme/Big-Llama", "--id", "mine", "--json").stdout)
    assert (added["models"][0]["id"], added["card"]) == ("mine", str(cards / "mine.toml"))
    done = moeplan("models", "--json")
    assert json.loads(done.stdout)["models"][-1]["name"] == "acme/Big-Llama"
    assert done.stderr == f"moeplan: note: mine is a card of yours: {cards / 'mine.toml'}\n"


def test_card_of_a_configuration(moeplan: Moeplan, cards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "My Llama"
    folder.mkdir()
    shutil.copyfile(CARDS_FOLDER / "configs" / "llama-3.1-70b.json", folder / "config.json")
    (folder / "hf_quant_config.json").write_text(
        '{"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}'
    )
    direct = json.loads(moeplan("memory", str(folder), "--json").stdout)["weights"]
    done = moeplan("models", "add", str(folder))
    assert done.returncode == 0, done.stderr
    card = tomllib.loads((cards / "my-llama.toml").read_text())
    assert card["source"].startswith(f"{folder}/config.json, 20")
    assert card["license"] == "not stated"
    by_name = json.loads(moeplan("memory", "my-llama", "--json").stdout)["weights"]
    assert [row["bytes"] for row in by_name if row["publisher"] == "local"] == [row["bytes"] for row in direct][:1]
    assert direct[0]["quantization"] == "fp8"


def test_output_goes_where_it_is_told(hub: HubServer, moeplan: Moeplan, cards: Path, tmp_path: Path) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    done = moeplan("models", "add", "acme/Big-Llama", "--output", str(tmp_path / "elsewhere"))
    assert done.returncode == 0
    assert (tmp_path / "elsewhere" / "big-llama.toml").is_file()
    assert not cards.exists()


def test_existing_card_stays_unless_forced(hub: HubServer, moeplan: Moeplan, cards: Path) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    assert moeplan("models", "add", "acme/Big-Llama").returncode == 0
    card = cards / "big-llama.toml"
    before = card.stat().st_mtime_ns
    assert_refused(moeplan("models", "add", "acme/Big-Llama"), 2, f"{card} exists; --force replaces it")
    assert card.stat().st_mtime_ns == before
    assert moeplan("models", "add", "acme/Big-Llama", "--force").returncode == 0
    assert card.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("moonshotai/Kimi-K2.5",),
            "'moonshotai/Kimi-K2.5' is built in as kimi-k2.5; --id NAME makes a card of another name",
        ),
        (
            ("acme/Big-Llama", "--id", "kimi-k2.5"),
            "--id kimi-k2.5: the built-in model kimi-k2.5 goes by this name; choose another",
        ),
        (
            ("acme/Big-Llama", "--id", "k2.5"),
            "--id k2.5: the built-in model kimi-k2.5 goes by this name; choose another",
        ),
        (("acme/Big-Llama", "--id", "../evil"), "--id '../evil': a-z, 0-9, dots and dashes are allowed, up to 64"),
        (("./nowhere",), "'./nowhere': no such file or folder, and no org/name"),
        ((), "add: PATH_OR_ID is missing: a config.json, its folder, or org/name on the hub"),
    ],
)
def test_refusals(hub: HubServer, moeplan: Moeplan, cards: Path, arguments: tuple[str, ...], line: str) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    assert_refused(moeplan("models", "add", *arguments), 2, line)
    assert not cards.exists()


def test_flags_of_add_belong_to_add(moeplan: Moeplan) -> None:
    assert_refused(moeplan("models", "--force"), 2, "--id, --output and --force belong to `moeplan models add`")


def test_gguf_makes_no_card(hub: HubServer, moeplan: Moeplan, tmp_path: Path) -> None:
    hub.repos["acme/Kimi-GGUF"] = kimi_gguf(tmp_path, "Kimi-Q4_0.gguf", uniform("q4_0"))
    line = "acme/Kimi-GGUF: a card is made of a config.json; add the repository the GGUF is made of"
    assert_refused(moeplan("models", "add", "acme/Kimi-GGUF:Q4_0"), 2, line)


def test_folder_that_cannot_be_written(hub: HubServer, moeplan: Moeplan, tmp_path: Path) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    (tmp_path / "file").write_text("")
    done = moeplan("models", "add", "acme/Big-Llama", "--output", str(tmp_path / "file"))
    assert_refused(done, 2, f"{tmp_path / 'file'}: File exists")


def test_broken_card_harms_no_other_model(moeplan: Moeplan, cards: Path) -> None:
    cards.mkdir(parents=True)
    (cards / "broken.toml").write_text("id = 'other'")
    (cards / "kimi-k2.5.toml").write_text("id = 'kimi-k2.5'")
    listed = moeplan("models", "--json")
    assert listed.returncode == 0
    assert listed.stderr == f"moeplan: warning: {cards}: broken.toml: source is missing\n"
    assert moeplan("memory", "Kimi_K2.5").returncode == 0
    asked = moeplan("memory", "broken")
    assert_refused(asked, 2, f"{cards}: broken.toml: source is missing")
    built_in = moeplan("memory", "kimi-k2.5", "--json")
    assert json.loads(built_in.stdout)["parameters"]["total"] == 1_026_879_376_368
    assert f"{cards / 'kimi-k2.5.toml'} is not used: kimi-k2.5 is the id of a built-in model" in built_in.stderr


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/moeplan/models"),
        ("linux", {"XDG_DATA_HOME": "relative"}, "/home/me/.local/share/moeplan/models"),
        ("linux", {}, "/home/me/.local/share/moeplan/models"),
        ("darwin", {"XDG_DATA_HOME": "/data"}, "/home/me/Library/Application Support/moeplan/models"),
        ("win32", {"APPDATA": "/Roaming"}, "/Roaming/moeplan/models"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="its absolute paths look different")
def test_folder_by_platform(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], folder: str
) -> None:
    for name in ("XDG_DATA_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert user_models_folder() == Path(folder)


@pytest.mark.parametrize("given", ["", "model.safetensors.index.json", "model-00001-of-00002.safetensors"])
def test_card_of_a_folder_with_weights_has_their_size(
    moeplan: Moeplan, cards: Path, tmp_path: Path, given: str
) -> None:
    tensors = stored_tensors(small_model("Qwen3-32B"))
    folder = write_checkpoint(tmp_path / "My Qwen", tensors, small_config("Qwen3-32B"), 2)
    done = moeplan("models", "add", str(folder / given), "--id", "mine")
    assert done.returncode == 0, done.stderr
    card = tomllib.loads((cards / "mine.toml").read_text())
    assert card["release"][0]["tensor_bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert json.loads((cards / "configs" / "mine.json").read_text()) == small_config("Qwen3-32B")
    (row,) = (row for row in json.loads(moeplan("memory", "mine", "--json").stdout)["weights"] if row["release"])
    assert (row["bytes"], row["evidence"]) == (card["release"][0]["tensor_bytes"], "exact")
