"""What this process runs in: the system, a container, and which TCP ports are taken."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from hwdetect.facts import IntFact, IntsFact, TextFact, printable
from hwdetect.host_parts import Network, OperatingSystem

MAX_SOCKETS = 200_000
_LISTEN = "0A"
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"
# The runtime names itself in the path of the first process's control group.
_RUNTIMES = {"docker": "docker", "kubepods": "kubernetes", "libpod": "podman", "lxc": "lxc", "containerd": "containerd"}


def operating_system(root: Path) -> OperatingSystem:
    """As `uname` and os-release name it."""
    name = platform.uname()
    return OperatingSystem(
        system=printable(name.system) or None,
        kernel=printable(name.release) or None,
        architecture=printable(name.machine) or None,
        distribution=_distribution(root),
    )


def _distribution(root: Path) -> str | None:
    try:
        lines = (root / "etc/os-release").read_text(errors="replace").splitlines()
    except OSError:
        return None
    named = (line.removeprefix("PRETTY_NAME=") for line in lines if line.startswith("PRETTY_NAME="))
    return next((printable(name.strip("\"' ")) for name in named), None)


def container(root: Path, environment: Mapping[str, str] = os.environ) -> TextFact:
    """The container runtime around this process, or "none"."""
    for path, name in (("run/.containerenv", "podman"), (".dockerenv", "docker")):
        if (root / path).exists():
            return TextFact.reported(name, f"/{path}")
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return TextFact.reported("kubernetes", "KUBERNETES_SERVICE_HOST")
    if environment.get("container"):
        return TextFact.reported(printable(environment["container"])[:60], "the variable container")
    source = "/proc/1/cgroup"
    try:
        text = (root / source.lstrip("/")).read_text(errors="replace")
    except OSError as error:
        return TextFact.missing(source, printable(error.strerror or str(error)))
    for mark, name in _RUNTIMES.items():
        if re.search(rf"[/-]{mark}", text):
            return TextFact.reported(name, source)
    return TextFact.reported("none", source)


def network(root: Path) -> Network:
    """TCP ports on which something listens, IPv4 and IPv6 together."""
    ports: set[int] = set()
    read: list[str] = []
    reason = "not offered by this system"
    for name in ("tcp", "tcp6"):
        source = f"/proc/net/{name}"
        try:
            with (root / source.lstrip("/")).open(encoding="utf-8", errors="replace") as file:
                lines = [line for _, line in zip(range(MAX_SOCKETS), file, strict=False)]
        except OSError as error:
            reason = printable(error.strerror or str(error))
            continue
        read.append(source)
        ports.update(filter(None, map(_listening_port, lines)))
    if not read:
        return Network(listening_ports=IntsFact.missing("/proc/net/tcp", reason))
    return Network(listening_ports=IntsFact.reported(tuple(sorted(ports)), ", ".join(read)))


def _listening_port(line: str) -> int | None:
    fields = line.split()
    if len(fields) < 4 or fields[3] != _LISTEN:
        return None
    found = re.fullmatch(r"[0-9A-Fa-f]+:([0-9A-Fa-f]{4})", fields[1])
    return int(found[1], 16) if found else None


def nvidia_on_bus(root: Path) -> IntFact:
    """NVIDIA GPUs that the PCI bus shows, whether a driver answers or not: a missing driver is not a missing card."""
    source = "/sys/bus/pci/devices"
    folder = root / source.lstrip("/")
    if not folder.is_dir():
        return IntFact.missing(source, "there is no such folder")
    count = 0
    for device in folder.glob("*"):
        try:
            is_nvidia = (device / "vendor").read_text(errors="replace").strip() == _NVIDIA
            count += is_nvidia and (device / "class").read_text(errors="replace").startswith(_DISPLAY_CLASS)
        except OSError:
            continue
    return IntFact.reported(count, source)
