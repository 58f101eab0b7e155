"""Rates that a benchmark measured on a machine, at their places in its inventory. Nothing is timed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hwdetect.accelerators import GpuRate
from hwdetect.facts import FloatFact
from hwdetect.host_parts import Disk
from hwdetect.inventory import Inventory


def with_rates(
    inventory: Inventory,
    *,
    memory: FloatFact | None,
    disks: Mapping[str, FloatFact],
    gpus: Sequence[GpuRate],
    notes: Sequence[str] = (),
) -> Inventory:
    """The inventory of one machine with what was measured there: of main memory, of disks by mount point, of GPUs."""
    (node,) = inventory.nodes
    changed = node.model_copy(
        update={
            "memory": node.memory
            if memory is None
            else node.memory.model_copy(update={"bandwidth_bytes_per_s": memory}),
            "disks": tuple(
                disk.model_copy(update={"read_bytes_per_s": disks[disk.mount]})
                if disk.mount is not None and disk.mount in disks
                else disk
                for disk in node.disks
            ),
            "gpu_rates": tuple(gpus),
        }
    )
    return inventory.model_copy(update={"nodes": (changed,), "notes": (*inventory.notes, *notes)})


def disk_of(folder: Path, disks: Sequence[Disk]) -> Disk | None:
    """The file system that a folder lies on: the one with the longest mount point above it."""
    real = folder.resolve()
    holding = [disk for disk in disks if disk.mount is not None and real.is_relative_to(disk.mount)]
    return max(holding, key=lambda disk: len(disk.mount or ""), default=None)
