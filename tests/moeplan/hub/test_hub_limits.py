"""A server that is hostile or broken costs a bounded number of bytes and a bounded time."""

from __future__ import annotations

import struct
import subprocess
import sys
import time

import pytest

from tests.moeplan.hub.conftest import Moeplan
from tests.moeplan.hub.models import checkpoint
from tests.moeplan.hub.server import File, HubServer, Repo

TERABYTE = 10**12


def test_server_that_ignores_ranges_sends_no_terabyte(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(index=False)
    hub.ignores_ranges = True
    done = moeplan("memory", "acme/Big-Llama")
    line = f"moeplan: {hub.url} sends whole files where a part of 'model.safetensors' was asked for\n"
    assert (done.returncode, done.stderr) == (3, line)
    # What the two ends buffer before the connection is closed.
    assert hub.sent_bytes < 16 << 20


def test_truncated_part(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(index=False)
    hub.truncates_ranges = True
    done = moeplan("memory", "acme/Big-Llama")
    line = f"{hub.url} sends 1,048,575 of the 1,048,576 bytes of 'model.safetensors' that were asked for"
    assert (done.returncode, done.stderr) == (3, f"moeplan: {line}\n")


def test_file_that_changed_since_it_was_listed(hub: HubServer, moeplan: Moeplan) -> None:
    repo = hub.repos["acme/Big-Llama"] = checkpoint(index=False)
    repo.extra["siblings"] = [{"rfilename": "config.json"}, {"rfilename": "model.safetensors", "size": 1}]
    done = moeplan("memory", "acme/Big-Llama")
    line = "'model.safetensors' of acme/Big-Llama is not of the size that is listed; try again"
    assert (done.returncode, done.stderr) == (3, f"moeplan: {line}\n")


def test_safetensors_header_that_claims_a_terabyte(hub: HubServer, moeplan: Moeplan) -> None:
    repo = hub.repos["acme/Big-Llama"] = checkpoint(index=False)
    repo.files["model.safetensors"] = File(struct.pack("<Q", TERABYTE), 2 * TERABYTE, large=True)
    done = moeplan("memory", "acme/Big-Llama")
    assert done.returncode == 2
    assert "acme/Big-Llama/model.safetensors: claims a header of 1,000,000,000,000 bytes" in done.stderr
    assert hub.sent_bytes < 2 << 20


def test_gguf_header_without_an_end(hub: HubServer, moeplan: Moeplan) -> None:
    key = struct.pack("<Q", 7) + b"endless" + struct.pack("<IQ", 8, TERABYTE)
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + key
    hub.repos["acme/Endless"] = Repo({"Endless-Q8_0.gguf": File(head, 2 * TERABYTE, large=True)})
    done = moeplan("memory", "acme/Endless:Q8_0")
    assert done.returncode == 2
    assert done.stderr == (
        "moeplan: 'Endless-Q8_0.gguf': a header of more than the 100,000,000 bytes that are allowed\n"
    )
    assert hub.sent_bytes < 110_000_000


def test_gguf_that_is_none_is_refused_at_its_first_part(hub: HubServer, moeplan: Moeplan) -> None:
    hub.repos["acme/None"] = Repo({"None-Q8_0.gguf": File(b"<!DOCTYPE html>", TERABYTE, large=True)})
    done = moeplan("memory", "acme/None:Q8_0")
    assert done.returncode == 2
    assert "acme/None/None-Q8_0.gguf: begins with '<!DO'" in done.stderr
    assert hub.sent_bytes < 2 << 20


def test_configuration_larger_than_any(hub: HubServer, moeplan: Moeplan) -> None:
    repo = hub.repos["acme/Big-Llama"] = checkpoint()
    repo.files["config.json"] = File(b"{", TERABYTE)
    done = moeplan("memory", "acme/Big-Llama")
    line = "acme/Big-Llama: 'config.json' has more than the 16,777,216 bytes allowed"
    assert (done.returncode, done.stderr) == (2, f"moeplan: {line}\n")
    assert not any("config.json" in path for path in hub.paths())


def test_configuration_larger_than_listed(hub: HubServer, moeplan: Moeplan) -> None:
    repo = hub.repos["acme/Big-Llama"] = checkpoint()
    repo.files["config.json"] = File(b"{", 10**9)
    repo.extra["siblings"] = [{"rfilename": "config.json", "size": 1000}]
    done = moeplan("memory", "acme/Big-Llama")
    line = "acme/Big-Llama: 'config.json' has more than the 16,777,216 bytes allowed"
    assert (done.returncode, done.stderr) == (2, f"moeplan: {line}\n")
    assert hub.sent_bytes < 64 << 20


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_disk_that_cannot_hold_sparse_files(hub: HubServer, environment: dict[str, str]) -> None:
    hub.repos["acme/Big-Llama"] = checkpoint(index=False)
    program = (
        "import resource, sys\nfrom moeplan.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))\n"
        "sys.exit(main(['memory', 'acme/Big-Llama']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "cannot hold a sparse file of 141,107," in done.stderr
    assert "set TMPDIR to a folder that can" in done.stderr


def test_server_that_drips_is_left(hub: HubServer, environment: dict[str, str]) -> None:
    hub.drips = True
    program = (
        "from moeplan.hub_client import Hub\n"
        "try:\n    Hub(lambda done, total: None, visit_s=1.0).repository('acme/Big-Llama')\n"
        "except RuntimeError as error:\n    print(error)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    assert done.stdout == f"{hub.url} takes more than the 1 s that a model may take\n"
    assert time.monotonic() - started < 10
