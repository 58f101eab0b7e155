"""Arguments and variables as text for bash, quoted once."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from moeplan.text_safe import shortened
from planner.errors import BadRequest

HEAD_ADDRESS: Final = "HEAD_ADDRESS"
MODEL_FOLDER: Final = "MODEL_FOLDER"
REQUIRED: Final = {
    HEAD_ADDRESS: "set it to the address of node 0 that the other nodes reach",
    MODEL_FOLDER: "set it to the folder with the weights, see README.md",
}
"""What no plan can know and somebody has to say before the start."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNKNOWN: Final = re.compile(rf"({HEAD_ADDRESS}|{MODEL_FOLDER})((?::[0-9]{{1,5}})?)")
_FLAG: Final = re.compile(r"-[^0-9.].*", re.DOTALL)


class Unknown(NamedTuple):
    """An argument whose first part is a variable of ``REQUIRED``; ``rest`` follows it, as ``:5000``."""

    variable: str
    rest: str


def unknown_in(argument: str) -> Unknown | None:
    """The variable that an argument stands for, None for text that is what it says.

    >>> unknown_in("HEAD_ADDRESS:5000"), unknown_in("--host")
    (Unknown(variable='HEAD_ADDRESS', rest=':5000'), None)
    """
    found = _UNKNOWN.fullmatch(argument)
    return Unknown(found[1], found[2]) if found else None


def flag_groups(argv: Sequence[str]) -> list[list[str]]:
    """The program with what precedes the first flag, then every flag with its values.

    >>> flag_groups(["vllm", "serve", "m", "--port", "8000", "--headless"])
    [['vllm', 'serve', 'm'], ['--port', '8000'], ['--headless']]
    """
    groups: list[list[str]] = []
    for argument in argv:
        if not groups or _FLAG.fullmatch(argument):
            groups.append([])
        groups[-1].append(argument)
    return groups


def command_lines(argv: Sequence[str]) -> list[str]:
    """A command as shell text, one flag with its values a line, each but the last ending in a backslash.

    >>> command_lines(["vllm", "serve", "org/model", "--tensor-parallel-size", "8", "--note", "a b"])
    ['vllm serve org/model \\\\', '  --tensor-parallel-size 8 \\\\', "  --note 'a b'"]
    """
    texts = [" ".join(_quoted(argument) for argument in group) for group in flag_groups(argv)]
    rows = [("" if number == 0 else "  ") + text for number, text in enumerate(texts)]
    return [f"{row} \\" for row in rows[:-1]] + rows[-1:]


def assignments(variables: Mapping[str, str]) -> list[str]:
    """``NAME=value`` as shell text, sorted. Raises ``BadRequest`` for what is no environment variable."""
    for name, value in variables.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise BadRequest(f"the plan sets {shortened(name)}, which is not an environment variable")
    return [f"{name}={literal(value)}" for name, value in sorted(variables.items())]


def literal(text: str) -> str:
    """The text quoted for bash, control characters written out: a terminal may show it too."""
    if text.isprintable():
        return shlex.quote(text)
    codes = (
        f"\\{character}" if character in "\\'" else
        character if character.isprintable() else
        "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
        for character in text
    )  # fmt: skip
    return f"$'{''.join(codes)}'"


def _quoted(argument: str) -> str:
    unknown = unknown_in(argument)
    return f'"${{{unknown.variable}}}"{unknown.rest}' if unknown else literal(argument)
