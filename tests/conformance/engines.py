"""The engines' own argument handling, each in a process of its own under the interpreter that setup.sh makes."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

WORKERS: Final = Path(__file__).parent / "workers"
SCRIPTS: Final = {"vllm": "vllm_worker.py", "sglang": "sglang_worker.py", "sglang-kt": "sglang_worker.py"}
DRAFTER: Final = "drafter"
"""Where the folder that stands for a model has the one that stands for its drafter."""
START_S: Final = 300
ANSWER_S: Final = 300
SETTINGS: Final = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TORCHDYNAMO_DISABLE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    # vLLM looks at the model's class in a process of its own, which has no GPU.
    "VLLM_TARGET_DEVICE": "cpu",
}


class WorkerError(RuntimeError):
    """The worker ended or gave no answer; the message ends with its last words."""


@dataclass(frozen=True)
class Gpu:
    """What an engine asks of the driver: ``capability`` is CUDA's, ``bytes`` the total memory."""

    name: str
    capability: tuple[int, int]
    bytes: int


@dataclass(frozen=True)
class Answer:
    """``understood`` is what the engine's configuration says in the end, empty where the start was refused."""

    accepted: bool
    error: str
    understood: dict[str, Any]


class EngineParser:
    """A running worker of one engine. Use it as a context manager.

    ``part`` is setup.sh's name: the engine, with its version where there are several. ``version`` is what is
    installed, ``flags`` are the options that its parser has. Raises ``WorkerError`` where it cannot be imported.
    """

    def __init__(self, part: str, folder: Path, log: Path) -> None:
        self.part = part
        engine = re.sub(r"-[0-9.]+$", "", part)
        self._log = log
        environment = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
        environment |= SETTINGS
        environment |= {
            "HF_HOME": str(folder / "cache" / "huggingface"),
            "PYTHONPATH": str(folder / part),
            "VLLM_CACHE_ROOT": str(folder / "cache" / "vllm"),
        }
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [folder / "base" / "bin" / "python", WORKERS / SCRIPTS[engine], engine],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
            )
        try:
            told = self._read(START_S)
        except WorkerError:
            self.close()
            raise
        self.version: str = told["version"]
        self.flags = frozenset[str](told["flags"])

    def __enter__(self) -> EngineParser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker, by its own process number."""
        self._process.kill()
        self._process.communicate()

    def ask(self, argv: Sequence[str], model: Path, gpu: Gpu | None, gpus: int) -> Answer:
        """The engine's answer to ``argv``, which begins after the command's name.

        ``model`` holds the config.json of the model that ``argv`` names, and ``gpus`` is their number on this node.
        Without a ``gpu`` only the parser is asked. Raises ``WorkerError``.
        """
        request = {"argv": list(argv), "model": str(model), "gpu": asdict(gpu) if gpu else None, "gpus": gpus}
        request["drafter"] = str(model / DRAFTER)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as problem:
            raise self._failure("ended") from problem
        found = self._read(ANSWER_S)
        return Answer(found.pop("accepted"), found.pop("error", ""), found)

    def _read(self, seconds: int) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            raise self._failure(f"gave no answer in {seconds} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failure("ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def _failure(self, what: str) -> WorkerError:
        return WorkerError(f"the {self.part} worker {what}:\n{self._log.read_text(errors='replace')[-2000:]}")
