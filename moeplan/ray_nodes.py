"""One task on every node of a Ray cluster: pinned, with a time limit, and a node that gives no answer is an answer.

Needs the extra ``cluster`` here, and moeplan on every node.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple

from planner.errors import BadRequest

Progress = Callable[[int, int], None]
POLL_S: Final = 0.5


class RayNode(NamedTuple):
    """A node as the cluster names it: unique, and readable where the cluster gave it a name."""

    identity: str
    name: str
    alive: bool


class Answer(NamedTuple):
    """What a node said, or why it did not: it died, ran out of time, or failed with an error of its own."""

    node: RayNode
    outcome: Literal["answered", "lost", "timeout", "failed"]
    value: str = ""
    detail: str = ""


def connected() -> ModuleType:
    """Ray, connected to the cluster of ``RAY_ADDRESS`` or of this machine. Raises ``BadRequest``."""
    try:
        import ray
    except ImportError:
        raise BadRequest("Ray is needed for this: pip install 'moeplan[cluster]'") from None
    try:
        # Without an address Ray would start a cluster of its own.
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadRequest(f"no Ray cluster answers ({reason}); start one, or set RAY_ADDRESS") from None
    module: ModuleType = ray
    return module


def nodes_of(ray: ModuleType) -> list[RayNode]:
    """Every node, also those that are dead and that no living one of the same name replaced."""
    listed = ray.nodes()
    names: dict[str, int] = {}
    found = []
    for row in sorted(listed, key=lambda node: not node["Alive"]):
        address, host = row.get("NodeManagerAddress", ""), row.get("NodeManagerHostname", "")
        given = row.get("NodeName", "")
        name = given if given and given != address else host or address
        names[name] = names.get(name, 0) + 1
        if not row["Alive"] and names[name] > 1 and name == host:
            continue
        found.append((row["NodeID"], name, bool(row["Alive"])))
    return [
        RayNode(identity, name if names[name] == 1 else f"{name}-{identity[:8]}", alive)
        for identity, name, alive in found
    ]


def on_every_node(
    ray: ModuleType, task: Callable[..., str], arguments: tuple[Any, ...], *, timeout_s: float, progress: Progress
) -> list[Answer]:
    """Run ``task(node name, *arguments)`` once on each node and gather what they say, in the order of the nodes.

    The task takes no CPU of the cluster, so that busy nodes answer too. It is never started twice.
    """
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    nodes = nodes_of(ray)
    answers: dict[str, Answer] = {
        node.identity: Answer(node, "lost", detail="Ray lists it as dead") for node in nodes if not node.alive
    }
    running = {}
    for node in nodes:
        if node.alive:
            pinned = strategy(node_id=node.identity, soft=False)
            remote = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=pinned)(task)
            running[remote.remote(node.name, *arguments)] = node
    deadline = time.monotonic() + timeout_s
    while running:
        progress(len(answers), len(nodes))
        left = deadline - time.monotonic()
        if left <= 0:
            break
        ready, _ = ray.wait(list(running), num_returns=1, timeout=min(POLL_S, left))
        for reference in ready:
            node = running.pop(reference)
            answers[node.identity] = _fetched(ray, reference, node)
    for reference, node in running.items():
        ray.cancel(reference, force=True)
        answers[node.identity] = Answer(node, "timeout", detail=f"no answer within {timeout_s:g} s")
    progress(len(nodes), len(nodes))
    return [answers[node.identity] for node in nodes]


def _fetched(ray: ModuleType, reference: object, node: RayNode) -> Answer:
    errors = ray.exceptions
    try:
        return Answer(node, "answered", value=ray.get(reference))
    except errors.RayTaskError as error:
        cause = getattr(error, "cause", None) or error
        return Answer(node, "failed", detail=f"{type(cause).__name__}: {str(cause).strip().splitlines()[0][:200]}")
    except errors.RayError as error:
        return Answer(node, "lost", detail=type(error).__name__)
