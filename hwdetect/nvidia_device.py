"""What NVML says of one GPU, asked field by field.

Every field is its own call, and every call may fail alone: not supported by the card, not in this driver,
unknown. Such a field is missing with its reason and never 0. Bytes, watts; names are NVML's in lower case.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from uuid import UUID

from hwdetect.facts import BoolFact, Fact, FloatFact, IntFact, TextFact, TextsFact, known, printable
from hwdetect.host_memory import meminfo
from hwdetect.inventory import (
    Fabric,
    Gpu,
    GpuMemory,
    LinkKind,
    MigDevice,
    Nvlink,
    NvlinkLink,
    Pcie,
    RemappedRows,
    RemoteType,
)

INTEGRATED_NAMES = frozenset({"NVIDIA GB10", "NVIDIA Thor"})
"""GPUs without memory of their own. Only these get the host's: elsewhere a missing total is a fault."""

THROTTLE_BITS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""nvmlClocksEventReasons*, nvml.h."""

_VGPU_MODES = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host_vgpu", 4: "host_vsga"}
_COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
_FABRIC_STATES = {0: "not_supported", 1: "not_started", 2: "in_progress", 3: "completed"}
# The newer call first; both take the structure they fill.
_FABRIC_CALLS = (
    ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfoV_t"),
    ("nvmlDeviceGetGpuFabricInfo", "c_nvmlGpuFabricInfo_t"),
)
_REMOTE_TYPES: dict[int, RemoteType] = {0: "gpu", 1: "ibm_npu", 2: "switch"}
# NVML_VALUE_NOT_AVAILABLE in its 32 and 64 bit forms.
_NOT_AVAILABLE = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)

F = TypeVar("F", bound=Fact[Any])
Answer = Any
"""What the binding hands back: a number, text, a list or a ctypes structure. It has no types of its own."""


class NotGiven(Exception):
    """A call succeeded and yet gave no value."""


class Handle:
    """One NVML device handle, and whether the GPU was lost while it was asked."""

    def __init__(self, nvml: ModuleType, raw: Answer) -> None:
        self.nvml = nvml
        self.raw = raw
        self.lost = False

    def ask(self, function: str, *arguments: Answer) -> Answer:
        """The call's own value. Raises NotGiven with the reason, whatever goes wrong."""
        try:
            value = getattr(self.nvml, function)(self.raw, *arguments)
        except self.nvml.NVMLError as error:
            self.lost = self.lost or error.value == self.nvml.NVML_ERROR_GPU_IS_LOST
            raise NotGiven(printable(str(error))) from error
        except Exception as error:  # an old binding lacks the function; a name may not be UTF-8
            raise NotGiven(printable(f"{type(error).__name__}: {error}")) from error
        if value in _NOT_AVAILABLE:
            raise NotGiven("reported as not available")
        return value

    def fact(self, kind: type[F], function: str, pick: Callable[[Answer], Any] | None = None) -> F:
        """One call as a fact; `pick` takes the value out of what it returns and may raise NotGiven."""
        try:
            value = self.ask(function)
            return kind.reported(value if pick is None else pick(value), function)
        except NotGiven as error:
            return kind.missing(function, str(error))
        except ValueError:
            return kind.missing(function, "reported an impossible value")


def read_gpu(handle: Handle, index: int, root: Path = Path("/")) -> Gpu:
    """Everything NVML and sysfs say of this GPU. A GPU that goes missing on the way is `lost`."""
    name = handle.fact(TextFact, "nvmlDeviceGetName", printable)
    integrated = known(name) in INTEGRATED_NAMES
    mig = handle.fact(BoolFact, "nvmlDeviceGetMigMode", lambda modes: modes[0] == 1)
    pcie, nvlink = _pcie(handle, root), _nvlink(handle)
    throttle = _throttle(handle)
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
        mig=mig,
        mig_devices=_mig_devices(handle) if known(mig) else (),
        vgpu_mode=handle.fact(TextFact, "nvmlDeviceGetVirtualizationMode", _choice(_VGPU_MODES)),
        memory_numa_node=handle.fact(IntFact, "nvmlDeviceGetNumaNodeId"),
        link_kind="none" if integrated else _link_kind(pcie, nvlink),
        pcie=pcie,
        nvlink=nvlink,
        fabric=_fabric(handle),
        power_limit_w=handle.fact(FloatFact, "nvmlDeviceGetPowerManagementLimit", _watts),
        default_power_limit_w=handle.fact(FloatFact, "nvmlDeviceGetPowerManagementDefaultLimit", _watts),
        persistence=handle.fact(BoolFact, "nvmlDeviceGetPersistenceMode", lambda mode: mode == 1),
        compute_mode=handle.fact(TextFact, "nvmlDeviceGetComputeMode", _choice(_COMPUTE_MODES)),
        throttle_reasons=throttle,
        remapped_rows=_remapped_rows(handle),
        retired_pages_pending=handle.fact(
            BoolFact, "nvmlDeviceGetRetiredPagesPendingStatus", lambda pending: pending == 1
        ),
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
                memory=gpu_memory(mig),
            )
        )
    return tuple(devices)


