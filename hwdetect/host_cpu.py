"""Processors: what they are, what they can do, and how many of them this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from hwdetect import cgroups
from hwdetect.facts import FloatFact, IntFact, TextFact, TextsFact, known, printable
from hwdetect.host_memory import cpu_numbers
from hwdetect.inventory import Cpu

FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "sve2", "i8mm", "bf16"),
)
"""The instruction sets that inference kernels choose by, x86 then Arm, in the kernel's spelling."""

# Arm processors carry numbers, not names. Source: Linux arch/arm64/include/asm/cputype.h.
_ARM_VENDORS = {
    0x41: "ARM",
    0x46: "Fujitsu",
    0x48: "HiSilicon",
    0x4E: "NVIDIA",
    0x61: "Apple",
    0xC0: "Ampere",
}
_ARM_MODELS = {
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD85): "Cortex-X925",
    (0x41, 0xD87): "Cortex-A725",
    (0xC0, 0xAC3): "Ampere-1",
}

_CPUINFO = "/proc/cpuinfo"


def process_affinity() -> frozenset[int] | None:
    """The CPUs this process may be scheduled on; None where the system has no such call."""
    get = getattr(os, "sched_getaffinity", None)
    return None if get is None else frozenset(get(0))


def cpu(root: Path = Path("/"), affinity: frozenset[int] | None = None) -> Cpu:
    """The processors under `root`, seen by a process with this affinity (None: not known)."""
    processors = _processors(root)
    first = processors[0] if processors else {}
    online = _online(root, processors)
    cpuset = cgroups.cpuset(root)
    quota = cgroups.cpu_quota(root)
    core_of, socket_of = _topology(root, online, processors)
    return Cpu(
        model=_model(first),
        vendor=_vendor(first),
        sockets=_count(set(socket_of.values()), "physical_package_id", socket_of, online),
        physical_cores=_count(set(core_of.values()), "core_cpus_list", core_of, online),
        logical_cpus=_logical(online),
        affinity_cpus=(
            IntFact.missing("sched_getaffinity", "not offered by this system")
            if affinity is None
            else IntFact.reported(len(affinity), "sched_getaffinity")
        ),
        cpuset=cpuset,
        cgroup_quota_cores=quota,
        usable_cores=_usable_cores(online, affinity, cpuset, quota, core_of),
        flags=_flags(first),
    )


def _processors(root: Path) -> list[dict[str, str]]:
    try:
        text = (root / _CPUINFO.lstrip("/")).read_text(errors="replace")
    except OSError:
        return []
    blocks = (dict(_pairs(block)) for block in text.split("\n\n"))
    return [block for block in blocks if "processor" in block]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7


def _pairs(block: str) -> Iterable[tuple[str, str]]:
    for line in block.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _online(root: Path, processors: list[dict[str, str]]) -> frozenset[int]:
    try:
        return cpu_numbers((root / "sys/devices/system/cpu/online").read_text(errors="replace"))
    except (OSError, ValueError):
        return frozenset(int(block["processor"]) for block in processors if _is_number(block["processor"]))


def _topology(
    root: Path, online: frozenset[int], processors: list[dict[str, str]]
) -> tuple[dict[int, str], dict[int, str]]:
    """CPU -> physical core and CPU -> socket, as names that are equal for the same core or socket."""
    cores: dict[int, str] = {}
    sockets: dict[int, str] = {}
    for number in online:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        siblings = _first_text(topology / "core_cpus_list", topology / "thread_siblings_list")
        socket = _first_text(topology / "physical_package_id")
        if siblings:
            cores[number] = siblings
        if socket and socket != "-1":
            sockets[number] = socket
    if cores:
        return cores, sockets
    for block in processors:
        if _is_number(block["processor"]) and "physical id" in block and "core id" in block:
            number = int(block["processor"])
            sockets[number] = block["physical id"]
            cores[number] = f"{block['physical id']}/{block['core id']}"
    return cores, sockets


def _first_text(*paths: Path) -> str:
    for path in paths:
        try:
            return path.read_text(errors="replace").strip()
        except OSError:
            continue
    return ""


