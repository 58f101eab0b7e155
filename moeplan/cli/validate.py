"""``moeplan validate``: a plan's own kernels measured on this machine, beside its prediction."""

from __future__ import annotations

from argparse import Namespace

from moeplan.cli.arguments import Flag, add_flags
from moeplan.cli.bench import MEASURING, bench_options
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser
from moeplan.cli.progress import progress_bar
from planner.errors import BadRequest

UNDETERMINED = 3
WHICH = (
    Flag("--rank", "1", "which candidate of the plan"),
    Flag("--calibration", "auto/none/FILE", "where results are kept: this user's data folder, nowhere, a file"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s PLAN [flags]"
    parser.add_argument("plan", metavar="PLAN", help="the JSON that `moeplan plan --output` wrote")
    parser.add_argument(
        "--engine-python", metavar="PYTHON", action="append", help="an engine's own interpreter; repeat for several"
    )
    add_flags(parser, "what", WHICH)
    add_flags(parser, "measuring", MEASURING)


def run(args: Namespace) -> int:
    """Print the comparison. 0 when the plan holds, 1 when it differs, 3 when too little could be measured."""
    chosen = bench_options(args)
    rank = args.rank or "1"
    if not (rank.isascii() and rank.isdecimal() and int(rank) > 0):
        raise BadRequest(f"--rank {rank}: a whole number from 1 is needed")
    from moeplan.validating import validate

    with progress_bar("measuring") as progress:
        result = validate(args.plan, int(rank), chosen, progress)
    if args.json:
        print_json(result.to_json())
        print_remarks("note", result.notes)
    else:
        from moeplan.text import show
        from moeplan.text_bench import validation_view

        show(validation_view(result))
    return {"holds": 0, "differs": 1, "undetermined": UNDETERMINED}[result.verdict]
