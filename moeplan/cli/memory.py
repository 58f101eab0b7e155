"""``moeplan memory``: the calculator."""

from __future__ import annotations

from argparse import Namespace

from moeplan.cli.arguments import CONTEXT, ENGINE, KV_DTYPE, QUANT, Flag, add_flags, add_model, options_of
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser

FLAGS = (
    CONTEXT,
    Flag("--sequences", "1", "sequences of that length"),
    QUANT,
    KV_DTYPE,
    ENGINE._replace(help="only what this engine loads"),
    Flag("--claims", "", "check published claims about the model"),
    Flag("--quality", "", "what each quantization costs in quality, suite by suite"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s MODEL [flags]"
    add_model(parser)
    add_flags(parser, "what to calculate", FLAGS)


def run(args: Namespace) -> int:
    """Print the report."""
    options = options_of(args)
    from moeplan.api import memory
    from moeplan.pipeline import with_quality

    report = memory(args.model, claims=args.claims, **options)
    if args.quality:
        report = with_quality(args.model, report)
    if args.claims and not report.claims:
        print_remarks("note", [f"no claims about {report.name} are collected"])
    if args.json:
        print_json(report.to_json())
        print_remarks("note", report.notes)
    else:
        from moeplan.text import show
        from moeplan.text_memory import memory_view

        show(memory_view(report))
    return 0
