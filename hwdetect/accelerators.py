"""What an inventory says of an accelerator. Everything read from a machine is a fact; index and status are ours."""

from __future__ import annotations

from typing import Literal

from hwdetect.facts import (
    BoolFact,
    FloatFact,
    IntFact,
    Maybe,
    Model,
    Natural,
    Text,
    TextFact,
    TextsFact,
)

GpuStatusCode = Literal[
    "ok", "no_library", "driver_not_loaded", "version_mismatch", "no_permission", "no_devices", "error"
]
RemoteType = Literal["gpu", "switch", "ibm_npu", "unknown"]
LinkKind = Literal["nvlink", "xgmi", "pcie", "none"]

THROTTLE_FAULTS = frozenset({"hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})
"""Names in `Gpu.throttle_reasons` that mean a fault. Idle and the software power cap are everyday states."""


class GpuMemory(Model):
    """total = reserved (by the driver) + used + free. A plan has total - reserved - used_by_others.

    Where an old driver does not tell the reserve apart, it is missing and counted as used. wired_limit_bytes: the
    most of unified memory that the GPU may take, where somebody set it.
    """

    total_bytes: Maybe[IntFact] = None
    reserved_bytes: Maybe[IntFact] = None
    used_by_others_bytes: Maybe[IntFact] = None
    free_bytes: Maybe[IntFact] = None
    wired_limit_bytes: Maybe[IntFact] = None


class MigDevice(Model):
    """One MIG device. Those with the same `gpu_instance_id` share one memory.

    compute_slices: slices of compute of its GPU instance, of the seven that a GPU is cut into.
    """

    index: Natural
    uuid: Maybe[TextFact] = None
    name: Maybe[TextFact] = None
    gpu_instance_id: Maybe[IntFact] = None
    compute_instance_id: Maybe[IntFact] = None
    multiprocessors: Maybe[IntFact] = None
    compute_slices: Maybe[IntFact] = None
    memory: Maybe[GpuMemory] = None
    visible: Maybe[BoolFact] = None


class Pcie(Model):
    """The PCI Express link. Width can be trusted when idle; generation falls at idle and is true under load.

    max_*: the most that GPU and system allow together; card_*: what the card itself can do; slot_*: what the
    bridge above offers.
    device_id and subsystem_id: vendor:device in hex.
    """

    bus_id: Maybe[TextFact] = None
    device_id: Maybe[TextFact] = None
    subsystem_id: Maybe[TextFact] = None
    generation: Maybe[IntFact] = None
    width: Maybe[IntFact] = None
    max_generation: Maybe[IntFact] = None
    max_width: Maybe[IntFact] = None
    card_generation: Maybe[IntFact] = None
    card_width: Maybe[IntFact] = None
    slot_generation: Maybe[IntFact] = None
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


class EccErrors(Model):
    """Memory errors. volatile: since the driver was loaded; aggregate: over the life of the card."""

    volatile_corrected: Maybe[IntFact] = None
    volatile_uncorrected: Maybe[IntFact] = None
    aggregate_corrected: Maybe[IntFact] = None
    aggregate_uncorrected: Maybe[IntFact] = None


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
    performance_state: 0 is the fastest; at work it is 0 to 2. temperature_margin_c: degrees left before the GPU
    slows itself down. compute_processes: of others, now. partition: how an AMD accelerator is cut, compute and
    memory mode.
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
    ecc_errors: Maybe[EccErrors] = None
    mig: Maybe[BoolFact] = None
    mig_pending: Maybe[BoolFact] = None
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
    performance_state: Maybe[IntFact] = None
    remapped_rows: Maybe[RemappedRows] = None
    retired_pages_pending: Maybe[BoolFact] = None
    retired_pages: Maybe[IntFact] = None
    temperature_c: Maybe[FloatFact] = None
    temperature_margin_c: Maybe[FloatFact] = None
    inforom_valid: Maybe[BoolFact] = None
    vbios_version: Maybe[TextFact] = None
    compute_processes: Maybe[IntFact] = None
    partition: Maybe[TextFact] = None


class GpuRate(Model):
    """A rate that a benchmark measured on one of the GPUs that `device` names.

    kernel: `memory_read`, `host_to_device` or `gpu_to_gpu`.
    """

    device: Text
    kernel: Text
    bytes_per_s: FloatFact


class GpuStatus(Model):
    """How the search for GPUs ended. `no_devices` is a normal answer; so is a machine with no library."""

    code: GpuStatusCode
    detail: Text
