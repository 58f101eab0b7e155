"""What the GPU providers share: a device, CUDA graphs, events as the clock, copies as the reference."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .serve import CannotRun
from .timing import Options

REFERENCE_BYTES = 1 << 30
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter computes on the CPU: for tests of correctness, its times mean nothing."""


class Device:
    """One CUDA GPU, or the CPU under Triton's interpreter. Raises ``CannotRun``."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        if not INTERPRETED and not torch.cuda.is_available():
            raise CannotRun("PyTorch sees no CUDA GPU")
        self.name = "cpu" if INTERPRETED else "cuda"

    def cache_bytes(self, options: Options) -> int:
        """The GPU's second-level cache, out of which weights are kept."""
        if INTERPRETED:
            return options.cache_bytes
        return int(self.torch.cuda.get_device_properties(0).L2_cache_size)

    def memory_bytes(self, options: Options) -> int:
        """What weights may take: most of what is free on the GPU."""
        if INTERPRETED:
            return options.memory_bytes
        free, _ = self.torch.cuda.mem_get_info()
        return int(0.8 * free)

    def options(self, options: Options) -> Options:
        """The same options with this GPU's cache and memory."""
        own = {"cache_bytes": self.cache_bytes(options), "memory_bytes": self.memory_bytes(options)}
        return Options(**{**vars(options), **own})

    def captured(self, run: Callable[[], object]) -> Callable[[], object]:
        """``run`` as a CUDA graph: a replay has no launch from Python, as in an engine that serves."""
        if INTERPRETED:
            return run
        torch = self.torch
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

    def seconds_of(self, step: Callable[[], object]) -> float:
        """Seconds of a step by the GPU's own clock."""
        if INTERPRETED:
            import time

            started = time.perf_counter()
            step()
            return time.perf_counter() - started
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def copy_reference(self) -> Callable[[], float] | None:
        """What copies on the GPU and returns bytes per second, read and written; None where nothing is to compare."""
        if INTERPRETED:
            return None
        source = self.torch.zeros(REFERENCE_BYTES, dtype=self.torch.uint8, device=self.name)
        target = self.torch.empty_like(source)

        def copy() -> float:
            return 2 * REFERENCE_BYTES / self.seconds_of(lambda: target.copy_(source))

        return copy


def device_name() -> str:
    """The GPU as its driver names it."""
    import torch

    return "interpreter" if INTERPRETED else str(torch.cuda.get_device_name(0))


def torch_version(module: str) -> Callable[[Options], str]:
    """What gives the version of a library that runs on PyTorch. Raises ``ImportError`` and ``CannotRun``."""

    def version(_: Options) -> str:
        import importlib

        found: Any = importlib.import_module(module)
        torch = Device().torch
        own = "" if module == "torch" else f"{module} {getattr(found, '__version__', '')}, "
        return f"{own}torch {torch.__version__}"

    return version
