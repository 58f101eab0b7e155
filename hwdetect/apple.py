"""Apple silicon by sysctl: one device that shares the host's memory.

Metal lets a GPU wire down a part of the memory only; ``iogpu.wired_limit_mb`` raises it, and 0 means the default, which
depends on the size and stays with the table of hardware.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from hwdetect.accelerators import Gpu, GpuMemory
from hwdetect.facts import IntFact, TextFact, printable

ANSWER_TIMEOUT_S = 2.0
Read = Callable[[str], str]


def sysctl(name: str) -> str:
    """One value of the kernel. Raises OSError where there is none."""
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", name],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(None, f"no answer within {ANSWER_TIMEOUT_S:g} s") from None
    if done.returncode:
        raise OSError(None, done.stderr.strip() or f"exit status {done.returncode}")
    return done.stdout.strip()


def scan(read: Read = sysctl) -> tuple[Gpu, ...]:
    """The GPU of an Apple chip; none on a Mac with an Intel processor."""
    name = _name(read)
    if name.value is None or not name.value.startswith("Apple "):
        return ()
    total = _bytes(read, "hw.memsize", 1)
    limit = _bytes(read, "iogpu.wired_limit_mb", 1 << 20)
    return (
        Gpu(
            index=0,
            name=name,
            vendor="apple",
            kind="unified",
            memory=GpuMemory(total_bytes=total, wired_limit_bytes=limit),
            link_kind="none",
        ),
    )


def _name(read: Read) -> TextFact:
    source = "sysctl machdep.cpu.brand_string"
    try:
        text = read("machdep.cpu.brand_string")
    except OSError as error:
        return TextFact.missing(source, printable(error.strerror or str(error)))
    return TextFact.reported(printable(text), source)


def _bytes(read: Read, name: str, unit: int) -> IntFact:
    source = f"sysctl {name}"
    try:
        number = int(read(name))
    except OSError as error:
        return IntFact.missing(source, printable(error.strerror or str(error)))
    except ValueError:
        return IntFact.missing(source, "not a number")
    if number == 0 and unit > 1:
        return IntFact.no_limit(source, "0: the default of the system")
    if not 0 < number * unit < 2**63:
        return IntFact.missing(source, "an impossible value", str(number)[:40])
    return IntFact.reported(number * unit, source)
