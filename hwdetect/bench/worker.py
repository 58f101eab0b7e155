"""A worker process: asked with a JSON line, killed when it hangs, and explained when it dies."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

WORKERS: Final = Path(__file__).parent / "workers" / "__main__.py"
MAX_ANSWER_BYTES: Final = 16 << 20
LOG_LINES: Final = 3
CANCEL_S: Final = 0.1
"""How often a wait looks up whether it was cancelled."""


class WorkerDied(Exception):
    """The process ended, hung or spoke nonsense; the message says which, in one line."""


class Cancelled(Exception):
    """Nobody waits for the answer any more; the process is gone."""


class Worker:
    """A provider in an interpreter. ``ask`` may be called until it raises; then the process is gone.

    ``cancelled`` is asked while an answer is waited for.
    """

    def __init__(
        self, python: str, provider: str, *, threads: int, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        self.provider, self._cancelled = provider, cancelled
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        # A few libraries take their threads from the environment alone.
        counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        environment = {**os.environ, **counts, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            self._process = subprocess.Popen(
                [python, str(WORKERS), provider],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment,
                # Ctrl-C is for the parent, which keeps what was measured and ends this one itself.
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._log.close()
            raise WorkerDied(f"{python} cannot be started: {error.strerror or error}") from None
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to a request. Raises ``WorkerDied`` and ``Cancelled``."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerDied(self._epitaph()) from None
        line = self._line(timeout_s)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self.end()
            raise WorkerDied("answered with something that is no JSON object")
        return answer

    def _line(self, timeout_s: float) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        deadline = time.monotonic() + timeout_s
        line = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0:
                    words = self._last_words()
                    self.end()
                    raise WorkerDied(f"did not answer in {timeout_s:.0f} s and was killed{words}")
                if self._cancelled():
                    self.end()
                    raise Cancelled
                if not selector.select(min(left, CANCEL_S)):
                    continue
                part = pipe.read(1 << 16)
                if part == b"":
                    raise WorkerDied(self._epitaph())
                line += part or b""
                if len(line) > MAX_ANSWER_BYTES:
                    self.end()
                    raise WorkerDied(f"answered with more than {MAX_ANSWER_BYTES >> 20} MiB")
        return bytes(line)

    def _epitaph(self) -> str:
        """How the process ended, with the last lines that it printed."""
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.end()
            return "closed its output and was killed"
        if status == -signal.SIGKILL:
            how = "was killed from outside, as the system does when memory runs out"
        elif status < 0:
            how = f"crashed with {signal.Signals(-status).name}"
        else:
            how = f"ended with status {status}"
        return how + self._last_words()

    def _last_words(self) -> str:
        try:
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(size - 4096, 0))
            lines = self._log.read().decode("utf-8", "replace").split("\n")
        except (OSError, ValueError):
            return ""
        kept = [" ".join(line.split()) for line in lines if line.strip()][-LOG_LINES:]
        return (": " + " | ".join(kept))[:400] if kept else ""

    def end(self) -> None:
        """Kill the process and whatever it started; harmless when it is gone."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    # What was still buffered for a process that is gone.
                    continue
        self._log.close()
