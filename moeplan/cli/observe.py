"""``moeplan observe``: an engine's start-up log beside the prediction for that configuration."""

from __future__ import annotations

from argparse import Namespace

from moeplan.cli.arguments import CALIBRATION, add_flags, add_hardware, options_of
from moeplan.cli.estimate import CONFIGURATION, LLAMA_CPP
from moeplan.cli.output import print_json, print_remarks
from moeplan.cli.parser import Parser
from moeplan.cli.progress import progress_bar

UNREADABLE = 3
STORAGE = (CALIBRATION._replace(help="where the measurement is kept: this user's data folder, nowhere, a file"),)


def register(parser: Parser) -> None:
    """The flags of the command."""
    parser.usage = "%(prog)s LOG [MODEL] [flags]"
    parser.add_argument("log", metavar="LOG", help="what vLLM, SGLang or llama.cpp printed at start-up")
    parser.add_argument("model", metavar="MODEL", nargs="?", help="where the log does not name a model that is known")
    add_hardware(parser)
    add_flags(parser, "configuration, where the log does not say it", CONFIGURATION)
    add_flags(parser, "llama.cpp", LLAMA_CPP)
    add_flags(parser, "storage", STORAGE)


def run(args: Namespace) -> int:
    """Print the comparison. 0 when the prediction holds, 1 when it differs, 3 when there is nothing to compare."""
    # Here it is where the measurement goes, not what the prediction is made with.
    options = {name: value for name, value in options_of(args).items() if name != "calibration"}
    from moeplan.observing import observe

    with progress_bar("reading") as progress:
        report = observe(
            args.log, args.model, options=options, calibration=args.calibration or "auto", progress=progress
        )
    if args.json:
        print_json(report.to_json())
        print_remarks("note", report.notes)
    else:
        from moeplan.text import show
        from moeplan.text_observe import observation_view

        show(observation_view(report))
    return {"holds": 0, "differs": 1, "nothing_to_compare": UNREADABLE}[report.comparison.verdict]
