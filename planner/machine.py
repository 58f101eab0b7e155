"""The hardware as plain numbers, built once from an inventory and then only read by the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

VISIBLE_TOLERANCE: Final = 0.02
"""Share of the capacity by which GPUs of a group may differ; the group counts with the least of them."""


class Gpu(NamedTuple):
    """One accelerator. ``visible`` is what an engine's runtime sees of ``capacity``, with its range.

    Rates are per second; ``flops`` maps a number format to dense operations per second. ``link_bytes_per_s`` is one
    direction of the GPU-to-GPU link inside a node. ``driver_index`` is the driver's number of the device on its node.
    ``occupied`` is what other processes hold of the GPU, which ``visible`` no longer counts.
    """

    key: str
    name: str
    vendor: str
    capacity: int
    visible: int
    visible_low: int
    visible_high: int
    visible_source: str
    bandwidth: float
    flops: dict[str, float]
    compute_capability: str
    link: Literal["nvlink", "pcie"]
    link_bytes_per_s: float
    pcie_bytes_per_s: float
    unified: bool
    memory_source: str
    driver_index: int = 0
    occupied: int = 0

    @property
    def cuda(self) -> float | None:
        """CUDA compute capability as a number; None for other vendors."""
        if self.vendor != "nvidia":
            return None
        try:
            return float(self.compute_capability)
        except ValueError:
            return None


class Host(NamedTuple):
    """CPU and RAM of a node. None is unknown. ``bandwidth`` is nominal or measured bytes per second, as labelled."""

    ram: int | None
    ram_source: str
    bandwidth: float | None
    bandwidth_source: str
    cores: int | None
    sockets: int
    flags: frozenset[str]
    name: str


class Disk(NamedTuple):
    """Free bytes and sequential read rate of the disk that holds the weights; None is unknown."""

    free: int | None
    read_bytes_per_s: float | None
    source: str


class Node(NamedTuple):
    """One machine."""

    gpus: tuple[Gpu, ...]
    host: Host
    disk: Disk


class Machine(NamedTuple):
    """All nodes and the network between them (bytes per second in one direction; None unknown)."""

    nodes: tuple[Node, ...]
    network_bytes_per_s: float | None
    source: Literal["flags", "detected", "file"]
    notes: tuple[str, ...] = ()

    def groups(self) -> tuple[GpuGroup, ...]:
        """GPUs of one kind that appear alike on nodes: tensor parallelism wants equals.

        Nodes with different numbers of a kind give one group per number, over all nodes that have so many.
        """
        found = []
        for alike in _alike([gpu for node in self.nodes for gpu in node.gpus]):
            keys = {(gpu.key, gpu.visible) for gpu in alike}
            places = {
                number: [gpu for gpu in node.gpus if (gpu.key, gpu.visible) in keys]
                for number, node in enumerate(self.nodes)
            }
            for count in dict.fromkeys(len(gpus) for gpus in places.values() if gpus):
                nodes = tuple([number for number, gpus in places.items() if len(gpus) >= count])
                indices = tuple([gpu.driver_index for gpu in places[nodes[0]][:count]])
                found.append(GpuGroup(min(alike, key=lambda gpu: gpu.visible), count, nodes, indices))
        return tuple(found)


def _alike(gpus: Sequence[Gpu]) -> list[list[Gpu]]:
    """GPUs of one kind whose visible memory differs by no more than what a display or a monitor takes."""
    classes: list[list[Gpu]] = []
    for kind in dict.fromkeys(gpu.key for gpu in gpus):
        distinct = {gpu.visible: gpu for gpu in gpus if gpu.key == kind}
        members: list[Gpu] = []
        for visible in sorted(distinct, reverse=True):
            if members and members[0].visible - visible > VISIBLE_TOLERANCE * members[0].capacity:
                classes.append(members)
                members = []
            members.append(distinct[visible])
        classes.append(members)
    return classes


class GpuGroup(NamedTuple):
    """``per_node`` equal GPUs on each of ``nodes``; ``indices`` are the driver's numbers of them on the first node."""

    gpu: Gpu
    per_node: int
    nodes: tuple[int, ...]
    indices: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """GPUs in the group."""
        return self.per_node * len(self.nodes)
