"""Limits that control groups put on this process, version 1 and 2, hybrid included.

Every level from the process's own group up to the mount counts: the tightest one holds. Sources: the kernel's
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst, proc_pid_cgroup(5), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from hwdetect.facts import FloatFact, IntFact, TextFact, printable

# Version 1 writes "no limit" as the largest count of pages times the page size: 9223372036854771712 with
# 4 KiB pages, 9223372036854710272 with 64 KiB.
_V1_NO_LIMIT_FLOOR = 2**62

_NO_CGROUPS = "no cgroup file system is mounted"


def memory_limit(root: Path) -> IntFact:
    """The tightest of memory.max, memory.high and memory.limit_in_bytes, in bytes.

    memory.high counts because above it the kernel slows the process down until it is useless.
    """
    limit, unread = _tightest(root, "memory", _MEMORY_LIMITS)
    return _limit_fact(root, "memory", limit, unread)


def memory_used(root: Path) -> IntFact:
    """Bytes charged to this process's own group, page cache included."""
    for directory in _groups(root, "memory"):
        for name in _MEMORY_USED:
            path = directory / name
            if path.is_file():
                try:
                    return IntFact.reported(_count(path.read_text(errors="replace").strip()), _shown(root, path))
                except (OSError, ValueError) as error:
                    return IntFact.missing(_shown(root, path), printable(str(error)))
    return IntFact.missing("cgroup", "no cgroup memory controller counts this process")


def memory_available(root: Path) -> IntFact:
    """What this process may still allocate under its limits: the least, over all levels, of limit - working set.

    The working set is what is charged less file pages that nobody used lately (inactive_file of memory.stat), which the
    kernel takes back before it kills.
    """
    left: list[tuple[int, Path]] = []
    for directory in _groups(root, "memory"):
        limits = [
            limit
            for name, parse in _MEMORY_LIMITS.items()
            if (limit := _number_in(directory / name, parse)) is not None
        ]
        if not limits:
            continue
        used = next((size for name in _MEMORY_USED if (size := _number_in(directory / name, _plain)) is not None), None)
        if used is None:
            return IntFact.missing(_shown(root, directory), "there is a limit, and what is charged cannot be read")
        left.append((max(0, int(min(limits)) - max(0, used - _inactive_file(directory))), directory))
    if not left:
        return IntFact.missing("cgroup", "no memory limit is in force")
    size, directory = min(left, key=lambda each: each[0])
    return IntFact.reported(size, f"{_shown(root, directory)}: limit - working set")


def _plain(_path: Path, text: str) -> int:
    return _count(text)


def _number_in(path: Path, parse: Callable[[Path, str], int | None]) -> int | None:
    try:
        return parse(path, path.read_text(errors="replace").strip())
    except (OSError, ValueError):
        return None


def _inactive_file(directory: Path) -> int:
    """Version 1 counts children under total_inactive_file, version 2 has them in inactive_file."""
    sizes: dict[str, int] = {}
    for line in _lines(directory / "memory.stat"):
        name, _, number = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and number.isascii() and number.isdigit():
            sizes[name] = int(number)
    return sizes.get("total_inactive_file", sizes.get("inactive_file", 0))


def swap_limit(root: Path) -> IntFact:
    """memory.swap.max, in bytes. Version 1 limits memory and swap only together, which is not this."""
    limit, unread = _tightest(root, "memory", {"memory.swap.max": _v2_bytes})
    return _limit_fact(root, "memory", limit, unread)


def cpu_quota(root: Path) -> FloatFact:
    """The tightest CPU bandwidth limit, in cores: quota / period of cpu.max or cpu.cfs_quota_us."""
    limit, unread = _tightest(root, "cpu", {"cpu.max": _v2_cores, "cpu.cfs_quota_us": _v1_cores})
    if limit is not None:
        cores, path, raw = limit
        return FloatFact.reported(cores, _shown(root, path), raw)
    if unread:
        return FloatFact.missing(_shown(root, unread[0]), unread[1])
    if not any(True for _ in _groups(root, "cpu")):
        return FloatFact.missing("cgroup", _NO_CGROUPS)
    return FloatFact.no_limit("cpu.max and cpu.cfs_quota_us")


