"""The start script of a candidate: its argument list, quoted once; what is in that list, the planner says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from moeplan.text_safe import printable, shortened
from planner.errors import BadRequest

if TYPE_CHECKING:
    from planner.plan import Candidate

SCRIPT: Final = "launch.sh"
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_ADDRESS: Final = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:%-]{0,252}")
_HEAD: Final = re.compile(r"HEAD_ADDRESS(:[0-9]{1,5})?")
_FLAG: Final = re.compile(r"-[^0-9.].*", re.DOTALL)
_SAFE_HEAD: Final = '"${HEAD_ADDRESS}"'


def launch_files(candidate: Candidate, *, model: str, generated_by: str, host: str) -> dict[str, str]:
    """``launch.sh`` and the files that the engine wants beside it, by name.

    ``host`` is the address that the server listens on. Several nodes share one script, which takes the number
    of its node as first argument or from NODE_RANK. Raises ``BadRequest`` for an address, a variable or a
    file name that no shell should see, and for weights that do not exist.
    """
    if not _ADDRESS.fullmatch(host):
        raise BadRequest(f"--host: {shortened(host)} is not an address; write 127.0.0.1, 0.0.0.0 or a host name")
    if candidate.quantization.status == "hypothetical":
        raise BadRequest(
            f"nobody is known to publish {shortened(candidate.quantization.name)}: there is nothing to start"
        )
    for name in candidate.launch.files:
        if not _FILE.fullmatch(name) or name == SCRIPT:
            raise BadRequest(f"the plan names a file {shortened(name)}, which is not a plain file name")
    nodes = [_with_host(argv, host) for argv in candidate.launch.per_node_argv or (candidate.launch.argv,)]
    if not all(nodes):
        raise BadRequest("the plan has no command for this candidate")
    if any("\0" in argument for argv in nodes for argument in argv):
        raise BadRequest("the plan's command holds a zero byte")
    lines = [*_head(candidate, model, generated_by, host), *_environment(candidate.launch.env)]
    lines += _one_node(nodes[0]) if len(nodes) == 1 else _many_nodes(nodes)
    return {SCRIPT: "\n".join(lines) + "\n", **candidate.launch.files}


def remarks(candidate: Candidate, host: str) -> tuple[str, ...]:
    """What somebody should know before they start the script."""
    found = []
    if any("--trust-remote-code" in argv for argv in (candidate.launch.argv, *candidate.launch.per_node_argv)):
        found.append("--trust-remote-code runs Python from the model's repository: pin a revision that you have read")
    if host not in LOOPBACK:
        found.append(f"{host}: whoever reaches this address can use the server, which asks for no key")
    if candidate.verdict == "tight":
        found.append("this configuration is tight: it may run out of memory when it starts")
    return tuple(found)


def command_lines(argv: Sequence[str]) -> list[str]:
    """A command as shell text, one flag with its values a line, each but the last ending in a backslash.

    >>> command_lines(["vllm", "serve", "org/model", "--tensor-parallel-size", "8", "--note", "a b"])
    ['vllm serve org/model \\\\', '  --tensor-parallel-size 8 \\\\', "  --note 'a b'"]
    """
    groups: list[list[str]] = []
    for argument in argv:
        if not groups or _FLAG.fullmatch(argument):
            groups.append([])
        groups[-1].append(_quoted(argument))
    rows = [("" if number == 0 else "  ") + " ".join(group) for number, group in enumerate(groups)]
    return [f"{row} \\" for row in rows[:-1]] + rows[-1:]


def assignments(variables: dict[str, str]) -> list[str]:
    """``NAME=value`` as shell text, sorted. Raises ``BadRequest`` for what is no environment variable."""
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise BadRequest(f"the plan sets {shortened(name)}, which is not an environment variable")
    return [f"{name}={_literal(value)}" for name, value in sorted(variables.items())]


def _quoted(argument: str) -> str:
    """The argument for a shell; the head node's address is a variable, since no plan knows it."""
    head = _HEAD.fullmatch(argument)
    return f"{_SAFE_HEAD}{head[1] or ''}" if head else _literal(argument)


def _literal(text: str) -> str:
    """The text quoted for bash, control characters written out: a terminal may show the script too."""
    if text.isprintable():
        return shlex.quote(text)
    codes = (
        f"\\{character}" if character in "\\'" else
        character if character.isprintable() else
        "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
        for character in text
    )  # fmt: skip
    return f"$'{''.join(codes)}'"


def _with_host(argv: Sequence[str], host: str) -> list[str]:
    changed = list(argv)
    for place in range(1, len(changed)):
        if changed[place - 1] == "--host":
            changed[place] = host
    return changed


def _head(candidate: Candidate, model: str, generated_by: str, host: str) -> Iterator[str]:
    engine, quantization = candidate.engine, candidate.quantization
    yield "#!/usr/bin/env bash"
    yield f"# {printable(model)}, {printable(quantization.name)} by {printable(quantization.publisher)},"
    yield f"# on {printable(engine.name)} {printable(engine.version)}. Written by {printable(generated_by)}."
    for remark in remarks(candidate, host):
        yield f"# Warning: {printable(remark)}."
    yield "set -euo pipefail"
    yield ""


def _environment(variables: dict[str, str]) -> Iterator[str]:
    for assignment in assignments(variables):
        yield f"export {assignment}"
    if variables:
        yield ""


def _one_node(argv: list[str]) -> Iterator[str]:
    if any(_HEAD.fullmatch(argument) for argument in argv):
        yield from _head_address()
    yield from _exec(argv, "")


def _many_nodes(nodes: list[list[str]]) -> Iterator[str]:
    last = len(nodes) - 1
    wanted = f"give the number of this node, 0 to {last}, as argument or in NODE_RANK"
    yield f'node="${{1:-${{NODE_RANK:?{wanted}}}}}"'
    if any(_HEAD.fullmatch(argument) for argv in nodes for argument in argv):
        yield from _head_address()
    yield 'case "$node" in'
    for number, argv in enumerate(nodes):
        yield f"{number})"
        yield from _exec(argv, "  ")
        yield "  ;;"
    yield "*)"
    yield f'  echo "there is no node $node; 0 to {last} are allowed" >&2'
    yield "  exit 2"
    yield "  ;;"
    yield "esac"


def _head_address() -> Iterator[str]:
    yield 'HEAD_ADDRESS="${HEAD_ADDRESS:?set it to the address of node 0 that the other nodes reach}"'


def _exec(argv: list[str], indent: str) -> Iterator[str]:
    first, *rest = command_lines(argv)
    yield f"{indent}exec {first}"
    yield from (indent + line for line in rest)
