"""Flags that several commands share. Values stay text: ``planner`` parses them, for every view alike."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Final, NamedTuple

from moeplan.cli.parser import Parser
from planner.errors import BadRequest
from planner.options import Options


class Flag(NamedTuple):
    """A flag with a value (``example`` shows the form), or without one where there is no example."""

    name: str
    example: str
    help: str


HARDWARE: Final = (
    Flag("--nodes", "N", "machines, each as described"),
    Flag("--ram", "512GiB", "main memory of a node"),
    Flag("--ram-bandwidth", "400GB/s", "what the main memory delivers"),
    Flag("--cpu", "2xepyc-9004", "processors of a node, see `moeplan hardware`"),
    Flag("--cores", "64", "physical cores of a node"),
    Flag("--disk", "2TB@7GB/s", "free space for weights, and its sequential read rate"),
    Flag("--link", "LINK", "between the GPUs of a node: nvlink, pcie3, pcie4 or pcie5"),
    Flag("--network", "400Gb/s", "between nodes, one direction"),
    Flag("--inventory", "FILE", "the machine as `moeplan detect --json` wrote it"),
)
CONTEXT: Final = Flag("--context", "128k", "longest sequence in tokens; k is 1,024")
CONCURRENCY: Final = Flag("--concurrency", "16", "requests at the same time")
INPUT_TOKENS: Final = Flag("--input-tokens", "4096", "tokens of a request")
OUTPUT_TOKENS: Final = Flag("--output-tokens", "1024", "tokens of its answer")
ROUTING: Final = Flag("--routing", "uniform", "how tokens choose experts: uniform or power_law, some far more often")
WORKLOAD: Final = (
    Flag("--workload", "NAME", "chat (the default), coding-agent, agent-swarm, rag or batch"),
    CONTEXT,
    CONCURRENCY,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Flag("--images", "N", "images of a request"),
    ROUTING,
)
BOUNDS: Final = (
    Flag("--ttft", "2s", "longest time to the first token"),
    Flag("--tpot", "50ms", "longest time per output token"),
    Flag("--min-throughput", "500", "output tokens per second of all requests together"),
    Flag("--max-kld", "X", "largest quality loss, in the suite of --quality-suite"),
    Flag("--quality-suite", "SUITE", "suite that --max-kld is measured in"),
)
ENGINE: Final = Flag("--engine", "ENGINE", "vllm, sglang, llama.cpp or ktransformers")
ENGINE_VERSION: Final = Flag("--engine-version", "0.18", "version of that engine")
QUANT: Final = Flag("--quant", "int4", "quantization, publisher/quantization, or the repository of a release")
KV_DTYPE: Final = Flag("--kv-dtype", "fp8", "number format of the KV cache")
PARALLEL: Final = (
    Flag("--tp", "8", "tensor-parallel ranks"),
    Flag("--pp", "2", "pipeline stages"),
    Flag("--dp", "2", "data-parallel replicas"),
    Flag("--ep", "8", "expert-parallel ranks"),
    Flag("--dcp", "8", "decode-context-parallel ranks"),
)
SIMULATION: Final = (
    Flag("--simulate", "", "the shown plans request by request: percentiles, queues, goodput"),
    Flag("--arrival-rate", "2.5", "requests per second; without it, users without pauses"),
    Flag("--length-variation", "0.5", "standard deviation of the lengths over their mean; 0 is the default"),
)
CALIBRATION: Final = Flag("--calibration", "auto/none/FILE", "measurements of this machine to use, or a file of them")
SPECULATIVE: Final = Flag("--speculative", "METHOD", "draft model: mtp, or eagle3 where one is published")
SPECULATIVE_TOKENS: Final = Flag("--speculative-tokens", "3", "tokens that it proposes per step")
ACCEPT_LENGTH: Final = Flag("--accept-length", "2.6", "tokens that a step yields with drafts, where you know it")
NARROWING: Final = (
    ENGINE, ENGINE_VERSION, QUANT, KV_DTYPE, *PARALLEL, SPECULATIVE, SPECULATIVE_TOKENS, ACCEPT_LENGTH
)  # fmt: skip

_TEXTS: Final = tuple(field.name for field in fields(Options) if field.name not in ("model", "gpu"))


def add_model(parser: Parser) -> None:
    """The model that the command is about."""
    parser.add_argument("model", metavar="MODEL", help="a built-in id (`moeplan models`), a config.json or its folder")


def add_hardware(parser: Parser) -> None:
    """Flags that describe a machine; without any, this machine is detected."""
    group = parser.add_argument_group("hardware", "any of these switches detection off")
    group.add_argument(
        "--gpu",
        metavar="8xH200",
        action="append",
        help="GPUs of a node; repeat for mixed ones; none for no GPU",
    )
    for flag in HARDWARE:
        group.add_argument(flag.name, metavar=flag.example, help=flag.help)


def add_flags(parser: Parser, title: str, flags: Iterable[Flag]) -> None:
    """A titled group of flags."""
    group = parser.add_argument_group(title)
    for flag in flags:
        if flag.example:
            group.add_argument(flag.name, metavar=flag.example, help=flag.help)
        else:
            group.add_argument(flag.name, action="store_true", help=flag.help)


def options_of(args: Namespace) -> dict[str, Any]:
    """What was given, by the names of ``Options``. Raises ``BadRequest`` for a value that is only blanks."""
    given = {name: getattr(args, name) for name in _TEXTS if getattr(args, name, None) not in (None, False)}
    if getattr(args, "gpu", None):
        given["gpu"] = tuple(args.gpu)
    for name, value in given.items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not text.strip():
                raise BadRequest(f"--{name.replace('_', '-')}: a value is needed")
    return given
