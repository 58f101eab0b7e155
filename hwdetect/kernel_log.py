"""GPU errors in the kernel's log: Xid of NVIDIA's driver, SXid of its NVSwitch driver.

NVML hands them out only as events to who waits for them; what happened before stands in the kernel's log alone. It is
read from /dev/kmsg, else from the files that a log daemon writes. Reading it may need a privilege, and a log that could
not be read is never an empty one.

Sources: Documentation/ABI/testing/dev-kmsg of the kernel; https://docs.nvidia.com/deploy/xid-errors/.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from hwdetect.facts import IntFact, TextFact, printable
from hwdetect.host_parts import KernelEvent, KernelLog

LOG_FILES = ("var/log/kern.log", "var/log/messages", "var/log/syslog")
MAX_BYTES = 16 << 20
"""Read of a log: of /dev/kmsg everything it holds, of a file its end."""
MAX_EVENTS = 200
"""Distinct events kept, the newest."""
_RECORD_BYTES = 8192
# "NVRM: Xid (PCI:0000:1b:00): 79, ..." and, in older drivers, "NVRM: Xid (0000:1b:00): 79, ...".
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]{1,20})\): ([0-9]{1,6})\b(.*)")
_SXID = re.compile(r"SXid \(PCI:([0-9A-Fa-f:.]{1,20})\): ([0-9]{1,6})\b(.*)")
_KMSG = re.compile(r"[0-9]+,[0-9]+,([0-9]{1,18}),[^;]*;(.*)")


def kernel_log(root: Path = Path("/")) -> KernelLog:
    """Every Xid and SXid that the log still holds; equal ones are counted, with the age of the last."""
    refusals: list[str] = []
    try:
        lines = list(_kmsg_lines(root / "dev/kmsg"))
        return _log(lines, "/dev/kmsg", _uptime_s(root))
    except OSError as error:
        refusals.append(f"/dev/kmsg: {error.strerror or error}")
    for name in LOG_FILES:
        try:
            return _log([(None, line) for line in _tail(root / name)], f"/{name}", None)
        except FileNotFoundError:
            continue
        except OSError as error:
            refusals.append(f"/{name}: {error.strerror or error}")
    return KernelLog(read=TextFact.missing("kernel log", printable("; ".join(refusals))))


def _log(lines: list[tuple[float | None, str]], source: str, uptime_s: float | None) -> KernelLog:
    events: dict[tuple[str, int, str], KernelEvent] = {}
    first_s: float | None = None
    for since_boot_s, text in lines:
        if first_s is None:
            first_s = since_boot_s
        event = _event(text, _age_s(since_boot_s, uptime_s))
        if event is None:
            continue
        key = (event.kind, event.code, event.bus_id or "")
        before = events.pop(key, None)
        # Taken out and put back: the newest is last.
        events[key] = event.model_copy(update={"count": before.count + 1}) if before else event
    covers = _age_s(first_s, uptime_s)
    return KernelLog(
        read=TextFact.reported(f"{len(lines)} lines", source),
        covers_s=(
            IntFact.missing(source, "the log has no times that are known")
            if covers is None
            else IntFact.reported(covers, source)
        ),
        events=tuple(events.values())[-MAX_EVENTS:],
    )


def _event(text: str, age_s: int | None) -> KernelEvent | None:
    for kind, pattern in (("xid", _XID), ("sxid", _SXID)):
        found = pattern.search(text)
        if found:
            return KernelEvent(
                kind="xid" if kind == "xid" else "sxid",
                code=int(found[2]),
                bus_id=_sysfs_form(found[1]),
                age_s=age_s,
                text=printable(found[0].strip())[:200],
            )
    return None


def _sysfs_form(bus_id: str) -> str:
    """``0000:1B:00`` as sysfs writes it, with the function."""
    text = bus_id.lower()
    return text if "." in text else f"{text}.0"


def _age_s(since_boot_s: float | None, uptime_s: float | None) -> int | None:
    if since_boot_s is None or uptime_s is None:
        return None
    return max(0, int(uptime_s - since_boot_s))


def _uptime_s(root: Path) -> float | None:
    try:
        seconds = float((root / "proc/uptime").read_text(errors="replace").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return seconds if 0 <= seconds < 1e12 else None


def _kmsg_lines(path: Path) -> Iterator[tuple[float | None, str]]:
    """(seconds since boot, message) of each record. Raises OSError where the device cannot be opened or read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        whole = stat.S_ISREG(os.fstat(descriptor).st_mode)
        data = _recorded(descriptor) if whole else b"".join(_records(descriptor))
    finally:
        os.close(descriptor)
    for line in data.decode("utf-8", "replace").split("\n"):
        record = _KMSG.match(line)
        # Lines that begin with a blank are a record's dictionary.
        if record:
            yield int(record[1]) / 1e6, record[2]


def _recorded(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read(MAX_BYTES)


def _records(descriptor: int) -> Iterator[bytes]:
    size = 0
    while size < MAX_BYTES:
        try:
            record = os.read(descriptor, _RECORD_BYTES)
        except BlockingIOError:
            return
        except BrokenPipeError:  # the record was overwritten before it was read; the next one is there
            continue
        except OSError as error:
            if error.errno == errno.EINVAL:  # larger than the buffer
                continue
            raise
        if not record:
            return
        size += len(record)
        yield record if record.endswith(b"\n") else record + b"\n"


def _tail(path: Path) -> list[str]:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - MAX_BYTES))
        return file.read(MAX_BYTES).decode("utf-8", "replace").split("\n")
