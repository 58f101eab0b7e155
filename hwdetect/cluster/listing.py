"""What the readers of all schedulers share: nodes with GPUs of a kind, and careful access to foreign values."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from hwdetect.facts import FloatFact, IntFact, TextFact, printable
from hwdetect.inventory import Cpu, Gpu, GpuMemory, GpuStatus, HostMemory, Node

MAX_GPUS: Final = 128
"""GPUs of one node; a larger number is a mistake."""
_QUANTITY = re.compile(r"([0-9]{1,19})(?:\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P|m)?", re.ASCII)
_UNITS: Final = {
    None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "k": 10**3, "M": 10**6,
    "G": 10**9, "T": 10**12, "P": 10**15,
}  # fmt: skip


class Listing(NamedTuple):
    """The nodes that a scheduler offers, and why others are left out."""

    nodes: tuple[Node, ...]
    notes: tuple[str, ...]


class Described(NamedTuple):
    """GPUs of one node as a scheduler tells of them: ``present`` of a kind, ``usable`` of which it hands out."""

    name: str
    present: int
    usable: int
    memory_bytes: int | None
    source: str
    vendor: str = "nvidia"
    compute_capability: str | None = None
    link: bool | None = None


def node_of(
    name: str,
    gpus: list[Described],
    *,
    source: str,
    cores: float | None = None,
    memory_bytes: int | None = None,
    driver: str | None = None,
) -> Node:
    """One node. Memory and cores are what the scheduler gives out; bytes, and cores as it counts them."""
    members: list[Gpu] = []
    for kind in gpus:
        members += [_gpu(len(members) + i, kind, broken=i >= kind.usable) for i in range(kind.present)]
    count = f"{len(members)} by {source}"
    return Node(
        name=printable(name),
        gpus=tuple(members),
        gpu_status=GpuStatus(code="ok" if members else "no_devices", detail=count),
        driver_version=TextFact.reported(printable(driver), source) if driver else None,
        cpu=Cpu(usable_cores=FloatFact.reported(cores, source) if cores else None),
        memory=HostMemory(
            total_bytes=IntFact.reported(memory_bytes, source) if memory_bytes else None,
            usable_bytes=IntFact.reported(memory_bytes, source) if memory_bytes else None,
        ),
    )


def _gpu(index: int, kind: Described, *, broken: bool) -> Gpu:
    memory = kind.memory_bytes
    capability = kind.compute_capability
    return Gpu(
        index=index,
        name=TextFact.reported(printable(kind.name), kind.source),
        vendor=kind.vendor,
        memory=GpuMemory(total_bytes=IntFact.reported(memory, kind.source)) if memory else None,
        compute_capability=TextFact.reported(capability, kind.source) if capability else None,
        status="error" if broken else "ok",
        status_detail="the scheduler does not hand it out" if broken else None,
    )


def quantity(value: object) -> int | None:
    """A Kubernetes quantity as a whole number; None for anything else.

    >>> quantity("2113293012Ki"), quantity("8"), quantity(8), quantity("eight"), quantity("1500m")
    (2164012044288, 8, 8, None, 1)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if 0 <= value < 1 << 62 else None
    found = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return None
    size = int(found[1])
    size = size // 1000 if found[2] == "m" else size * _UNITS[found[2]]
    return size if size < 1 << 62 else None


def cores(value: object) -> float | None:
    """Cores of a Kubernetes quantity, fractions kept.

    >>> cores("191900m"), cores("192"), cores("many")
    (191.9, 192.0, None)
    """
    if isinstance(value, str) and value.endswith("m") and value[:-1].isascii() and value[:-1].isdigit():
        return int(value[:15].removesuffix("m")) / 1000
    size = quantity(value)
    return None if size is None or size > 1_000_000 else float(size)


def count(value: object) -> int:
    """A number of GPUs; 0 for what is none, or cannot be one."""
    size = quantity(value)
    return size if size is not None and size <= MAX_GPUS else 0


def table(value: object) -> dict[str, Any]:
    """The value if it is an object with text keys, else an empty one."""
    return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else {}


def rows(value: object) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def text(value: object) -> str:
    """The value if it is text, without blanks around it, else ""."""
    return printable(value.strip()) if isinstance(value, str) else ""


def distinct(nodes: list[Node], notes: list[str]) -> Listing:
    """The nodes, each name once; a second one of a name is left out with a note."""
    known: dict[str, Node] = {}
    for node in nodes:
        if node.name in known:
            notes.append(f"{node.name} is listed twice; the second is left out")
        else:
            known[node.name] = node
    return Listing(tuple(known.values()), tuple(notes))
