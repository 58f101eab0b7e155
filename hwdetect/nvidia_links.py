"""The links of one NVIDIA GPU: PCI Express, NVLink, and the NVSwitch fabric."""

from __future__ import annotations

import ctypes
from pathlib import Path
from uuid import UUID

from hwdetect.accelerators import Fabric, LinkKind, Nvlink, NvlinkLink, Pcie, RemoteType
from hwdetect.facts import IntFact, TextFact, known, printable
from hwdetect.nvml_handle import Answer, Handle, NotGiven, not_zero

_FABRIC_STATES = {0: "not_supported", 1: "not_started", 2: "in_progress", 3: "completed"}
# The newer call first; both take the structure they fill.
_FABRIC_CALLS = (
    ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfoV_t"),
    ("nvmlDeviceGetGpuFabricInfo", "c_nvmlGpuFabricInfo_t"),
)
_REMOTE_TYPES: dict[int, RemoteType] = {0: "gpu", 1: "ibm_npu", 2: "switch"}
# What the kernel prints in current_link_speed and max_link_speed, by PCIe generation.
_GENERATION_OF_SPEED = {"2.5": 1, "5.0": 2, "5": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}


def pcie_link(handle: Handle, root: Path) -> Pcie:
    """What NVML says of the link, and what sysfs says of the slot above it."""
    bus_id = handle.fact(TextFact, "nvmlDeviceGetPciInfo_v3", _sysfs_bus_id)
    return Pcie(
        bus_id=bus_id,
        device_id=handle.fact(TextFact, "nvmlDeviceGetPciInfo_v3", lambda pci: _pci_pair(pci.pciDeviceId)),
        subsystem_id=handle.fact(TextFact, "nvmlDeviceGetPciInfo_v3", lambda pci: _pci_pair(pci.pciSubSystemId)),
        generation=handle.fact(IntFact, "nvmlDeviceGetCurrPcieLinkGeneration", not_zero),
        width=handle.fact(IntFact, "nvmlDeviceGetCurrPcieLinkWidth", not_zero),
        max_generation=handle.fact(IntFact, "nvmlDeviceGetMaxPcieLinkGeneration", not_zero),
        max_width=handle.fact(IntFact, "nvmlDeviceGetMaxPcieLinkWidth", not_zero),
        card_generation=handle.fact(IntFact, "nvmlDeviceGetGpuMaxPcieLinkGeneration", not_zero),
        card_width=_sysfs_number(root, known(bus_id), "max_link_width"),
        slot_generation=_sysfs_generation(root, known(bus_id), "../max_link_speed"),
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
        text = (root / source.lstrip("/")).read_text(errors="replace").strip()
    except OSError as error:
        return IntFact.missing(source, printable(error.strerror or str(error)))
    # -1 is the kernel's word for "unknown", and a device without a link has width 0.
    known_here = text.isascii() and text.isdigit() and len(text) < 10 and not (name.endswith("width") and not int(text))
    if not known_here:
        return IntFact.missing(source, "not known to the kernel", printable(text)[:40])
    return IntFact.reported(int(text), source)


def _sysfs_generation(root: Path, bus_id: str | None, name: str) -> IntFact:
    if bus_id is None:
        return IntFact.missing(f"sysfs {name}", "the bus id is not known")
    source = f"/sys/bus/pci/devices/{bus_id}/{name}"
    try:
        text = (root / source.lstrip("/")).read_text(errors="replace").strip()
    except OSError as error:
        return IntFact.missing(source, printable(error.strerror or str(error)))
    generation = _GENERATION_OF_SPEED.get(text.partition(" ")[0])
    if generation is None:
        return IntFact.missing(source, "not a speed that is known", printable(text))
    return IntFact.reported(generation, source, printable(text))


def nvlinks(handle: Handle) -> Nvlink:
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


def link_kind(pcie: Pcie, nvlink: Nvlink) -> LinkKind | None:
    """How GPUs of this kind reach each other; None where neither link could be read."""
    if any(link.active for link in nvlink.links):
        return "nvlink"
    if known(pcie.width) or known(pcie.max_width):
        return "pcie"
    return None


def fabric(handle: Handle) -> Fabric:
    """State of the NVSwitch fabric, and which part of it the GPU belongs to."""
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
