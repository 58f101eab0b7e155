"""The conversation with the parent: a JSON line in, a JSON line out, libraries' own prints kept apart."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .timing import Options, Prepared, measure

Series = Callable[[int, int], Prepared]


class CannotRun(Exception):
    """This provider does not run here, or not this case; the message is the reason in a few words."""


class Provider(NamedTuple):
    """What a provider's module offers as ``PROVIDER``.

    ``version`` raises ``CannotRun`` or ``ImportError`` where the provider is absent. ``build`` takes a kernel, a
    quantization and dimensions, loads the weights, and returns what prepares one batch and context.
    """

    version: Callable[[Options], str]
    build: Callable[[str, str, dict[str, int], Options], Series]
    device: Callable[[], str]


def cpu_device() -> str:
    """The CPU's own name.

    >>> bool(cpu_device())
    True
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def serve(name: str) -> None:
    """Answer requests for the provider ``name`` until stdin ends."""
    out = _private_stdout()
    with contextlib.suppress(OSError):
        # When memory runs out it is this process that should go, not what else the machine does.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    provider: Provider | None = None
    opened: tuple[object, Series] | None = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            options = Options(**request["options"])
            if provider is None:
                provider = importlib.import_module(f".{name}", __package__).PROVIDER
                version = provider.version(options)
            if "kernel" not in request:
                answer: dict[str, Any] = {"version": version, "device": provider.device()}
            else:
                key = (request["kernel"], request["quantization"], request["dims"])
                if opened is None or opened[0] != key:
                    # The old weights go before the new ones come.
                    opened = None
                    opened = key, provider.build(*key, options)
                answer = measure(opened[1](request["batch"], request["context"]), options)
        except (CannotRun, ImportError) as error:
            answer = {"cannot_run": _one_line(error)}
        except MemoryError as error:
            opened = None
            answer = {"out_of_memory": _one_line(error)}
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":
                # PyTorch's own, of a GPU whose memory is full, is no MemoryError.
                opened = None
                answer = {"out_of_memory": _one_line(error)}
            else:
                answer = {"failed": f"{type(error).__name__}: {_one_line(error)}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _private_stdout() -> Any:
    """The pipe to the parent, out of reach of libraries that print."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe
