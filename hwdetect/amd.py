"""AMD accelerators from sysfs alone: the kernel lists them as ROCm will see them, partitions included.

The kernel's compute driver (KFD) keeps one topology node for every device that a program can open; an MI300X in CPX
mode is eight of them. Memory, partition modes, PCIe and names come from the card's folder. No ROCm library is needed.

Source: Linux Documentation/ABI of amdgpu, Documentation/gpu/amdgpu (driver-misc.rst, amdgpu-partition.rst),
drivers/gpu/drm/amd/amdkfd/kfd_topology.c.
"""

from __future__ import annotations

from pathlib import Path

from hwdetect.accelerators import Gpu, GpuMemory, Pcie
from hwdetect.facts import IntFact, TextFact, printable

_NODES = "/sys/class/kfd/kfd/topology/nodes"
# heap_type of a memory bank: frame buffer, reachable by the host or not (kfd_crat.h).
_FRAME_BUFFERS = ("1", "2")
MAX_NODES = 512


def scan(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """Every AMD device that computes, in the order of the kernel's compute driver; none where there is none."""
    folder = root / _NODES.lstrip("/")
    paths = [path for path in folder.glob("*") if path.name.isascii() and path.name.isdigit()]
    nodes = sorted(paths, key=lambda path: int(path.name))[:MAX_NODES]
    found = [(path, _properties(path / "properties")) for path in nodes]
    gpus = [(path, properties) for path, properties in found if properties.get("simd_count", 0) > 0]
    shared = [_bus_id(properties) for _, properties in gpus]
    return tuple(
        _gpu(root, index, path, properties, shared.count(_bus_id(properties)))
        for index, (path, properties) in enumerate(gpus)
    )


def _properties(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isascii() and pair[1].isdigit()}


def _gpu(root: Path, index: int, node: Path, properties: dict[str, int], partitions: int) -> Gpu:
    bus_id = _bus_id(properties)
    device = f"/sys/bus/pci/devices/{bus_id}"
    return Gpu(
        index=index,
        uuid=_uuid(properties),
        name=_text(root, f"{device}/product_name"),
        vendor="amd",
        memory=_memory(root, device, node, partitions),
        compute_capability=_target(properties),
        partition=_partition(root, device),
        pcie=Pcie(
            bus_id=TextFact.reported(bus_id, f"{_NODES}/{node.name}/properties location_id"),
            width=_number(root, f"{device}/current_link_width"),
            card_width=_number(root, f"{device}/max_link_width"),
            numa_node=_number(root, f"{device}/numa_node", at_least=0),
        ),
    )


def _bus_id(properties: dict[str, int]) -> str:
    location, domain = properties.get("location_id", 0), properties.get("domain", 0)
    # The function's three bits tell partitions apart; the card is function 0.
    return f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.0"


def _uuid(properties: dict[str, int]) -> TextFact:
    source = f"{_NODES} unique_id"
    number = properties.get("unique_id")
    return TextFact.reported(f"GPU-{number:016x}", source) if number else TextFact.missing(source, "not given")


def _target(properties: dict[str, int]) -> TextFact:
    """``gfx942`` for the number 90402: major, minor and stepping, the last two as hexadecimal digits."""
    source = f"{_NODES} gfx_target_version"
    number = properties.get("gfx_target_version")
    if not number:
        return TextFact.missing(source, "not given")
    return TextFact.reported(f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}", source, str(number))


def _memory(root: Path, device: str, node: Path, partitions: int) -> GpuMemory:
    """Of a whole card what its folder says. A partition has its banks, and the card's use is no partition's."""
    used = _number(root, f"{device}/mem_info_vram_used", at_least=0)
    if partitions == 1:
        total = _number(root, f"{device}/mem_info_vram_total")
    else:
        total = _banks(node)
        used = IntFact.missing(f"{device}/mem_info_vram_used", f"{partitions} partitions share the card's count")
    free = IntFact.missing(f"{device}/mem_info_vram_total - mem_info_vram_used", "one of them is not known")
    if total.value is not None and used.value is not None and used.value <= total.value:
        free = IntFact.reported(total.value - used.value, free.source)
    return GpuMemory(total_bytes=total, used_by_others_bytes=used, free_bytes=free)


def _banks(node: Path) -> IntFact:
    source = f"{_NODES}/{node.name}/mem_banks"
    sizes = []
    for path in (node / "mem_banks").glob("*/properties"):
        properties = _properties(path)
        if str(properties.get("heap_type")) in _FRAME_BUFFERS:
            sizes.append(properties.get("size_in_bytes", 0))
    return IntFact.reported(sum(sizes), source) if sum(sizes) else IntFact.missing(source, "no frame buffer is listed")


def _partition(root: Path, device: str) -> TextFact:
    compute = _text(root, f"{device}/current_compute_partition")
    memory = _text(root, f"{device}/current_memory_partition")
    if compute.value is None or memory.value is None:
        return compute if compute.value is None else memory
    return TextFact.reported(f"{compute.value}/{memory.value}", f"{compute.source}, {memory.source}")


def _text(root: Path, source: str) -> TextFact:
    try:
        text = (root / source.lstrip("/")).read_text(errors="replace").strip()
    except OSError as error:
        return TextFact.missing(source, printable(error.strerror or str(error)))
    return TextFact.reported(printable(text), source) if text else TextFact.missing(source, "empty")


def _number(root: Path, source: str, at_least: int = 1) -> IntFact:
    text = _text(root, source)
    if text.value is None:
        return IntFact.missing(source, text.reason or "not given")
    try:
        number = int(text.value)
    except ValueError:
        return IntFact.missing(source, "not a number", text.value[:60])
    if not at_least <= number < 2**63:
        return IntFact.missing(source, "not known to the kernel", text.value[:60])
    return IntFact.reported(number, source)
