"""`kubectl get nodes -o json`: labels of GPU feature discovery or of AMD's node labeller, and allocatable resources.

Sources: NVIDIA k8s-device-plugin docs/gpu-feature-discovery (labels), AMD k8s-device-plugin docs/user-guide (labels);
kubernetes.io/docs/reference/node/node-status (conditions, allocatable).
"""

from __future__ import annotations

from typing import Any, Final

from hwdetect.cluster.listing import Described, Listing, cores, count, distinct, node_of, quantity, rows, table, text
from hwdetect.inventory import Node

NVIDIA: Final = "nvidia.com/"
AMD: Final = "amd.com/"
_MEBI: Final = 1 << 20


def is_listing(document: dict[str, Any]) -> bool:
    """Whether this is a list of nodes, or one node."""
    if document.get("kind") == "Node":
        return True
    items = rows(document.get("items"))
    return document.get("kind") in ("List", "NodeList") and all(item.get("kind", "Node") == "Node" for item in items)


def read(document: dict[str, Any]) -> Listing:
    """Nodes that are ready and take work; the others are noted."""
    items = [document] if document.get("kind") == "Node" else rows(document.get("items"))
    nodes: list[Node] = []
    notes: list[str] = []
    for number, item in enumerate(items):
        name = text(table(item.get("metadata")).get("name")) or f"node{number}"
        why = _unusable(item)
        if why:
            notes.append(f"{name} is left out: {why}")
        else:
            nodes.append(_node(name, item, notes))
    return distinct(nodes, notes)


def _unusable(item: dict[str, Any]) -> str:
    if table(item.get("spec")).get("unschedulable") is True:
        return "it is cordoned"
    conditions = rows(table(item.get("status")).get("conditions"))
    ready = [row.get("status") for row in conditions if row.get("type") == "Ready"]
    return "" if ready == ["True"] else "it is not ready"


def _node(name: str, item: dict[str, Any], notes: list[str]) -> Node:
    labels = table(table(item.get("metadata")).get("labels"))
    allocatable = table(table(item.get("status")).get("allocatable"))
    gpus = [kind for kind in (_nvidia(name, labels, allocatable, notes), _amd(labels, allocatable)) if kind]
    driver = text(labels.get(f"{NVIDIA}cuda.driver-version.full"))
    if not driver:
        parts = [text(labels.get(f"{NVIDIA}cuda.driver.{part}")) for part in ("major", "minor", "rev")]
        driver = ".".join(part for part in parts if part)
    return node_of(
        name,
        gpus,
        source="Kubernetes allocatable",
        cores=cores(allocatable.get("cpu")),
        memory_bytes=quantity(allocatable.get("memory")),
        driver=driver or None,
    )


def _nvidia(name: str, labels: dict[str, Any], allocatable: dict[str, Any], notes: list[str]) -> Described | None:
    product, present = text(labels.get(f"{NVIDIA}gpu.product")), count(labels.get(f"{NVIDIA}gpu.count"))
    usable = count(allocatable.get(f"{NVIDIA}gpu"))
    if "-MIG-" in product or text(labels.get(f"{NVIDIA}mig.strategy")) == "mixed":
        notes.append(f"{name}: its GPUs are divided into MIG parts and are left out")
        return None
    if not product:
        if usable:
            notes.append(f"{name}: {usable} GPUs without labels of GPU feature discovery are left out")
        return None
    mebibytes = quantity(labels.get(f"{NVIDIA}gpu.memory"))
    major, minor = (text(labels.get(f"{NVIDIA}gpu.compute.{part}")) for part in ("major", "minor"))
    capability = f"{major}.{minor}" if major.isdigit() and minor.isdigit() else None
    return Described(
        product, max(present, usable), usable, mebibytes * _MEBI if mebibytes else None,
        f"{NVIDIA}gpu.* labels", compute_capability=capability,
    )  # fmt: skip


def _amd(labels: dict[str, Any], allocatable: dict[str, Any]) -> Described | None:
    usable = count(allocatable.get(f"{AMD}gpu"))
    product = text(labels.get(f"{AMD}gpu.product-name"))
    if not usable or not product:
        return None
    memory = quantity(text(labels.get(f"{AMD}gpu.vram")).replace("G", "Gi"))
    return Described(product, usable, usable, memory, f"{AMD}gpu.* labels", vendor="amd")
