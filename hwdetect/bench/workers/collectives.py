"""Collectives between processes, one for each rank, by torch.distributed: NCCL between GPUs, gloo on CPUs.

This process starts the ranks, hands each the same order and takes the slowest rank's time: a step of an engine goes on
when the last rank has its result. A rank that does not answer is named, and all are killed.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

from .serve import CannotRun, Series
from .timing import Options, Prepared

START_S = 120.0
ANSWER_S = 30.0
"""Of one order, which is far more than any message takes: a rank that is silent for so long hangs."""
TOGETHER = 8
"""Collectives of one timed step: one alone of a small message is shorter than what starts it."""
BOUND = 0.01

Backend = Literal["nccl", "gloo"]


class Ranks:
    """The processes of one kernel and message size. Raises ``RuntimeError`` with the rank that failed, and how."""

    def __init__(self, backend: Backend, count: int, kernel: str, hidden: int, *, answer_s: float = ANSWER_S) -> None:
        self.count, self.answer_s = count, answer_s
        # Where the ranks meet is a file without a name, so that nothing is left behind however this process ends.
        self._meeting = tempfile.TemporaryFile()  # noqa: SIM115  closed with the ranks
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if backend == "gloo":
            # The name of a machine may lead to an address that it does not have.
            environment["GLOO_SOCKET_IFNAME"] = "lo"
        self._logs: list[IO[bytes]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank in range(count):
            asked = {
                "backend": backend, "rank": rank, "count": count, "kernel": kernel, "hidden": hidden,
                "meeting": f"/proc/{os.getpid()}/fd/{self._meeting.fileno()}",
            }  # fmt: skip
            self._logs.append(tempfile.TemporaryFile())  # noqa: SIM115  closed with the ranks
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name("__main__.py")), "rank", json.dumps(asked)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._logs[-1], env=environment,
                )
            )  # fmt: skip
        self._answers(START_S)

    def ask(self, **order: Any) -> list[dict[str, Any]]:
        """The answers of all ranks to an order."""
        line = json.dumps(order).encode() + b"\n"
        for rank, process in enumerate(self._processes):
            assert process.stdin is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
            except OSError:
                raise self._failure([rank], "ended") from None
        return self._answers(self.answer_s)

    def _answers(self, seconds: float) -> list[dict[str, Any]]:
        deadline = time.monotonic() + seconds
        found: dict[int, dict[str, Any]] = {}
        while len(found) < self.count:
            pipes = {
                process.stdout: rank
                for rank, process in enumerate(self._processes)
                if rank not in found and process.stdout is not None
            }
            ready, _, _ = select.select(list(pipes), [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                # One that waits for another is as silent.
                raise self._failure(sorted(pipes.values()), f"did not answer in {seconds:.0f} s: all are killed")
            for pipe in ready:
                # A rank answers an order with one short line, which it writes at once.
                line = pipe.readline()
                if not line:
                    raise self._failure([pipes[pipe]], "ended")
                answer = json.loads(line)
                if "failed" in answer:
                    raise self._failure([pipes[pipe]], str(answer["failed"]))
                found[pipes[pipe]] = answer
        return [found[rank] for rank in range(self.count)]

    def _failure(self, ranks: list[int], what: str) -> RuntimeError:
        log = self._logs[ranks[0]]
        log.seek(0)
        words = [" ".join(line.split()) for line in log.read()[-4096:].decode("utf-8", "replace").splitlines()]
        self.end()
        last = next((line for line in reversed(words) if line), "")
        named = " and ".join(str(rank) for rank in ranks)
        return RuntimeError(f"rank {named} of {self.count} {what}" + (f": {last[:200]}" if last else ""))

    def end(self) -> None:
        """Kill the ranks; harmless when they are gone."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        continue
        for file in (self._meeting, *self._logs):
            file.close()


_open: list[Ranks] = []


def series(
    backend: Backend, kernel: str, quantization: str, dims: dict[str, int], options: Options, ranks_here: int
) -> Series:
    """A series of messages; the ranks of the one before are ended."""
    if sys.platform != "linux":
        raise CannotRun("collectives are measured on Linux only")
    if kernel not in ("all_reduce", "all_to_all"):
        raise CannotRun(f"{backend} is asked for all-reduce and all-to-all, not for {kernel}")
    if quantization != "bf16":
        raise CannotRun(f"messages are sent in bf16, not in {quantization}")
    if dims["ranks"] > ranks_here:
        raise CannotRun(f"{dims['ranks']} ranks need as many GPUs, and there are {ranks_here}")
    while _open:
        _open.pop().end()
    ranks = Ranks(backend, dims["ranks"], kernel, dims["hidden"])
    _open.append(ranks)

    def prepare(batch: int, _: int) -> Prepared:
        if 8 * batch * dims["hidden"] > options.memory_bytes:
            raise MemoryError(f"messages of {2 * batch * dims['hidden'] / 1e9:.1f} GB")
        errors = [answer["error"] for answer in ranks.ask(prepare=batch)]

        def seconds_of(_: Callable[[], object]) -> float:
            return float(max(answer["seconds"] for answer in ranks.ask(run=TOGETHER)))

        return Prepared(
            lambda: lambda: None, lambda: float(max(errors)), BOUND, repeats=TOGETHER,
            clock="device" if backend == "nccl" else "wall", seconds_of=seconds_of,
            note=f"{backend}, a process for each rank, the slowest one's time"
            + (", CUDA graph" if backend == "nccl" else " over loopback: no time of a GPU"),
        )  # fmt: skip

    return prepare
