"""``moeplan merge``: what many nodes reported, as one."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Final

from moeplan.cli.arguments import Flag, add_flags
from moeplan.cli.check import EXITS
from moeplan.cli.output import print_json, print_remarks, write_whole
from moeplan.cli.parser import Parser
from moeplan.cli.progress import progress_bar

OUTPUT: Final = (
    Flag("--output", "FILE", "write the inventory or report to a file as well"),
    Flag("--junit", "FILE", "write the findings of check reports as JUnit XML too"),
)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s FILE [FILE ...] [flags]"
    parser.epilog = (
        "Check reports give one report, with the nodes beside their peers; its exit status is that of check.\n"
        "Everything else gives one inventory: what `moeplan detect --json`, `kubectl get nodes -o json`,\n"
        "`scontrol show node` (also with --json) or `ray list nodes --format json` printed."
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a file for each node, or listings of many")
    parser.add_argument(
        "--gpu-type", metavar="a100=a100-sxm-80", action="append", default=[],
        help="what a scheduler's word for a GPU means; repeat for further ones",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="a warning, or a check that did not run, is a no-go")
    add_flags(parser, "output", OUTPUT)


def run(args: Namespace) -> int:
    """Print the cluster's inventory (0) or its report (0 go, 1 no-go, 3 undetermined)."""
    from moeplan.merging import gpu_types, merge_files
    from planner.errors import BadRequest

    with progress_bar("merging") as progress:
        merged = merge_files(
            [Path(name) for name in args.files], types=gpu_types(args.gpu_type), strict=args.strict, progress=progress
        )
    if merged.inventory is not None:
        from hwdetect.inventory import to_json
        from moeplan.text_cluster import nodes_view

        if args.junit is not None:
            raise BadRequest("--junit is for check reports; these files are inventories")
        text = to_json(merged.inventory)
        if args.output is not None:
            write_whole(Path(args.output), text + "\n", "--output")
        if args.json:
            print_json(text)
            print_remarks("note", merged.inventory.notes)
        else:
            from moeplan.text import show

            show(nodes_view(merged.inventory))
        return 0
    report = merged.report
    assert report is not None
    if args.output is not None:
        write_whole(Path(args.output), report.to_json() + "\n", "--output")
    if args.junit is not None:
        from moeplan.junit import junit_xml

        write_whole(Path(args.junit), junit_xml(report), "--junit")
    if args.json:
        print_json(report.to_json())
    else:
        from moeplan.text import show
        from moeplan.text_cluster import cluster_check_view

        show(cluster_check_view(report))
    return EXITS[report.verdict]
