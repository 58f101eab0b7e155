"""What one node must have for a configuration of a plan."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

from planner.plan import Candidate, DeviceMemory, Plan

REPLAN: Final = "plan again on this machine (moeplan plan --inventory)"


class Needs(NamedTuple):
    """What one node must have for a candidate. Devices are those of the node that needs most."""

    plan: Plan
    candidate: Candidate
    gpus: tuple[DeviceMemory, ...]
    host: DeviceMemory | None
    indices: tuple[int, ...] | None
    """The driver's numbers of the GPUs where the launch names them."""
    joined: bool
    """Whether the GPUs were planned with NVLink between them."""

    @property
    def parts_of_gpus(self) -> bool:
        """Whether the plan is for MIG devices, which their names say."""
        return any(" MIG " in device.name for device in self.gpus)

    def argument(self, flag: str) -> str | None:
        """The value of a flag of the launch."""
        return next((value for name, value in pairwise(self.candidate.launch.argv) if name == flag), None)


def needs_of(plan: Plan, candidate: Candidate) -> Needs:
    """What a node must have. Any node may have to take any other's place, so the greatest need of a node counts."""
    nodes: dict[int, list[DeviceMemory]] = {}
    for device in candidate.memory.devices:
        nodes.setdefault(device.node, []).append(device)
    worst = max(nodes.values(), key=lambda devices: max(high_bytes(device) for device in devices), default=[])
    gpus = tuple(device for device in worst if device.kind in ("gpu", "unified"))
    host = next((device for device in worst if device.kind == "host"), None)
    listed = candidate.launch.env.get("CUDA_VISIBLE_DEVICES", "")
    numbers = listed.split(",")
    indices = (
        tuple(map(int, numbers)) if listed and all(part.isascii() and part.isdigit() for part in numbers) else None
    )
    planned = plan.inventory.get("nodes")
    first = planned[0] if isinstance(planned, list) and planned and isinstance(planned[0], dict) else {}
    links = [gpu.get("link_kind") for gpu in first.get("gpus", []) if isinstance(gpu, dict)]
    return Needs(plan, candidate, gpus, host, indices, len(gpus) > 1 and "nvlink" in links)


def low_bytes(device: DeviceMemory) -> int:
    """The least that the ledger of a device comes to."""
    return sum(entry.low_bytes for entry in device.ledger)


def high_bytes(device: DeviceMemory) -> int:
    """The most that the ledger of a device comes to."""
    return sum(entry.high_bytes for entry in device.ledger)
