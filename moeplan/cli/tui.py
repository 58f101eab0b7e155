"""``moeplan tui``: the plan, launch files and the check of this machine on screens."""

from __future__ import annotations

import sys
from argparse import Namespace

from moeplan.cli.parser import Parser
from planner.errors import BadRequest


def register(parser: Parser) -> None:
    """The model to begin with, and every knob as a flag."""
    from tui.knobs import SECTIONS

    parser.usage = "%(prog)s [MODEL] [flags]"
    parser.epilog = "F1 on every screen says what its keys do. Everything can be changed there."
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", default="kimi-k2.5", help="model to begin with (kimi-k2.5)"
    )
    for title, knobs in SECTIONS:
        group = parser.add_argument_group(title.lower())
        for knob in knobs:
            if knob.name != "model":
                group.add_argument(knob.flag, metavar=knob.example, help=knob.help)


def run(args: Namespace) -> int:
    """Show the screens until they are left. Raises ``BadRequest`` where there is no terminal."""
    if args.json:
        raise BadRequest("tui: --json is not allowed here; `moeplan plan --json` prints the same plan")
    # Textual draws on standard error.
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise BadRequest(
            "tui: standard input, output and error have to be a terminal; `moeplan plan` prints the same plan"
        )
    from moeplan.screens import program
    from tui.app import MoeplanApp
    from tui.knobs import KNOBS

    values = {name: text for name in KNOBS if (text := getattr(args, name)) is not None and text.strip()}
    MoeplanApp(program(), values).run()
    return 0
