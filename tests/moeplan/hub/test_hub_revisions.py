"""``org/name@revision``: a branch, a tag or a commit, online and from the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moeplan.hub import is_hub_id
from tests.moeplan.hub.conftest import Moeplan, assert_refused
from tests.moeplan.hub.models import LLAMA_BYTES, checkpoint, kimi_gguf
from tests.moeplan.hub.server import COMMIT, HubServer
from tests.support.gguf_models import uniform


@pytest.mark.parametrize("text", ["a/b@main", "a/b@v1.0", f"a/b@{COMMIT}", "a/b@refs/pr/7", "a/b@v1:Q4_K_M"])
def test_what_names_a_revision(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize("text", ["a/b@", "a/b@/x", "a/b@x/", "a/b:Q4_K_M@v1", "a/b@x y", "a@v1/b"])
def test_what_names_none(text: str) -> None:
    assert not is_hub_id(text)


@pytest.mark.parametrize("revision", ["v1.0", COMMIT])
def test_revision_is_read_and_told(hub: HubServer, moeplan: Moeplan, revision: str) -> None:
    repo = hub.repos["acme/Big-Llama"] = checkpoint(shards=3)
    repo.branches = ("v1.0",)
    done = moeplan("memory", f"acme/Big-Llama@{revision}", "--json")
    assert done.returncode == 0, done.stderr
    (native,) = (row for row in json.loads(done.stdout)["weights"] if row["quantization"] == "bf16")
    assert native["bytes"] == LLAMA_BYTES
    assert f"was read at revision {revision}" in done.stderr
    asked = len(hub.requests)
    again = moeplan("memory", f"acme/Big-Llama@{revision}", "--json", HF_HUB_OFFLINE="1")
    assert json.loads(again.stdout)["weights"] == json.loads(done.stdout)["weights"]
    assert len(hub.requests) == asked


def test_branch_with_a_slash_is_one_name(hub: HubServer, moeplan: Moeplan) -> None:
    repo = hub.repos["acme/Big-Llama"] = checkpoint(shards=3)
    repo.branches = ("refs/pr/7",)
    assert moeplan("memory", "acme/Big-Llama@refs/pr/7").returncode == 0


def test_quantization_of_a_revision(hub: HubServer, moeplan: Moeplan, tmp_path: Path) -> None:
    repo = hub.repos["acme/Kimi-GGUF"] = kimi_gguf(tmp_path, "Kimi-Q4_0.gguf", uniform("q4_0"))
    repo.branches = ("old",)
    done = moeplan("memory", "acme/Kimi-GGUF@old:Q4_0")
    assert done.returncode == 0, done.stderr


def test_unknown_revision_is_bad_input(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint()
    line = "acme/Big-Llama has no such revision, or is empty: a branch, a tag or a commit is allowed"
    assert_refused(moeplan("memory", "acme/Big-Llama@nowhere"), 2, line)
