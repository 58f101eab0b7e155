"""Inventories of clusters from what their schedulers know: Kubernetes, Slurm, Ray.

A scheduler's word is second-hand: it names a kind of GPU and counts them, and says nothing of links or health. What it
cannot be made to say is missing, and a node that it does not offer is left out with a note.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from hwdetect.cluster.listing import Listing
from hwdetect.inventory import Inventory


class Source(NamedTuple):
    """Which scheduler a text comes from, and what reads it."""

    name: str
    read: Callable[[Any], Listing]


def read_listing(text: str) -> Inventory | None:
    """The inventory of a scheduler's listing; None when the text is none of a kind that is known.

    Known are `kubectl get nodes -o json`, `scontrol show node` (also with --json or -o), and `ray.nodes()` or
    `ray list nodes --format json`. Raises ValueError with one line for a listing that holds no usable node.
    """
    source, document = _recognized(text)
    if source is None:
        return None
    listing = source.read(document)
    if not listing.nodes:
        why = f": {listing.notes[0]}" if listing.notes else ""
        raise ValueError(f"{source.name} lists no node that could be used{why}")
    return Inventory(nodes=listing.nodes, notes=listing.notes)


def _recognized(text: str) -> tuple[Source | None, Any]:
    from hwdetect.cluster import kubernetes, ray_nodes, slurm

    if text.lstrip()[:1] not in ("{", "["):
        is_slurm = any(line.startswith("NodeName=") for line in text.splitlines())
        return (Source("Slurm", slurm.read_text), text) if is_slurm else (None, None)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None, None
    if isinstance(document, dict) and kubernetes.is_listing(document):
        return Source("Kubernetes", kubernetes.read), document
    if isinstance(document, dict) and slurm.is_listing(document):
        return Source("Slurm", slurm.read), document
    if ray_nodes.is_listing(document):
        return Source("Ray", ray_nodes.read), document
    return None, None
