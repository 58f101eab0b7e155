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
    """A row of the panel. ``listed`` knobs have a list to choose from.

    ``example`` shows the form of a value, ``empty`` what an empty knob means where the plan does not say it.
    """

    name: str
    label: str
    example: str
    help: str
    kind: Literal["text", "count", "tokens", "gpus", "choice"] = "text"
    listed: bool = False
    empty: str = ""

    @property
    def flag(self) -> str:
        """The command line's name of it."""
        return f"--{self.name.replace('_', '-')}"


SECTIONS: Final[tuple[tuple[str, tuple[Knob, ...]], ...]] = (
    (
        "Model",
        (
            Knob("model", "model", "kimi-k2.5", "a built-in id, a path, or org/name on the hub", "choice", True),
            Knob("quant", "weights", "int4", "quantization, or publisher/quantization", "choice", True, "any"),
            Knob("engine", "engine", "vllm", "inference engine", "choice", True, "any"),
            Knob("kv_dtype", "KV dtype", "fp8", "number format of the KV cache", "choice", True, "any"),
        ),
    ),
    (
        "Hardware",
        (
            Knob(
                "gpu",
                "GPUs",
                "8xH200",
                "of a node, as 8xH200; commas mix; none for no GPU",
                "gpus",
                True,
                "this machine",
            ),
            Knob("nodes", "nodes", "2", "machines, each as described", "count", False, "1"),
            Knob("ram", "RAM", "512GiB", "main memory of a node, as 512GiB", empty="not given"),
            Knob("ram_bandwidth", "RAM rate", "400GB/s", "what RAM reads, as 400GB/s", empty="not given"),
            Knob("cpu", "CPU", "2xepyc-9004", "processors of a node, as 2xepyc-9004", "text", True, "not given"),
            Knob("cores", "cores", "64", "physical cores of a node, over all sockets", "count", empty="CPU's own"),
            Knob("disk", "disk", "2TB@7GB/s", "free space and its read rate, as 2TB@7GB/s", empty="not given"),
            Knob("link", "link", "pcie4", "between the GPUs of a node", "choice", True, "GPU's own"),
            Knob("network", "network", "400Gb/s", "between nodes, one direction, as 400Gb/s", empty="not given"),
        ),
    ),
    (
        "Work",
        (
            Knob("workload", "workload", "rag", "typical lengths and numbers of requests", "choice", True),
            Knob("context", "context", "128k", "longest sequence in tokens; k is 1,024", "tokens"),
            Knob("concurrency", "requests", "16", "requests at the same time", "count"),
            Knob("input_tokens", "input", "4096", "tokens of a request", "tokens"),
            Knob("output_tokens", "output", "1024", "tokens of its answer", "tokens"),
            Knob("images", "images", "1", "images of a request", "count"),
        ),
    ),
    (
        "Goal",
        (
            Knob("objective", "objective", "latency", "what the ranking prefers", "choice", True),
            Knob("ttft", "TTFT", "2s", "longest time to the first token, as 2s", empty="no bound"),
            Knob("tpot", "TPOT", "50ms", "longest time per output token, as 50ms", empty="no bound"),
            Knob("min_throughput", "tok/s", "500", "output tokens per second in total", empty="no bound"),
            Knob("max_kld", "max KLD", "0.05", "largest KL divergence from the native weights", empty="no bound"),
            Knob("quality_suite", "suite", "unsloth", "the suite in which it was measured", "choice", True, "none"),
        ),
    ),
    (
        "Layout",
        (
            Knob("tp", "TP", "8", "tensor parallel ranks", "count", empty="any"),
            Knob("pp", "PP", "2", "pipeline stages", "count", empty="any"),
            Knob("dp", "DP", "8", "data parallel replicas", "count", empty="any"),
            Knob("ep", "EP", "8", "expert parallel ranks", "count", empty="any"),
            Knob("dcp", "DCP", "8", "ranks that share the KV cache of a sequence", "count", empty="any"),
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
