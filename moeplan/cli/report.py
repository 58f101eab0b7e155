"""``moeplan report``: a plan as one HTML page for people without the program."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Final

from moeplan.cli.arguments import Flag, add_flags
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser

DEFAULT: Final = "report.html"
FLAGS: Final = (
    Flag("--rank", "1", "the candidate of the plan that the report is about"),
    Flag("--check", "FILE", "the result of `moeplan check PLAN --json`"),
    Flag("--bench", "FILE", "the result of `moeplan bench --output FILE`"),
    Flag("--cost", "FILE", "the result of `moeplan cost PLAN --json`, instead of one of the known prices"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s PLAN [flags]"
    parser.epilog = "Exit status: 0 written; 2 bad input."
    parser.add_argument("plan", metavar="PLAN", help="a plan that `moeplan plan --output` wrote")
    add_flags(parser, "what is in it", FLAGS)
    parser.add_argument("-o", "--output", metavar="FILE.html", default=DEFAULT, help=f"where it goes ({DEFAULT})")
    parser.add_argument("--cdn", action="store_true", help="a small file that loads the charts' library from a CDN")
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")


def run(args: Namespace) -> int:
    """Write the page. 0 also where nothing fits, which the page then says."""
    from moeplan.cli.launch import read_plan
    from moeplan.report import write_report
    from moeplan.report.inputs import read_bench, read_check, read_cost
    from planner.quantities import parse_count

    rank = parse_count(args.rank, "--rank") if args.rank is not None else 1
    size = write_report(
        Path(args.output),
        read_plan(args.plan),
        rank=rank,
        check=read_check(args.check) if args.check is not None else None,
        bench=read_bench(args.bench) if args.bench is not None else None,
        cost=read_cost(args.cost) if args.cost is not None else None,
        cdn=args.cdn,
        overwrite=args.force,
    )
    print_remarks("wrote", [args.output])
    if args.json:
        print_json(json.dumps({"schema": "moeplan.report/1", "rank": rank, "file": args.output, "bytes": size}))
    return 0
