"""argparse, made to say what is wrong in one line and to hand every value on as it was typed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import NoReturn

from moeplan.text_safe import printable, shortened

_REQUIRED = re.compile(r"the following arguments are required: (.*)", re.DOTALL)


class UsageError(Exception):
    """The command line itself is wrong; the message is the whole line. Exit code 2."""


class Parser(argparse.ArgumentParser):
    """No abbreviations, one-line errors with a suggestion, and values that may begin with a minus sign."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def read(self, argv: list[str]) -> argparse.Namespace | None:
        """The parsed arguments, or None when help or the version was printed. Raises ``UsageError``."""
        try:
            args, extra = self.parse_known_args(self._with_values_joined(argv))
        except SystemExit:
            return None
        if extra:
            self.error(self._unexpected(extra))
        return args

    def error(self, message: str) -> NoReturn:
        """Refuse the command line. Raises ``UsageError``."""
        missing = _REQUIRED.fullmatch(message)
        text = f"{missing[1]} is missing" if missing else message
        raise UsageError(f"{self.prog}: error: {printable(text)}; see {self.prog} --help")

    def _with_values_joined(self, argv: list[str]) -> list[str]:
        """``--context -5k`` as ``--context=-5k``: what is wrong with a value, its own parser says best."""
        joined: list[str] = []
        rest = iter(argv)
        for argument in rest:
            action = self._option_string_actions.get(argument)
            if argument == "--":
                joined.append(argument)
                break
            value = None
            if argument.startswith("--") and action is not None and action.nargs is None:
                value = next(rest, None)
            if value is None:
                joined.append(argument)
            elif value.startswith("--") or value in self._option_string_actions:
                self.error(f"{argument} needs a value, and {shortened(value)} is a flag")
            else:
                joined.append(f"{argument}={value}")
        return [*joined, *rest]

    def _unexpected(self, extra: list[str]) -> str:
        flag = next((argument for argument in extra if argument.startswith("-")), None)
        if flag is None:
            return f"unexpected argument {shortened(extra[0])}"
        name = flag.partition("=")[0]
        return f"unknown flag {shortened(name)}{did_you_mean(name, self._option_string_actions)}"


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """``; did you mean --context?``, or nothing when nothing is near.

    >>> did_you_mean("plam", ["plan", "models"])
    '; did you mean plan?'
    """
    # Only for a mistake, and slow to load.
    from difflib import get_close_matches

    near = get_close_matches(text[:60], list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
