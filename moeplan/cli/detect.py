"""``moeplan detect``: the inventory of this machine."""

from __future__ import annotations

from argparse import Namespace

from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser


def register(parser: Parser) -> None:
    """The command has no flags of its own."""
    parser.usage = "%(prog)s [--json]"


def run(args: Namespace) -> int:
    """Print what was found; a machine without a GPU is an answer too."""
    from moeplan.api import detect

    inventory = detect()
    if args.json:
        from hwdetect.inventory import to_json

        print_json(to_json(inventory))
        print_remarks("note", inventory.notes)
    else:
        from moeplan.text import show
        from moeplan.text_machine import inventory_view

        show(inventory_view(inventory))
    return 0
