"""Checkpoints of the hub as the program reads them: to the byte, from configuration, index and headers alone."""

from __future__ import annotations

import json

import pytest

from tests.moeplan.hub.conftest import Moeplan
from tests.moeplan.hub.models import LLAMA_BYTES, checkpoint
from tests.moeplan.hub.server import COMMIT, Answer, File, HubServer


def test_config_and_index_suffice_where_they_agree(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(shards=3)
    done = moeplan("memory", "acme/Big-Llama", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (native,) = (row for row in report["weights"] if row["quantization"] == "bf16")
    assert (report["model"], report["name"]) == ("big-llama", "acme/Big-Llama")
    assert (native["publisher"], native["release"]) == ("acme", "acme/Big-Llama")
    assert (native["bytes"], native["evidence"]) == (LLAMA_BYTES, "exact")
    assert hub.weights_read() == []
    assert f"/acme/Big-Llama/blob/{COMMIT}/model.safetensors.index.json: " in done.stderr
    assert "agree to the byte" in done.stderr


@pytest.mark.parametrize("total_size", [None, 1_000_000], ids=["no total", "another total"])
def test_headers_settle_what_the_index_does_not(hub: HubServer, moeplan: Moeplan, total_size: int | None) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(shards=3, total_size=total_size)
    done = moeplan("memory", "acme/Big-Llama", "--json")
    assert done.returncode == 0, done.stderr
    (native,) = (row for row in json.loads(done.stdout)["weights"] if row["quantization"] == "bf16")
    assert (native["bytes"], native["evidence"]) == (LLAMA_BYTES, "exact")
    assert len(hub.weights_read()) == 3
    assert "the headers of 3 weight files were read" in done.stderr
    assert hub.sent_bytes < 10_000_000


def test_single_file_without_an_index(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(index=False)
    done = moeplan("memory", "acme/Big-Llama", "--json")
    assert done.returncode == 0, done.stderr
    (native,) = (row for row in json.loads(done.stdout)["weights"] if row["quantization"] == "bf16")
    assert native["bytes"] == LLAMA_BYTES
    assert hub.weights_read() == ["model.safetensors"]


def test_header_longer_than_the_first_part(hub: HubServer, moeplan: Moeplan) -> None:
    repo = hub.repos["acme/Big-Llama"] = checkpoint(index=False)
    file = repo.files["model.safetensors"]
    # The format allows spaces after the object.
    padded = file.head[8:] + b" " * (3 << 20)
    size = file.size_bytes + (3 << 20)
    repo.files["model.safetensors"] = File(len(padded).to_bytes(8, "little") + padded, size, large=True)
    done = moeplan("memory", "acme/Big-Llama", "--json")
    assert done.returncode == 0, done.stderr
    assert hub.paths().count("/acme/Big-Llama/resolve/" + COMMIT + "/model.safetensors") == 2 * 2
    assert 3 << 20 < hub.sent_bytes < 5 << 20


def test_token_goes_to_the_hub_and_nowhere_else(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(shards=2, total_size=None)
    assert moeplan("memory", "acme/Big-Llama").returncode == 0
    asked = {request.origin: request.headers.get("authorization") for request in hub.requests}
    assert asked == {"hub": "Bearer hf_SecretSecretSecret", "files": None}


def test_renamed_repository_is_followed(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    hub.answers["/api/models/acme/Old-Name"] = Answer(307, {"Location": "/api/models/acme/Big-Llama"})
    done = moeplan("memory", "acme/Old-Name", "--json")
    assert json.loads(done.stdout)["name"] == "acme/Big-Llama"


def test_built_in_model_asks_nobody(hub: HubServer, moeplan: Moeplan) -> None:
    assert moeplan("memory", "moonshotai/Kimi-K2.5").returncode == 0
    assert hub.requests == []


def test_copy_of_a_built_in_name_is_not_the_built_in_model(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Kimi-K2.5"] = checkpoint()
    done = moeplan("memory", "acme/Kimi-K2.5", "--json")
    assert json.loads(done.stdout)["model"] == "acme-kimi-k2.5"


def test_quantization_of_a_checkpoint(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    assert moeplan("memory", "acme/Big-Llama:BF16").returncode == 0
    done = moeplan("memory", "acme/Big-Llama:Q4_K_M")
    assert (done.returncode, done.stderr) == (
        2, "moeplan: acme/Big-Llama has no GGUF files, only bf16: leave out ':Q4_K_M'\n",
    )  # fmt: skip
