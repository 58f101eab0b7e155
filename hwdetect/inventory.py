"""`moeplan.inventory/1`: what a machine is, detected or described.

One type for both. A field that is None was never asked for; a fact without a value was asked for and could
not be had. Plain fields (index, key, status) are ours; everything read from a machine is a fact. Bytes are
int, rates are per second. Keys may be added, never renamed.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError, model_validator

from hwdetect.accelerators import (
    THROTTLE_FAULTS,
    EccErrors,
    Fabric,
    Gpu,
    GpuMemory,
    GpuRate,
    GpuStatus,
    GpuStatusCode,
    LinkKind,
    MigDevice,
    Nvlink,
    NvlinkLink,
    Pcie,
    RemappedRows,
    RemoteType,
)
from hwdetect.facts import (
    BoolFact,
    Fact,
    FloatFact,
    IntFact,
    IntsFact,
    Maybe,
    Model,
    Provenance,
    Text,
    TextFact,
    TextsFact,
    described,
    known,
    printable,
)
from hwdetect.host_parts import (
    Checkpoint,
    Cpu,
    Disk,
    DiskKind,
    HostMemory,
    KernelEvent,
    KernelLog,
    MemoryModule,
    MemoryModules,
    ModelFolder,
    Network,
    NumaNode,
    OperatingSystem,
    Software,
)

__all__ = [
    "SCHEMA",
    "THROTTLE_FAULTS",
    "BoolFact",
    "Checkpoint",
    "Cpu",
    "Disk",
    "DiskKind",
    "EccErrors",
    "Fabric",
    "Fact",
    "FloatFact",
    "Gpu",
    "GpuMemory",
    "GpuRate",
    "GpuStatus",
    "GpuStatusCode",
    "HostMemory",
    "IntFact",
    "IntsFact",
    "Inventory",
    "KernelEvent",
    "KernelLog",
    "LinkKind",
    "MemoryModule",
    "MemoryModules",
    "MigDevice",
    "ModelFolder",
    "Network",
    "Node",
    "NumaNode",
    "Nvlink",
    "NvlinkLink",
    "OperatingSystem",
    "Pcie",
    "Provenance",
    "RemappedRows",
    "RemoteType",
    "Software",
    "TextFact",
    "TextsFact",
    "described",
    "from_json",
    "known",
    "to_json",
]

SCHEMA: Literal["moeplan.inventory/1"] = "moeplan.inventory/1"


def _is_empty(value: object) -> bool:
    return value == ()


class Node(Model):
    """One machine. `environment` holds the device variables that are set, verbatim.

    gpu_rates: measured by a benchmark. bus_gpus: accelerators that the PCI bus shows, whatever drivers say. container:
    what this process runs in.
    """

    name: Text
    gpus: tuple[Gpu, ...] = ()
    gpu_status: GpuStatus
    gpu_rates: Annotated[tuple[GpuRate, ...], Field(exclude_if=_is_empty)] = ()
    driver_version: Maybe[TextFact] = None
    cuda_driver_version: Maybe[TextFact] = None
    cpu: Cpu = Field(default_factory=Cpu)
    memory: HostMemory = Field(default_factory=HostMemory)
    numa: tuple[NumaNode, ...] = ()
    disks: tuple[Disk, ...] = ()
    network_bytes_per_s: Maybe[FloatFact] = None
    network: Maybe[Network] = None
    bus_gpus: Maybe[IntFact] = None
    memory_modules: Maybe[MemoryModules] = None
    kernel_log: Maybe[KernelLog] = None
    software: tuple[Software, ...] = ()
    model_folder: Maybe[ModelFolder] = None
    container: Maybe[TextFact] = None
    os: OperatingSystem = Field(default_factory=OperatingSystem)
    environment: dict[Text, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _indices_differ(self) -> Self:
        if len({gpu.index for gpu in self.gpus}) < len(self.gpus):
            raise ValueError("two GPUs have the same index")
        return self


class Inventory(Model):
    """One or more nodes. collected_at is absent where a machine was only described."""

    # `from_json` demands the key, although a constructor need not give it.
    model_config = ConfigDict(json_schema_extra={"required": ["schema", "nodes"]})

    schema_id: Literal["moeplan.inventory/1"] = Field(default=SCHEMA, alias="schema")
    collected_at: Maybe[AwareDatetime] = None
    hostname: Maybe[Text] = None
    nodes: Annotated[tuple[Node, ...], Field(min_length=1)]
    notes: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({node.name for node in self.nodes}) < len(self.nodes):
            raise ValueError("two nodes have the same name")
        return self


def to_json(inventory: Inventory) -> str:
    """The inventory as JSON, one fact per line."""
    return _layout(inventory.model_dump(mode="json", by_alias=True), "")


def from_json(text: str) -> Inventory:
    """Read what `to_json` wrote, or a person did.

    Raises ValueError with one line that names the place and the problem.
    """
    try:
        inventory = Inventory.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"not a {SCHEMA}: {_first_problem(error)}") from None
    if "schema_id" not in inventory.model_fields_set:
        raise ValueError(f'not a {SCHEMA}: "schema" is missing')
    return inventory


def _first_problem(error: ValidationError) -> str:
    problem, *others = error.errors(include_url=False, include_context=False, include_input=False)
    place = ""
    for part in problem["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f"{'.' if place else ''}{printable(part)[:60]}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{place}: {problem['msg']}{more}" if place else f"{problem['msg']}{more}"


def _layout(value: object, indent: str) -> str:
    """JSON in which whatever holds only plain values, or lists of them, takes one line."""
    if _is_flat(value):
        return json.dumps(value)
    inner = indent + "  "
    if isinstance(value, dict):
        rows = [f"{json.dumps(key)}: {_layout(child, inner)}" for key, child in value.items()]
        opening, closing = "{}"
    else:
        rows = [_layout(child, inner) for child in _children(value)]
        opening, closing = "[]"
    body = ",\n".join(inner + row for row in rows)
    return f"{opening}\n{body}\n{indent}{closing}"


def _is_flat(value: object) -> bool:
    return not any(
        isinstance(child, dict) or any(isinstance(each, dict | list) for each in _children(child))
        for child in _children(value)
    )


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
