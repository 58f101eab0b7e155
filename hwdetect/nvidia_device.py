"""What NVML says of one GPU, asked field by field.

Every field is its own call, and every call may fail alone: not supported by the card, not in this driver,
unknown. Such a field is missing with its reason and never 0. Bytes, watts; names are NVML's in lower case.
"""

from __future__ import annotations

from pathlib import Path

from hwdetect.accelerators import Gpu, GpuMemory, MigDevice
from hwdetect.facts import BoolFact, FloatFact, IntFact, TextFact, known, printable
from hwdetect.host_memory import meminfo
from hwdetect.nvidia_health import (
    compute_processes,
    ecc_errors,
    inforom_valid,
    performance_state,
    remapped_rows,
    retired_pages,
    temperature,
    throttle_reasons,
)
from hwdetect.nvidia_links import fabric, link_kind, nvlinks, pcie_link
from hwdetect.nvml_handle import Handle, NotGiven, choice, watts

INTEGRATED_NAMES = frozenset({"NVIDIA GB10", "NVIDIA Thor"})
"""GPUs without memory of their own. Only these get the host's: elsewhere a missing total is a fault."""

_VGPU_MODES = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host_vgpu", 4: "host_vsga"}
_COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}


def read_gpu(handle: Handle, index: int, root: Path = Path("/")) -> Gpu:
    """Everything NVML and sysfs say of this GPU. A GPU that goes missing on the way is `lost`."""
    name = handle.fact(TextFact, "nvmlDeviceGetName", printable)
    integrated = known(name) in INTEGRATED_NAMES
    mig = handle.fact(BoolFact, "nvmlDeviceGetMigMode", lambda modes: modes[0] == 1)
    pcie, nvlink = pcie_link(handle, root), nvlinks(handle)
    degrees, margin = temperature(handle)
    gpu = Gpu(
        index=index,
        uuid=handle.fact(TextFact, "nvmlDeviceGetUUID", printable),
        name=name,
        vendor="nvidia",
        kind="unified" if integrated else "gpu",
        memory=_unified_memory(root) if integrated else gpu_memory(handle),
        compute_capability=handle.fact(
            TextFact, "nvmlDeviceGetCudaComputeCapability", lambda pair: f"{pair[0]}.{pair[1]}"
        ),
        ecc=handle.fact(BoolFact, "nvmlDeviceGetEccMode", lambda modes: modes[0] == 1),
        ecc_pending=handle.fact(BoolFact, "nvmlDeviceGetEccMode", lambda modes: modes[1] == 1),
        ecc_errors=ecc_errors(handle),
        mig=mig,
        mig_pending=handle.fact(BoolFact, "nvmlDeviceGetMigMode", lambda modes: modes[1] == 1),
        mig_devices=_mig_devices(handle) if known(mig) else (),
        vgpu_mode=handle.fact(TextFact, "nvmlDeviceGetVirtualizationMode", choice(_VGPU_MODES)),
        memory_numa_node=handle.fact(IntFact, "nvmlDeviceGetNumaNodeId"),
        link_kind="none" if integrated else link_kind(pcie, nvlink),
        pcie=pcie,
        nvlink=nvlink,
        fabric=fabric(handle),
        power_limit_w=handle.fact(FloatFact, "nvmlDeviceGetPowerManagementLimit", watts),
        default_power_limit_w=handle.fact(FloatFact, "nvmlDeviceGetPowerManagementDefaultLimit", watts),
        persistence=handle.fact(BoolFact, "nvmlDeviceGetPersistenceMode", lambda mode: mode == 1),
        compute_mode=handle.fact(TextFact, "nvmlDeviceGetComputeMode", choice(_COMPUTE_MODES)),
        throttle_reasons=throttle_reasons(handle),
        performance_state=handle.fact(IntFact, "nvmlDeviceGetPerformanceState", performance_state),
        remapped_rows=remapped_rows(handle),
        retired_pages_pending=handle.fact(
            BoolFact, "nvmlDeviceGetRetiredPagesPendingStatus", lambda pending: pending == 1
        ),
        retired_pages=retired_pages(handle),
        temperature_c=degrees,
        temperature_margin_c=margin,
        inforom_valid=inforom_valid(handle),
        vbios_version=handle.fact(TextFact, "nvmlDeviceGetVbiosVersion", printable),
        compute_processes=compute_processes(handle),
    )
    if handle.lost:
        return gpu.model_copy(update={"status": "lost", "status_detail": "the GPU was lost during the scan"})
    return gpu


