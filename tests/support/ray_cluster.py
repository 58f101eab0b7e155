"""What the tests use of ``ray.cluster_utils.Cluster``."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol


class RayCluster(Protocol):
    """Nodes of one cluster, all on this machine."""

    @property
    def worker_nodes(self) -> Set[object]:
        """Every node but the head."""
        ...

    def remove_node(self, node: object, allow_graceful: bool) -> None:
        """Take a node away; without grace its processes are killed."""
        ...
