"""``moeplan check``: go or no-go for this machine, with evidence and what to do."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Final

from moeplan.cli.arguments import Flag, add_flags
from moeplan.cli.detect import PLACES
from moeplan.cli.output import print_json, print_remarks, write_whole
from moeplan.cli.parser import Parser
from moeplan.cli.progress import progress_bar

EXITS: Final = {"go": 0, "no_go": 1, "undetermined": 3}
FLAGS: Final = (
    Flag("--rank", "1", "the candidate of the plan"),
    Flag("--inventory", "FILE", "the machine as `moeplan detect --json` wrote it, instead of this one"),
    Flag("--bench", "FILE", "judge bandwidths by this result of `moeplan bench`, not by the machine's calibration"),
    *PLACES,
)
CLUSTER: Final = (
    Flag("--cluster", "ray", "every node of the Ray cluster of RAY_ADDRESS, instead of this machine"),
    Flag("--node-timeout", "120s", "how long a node may take"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s [PLAN] [flags]"
    parser.epilog = (
        "Exit status: 0 go; 1 no-go, something failed (with --strict also warnings and what did not run);\n"
        "3 undetermined, nothing failed but a required check could not run; 2 bad input."
    )
    parser.add_argument("plan", metavar="PLAN", nargs="?", help="a plan that `moeplan plan --output` wrote")
    parser.add_argument("--strict", action="store_true", help="a warning, or a check that did not run, is a no-go")
    add_flags(parser, "what is checked", FLAGS)
    add_flags(parser, "a cluster", CLUSTER)
    add_flags(parser, "report", (Flag("--junit", "FILE", "write the findings as JUnit XML too"),))
    parser.add_argument("--all", action="store_true", help="show what passed line by line too")


def run(args: Namespace) -> int:
    """Print the findings, worst first. 0 go, 1 no-go, 3 undetermined."""
    from moeplan.checking import run_check
    from moeplan.cli.launch import read_plan
    from planner.search import no_collection

    with no_collection(), progress_bar("checking nodes") as progress:
        report = run_check(
            read_plan(args.plan) if args.plan is not None else None,
            inventory=args.inventory,
            rank=args.rank,
            bench=args.bench,
            engine_python=args.engine_python,
            model_folder=args.model_folder,
            strict=args.strict,
            cluster=args.cluster,
            node_timeout=args.node_timeout,
            progress=progress,
        )
    if args.junit is not None:
        from moeplan.junit import junit_xml

        write_whole(Path(args.junit), junit_xml(report), "--junit")
        print_remarks("wrote", [args.junit])
    if args.json:
        print_json(report.to_json())
    else:
        from moeplan.text import show
        from moeplan.text_check import check_view
        from moeplan.text_cluster import cluster_check_view

        many = len(report.nodes) > 1 and not args.all
        show(cluster_check_view(report) if many else check_view(report, everything=args.all))
    return EXITS[report.verdict]