def gpu_memory(handle: Handle) -> GpuMemory:
    """Version 2 keeps the driver's reserve apart; version 1 counts it as used, so the reserve is unknown."""
    function = "nvmlDeviceGetMemoryInfo_v2"
    reserved = None
    try:
        memory = handle.ask("nvmlDeviceGetMemoryInfo", handle.nvml.nvmlMemory_v2)
        reserved = IntFact.reported(memory.reserved, f"{function}.reserved")
    except NotGiven as error:
        reserved = IntFact.missing(f"{function}.reserved", str(error))
        function = "nvmlDeviceGetMemoryInfo"
        try:
            memory = handle.ask(function)
        except NotGiven as also:
            missing = IntFact.missing(function, str(also))
            return GpuMemory(
                total_bytes=missing, reserved_bytes=reserved, used_by_others_bytes=missing, free_bytes=missing
            )
    if not memory.total:
        missing = IntFact.missing(function, "reports a total of 0")
        return GpuMemory(total_bytes=missing, reserved_bytes=missing, used_by_others_bytes=missing, free_bytes=missing)
    return GpuMemory(
        total_bytes=IntFact.reported(memory.total, f"{function}.total"),
        reserved_bytes=reserved,
        used_by_others_bytes=IntFact.reported(memory.used, f"{function}.used"),
        free_bytes=IntFact.reported(memory.free, f"{function}.free"),
    )


def _unified_memory(root: Path) -> GpuMemory:
    source = "/proc/meminfo {} (the GPU shares the host's memory)"
    total, available = source.format("MemTotal"), source.format("MemAvailable")
    try:
        rows = meminfo(root)
        total_bytes, available_bytes = rows["MemTotal"], rows["MemAvailable"]
    except (OSError, KeyError) as error:
        missing = IntFact.missing(total, printable(str(error)))
        return GpuMemory(total_bytes=missing, used_by_others_bytes=missing, free_bytes=missing)
    return GpuMemory(
        total_bytes=IntFact.reported(total_bytes, total),
        used_by_others_bytes=IntFact.reported(total_bytes - available_bytes, "/proc/meminfo MemTotal - MemAvailable"),
        free_bytes=IntFact.reported(available_bytes, available),
    )


def _mig_devices(handle: Handle) -> tuple[MigDevice, ...]:
    try:
        slots = handle.ask("nvmlDeviceGetMaxMigDeviceCount")
    except NotGiven:
        return ()
    devices: list[MigDevice] = []
    for slot in range(slots):
        try:
            raw = handle.ask("nvmlDeviceGetMigDeviceHandleByIndex", slot)
        except NotGiven:  # an empty slot
            continue
        mig = Handle(handle.nvml, raw)
        devices.append(
            MigDevice(
                index=slot,
                uuid=mig.fact(TextFact, "nvmlDeviceGetUUID", printable),
                name=mig.fact(TextFact, "nvmlDeviceGetName", printable),
                gpu_instance_id=mig.fact(IntFact, "nvmlDeviceGetGpuInstanceId"),
                compute_instance_id=mig.fact(IntFact, "nvmlDeviceGetComputeInstanceId"),
                multiprocessors=mig.fact(
                    IntFact, "nvmlDeviceGetAttributes_v2", lambda attributes: attributes.multiprocessorCount
                ),
                compute_slices=mig.fact(
                    IntFact, "nvmlDeviceGetAttributes_v2", lambda attributes: attributes.gpuInstanceSliceCount
                ),
                memory=gpu_memory(mig),
            )
        )
    return tuple(devices)
