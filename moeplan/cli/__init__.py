"""The ``moeplan`` command: runs the command that was asked for, and turns errors into one line and a code.

Exit codes: 0 yes; 1 no (nothing fits); 2 bad input; 3 could not be determined; 130 interrupted; 141 when the
reader of the output has gone. Only the chosen command's module is imported: ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from moeplan import __version__
from moeplan.cli.parser import Parser, UsageError, did_you_mean
from moeplan.text_safe import printable, shortened

COMMANDS: Final = {
    "plan": "rank every engine, quantization and layout of a model on a machine",
    "estimate": "price exactly one configuration, with its memory ledger",
    "grid": "plans for many models, machines and workloads",
    "memory": "weights by quantization and class, KV cache by layout and dtype",
    "detect": "this machine, every value with where it comes from",
    "check": "go or no-go for this machine, with evidence and what to do",
    "merge": "the inventories or check reports of many nodes as one",
    "bench": "measure the kernels that a plan depends on, and keep them as calibration",
    "validate": "a plan's own kernels measured beside its prediction",
    "launch": "write the start script of a plan",
    "observe": "an engine's start-up log beside the prediction, kept as calibration",
    "recommend": "the least costly ways to meet a target: buy, rent or an API",
    "cost": "a plan's machine against the APIs of the same model",
    "report": "a plan as one HTML page for people without the program",
    "verify": "a running deployment beside its plan: speed, errors, KV capacity, modes",
    "tui": "all of this on screens: turn knobs, watch what fits, save launch files",
    "models": "the built-in models",
    "hardware": "the accelerators and CPU memory systems that are known",
    "schema": "the JSON Schemas of what --json prints",
}
BAD_INPUT: Final = 2
UNDETERMINED: Final = 3
INTERRUPTED: Final = 130
READER_GONE: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. ``argv`` is without the program's name."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _refused("moeplan: interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes once more at exit, and somebody has to take it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except UsageError as error:
        return _refused(str(error), BAD_INPUT)
    except Exception as error:
        refusal = _code_of(error)
        if refusal is None:
            raise
        return _refused(f"moeplan: {_message_of(error)}", refusal)
    return code


def _run(argv: list[str]) -> int:
    for argument in argv:
        # Bytes that are no UTF-8 arrive as lone surrogates, which JSON cannot hold.
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise UsageError(f"moeplan: error: an argument is not UTF-8: {shortened(argument)}")
    if not argv or argv[0] not in COMMANDS:
        return _without_command(argv)
    name, *rest = argv
    command = import_module(f"moeplan.cli.{name}")
    parser = Parser(f"moeplan {name}", COMMANDS[name])
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")
    command.register(parser)
    args = parser.read(rest)
    return 0 if args is None else int(command.run(args))


def _without_command(argv: list[str]) -> int:
    """``moeplan --help`` and ``--version``; anything else is an error."""
    if argv and not argv[0].startswith("-"):
        hint = did_you_mean(argv[0], COMMANDS)
        raise UsageError(
            f"moeplan: error: {shortened(argv[0])} is not a command{hint}; there are {', '.join(COMMANDS)}"
        )
    listed = "\n".join(f"  {name:10}{line}" for name, line in COMMANDS.items())
    parser = Parser(
        "moeplan",
        "Will this model run on this hardware: in which quantization, split how, started how, and how fast?",
    )
    parser.usage = "moeplan COMMAND ..."
    parser.epilog = f"commands:\n{listed}\n\nmoeplan COMMAND --help says more."
    parser.add_argument("--version", action="version", version=f"moeplan {__version__}")
    if parser.read(argv) is None:
        return 0
    raise UsageError(f"moeplan: error: a command is needed: {', '.join(COMMANDS)}; see moeplan --help")


def _refused(line: str, code: int) -> int:
    sys.stdout.flush()
    print(printable(line), file=sys.stderr)
    return code


def _code_of(error: Exception) -> int | None:
    """The exit code of an error that a request may cause; None is a fault of this program."""
    from planner.errors import BadRequest, Undetermined
    from profiles.config_reader import BadConfig, UnknownFamily
    from profiles.headers.errors import BadModelFile
    from profiles.names import AmbiguousName, UnknownName

    if isinstance(error, Undetermined | UnknownFamily):
        return UNDETERMINED
    if isinstance(error, BadRequest | UnknownName | AmbiguousName | BadConfig | BadModelFile | OSError):
        return BAD_INPUT
    return None


def _message_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
