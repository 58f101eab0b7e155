"""`ray.nodes()` as JSON, or `ray list nodes --format json`: GPUs as counted resources of a type, without memory.

Sources: docs.ray.io/en/latest/ray-core/scheduling/accelerators.html (accelerator types), ray/util/state (listing).
"""

from __future__ import annotations

from typing import Any, Final

from hwdetect.cluster.listing import MAX_GPUS, Described, Listing, distinct, node_of, rows, table, text
from hwdetect.inventory import Node

TYPE: Final = "accelerator_type:"
LABEL: Final = "ray.io/accelerator-type"


def is_listing(document: object) -> bool:
    """Whether this is a list of Ray's nodes, in either form."""
    nodes = rows(document)
    return bool(nodes) and all(
        ("NodeID" in node and "Resources" in node) or "resources_total" in node for node in nodes
    )


def read(document: object) -> Listing:
    """Nodes that are alive; the others are noted."""
    nodes: list[Node] = []
    notes: list[str] = []
    for number, row in enumerate(rows(document)):
        identity = text(row.get("NodeID") or row.get("node_id"))[:8]
        name = text(row.get("NodeManagerHostname") or row.get("node_name") or row.get("NodeName")) or f"node{number}"
        alive = row.get("Alive") is True or row.get("state") == "ALIVE"
        if not alive:
            notes.append(f"{name} ({identity}) is left out: Ray says it is dead")
            continue
        if any(node.name == name for node in nodes):
            name = f"{name}-{identity}"
        nodes.append(_node(name, row, notes))
    return distinct(nodes, notes)


def _node(name: str, row: dict[str, Any], notes: list[str]) -> Node:
    resources = table(row.get("Resources") or row.get("resources_total"))
    labels = table(row.get("Labels") or row.get("labels"))
    many = _number(resources.get("GPU"))
    kinds = [key.removeprefix(TYPE) for key in resources if key.startswith(TYPE)]
    kind = text(labels.get(LABEL)) or (kinds[-1] if len(kinds) == 1 else "")
    gpus = []
    if many and many > MAX_GPUS:
        notes.append(f"{name}: {many:g} GPUs are more than a node can have and are left out")
    elif many and kind:
        gpus = [Described(kind, int(many), int(many), None, f"Ray resource {TYPE}{kind}")]
    elif many:
        notes.append(f"{name}: {many:g} GPUs whose type Ray does not say are left out")
    memory = _number(resources.get("memory"))
    return node_of(
        name,
        gpus,
        source="Ray resources",
        cores=_number(resources.get("CPU")),
        memory_bytes=int(memory) if memory else None,
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 60:
        return None
    return float(value)