def _count(distinct: set[str], name: str, of: dict[int, str], online: frozenset[int]) -> IntFact:
    source = f"/sys/devices/system/cpu/cpu*/topology/{name}"
    if not of or len(of) < len(online):
        return IntFact.missing(source, "not given for every CPU")
    return IntFact.reported(len(distinct), source)


def _logical(online: frozenset[int]) -> IntFact:
    if online:
        return IntFact.reported(len(online), "/sys/devices/system/cpu/online")
    count = psutil.cpu_count(logical=True)
    if count is None:
        return IntFact.missing("psutil.cpu_count()", "the system does not say")
    return IntFact.reported(count, "psutil.cpu_count()")


def _usable_cores(
    online: frozenset[int],
    affinity: frozenset[int] | None,
    cpuset: TextFact,
    quota: FloatFact,
    core_of: dict[int, str],
) -> FloatFact:
    """Hyper-threads of one core are one core: decoding a model on both is no faster than on one."""
    allowed, sources = online, ["online CPUs"]
    if affinity is not None:
        allowed, sources = allowed & affinity, ["sched_getaffinity"]
    listed = known(cpuset)
    if listed is not None:
        try:
            allowed = allowed & cpu_numbers(listed)
        except ValueError:
            return FloatFact.missing(cpuset.source, f"cannot read {listed!r}")
        sources.append(cpuset.source)
    if not allowed:
        return FloatFact.missing(", ".join(sources), "no CPU is left")
    limit = known(quota)
    if all(number in core_of for number in allowed):
        cores, provenance = float(len({core_of[number] for number in allowed})), "reported"
    else:
        cores, provenance = float(len(allowed)), "assumed"
        sources.append("one core per CPU, the topology is not given")
    if limit is not None and limit < cores:
        return FloatFact.reported(limit, quota.source)
    source = ", ".join(sources)
    if provenance == "assumed":
        return FloatFact(value=cores, source=source, provenance="assumed")
    return FloatFact.reported(cores, source)


def _arm_code(processor: dict[str, str], name: str) -> int | None:
    try:
        return int(processor[name], 16)
    except (KeyError, ValueError):
        return None


def _model(processor: dict[str, str]) -> TextFact:
    for name in ("model name", "cpu model", "cpu"):
        if processor.get(name):
            return TextFact.reported(printable(processor[name]), f"{_CPUINFO} {name}")
    vendor, part = _arm_code(processor, "CPU implementer"), _arm_code(processor, "CPU part")
    source = f"{_CPUINFO} CPU implementer, CPU part"
    if vendor is None or part is None:
        return TextFact.missing(f"{_CPUINFO} model name", "not listed")
    raw = f"{vendor:#x}, {part:#x}"
    model = _ARM_MODELS.get((vendor, part))
    if model is None:
        return TextFact.missing(source, "not in the table of Arm parts", raw)
    return TextFact(value=model, source=source, provenance="table", raw=raw)


def _vendor(processor: dict[str, str]) -> TextFact:
    if processor.get("vendor_id"):
        return TextFact.reported(printable(processor["vendor_id"]), f"{_CPUINFO} vendor_id")
    code = _arm_code(processor, "CPU implementer")
    source = f"{_CPUINFO} CPU implementer"
    if code is None:
        return TextFact.missing(f"{_CPUINFO} vendor_id", "not listed")
    vendor = _ARM_VENDORS.get(code)
    if vendor is None:
        return TextFact.missing(source, "not in the table of Arm implementers", f"{code:#x}")
    return TextFact(value=vendor, source=source, provenance="table", raw=f"{code:#x}")


def _flags(processor: dict[str, str]) -> TextsFact:
    for name in ("flags", "Features"):
        if name in processor:
            listed = set(processor[name].split())
            return TextsFact.reported(tuple(flag for flag in FLAGS if flag in listed), f"{_CPUINFO} {name}")
    return TextsFact.missing(f"{_CPUINFO} flags", "not listed")
