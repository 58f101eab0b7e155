"""One rank of a collective: answers orders on stdin with a JSON line, in step with the other ranks."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

GIVE_UP_S = 600
"""Longer than whoever started this waits: that one says which rank was silent."""


def main(text: str) -> None:
    """Join the others, then do as asked until stdin ends."""
    import torch
    import torch.distributed as dist

    asked = json.loads(text)
    rank, count, on_gpu = asked["rank"], asked["count"], asked["backend"] == "nccl"
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    try:
        if on_gpu:
            torch.cuda.set_device(rank)
        dist.init_process_group(
            asked["backend"], init_method=f"file://{asked['meeting']}", rank=rank, world_size=count,
            timeout=timedelta(seconds=GIVE_UP_S),
        )  # fmt: skip
        device = f"cuda:{rank}" if on_gpu else "cpu"
        answer(ready=True)
        run: Callable[[], object] = lambda: None  # noqa: E731
        for line in sys.stdin:
            order = json.loads(line)
            if os.environ.get("MOEPLAN_BENCH_HANGING_RANK") == str(rank):
                time.sleep(GIVE_UP_S)
            if "prepare" in order:
                run, error = _prepared(torch, dist, asked, order["prepare"], device)
                answer(error=error)
            else:
                answer(seconds=_timed(torch, dist, run, order["run"], on_gpu=on_gpu))
    except Exception as error:
        answer(failed=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _prepared(
    torch: Any, dist: Any, asked: dict[str, Any], tokens: int, device: str
) -> tuple[Callable[[], object], float]:
    """What runs the collective once, and its relative error in a run that is checked."""
    rank, count = asked["rank"], asked["count"]
    # All-to-all sends each rank an equal part, so that a message has a multiple of the ranks.
    size = -(-tokens * asked["hidden"] // count) * count
    base = torch.arange(size, device=device) % 61
    if asked["kernel"] == "all_reduce":
        given = ((base + rank) % 16 - 8).to(torch.bfloat16)
        wanted = sum(((base + other) % 16 - 8).float() for other in range(count))
        message = given.clone()
        dist.all_reduce(message)
        found = message.float()

        def run() -> object:
            return dist.all_reduce(message)

        # What is added up again and again must stay finite.
        message.zero_()
    else:
        part = size // count
        given = ((base + 7 * rank) % 64).to(torch.bfloat16)
        received = torch.empty_like(given)
        dist.all_to_all_single(received, given)
        own = base[rank * part : (rank + 1) * part]
        wanted = torch.cat([((own + 7 * other) % 64).float() for other in range(count)])
        found = received.float()

        def run() -> object:
            return dist.all_to_all_single(received, given)

    error = float((found - wanted).norm() / wanted.norm())
    return (_captured(torch, run) if device != "cpu" else run), error


def _captured(torch: Any, run: Callable[[], object]) -> Callable[[], object]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], object] = graph.replay
    return replay


def _timed(torch: Any, dist: Any, run: Callable[[], object], times: int, *, on_gpu: bool) -> float:
    """Seconds of so many collectives after all ranks have met."""
    dist.barrier()
    if not on_gpu:
        began = time.perf_counter()
        for _ in range(times):
            run()
        return time.perf_counter() - began
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