def _pcie(handle: Handle, root: Path) -> Pcie:
    bus_id = handle.fact(TextFact, "nvmlDeviceGetPciInfo_v3", _sysfs_bus_id)
    return Pcie(
        bus_id=bus_id,
        device_id=handle.fact(TextFact, "nvmlDeviceGetPciInfo_v3", lambda pci: _pci_pair(pci.pciDeviceId)),
        subsystem_id=handle.fact(TextFact, "nvmlDeviceGetPciInfo_v3", lambda pci: _pci_pair(pci.pciSubSystemId)),
        generation=handle.fact(IntFact, "nvmlDeviceGetCurrPcieLinkGeneration", _not_zero),
        width=handle.fact(IntFact, "nvmlDeviceGetCurrPcieLinkWidth", _not_zero),
        max_generation=handle.fact(IntFact, "nvmlDeviceGetMaxPcieLinkGeneration", _not_zero),
        max_width=handle.fact(IntFact, "nvmlDeviceGetMaxPcieLinkWidth", _not_zero),
        slot_width=_sysfs_number(root, known(bus_id), "../max_link_width"),
        numa_node=_sysfs_number(root, known(bus_id), "numa_node"),
    )


def _sysfs_bus_id(pci: Answer) -> str:
    # NVML prints eight digits of domain where sysfs prints four, so the numbers are the safer key.
    return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"


def _pci_pair(number: int) -> str:
    if not number:
        raise NotGiven("reported as 0")
    return f"{number & 0xFFFF:04x}:{number >> 16:04x}"


def _sysfs_number(root: Path, bus_id: str | None, name: str) -> IntFact:
    if bus_id is None:
        return IntFact.missing(f"sysfs {name}", "the bus id is not known")
    source = f"/sys/bus/pci/devices/{bus_id}/{name}"
    try:
        number = int((root / source.lstrip("/")).read_text())
    except (OSError, ValueError) as error:
        return IntFact.missing(source, printable(getattr(error, "strerror", None) or str(error)))
    if number < 0 or (number == 0 and name.endswith("width")):
        return IntFact.missing(source, "not known to the kernel", str(number))
    return IntFact.reported(number, source)


def _nvlink(handle: Handle) -> Nvlink:
    """A port the card does not have answers "not supported" or "invalid argument", a dead one "inactive"."""
    function = "nvmlDeviceGetNvLinkState"
    absent = {handle.nvml.NVML_ERROR_NOT_SUPPORTED, handle.nvml.NVML_ERROR_INVALID_ARGUMENT}
    links: list[NvlinkLink] = []
    reason = "the card has no NVLink"
    for index in range(handle.nvml.NVML_NVLINK_MAX_LINKS):
        try:
            active = handle.ask(function, index) == 1
        except NotGiven as error:
            code = getattr(error.__cause__, "value", None)
            if code == handle.nvml.NVML_ERROR_FUNCTION_NOT_FOUND or handle.lost:
                reason = str(error)
                break
            if code not in absent:
                links.append(NvlinkLink(index=index, reason=str(error)))
            continue
        links.append(_active_link(handle, index) if active else NvlinkLink(index=index, active=False))
    unread = next((link for link in links if link.active is None), None)
    if unread is not None:
        reason = f"link {unread.index}: {unread.reason}"
    if unread is not None or not links:
        return Nvlink(links=tuple(links), active_count=IntFact.missing(function, reason))
    active_count = sum(link.active is True for link in links)
    return Nvlink(links=tuple(links), active_count=IntFact.reported(active_count, function))


