"""What can be turned on the plan screen: names are those of ``planner.options.Options``, values are text as typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from planner.errors import BadRequest
from planner.quantities import parse_count, parse_tokens

_GPUS: Final = re.compile(r"(\d{1,4})(\s*[xX*]\s*.+)")
_MOST_GPUS: Final = 1024
_COUNTS: Final = tuple(1 << power for power in range(11))
_TOKENS: Final = tuple(1 << power for power in range(7, 21))


class Knob(NamedTuple):
    """A row of the panel. ``listed`` knobs have a list to choose from; ``example`` shows the form of a value."""

    name: str
    label: str
    example: str
    help: str
    kind: Literal["text", "count", "tokens", "gpus", "choice"] = "text"
    listed: bool = False

    @property
    def flag(self) -> str:
        """The command line's name of it."""
        return f"--{self.name.replace('_', '-')}"


SECTIONS: Final[tuple[tuple[str, tuple[Knob, ...]], ...]] = (
    (
        "Model",
        (
            Knob("model", "model", "kimi-k2.5", "a built-in id, a path, or org/name on the hub", "choice", True),
            Knob("quant", "weights", "any", "quantization, or publisher/quantization", "choice", True),
            Knob("engine", "engine", "any", "inference engine", "choice", True),
            Knob("kv_dtype", "KV dtype", "any", "number format of the KV cache", "choice", True),
        ),
    ),
    (
        "Hardware",
        (
            Knob("gpu", "GPUs", "this machine", "of a node, as 8xH200; none for no GPU", "gpus", True),
            Knob("nodes", "nodes", "1", "machines, each as described", "count"),
            Knob("ram", "RAM", "512GiB", "main memory of a node"),
            Knob("cpu", "CPU", "2xepyc-9004", "processors of a node", "text", True),
            Knob("disk", "disk", "2TB@7GB/s", "free space for weights, and its read rate"),
            Knob("link", "link", "GPU's own", "between the GPUs of a node", "choice", True),
            Knob("network", "network", "400Gb/s", "between nodes, one direction"),
        ),
    ),
    (
        "Work",
        (
            Knob("workload", "workload", "chat", "typical lengths and numbers of requests", "choice", True),
            Knob("context", "context", "128k", "longest sequence in tokens; k is 1,024", "tokens"),
            Knob("concurrency", "requests", "16", "requests at the same time", "count"),
            Knob("input_tokens", "input", "4096", "tokens of a request", "tokens"),
            Knob("output_tokens", "output", "1024", "tokens of its answer", "tokens"),
        ),
    ),
    (
        "Goal",
        (
            Knob("objective", "objective", "balanced", "what the ranking prefers", "choice", True),
            Knob("ttft", "TTFT", "no bound", "longest time to the first token, as 2s"),
            Knob("tpot", "TPOT", "no bound", "longest time per output token, as 50ms"),
            Knob("min_throughput", "tok/s", "no bound", "output tokens per second of all requests together"),
        ),
    ),
)
KNOBS: Final = {knob.name: knob for _, knobs in SECTIONS for knob in knobs}


def turned(knob: Knob, text: str, up: bool, listed: tuple[str, ...] = ()) -> str | None:
    """The next value up or down from ``text``; None where there is none, or ``text`` cannot be read.

    Counts and tokens step through powers of two, GPUs double and halve, choices go round and through "any".

    >>> turned(KNOBS["gpu"], "8xH200", up=False), turned(KNOBS["context"], "100k", up=True)
    ('4xH200', '128k')
    """
    if knob.kind == "choice":
        ring = ("", *listed) if knob.name != "model" else listed
        if not listed or text not in ring:
            return listed[0] if listed else None
        return ring[(ring.index(text) + (1 if up else -1)) % len(ring)]
    if knob.kind == "gpus":
        found = _GPUS.fullmatch(text.strip())
        if found is None:
            return None
        number = _stepped(int(found[1]), _COUNTS, up)
        return f"{number}{found[2]}" if number is not None and number <= _MOST_GPUS else None
    if knob.kind == "count":
        return _next(text, _COUNTS, up, lambda value: parse_count(value, knob.flag), str)
    if knob.kind == "tokens":
        return _next(text, _TOKENS, up, lambda value: parse_tokens(value, knob.flag), _tokens)
    return None


def _next(
    text: str, ladder: tuple[int, ...], up: bool, read: Callable[[str], int], write: Callable[[int], str]
) -> str | None:
    try:
        number = _stepped(read(text), ladder, up)
    except BadRequest:
        return None
    return None if number is None else write(number)


def _stepped(now: int, ladder: tuple[int, ...], up: bool) -> int | None:
    beyond = [step for step in ladder if (step > now if up else step < now)]
    return None if not beyond else beyond[0] if up else beyond[-1]


def _tokens(number: int) -> str:
    return f"{number >> 10}k" if number >= 1024 else str(number)
