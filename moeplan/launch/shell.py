"""``--format shell``: a script for every node, which becomes the engine's process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moeplan.launch.deployment import Deployment, Node, file_name, remarks
from moeplan.launch.shell_text import REQUIRED, assignments, command_lines
from moeplan.text_safe import printable


def shell_files(deployment: Deployment) -> dict[str, str]:
    """``launch.sh``, or ``launch-rank-N.sh`` for each of several nodes."""
    return scripts(deployment, deployment.env)


def scripts(deployment: Deployment, env: Mapping[str, str]) -> dict[str, str]:
    """The scripts with these variables."""
    return {
        file_name(deployment, node, "launch", ".sh"): "\n".join(_script(deployment, node, env)) + "\n"
        for node in deployment.nodes
    }


def _script(deployment: Deployment, node: Node, env: Mapping[str, str]) -> Iterator[str]:
    serving = deployment.serving
    yield "#!/usr/bin/env bash"
    yield f"# {deployment.title}."
    if deployment.several:
        yield f"# Node {node.rank} of {len(deployment.nodes)}; README.md says how to start them together."
    yield f"# Written by {printable(deployment.generated_by)}."
    for remark in remarks(deployment):
        yield f"# Warning: {printable(remark)}."
    yield "set -euo pipefail"
    yield ""
    for name in deployment.unknowns:
        yield f': "${{{name}:?{REQUIRED[name]}}}"'
    for assignment in assignments(env):
        yield f"export {assignment}"
    if deployment.unknowns or env:
        yield ""
    first, *rest = command_lines(deployment.argv(node, deployment.host))
    if serving.api_key_flag:
        # The engine takes a key as a flag only; it is given one when the variable is set.
        key = f'  ${{{serving.api_key_variable}:+{serving.api_key_flag} "${serving.api_key_variable}"}}'
        lines = [first, *rest]
        lines[-1] += " \\"
        first, *rest = [*lines, key]
    yield f"exec {first}"
    yield from rest
