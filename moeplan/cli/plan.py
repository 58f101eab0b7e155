"""``moeplan plan``: search and rank."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from moeplan.cli.arguments import (
    BOUNDS,
    CALIBRATION,
    NARROWING,
    SIMULATION,
    WORKLOAD,
    Flag,
    add_flags,
    add_hardware,
    add_model,
    options_of,
)
from moeplan.cli.output import print_json, print_remarks, write_whole
from moeplan.cli.parser import Parser
from moeplan.cli.progress import progress_bar

ANSWER = (
    CALIBRATION,
    Flag("--objective", "NAME", "balanced (the default), throughput, latency, context, cost or quality"),
    Flag("--top", "5", "how many candidates to show"),
    Flag("--explain", "", "every ledger with its formulas and sources, and every rejection"),
    Flag("--allow-tight", "", "exit with 0 also when the best is only tight"),
    Flag("--output", "plan.json", "write the plan to a file as well"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s MODEL [flags]"
    add_model(parser)
    add_hardware(parser)
    add_flags(parser, "work", WORKLOAD)
    add_flags(parser, "bounds", BOUNDS)
    add_flags(parser, "narrow the search", NARROWING)
    add_flags(parser, "simulation", SIMULATION)
    add_flags(parser, "answer", ANSWER)


def run(args: Namespace) -> int:
    """Print the plan. 0 when the best candidate fits, or is tight and that is allowed; else 1."""
    options = options_of(args)
    from moeplan.api import plan

    with progress_bar("searching") as progress:
        result = plan(args.model, progress=progress, **options)
    if args.output is not None:
        write_whole(Path(args.output), result.to_json() + "\n", "--output")
    best = result.candidates[0] if result.candidates else None
    if args.json:
        print_json(result.to_json())
        print_remarks("note", (*result.hardware.notes, *result.notes))
        print_remarks("warning", best.warnings if best else ())
    else:
        from moeplan.text import show
        from moeplan.text_plan import plan_view

        show(plan_view(result, explain=args.explain, default_workload=args.workload is None))
    return 0 if best is not None and (best.fits or args.allow_tight) else 1
