"""Launch files of a plan's candidate: one file per format, and a README that says what to run where."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from moeplan.text_safe import shortened
from planner.errors import BadRequest

if TYPE_CHECKING:
    from moeplan.launch.deployment import Deployment, Wish
    from planner.plan import Candidate, Plan

FORMATS: Final = ("shell", "compose", "kubernetes", "slurm", "systemd")
README: Final = "README.md"
BESIDE: Final = (README, "ask.sh", "ask.py")
"""Files that start nothing."""
_LAUNCH_FILE: Final = re.compile(
    r"(launch|compose)(-rank-[0-9]+)?\.(sh|yaml)|job\.sbatch|kubernetes\.yaml|[a-z0-9-]+\.service"
)
PER_NODE: Final = ("shell", "compose", "systemd")
"""Formats with a file for every node; the others start all nodes from one."""


def launch_files(plan: Plan, candidate: Candidate, kind: str, wish: Wish, node: int | None = None) -> dict[str, str]:
    """Texts by file name, README.md last; with ``node`` only what that node needs.

    Raises ``BadRequest`` for a format or a node that there is not, and for what no file should hold.
    """
    from moeplan.launch.deployment import deployment_of, file_name
    from moeplan.launch.quick_start import quick_start
    from moeplan.launch.readme import base_url, readme

    if kind not in FORMATS:
        raise BadRequest(f"--format: {shortened(kind)} is not allowed; {', '.join(FORMATS)} are")
    if kind == "kubernetes" and wish.host is not None:
        raise BadRequest(
            "--host: pods are reached through their Service; `kubectl port-forward` gives it an address here"
        )
    deployment = deployment_of(plan, candidate, wish)
    if node is not None:
        if kind not in PER_NODE:
            raise BadRequest(f"--node: --format {kind} starts every node from one place")
        last = len(deployment.nodes) - 1
        if not 0 <= node <= last:
            raise BadRequest(f"--node: there is no node {node}; 0 to {last} are allowed")
    files = {**_written(kind)(deployment), **candidate.launch.files}
    if node is not None:
        others = {
            file_name(deployment, other, stem, suffix)
            for other in deployment.nodes
            if other.rank != node
            for stem, suffix in (("launch", ".sh"), ("compose", ".yaml"), (deployment.name, ".service"))
        }
        files = {name: text for name, text in files.items() if name not in others}
    return {**files, **quick_start(deployment, base_url(deployment, kind)), README: readme(deployment, kind)}


def left_over(before: Iterable[str], files: Iterable[str]) -> tuple[str, ...]:
    """Of the names in a folder those of launch files that are not among ``files``: somebody might start them.

    >>> left_over(["launch-rank-2.sh", "notes.txt", "launch-rank-0.sh"], ["launch-rank-0.sh"])
    ('launch-rank-2.sh',)
    """
    return tuple(name for name in before if _LAUNCH_FILE.fullmatch(name) and name not in set(files))


def _written(kind: str) -> Callable[[Deployment], dict[str, str]]:
    from moeplan.launch.compose import compose_files
    from moeplan.launch.kubernetes import kubernetes_files
    from moeplan.launch.shell import shell_files
    from moeplan.launch.slurm import slurm_files
    from moeplan.launch.systemd import systemd_files

    return {
        "shell": shell_files,
        "compose": compose_files,
        "kubernetes": kubernetes_files,
        "slurm": slurm_files,
        "systemd": systemd_files,
    }[kind]
