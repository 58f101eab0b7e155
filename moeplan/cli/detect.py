"""``moeplan detect``: the inventory of this machine."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from moeplan.cli.arguments import Flag, add_flags
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser

PLACES: Final = (
    Flag("--engine-python", "PATH", "interpreter of the environment that the engine is installed in"),
    Flag("--model-folder", "DIR", "where models are kept, instead of the cache of huggingface_hub"),
)


def register(parser: Parser) -> None:
    """Where to look for what an engine brings."""
    parser.usage = "%(prog)s [flags]"
    add_flags(parser, "where to look", PLACES)


def run(args: Namespace) -> int:
    """Print what was found; a machine without a GPU is an answer too."""
    from moeplan.api import detect

    inventory = detect(engine_python=args.engine_python, model_folder=args.model_folder)
    if args.json:
        from hwdetect.inventory import to_json

        print_json(to_json(inventory))
        print_remarks("note", inventory.notes)
    else:
        from moeplan.text import show
        from moeplan.text_machine import inventory_view

        show(inventory_view(inventory))
    return 0
