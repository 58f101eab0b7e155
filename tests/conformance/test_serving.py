"""What `moeplan verify` reads of a server, beside the code of the engines that serve it."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwdetect.serving.endpoint import _vllm_tokens, read_metrics
from tests.conformance.engines import SETTINGS, WORKERS
from tests.support.faulty_server import Behaviour, metrics_text

ROUTES = {
    "vllm": {"/version", "/metrics", "/v1/models"},
    "vllm-0.19.0": {"/version", "/metrics", "/v1/models"},
    "vllm-0.11.0": {"/version", "/metrics", "/v1/models"},
    "sglang": {"/server_info", "/get_server_info", "/v1/models"},
    "sglang-0.5.6": {"/server_info", "/get_server_info", "/v1/models"},
}

WORDS = ("/version", "/server_info", "/v1/models", "/metrics", "max_total_num_tokens")


def vllm_metrics(folder: Path, part: str, *arguments: str) -> str:
    """What that version's own logger writes."""
    environment = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
    environment |= SETTINGS | {"PYTHONPATH": str(folder / part), "VLLM_CACHE_ROOT": str(folder / "cache" / "vllm")}
    done = subprocess.run(
        [folder / "base" / "bin" / "python", WORKERS / "vllm_metrics.py", *arguments],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_tokens_that_vllm_counts_are_read(folder: Path) -> None:
    text = vllm_metrics(folder, "vllm", "10000", "159000")
    assert _vllm_tokens(read_metrics(text)) == (159_000, False)


@pytest.mark.parametrize("part", ["vllm", "vllm-0.19.0"])
def test_else_its_blocks_are(folder: Path, part: str) -> None:
    assert _vllm_tokens(read_metrics(vllm_metrics(folder, part, "10000"))) == (160_000, True)


def test_the_imitation_names_no_label_that_vllm_does_not(folder: Path) -> None:
    real = read_metrics(vllm_metrics(folder, "vllm", "10000", "160000"))
    (labels, *_) = [labels for name, labels, _ in real if name == "vllm:cache_config_info"]
    mine = read_metrics(metrics_text(Behaviour()))
    (imitated,) = [labels for name, labels, _ in mine if name == "vllm:cache_config_info"]
    assert imitated == {name: labels[name] for name in imitated} | {"hash_block_size": "None"}


def texts(root: Path) -> Iterator[str]:
    """Every string that stands in the code which speaks of these addresses."""
    for path in root.rglob("*.py"):
        source = path.read_text(encoding="utf-8", errors="replace")
        if any(word in source for word in WORDS):
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


@pytest.mark.parametrize("part", ROUTES)
def test_the_addresses_and_names_that_are_asked_stand_in_the_engine(folder: Path, part: str) -> None:
    package = folder / part / part.partition("-")[0]
    found = set(texts(package))
    assert ROUTES[part] <= found
    if part.startswith("sglang"):
        assert "sglang:max_total_num_tokens" in found
        assert {"max_total_num_tokens", "version", "internal_states"} <= found
