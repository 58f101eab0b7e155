"""A real Ray cluster of several nodes on this machine; without MOEPLAN_CLUSTER nothing here is collected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.support.ray_cluster import RayCluster

collect_ignore_glob = [] if os.environ.get("MOEPLAN_CLUSTER") else ["*"]

NODES = 3
START_S = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head and two more nodes with one CPU each, all of them up, on the loopback; RAY_ADDRESS leads to it."""
    # Ray has partial type information, where it is installed at all.
    found = import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        assert found.address.startswith("127.0.0.1:"), found.address
        for _ in range(NODES - 1):
            found.add_node(num_cpus=1)
        found.wait_for_nodes(timeout=START_S)
        os.environ["RAY_ADDRESS"] = found.address
        yield found
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        found.shutdown()
