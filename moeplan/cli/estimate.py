"""``moeplan estimate``: exactly one configuration, no search."""

from __future__ import annotations

from argparse import Namespace

from moeplan.cli.arguments import (
    ACCEPT_LENGTH,
    CALIBRATION,
    CONCURRENCY,
    CONTEXT,
    ENGINE,
    ENGINE_VERSION,
    INPUT_TOKENS,
    KV_DTYPE,
    OUTPUT_TOKENS,
    PARALLEL,
    QUANT,
    ROUTING,
    SIMULATION,
    SPECULATIVE,
    SPECULATIVE_TOKENS,
    Flag,
    add_flags,
    add_hardware,
    add_model,
    options_of,
)
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser

CONFIGURATION = (
    ENGINE,
    ENGINE_VERSION,
    QUANT,
    *PARALLEL,
    KV_DTYPE,
    Flag("--max-model-len", "8192", "longest sequence in tokens"),
    Flag("--gpu-memory-utilization", "0.9", "part of a GPU's memory that the engine may use"),
    Flag("--max-num-batched-tokens", "8192", "tokens of one step"),
    Flag("--max-num-seqs", "256", "sequences of one step"),
    Flag("--text-only", "", "without the vision tower"),
    Flag("--enforce-eager", "", "without CUDA graphs"),
    Flag("--mm-encoder-tp-mode", "MODE", "vision tower whole on every GPU (data, the default) or divided (weights)"),
    Flag("--max-loras", "N", "slots for LoRA adapters"),
    Flag("--max-lora-rank", "16", "largest rank of an adapter"),
    Flag("--cpu-offload-gb", "10", "GiB of weights per GPU kept in RAM"),
    SPECULATIVE,
    SPECULATIVE_TOKENS,
    ACCEPT_LENGTH,
)
LLAMA_CPP = (
    CONTEXT._replace(help="tokens of the KV cache, over all sequences"),
    Flag("--sequences", "1", "sequences at the same time"),
    Flag("--batch", "2048", "logical batch in tokens"),
    Flag("--ubatch", "512", "physical batch in tokens"),
    Flag("--cache-type-k", "f16", "number format of the keys"),
    Flag("--cache-type-v", "f16", "number format of the values"),
    Flag("--kv-unified", "", "one KV cache for all sequences"),
    Flag("--flash-attention", "on/off", "fused attention"),
    Flag("--n-cpu-moe", "N", "layers whose experts stay in RAM"),
)
SPEED = (CONCURRENCY, INPUT_TOKENS, OUTPUT_TOKENS, ROUTING, CALIBRATION)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s MODEL --engine ENGINE [flags]"
    add_model(parser)
    add_hardware(parser)
    add_flags(parser, "configuration", CONFIGURATION)
    add_flags(parser, "llama.cpp", LLAMA_CPP)
    add_flags(parser, "requests, for the speed", SPEED)
    add_flags(parser, "simulation", SIMULATION)


def run(args: Namespace) -> int:
    """Print the configuration with its ledger. 0 when it fits, else 1."""
    options = options_of(args)
    from moeplan.api import estimate

    result = estimate(args.model, **options)
    if args.json:
        print_json(result.to_json())
        print_remarks("note", (*result.hardware.notes, *result.notes))
        print_remarks("warning", (line for candidate in result.candidates for line in candidate.warnings))
    else:
        from moeplan.text import show
        from moeplan.text_plan import estimate_view

        show(estimate_view(result))
    return 0 if any(candidate.fits for candidate in result.candidates) else 1
