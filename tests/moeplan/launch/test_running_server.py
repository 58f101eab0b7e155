"""From a weight file to an answer: plan, launch files, the real llama.cpp started by them, a request, its buffers.

A model of Kimi K2.5's shape with random weights; the commands are typed as a user types them, the script starts
llama.cpp's own server, and the request is the one that README.md tells to send.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.moeplan.conftest import Moeplan
from tests.support.gguf_models import DeepSeek2Spec, routed_experts
from tests.support.gguf_writer import write_gguf

pytest.importorskip("xllamacpp")
ROOT = Path(__file__).parents[3]
START_S, END_S = 60, 30
ANSWER_TOKENS = 8
TINY = DeepSeek2Spec(
    name="tiny", vocabulary=512, hidden=512, layers=4, heads=8, context=8192, mixture=routed_experts("q4_0", "q8_0"),
    dense_layers=1, dense_ffn=1024, experts=16, experts_used=4, expert_ffn=256, shared_experts=1, q_lora=256,
    kv_lora=512, nope_head=128, rope_head=64, value_head=128, tokenizer="gpt2",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextlib.contextmanager
def served(script: Path, url: str, log: Path) -> Iterator[None]:
    """The script's server, ready; ended as an operator ends it."""
    program = script.parent / "bin"
    program.mkdir()
    command = shlex.join([sys.executable, "-m", "tests.support.llama_server_program"])
    (program / "llama-server").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (program / "llama-server").chmod(0o755)
    environment = {"PATH": f"{program}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(script.parent)}
    with log.open("wb") as output:
        server = subprocess.Popen([script], env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), urlopen(f"{url}/health", timeout=5) as answer:
                assert answer.status == 200
                break
            assert server.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            time.sleep(0.05)
        yield
        server.terminate()
        assert server.wait(END_S) == 0
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def buffers(log: str) -> dict[str, float]:
    """MiB by llama.cpp's own name of the buffer, as it prints them: two digits."""
    found = re.findall(r"(\w+) +(model|output|KV|compute) buffer size = +([0-9.]+) MiB", log)
    return {f"{place} {kind}": float(size) for place, kind, size in found}


def test_the_plan_of_a_file_starts_the_real_server_which_answers_with_the_planned_buffers(
    moeplan: Moeplan, tmp_path: Path
) -> None:
    (weights,) = write_gguf(tmp_path / "tiny $k2.5's.gguf", TINY, data="random")
    plan_file, folder, port = tmp_path / "plan.json", tmp_path / "launch", free_port()
    planned = moeplan(
        "plan", str(weights), "--gpu", "none", "--ram", "8GiB", "--cores", "2", "--context", "2048", "--concurrency",
        "2", "--input-tokens", "256", "--output-tokens", "128", "--output", str(plan_file),
    )  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    launched = moeplan("launch", str(plan_file), "--format", "shell", "--port", str(port), "-o", str(folder))
    assert launched.returncode == 0, launched.stderr

    log = tmp_path / "server.log"
    with served(folder / "launch.sh", f"http://127.0.0.1:{port}", log):
        answer = asked(folder / "README.md")
    assert answer["model"] == "tiny-$k2.5's"
    assert 0 < answer["usage"]["completion_tokens"] <= ANSWER_TOKENS
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")

    candidate = json.loads(plan_file.read_text(encoding="utf-8"))["candidates"][0]
    (host,) = candidate["memory"]["devices"]
    ledger = {entry["what"]: entry["bytes"] for entry in host["ledger"]}
    reported = buffers(log.read_text(encoding="utf-8", errors="replace"))
    repacked = reported.pop("CPU_REPACK model")
    assert reported == {
        "CPU_Mapped model": mib(ledger["weights in RAM (mapped file)"]),
        "CPU KV": mib(candidate["kv_cache"]["budget_bytes_per_rank"]),
        "CPU compute": mib(ledger["host compute buffer"]),
        "CPU output": mib(ledger["output buffer"]),
    }
    # The copy of the experts stands where pages of the file stood, which the kernel may drop.
    assert 0 < repacked < reported["CPU_Mapped model"]


def mib(size: int) -> float:
    return round(size / (1 << 20), 2)


def asked(readme: Path) -> dict[str, Any]:
    """The answer to the first request of the page, sent as it stands there but for its length."""
    (request, *_) = re.findall(r"```sh\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    request, changed = re.subn(r'"max_tokens": \d+', f'"max_tokens": {ANSWER_TOKENS}', request)
    assert changed == 1
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", request], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