def cpuset(root: Path) -> TextFact:
    """The CPUs of this process's own group, as the kernel lists them ("0-15,32")."""
    for directory in _groups(root, "cpuset"):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            try:
                cpus = (directory / name).read_text(errors="replace").strip()
            except OSError:
                continue
            if cpus:
                return TextFact.reported(printable(cpus), _shown(root, directory / name))
    return TextFact.missing("cgroup", "no cgroup cpuset controller holds this process")


Limit = tuple[float, Path, str]
"""The number, the file it stands in, and the text of that file."""


def _tightest(
    root: Path, controller: str, parsers: Mapping[str, Callable[[Path, str], float | None]]
) -> tuple[Limit | None, tuple[Path, str] | None]:
    """The smallest limit over all levels, and the first file that is there but could not be read."""
    limits: list[Limit] = []
    unread: tuple[Path, str] | None = None
    for directory in _groups(root, controller):
        for name, parse in parsers.items():
            path = directory / name
            if not path.is_file():
                continue
            try:
                raw = path.read_text(errors="replace").strip()
                value = parse(path, raw)
            except (OSError, ValueError, ArithmeticError) as error:
                unread = unread or (path, printable(str(error)))
                continue
            if value is not None:
                limits.append((value, path, printable(raw)))
    return min(limits, key=lambda limit: limit[0], default=None), unread


def _limit_fact(root: Path, controller: str, limit: Limit | None, unread: tuple[Path, str] | None) -> IntFact:
    if limit is not None:
        value, path, _ = limit
        return IntFact.reported(int(value), _shown(root, path))
    if unread is not None:
        return IntFact.missing(_shown(root, unread[0]), unread[1])
    if not any(True for _ in _groups(root, controller)):
        return IntFact.missing("cgroup", _NO_CGROUPS)
    return IntFact.no_limit(f"cgroup {controller} controller")


def _count(text: str) -> int:
    """Digits as a number that fits 64 bits. Raises ValueError, also where the kernel would write nothing like it."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"not a count: {text[:40]!r}")
    return min(int(text), 2**63 - 1)


def _v2_bytes(_path: Path, text: str) -> int | None:
    return None if text == "max" else _count(text)


def _v1_bytes(_path: Path, text: str) -> int | None:
    return None if _count(text) >= _V1_NO_LIMIT_FLOOR else _count(text)


_MEMORY_LIMITS = {"memory.max": _v2_bytes, "memory.high": _v2_bytes, "memory.limit_in_bytes": _v1_bytes}
_MEMORY_USED = ("memory.current", "memory.usage_in_bytes")


def _v2_cores(_path: Path, text: str) -> float | None:
    quota, period = text.split()
    return None if quota == "max" else _count(quota) / _count(period)


def _v1_cores(path: Path, text: str) -> float | None:
    if text == "-1":
        return None
    return _count(text) / _count((path.parent / "cpu.cfs_period_us").read_text(errors="replace").strip())


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The directories of this process's group and those above it, in every hierarchy with the controller."""
    paths = _own_paths(root)
    for mount_root, mount_point, controllers in _mounts(root):
        key = controller if controllers else ""
        if (controllers and controller not in controllers) or key not in paths:
            continue
        top, own = root / mount_point.lstrip("/"), PurePosixPath(paths[key])
        group = top / own.relative_to(mount_root) if own.is_relative_to(mount_root) else top
        # Inside a cgroup namespace the path may lead above the mount; then the mount itself is ours.
        if ".." in group.parts or not group.is_dir():
            group = top
        yield group
        while group != top:
            group = group.parent
            yield group


def _own_paths(root: Path) -> dict[str, str]:
    """Controller -> path of this process's group; "" is version 2."""
    paths: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for name in names.split(","):
            paths[name] = path
    return paths


def _mounts(root: Path) -> Iterator[tuple[str, str, frozenset[str]]]:
    """(root in the hierarchy, mount point, controllers) of each cgroup mount; version 2 names none."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = frozenset(kind[2].split(",")) if kind[0] == "cgroup" else frozenset()
        yield _unescaped(fields[3]), _unescaped(fields[4]), controllers


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _shown(root: Path, path: Path) -> str:
    return printable("/" + str(path.relative_to(root)))
