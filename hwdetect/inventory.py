"""`moeplan.inventory/1`: what a machine is, detected or described.

One type for both. A field that is None was never asked for; a fact without a value was asked for and could
not be had. Plain fields (index, key, status) are ours; everything read from a machine is a fact. Bytes are
int, rates are per second. Keys may be added, never renamed.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError, model_validator

from hwdetect.facts import (
    BoolFact,
    Fact,
    FloatFact,
    IntFact,
    Maybe,
    Model,
    Natural,
    Provenance,
    Text,
    TextFact,
    TextsFact,
    described,
    known,
    printable,
)

__all__ = [
    "SCHEMA",
    "THROTTLE_FAULTS",
    "BoolFact",
    "Cpu",
    "Disk",
    "Fabric",
    "Fact",
    "FloatFact",
    "Gpu",
    "GpuMemory",
    "GpuStatus",
    "GpuStatusCode",
    "HostMemory",
    "IntFact",
    "Inventory",
    "LinkKind",
    "MigDevice",
    "Node",
    "NumaNode",
    "Nvlink",
    "NvlinkLink",
    "OperatingSystem",
    "Pcie",
    "Provenance",
    "RemappedRows",
    "RemoteType",
    "TextFact",
    "TextsFact",
    "described",
    "from_json",
    "known",
    "to_json",
]

SCHEMA: Literal["moeplan.inventory/1"] = "moeplan.inventory/1"

GpuStatusCode = Literal[
    "ok", "no_library", "driver_not_loaded", "version_mismatch", "no_permission", "no_devices", "error"
]
RemoteType = Literal["gpu", "switch", "ibm_npu", "unknown"]
LinkKind = Literal["nvlink", "xgmi", "pcie", "none"]

THROTTLE_FAULTS = frozenset({"hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})
"""Names in `Gpu.throttle_reasons` that mean a fault. Idle and the software power cap are everyday states."""


class GpuMemory(Model):
    """total = reserved (by the driver) + used + free. A plan has total - reserved - used_by_others.

    Where an old driver does not tell the reserve apart, it is missing and counted as used.
    """

    total_bytes: Maybe[IntFact] = None
    reserved_bytes: Maybe[IntFact] = None
    used_by_others_bytes: Maybe[IntFact] = None
    free_bytes: Maybe[IntFact] = None


class MigDevice(Model):
    """One MIG device. Those with the same `gpu_instance_id` share one memory."""

    index: Natural
    uuid: Maybe[TextFact] = None
    name: Maybe[TextFact] = None
    gpu_instance_id: Maybe[IntFact] = None
    compute_instance_id: Maybe[IntFact] = None
    multiprocessors: Maybe[IntFact] = None
    memory: Maybe[GpuMemory] = None
    visible: Maybe[BoolFact] = None


class Pcie(Model):
    """The PCI Express link. Width can be trusted when idle; generation falls at idle and is true under load.

    max_*: the most that GPU and system allow together; slot_width: what the bridge above offers.
    device_id and subsystem_id: vendor:device in hex.
    """

    bus_id: Maybe[TextFact] = None
    device_id: Maybe[TextFact] = None
    subsystem_id: Maybe[TextFact] = None
    generation: Maybe[IntFact] = None
    width: Maybe[IntFact] = None
    max_generation: Maybe[IntFact] = None
    max_width: Maybe[IntFact] = None
    slot_width: Maybe[IntFact] = None
    numa_node: Maybe[IntFact] = None


class NvlinkLink(Model):
    """One NVLink port. `reason` says why a field that should be there is not."""

    index: Natural
    active: Maybe[bool] = None
    version: Maybe[Natural] = None
    remote_type: Maybe[RemoteType] = None
    remote_bus_id: Maybe[Text] = None
    reason: Maybe[Text] = None


class Nvlink(Model):
    """The links the GPU has, and how many are up (missing if one of them could not be read)."""

    links: tuple[NvlinkLink, ...] = ()
    active_count: Maybe[IntFact] = None


class Fabric(Model):
    """The NVSwitch fabric. state: not_supported, not_started, in_progress, or completed with its status."""

    state: Maybe[TextFact] = None
    status: Maybe[TextFact] = None
    clique: Maybe[IntFact] = None
    cluster_uuid: Maybe[TextFact] = None


class RemappedRows(Model):
    """Row remapping: `pending` asks for a reset, `failure` for a replacement."""

    correctable: Maybe[IntFact] = None
    uncorrectable: Maybe[IntFact] = None
    pending: Maybe[BoolFact] = None
    failure: Maybe[BoolFact] = None


class Gpu(Model):
    """One accelerator as the driver counts them.

    key: the hardware fact it was matched with, filled by whoever matches. kind: `unified` shares the host's
    memory. bandwidth_bytes_per_s: of its memory. memory_numa_node: where the GPU's own memory is a NUMA node,
    and so is counted in the host's total too. visible: whether CUDA_VISIBLE_DEVICES lets CUDA see it.
    """

    index: Natural
    uuid: Maybe[TextFact] = None
    name: Maybe[TextFact] = None
    vendor: Maybe[Text] = None
    key: Maybe[Text] = None
    kind: Literal["gpu", "unified"] = "gpu"
    status: Literal["ok", "lost", "error"] = "ok"
    status_detail: Maybe[Text] = None
    visible: Maybe[BoolFact] = None
    memory: Maybe[GpuMemory] = None
    bandwidth_bytes_per_s: Maybe[FloatFact] = None
    compute_capability: Maybe[TextFact] = None
    ecc: Maybe[BoolFact] = None
    ecc_pending: Maybe[BoolFact] = None
    mig: Maybe[BoolFact] = None
    mig_devices: tuple[MigDevice, ...] = ()
    vgpu_mode: Maybe[TextFact] = None
    memory_numa_node: Maybe[IntFact] = None
    link_kind: Maybe[LinkKind] = None
    pcie: Maybe[Pcie] = None
    nvlink: Maybe[Nvlink] = None
    fabric: Maybe[Fabric] = None
    power_limit_w: Maybe[FloatFact] = None
    default_power_limit_w: Maybe[FloatFact] = None
    persistence: Maybe[BoolFact] = None
    compute_mode: Maybe[TextFact] = None
    throttle_reasons: Maybe[TextsFact] = None
    remapped_rows: Maybe[RemappedRows] = None
    retired_pages_pending: Maybe[BoolFact] = None


class GpuStatus(Model):
    """How the search for GPUs ended. `no_devices` is a normal answer; so is a machine with no library."""

    code: GpuStatusCode
    detail: Text


class HostMemory(Model):
    """Main memory. usable_bytes = min(total less huge pages and GPU memory, cgroup limit).

    memlock_bytes: the soft limit on locked memory. shm_*: /dev/shm, which collective libraries use.
    """

    total_bytes: Maybe[IntFact] = None
    available_bytes: Maybe[IntFact] = None
    cgroup_limit_bytes: Maybe[IntFact] = None
    cgroup_used_bytes: Maybe[IntFact] = None
    usable_bytes: Maybe[IntFact] = None
    swap_total_bytes: Maybe[IntFact] = None
    swap_free_bytes: Maybe[IntFact] = None
    cgroup_swap_limit_bytes: Maybe[IntFact] = None
    hugepages_total: Maybe[IntFact] = None
    hugepages_free: Maybe[IntFact] = None
    hugepage_size_bytes: Maybe[IntFact] = None
    hugetlb_bytes: Maybe[IntFact] = None
    transparent_hugepages: Maybe[TextFact] = None
    memlock_bytes: Maybe[IntFact] = None
    shm_total_bytes: Maybe[IntFact] = None
    shm_free_bytes: Maybe[IntFact] = None
    bandwidth_bytes_per_s: Maybe[FloatFact] = None


class Cpu(Model):
    """The processors of one node together.

    flags: those of `host_cpu.FLAGS` that the kernel lists. usable_cores: physical cores this process may run
    on, or the cgroup quota where that is less.
    """

    model: Maybe[TextFact] = None
    vendor: Maybe[TextFact] = None
    sockets: Maybe[IntFact] = None
    physical_cores: Maybe[IntFact] = None
    logical_cpus: Maybe[IntFact] = None
    affinity_cpus: Maybe[IntFact] = None
    cpuset: Maybe[TextFact] = None
    cgroup_quota_cores: Maybe[FloatFact] = None
    usable_cores: Maybe[FloatFact] = None
    flags: Maybe[TextsFact] = None


class NumaNode(Model):
    """A memory node. Without CPUs it may be a GPU's memory (`gpu_index`) or an expander; memory may be 0."""

    index: Natural
    cpus: Maybe[TextFact] = None
    cpu_count: Maybe[IntFact] = None
    memory_total_bytes: Maybe[IntFact] = None
    memory_free_bytes: Maybe[IntFact] = None
    distances: tuple[Natural, ...] = ()
    gpu_index: Maybe[Natural] = None


class Disk(Model):
    """A mounted file system. read_bytes_per_s: sequential, measured or described."""

    mount: Maybe[Text] = None
    device: Maybe[Text] = None
    fstype: Maybe[Text] = None
    total_bytes: Maybe[IntFact] = None
    free_bytes: Maybe[IntFact] = None
    free_inodes: Maybe[IntFact] = None
    read_bytes_per_s: Maybe[FloatFact] = None


class OperatingSystem(Model):
    """As `uname` and os-release name it."""

    system: Maybe[Text] = None
    kernel: Maybe[Text] = None
    architecture: Maybe[Text] = None
    distribution: Maybe[Text] = None


class Node(Model):
    """One machine. `environment` holds the device variables that are set, verbatim."""

    name: Text
    gpus: tuple[Gpu, ...] = ()
    gpu_status: GpuStatus
    driver_version: Maybe[TextFact] = None
    cuda_driver_version: Maybe[TextFact] = None
    cpu: Cpu = Field(default_factory=Cpu)
    memory: HostMemory = Field(default_factory=HostMemory)
    numa: tuple[NumaNode, ...] = ()
    disks: tuple[Disk, ...] = ()
    network_bytes_per_s: Maybe[FloatFact] = None
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
