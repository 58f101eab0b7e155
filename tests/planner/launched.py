"""Command lines handed to the real llama.cpp, which tells what it would allocate where (``launched_worker.py``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120


class Buffer(NamedTuple):
    """Bytes of one buffer type."""

    model: int
    kv_cache: int
    compute: int


class Planned(NamedTuple):
    """What llama.cpp plans by buffer type, and the buffer of the logits as it logs it, in MiB to two digits."""

    buffers: dict[str, Buffer]
    output_buffer_mib: float


class Launch(NamedTuple):
    """A command for a file on a machine with ``gpus`` GPUs; ``outputs`` other than one a slot."""

    path: Path
    argv: Sequence[str]
    gpus: int
    outputs: int | None = None


def planned(launches: Sequence[Launch]) -> list[Planned | str]:
    """What llama.cpp plans for each command, or what it refuses: arguments, model or context.

    The GPUs are ``GPU0``, ``GPU1`` ...; ``GPU0_Host`` is memory of the host.
    """
    questions: list[dict[str, Any]] = []
    for launch in launches:
        question: dict[str, Any] = {"path": str(launch.path), "argv": list(launch.argv), "gpus": launch.gpus}
        questions.append(question if launch.outputs is None else {**question, "outputs": launch.outputs})
    found: list[Planned | str] = []
    for answer in _ask(questions):
        if "refused" in answer:
            found.append(answer["refused"])
        else:
            buffers = {name: Buffer(*sizes) for name, sizes in answer["buffers"].items()}
            found.append(Planned(buffers, answer["output_buffer_mib"]))
    return found


def parsed(commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """What llama.cpp's parser makes of each command: ``model`` (path, repository) and ``projector``, or ``refused``."""
    return _ask([{"argv": list(argv)} for argv in commands])


def settings_of(commands: Sequence[Sequence[str]], names: Sequence[str]) -> list[dict[str, Any]]:
    """What llama.cpp's parser makes of each command under its own ``names``, or ``refused``."""
    return _ask([{"argv": list(argv), "settings": list(names)} for argv in commands])


def _ask(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.planner.launched_worker"],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GGML_NO_BACKTRACE": "1"},
    )
    answers = [json.loads(line) for line in finished.stdout.splitlines()]
    if finished.returncode != 0 or len(answers) != len(questions):
        log = "\n".join(finished.stderr.splitlines()[-12:])
        raise RuntimeError(f"llama.cpp ended with {finished.returncode} at question {len(answers)}:\n{log}")
    return answers
