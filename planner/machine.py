"""The hardware as plain numbers, built once from an inventory and then only read by the search."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Gpu(NamedTuple):
    """One accelerator. ``visible`` is what an engine's runtime sees of ``capacity``, with its range.

    Rates are per second; ``flops`` maps a number format to dense operations per second. ``link_bytes_per_s`` is one
    direction of the GPU-to-GPU link inside a node.
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
        """GPUs of one kind that appear alike on nodes: tensor parallelism wants equals."""
        found: dict[tuple[str, int], list[tuple[int, int]]] = {}
        kinds: dict[tuple[str, int], Gpu] = {}
        for node_index, node in enumerate(self.nodes):
            counts: dict[tuple[str, int], int] = {}
            for gpu in node.gpus:
                kind = (gpu.key, gpu.visible)
                counts[kind] = counts.get(kind, 0) + 1
                kinds[kind] = gpu
            for kind, count in counts.items():
                found.setdefault(kind, []).append((node_index, count))
        return tuple(
            [
                GpuGroup(kinds[kind], min(count for _, count in places), tuple(node for node, _ in places))
                for kind, places in found.items()
            ]
        )


class GpuGroup(NamedTuple):
    """``per_node`` equal GPUs on each of ``nodes``."""

    gpu: Gpu
    per_node: int
    nodes: tuple[int, ...]

    @property
    def size(self) -> int:
        """GPUs in the group."""
        return self.per_node * len(self.nodes)
