"""``moeplan models add``: cards of the user's own, written whole, found by name, never in front of a built-in model."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiles.cards import CARDS_FOLDER, user_models_folder
from tests.moeplan.hub.conftest import Moeplan, assert_refused
from tests.moeplan.hub.models import LLAMA_BYTES, LLAMA_CONFIG, checkpoint, kimi_gguf
from tests.moeplan.hub.server import COMMIT, HubServer
from tests.profiles.weights.checkpoints import small_config, small_model, stored_tensors, write_checkpoint
from tests.profiles.weights.test_projector import projector
from tests.support.gguf_models import kimi_k25_spec, routed_experts, uniform
from tests.support.gguf_writer import write_gguf


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
    assert (from_card["bytes"], from_card["evidence"]) == (LLAMA_BYTES + (2 << 30), "exact")
    assert from_card["bytes_by_class"] == from_hub["bytes_by_class"]


def test_card_of_an_index_that_states_more_than_the_configuration(
    moeplan: Moeplan, cards: Path, tmp_path: Path
) -> None:
    """Nothing says what the rest is: the size is the index's, the parts are assumed."""
    tensors = stored_tensors(small_model("Qwen3-32B"))
    folder = write_checkpoint(tmp_path / "My Qwen", tensors, small_config("Qwen3-32B"), 2)
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
    index = folder / "model.safetensors.index.json"
    stated = json.loads(index.read_text())
    more = sum(tensor.nbytes for tensor in tensors.values()) + 4096
    index.write_text(json.dumps(stated | {"metadata": {"total_size": more}}))
    assert moeplan("models", "add", str(folder), "--id", "mine").returncode == 0
    (row,) = (row for row in json.loads(moeplan("memory", "mine", "--json").stdout)["weights"] if row["release"])
    assert (row["bytes"], row["evidence"]) == (more, "assumed")


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
        ((), "add: PATH_OR_ID is missing: a config.json, weights, their folder, or org/name on the hub"),
    ],
)
def test_refusals(hub: HubServer, moeplan: Moeplan, cards: Path, arguments: tuple[str, ...], line: str) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    assert_refused(moeplan("models", "add", *arguments), 2, line)
    assert not cards.exists()


def test_flags_of_add_belong_to_add(moeplan: Moeplan) -> None:
    assert_refused(moeplan("models", "--force"), 2, "--id, --output and --force belong to `moeplan models add`")


def test_card_of_a_gguf_on_the_hub(hub: HubServer, moeplan: Moeplan, cards: Path, tmp_path: Path) -> None:
    hub.repos["acme/Kimi-GGUF"] = kimi_gguf(tmp_path, "Q2_K/Kimi-Q2_K.gguf", routed_experts("q2_k", "q8_0"), splits=3)
    direct = json.loads(moeplan("memory", "acme/Kimi-GGUF:Q2_K", "--json").stdout)
    done = moeplan("models", "add", "acme/Kimi-GGUF:Q2_K")
    assert (done.returncode, done.stdout) == (0, f"kimi-gguf: {cards / 'kimi-gguf.toml'}\n"), done.stderr
    card = tomllib.loads((cards / "kimi-gguf.toml").read_text())
    assert card["source"] == f"{hub.url}/acme/Kimi-GGUF/blob/{COMMIT}/Q2_K/Kimi-Q2_K-00001-of-00003.gguf, 2026-01-29"
    assert (card["repository"], "config" in card) == ("acme/Kimi-GGUF", False)
    hub.requests.clear()
    by_name = json.loads(moeplan("memory", "kimi-gguf", "--json").stdout)
    assert hub.requests == []
    assert by_name["weights"] == direct["weights"]
    assert by_name["kv_cache"] == direct["kv_cache"]
    assert (by_name["weights"][0]["bytes"], by_name["weights"][0]["evidence"]) == (345_886_853_120, "exact")


@pytest.mark.parametrize(("splits", "given"), [(1, "Kimi-Q2_K.gguf"), (3, "Kimi-Q2_K-00002-of-00003.gguf"), (3, "")])
def test_card_of_a_gguf_with_its_projector(
    moeplan: Moeplan, cards: Path, tmp_path: Path, splits: int, given: str
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    spec = kimi_k25_spec(routed_experts("q2_k", "q8_0"))
    first = write_gguf(folder / "Kimi-Q2_K.gguf", spec, data="sparse", splits=splits)[0]
    write_gguf(folder / "mmproj-F16.gguf", projector(leads_to=7168), data="sparse")
    direct = json.loads(moeplan("memory", str(first), "--json").stdout)
    done = moeplan("models", "add", str(folder / given), "--id", "mine")
    assert done.returncode == 0, done.stderr
    card = tomllib.loads((cards / "mine.toml").read_text())
    assert card["release"][0]["tensor_bytes"] == direct["weights"][0]["bytes"]
    assert card["source"].startswith(f"{first}, 20")
    assert "mmproj-F16.gguf" in card["release"][0]["note"]
    hardware = ("--gpu", "8xH200", "--ram", "1TiB", "--json")
    plans = [json.loads(moeplan("plan", model, *hardware).stdout) for model in ("mine", str(first))]
    mine, file = ([(row["memory"], row["performance"]) for row in found["candidates"]] for found in plans)
    assert mine == file
    argv = plans[0]["candidates"][0]["launch"]["argv"]
    assert argv[argv.index("--model") + 1] == str(first)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header: header | {"layers": "61"}, "layers: Input should be a valid integer"),
        (lambda header: header | {"tensors": header["tensors"][1:]}, "the one release must have as many"),
        (lambda header: {}, "id: Field required"),
    ],
)
def test_header_of_a_card_that_was_changed_is_refused(
    moeplan: Moeplan, cards: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    (path,) = write_gguf(tmp_path / "Kimi-Q8_0.gguf", kimi_k25_spec(uniform("q8_0")), data="sparse")
    assert moeplan("models", "add", str(path), "--id", "mine").returncode == 0
    header = cards / "configs" / "mine.header.json"
    header.write_text(json.dumps(change(json.loads(header.read_text()))))
    done = moeplan("memory", "mine")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


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
