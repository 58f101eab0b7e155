"""The cache where the hub does not answer, and what the user sees while it does so slowly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.moeplan.hub.conftest import Moeplan
from tests.moeplan.hub.models import checkpoint
from tests.moeplan.hub.server import File, HubServer, Repo
from tests.support.gguf_models import LlamaSpec, uniform
from tests.support.gguf_writer import write_gguf


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_cache_answers_when_the_hub_does_not(hub: HubServer, moeplan: Moeplan, variables: dict[str, str]) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(shards=3)
    first = moeplan("memory", "acme/Big-Llama", "--json")
    asked = len(hub.requests)
    again = moeplan("memory", "acme/Big-Llama", "--json", **variables)
    assert again.returncode == 0, again.stderr
    assert len(hub.requests) == asked
    assert json.loads(again.stdout)["weights"] == json.loads(first.stdout)["weights"]
    assert "moeplan: note: read from the cache: " in again.stderr


def test_cache_without_weights_says_what_it_lacks(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(shards=3, total_size=None)
    assert moeplan("memory", "acme/Big-Llama").returncode == 0
    done = moeplan("memory", "acme/Big-Llama", "--json", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "the cache lacks 3 of the weight files" in done.stderr


def test_files_in_the_cache_are_asked_for_once(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(shards=3)
    assert moeplan("memory", "acme/Big-Llama").returncode == 0
    hub.requests.clear()
    assert moeplan("memory", "acme/Big-Llama").returncode == 0
    assert hub.paths() == ["/api/models/acme/Big-Llama"]


def test_gguf_in_the_cache_needs_no_hub(
    hub: HubServer, moeplan: Moeplan, environment: dict[str, str], tmp_path: Path
) -> None:
    llama = LlamaSpec(
        name="Small", vocabulary=512, hidden=64, layers=2, heads=2, context=256, kv_heads=1, head=32, ffn=128,
        mixture=uniform("q8_0"),
    )  # fmt: skip
    (whole,) = write_gguf(tmp_path / "Small-Q8_0.gguf", llama)
    hub.repos["acme/Small-GGUF"] = Repo({whole.name: File(whole.read_bytes(), large=True)})
    online = json.loads(moeplan("memory", "acme/Small-GGUF:Q8_0", "--json").stdout)
    program = "from huggingface_hub import hf_hub_download\nhf_hub_download('acme/Small-GGUF', 'Small-Q8_0.gguf')"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, timeout=60)
    hub.requests.clear()
    offline = moeplan("memory", "acme/Small-GGUF:Q8_0", "--json", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert json.loads(offline.stdout)["weights"] == online["weights"]
    assert hub.requests == []


def test_progress_is_told_to_who_asks(hub: HubServer, environment: dict[str, str]) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(shards=3, total_size=None)
    program = "from moeplan.hub import fetch_hub_model\nfetch_hub_model('acme/Big-Llama', lambda *step: print(*step))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    steps = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == (6, 6)
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_bar_on_the_terminal_while_the_hub_is_slow(hub: HubServer, environment: dict[str, str]) -> None:
    import pty

    hub.repos["acme/Big-Llama"] = checkpoint()
    hub.delay_s = 1.5
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "moeplan", "memory", "acme/Big-Llama", "--json"],
        stdout=subprocess.DEVNULL, stderr=theirs, env=environment,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    until = time.monotonic() + 30
    while b"[--" not in seen and time.monotonic() < until:
        seen += os.read(ours, 1024)
    hub.delay_s = 0.0
    assert b"\rreading acme/Big-Llama [----" in seen
    assert process.wait(timeout=30) == 0
    os.close(ours)