def _active_link(handle: Handle, index: int) -> NvlinkLink:
    reasons: list[str] = []

    def ask(function: str) -> Answer:
        try:
            return handle.ask(function, index)
        except NotGiven as error:
            reasons.append(f"{function}: {error}")
            return None

    version = ask("nvmlDeviceGetNvLinkVersion")
    remote_type = ask("nvmlDeviceGetNvLinkRemoteDeviceType")
    remote = ask("nvmlDeviceGetNvLinkRemotePciInfo")
    return NvlinkLink(
        index=index,
        active=True,
        version=version,
        remote_type=None if remote_type is None else _REMOTE_TYPES.get(remote_type, "unknown"),
        remote_bus_id=None if remote is None else _sysfs_bus_id(remote),
        reason=printable("; ".join(reasons)) or None,
    )


def _link_kind(pcie: Pcie, nvlink: Nvlink) -> LinkKind | None:
    if known(nvlink.active_count):
        return "nvlink"
    if known(pcie.width) or known(pcie.max_width):
        return "pcie"
    return None


def _fabric(handle: Handle) -> Fabric:
    reasons: list[str] = []
    for function, structure in _FABRIC_CALLS:
        try:
            info = _fabric_info(handle, function, structure)
            break
        except NotGiven as error:
            reasons.append(str(error))
    else:
        return Fabric(state=TextFact.missing(_FABRIC_CALLS[0][0], "; ".join(dict.fromkeys(reasons))))
    state = _FABRIC_STATES.get(info.state, str(info.state))
    if state != "completed":
        return Fabric(state=TextFact.reported(state, function))
    status = "success" if info.status == 0 else printable(str(handle.nvml.NVMLError(info.status)))
    return Fabric(
        state=TextFact.reported(state, function),
        status=TextFact.reported(status, function),
        clique=IntFact.reported(info.cliqueId, function),
        cluster_uuid=TextFact.reported(_cluster_uuid(info), function),
    )


def _fabric_info(handle: Handle, function: str, structure: str) -> Answer:
    kind = getattr(handle.nvml, structure, None)
    if kind is None:
        raise NotGiven(f"nvidia-ml-py is too old for {structure}")
    info = kind()
    handle.ask(function, ctypes.byref(info))
    return info


def _cluster_uuid(info: Answer) -> str:
    # Older bindings call these bytes text and would cut them at the first zero.
    start = ctypes.addressof(info) + type(info).clusterUuid.offset
    return str(UUID(bytes=ctypes.string_at(start, 16)))


def _remapped_rows(handle: Handle) -> RemappedRows:
    function = "nvmlDeviceGetRemappedRows"
    return RemappedRows(
        correctable=handle.fact(IntFact, function, lambda rows: rows[0]),
        uncorrectable=handle.fact(IntFact, function, lambda rows: rows[1]),
        pending=handle.fact(BoolFact, function, lambda rows: rows[2] != 0),
        failure=handle.fact(BoolFact, function, lambda rows: rows[3] != 0),
    )


def read_clock(handle: Handle) -> tuple[IntFact, TextsFact]:
    """The clock of the multiprocessors in MHz at this moment, and what holds it back."""
    source = "nvmlDeviceGetClockInfo(SM)"
    try:
        clock = IntFact.reported(handle.ask("nvmlDeviceGetClockInfo", handle.nvml.NVML_CLOCK_SM), source)
    except NotGiven as reason:
        clock = IntFact.missing(source, str(reason))
    return clock, _throttle(handle)


def _throttle(handle: Handle) -> TextsFact:
    throttle = handle.fact(TextsFact, "nvmlDeviceGetCurrentClocksEventReasons", _throttle_names)
    if throttle.reason is not None:
        throttle = handle.fact(TextsFact, "nvmlDeviceGetCurrentClocksThrottleReasons", _throttle_names)
    return throttle


def _throttle_names(bits: int) -> tuple[str, ...]:
    unnamed = bits & ~sum(THROTTLE_BITS)
    names = tuple(name for bit, name in THROTTLE_BITS.items() if bits & bit)
    return (*names, f"unnamed_{unnamed:#x}") if unnamed else names


def _choice(names: dict[int, str]) -> Callable[[int], str]:
    return lambda number: names.get(number, f"unknown ({number})")


def _watts(milliwatts: int) -> float:
    return _not_zero(milliwatts) / 1000


def _not_zero(number: int) -> int:
    if number == 0:
        raise NotGiven("reported as 0")
    return number
