"""Memory modules from the firmware's table, /sys/firmware/dmi/tables/DMI (root alone may read it).

A structure is: type, length, handle (2 bytes), formatted area, then strings, each ended by a zero, and one zero more.
Type 17 is one socket for a memory module. The table is what a firmware wrote: lengths are not believed.
Source: DMTF DSP0134, System Management BIOS Reference Specification 3.7, sections 6.1 and 7.18.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hwdetect.facts import FloatFact, IntFact, printable
from hwdetect.host_parts import MemoryModule, MemoryModules

TABLE = "/sys/firmware/dmi/tables/DMI"
MAX_TABLE_BYTES = 1 << 20
MAX_STRUCTURES = 4096
_MEMORY_DEVICE, _END_OF_TABLE = 17, 127
_SHORTEST_MEMORY_DEVICE = 21
_UNKNOWN, _EXTENDED_SIZE, _EXTENDED_SPEED = 0xFFFF, 0x7FFF, 0xFFFF
_CHANNEL_BYTES = 8
# DSP0134 table 77 "Memory Device - Type".
_KINDS = {
    *((0x18, "DDR3"), (0x1A, "DDR4"), (0x1B, "LPDDR"), (0x1C, "LPDDR2"), (0x1D, "LPDDR3"), (0x1E, "LPDDR4")),
    *((0x20, "HBM"), (0x21, "HBM2"), (0x22, "DDR5"), (0x23, "LPDDR5"), (0x24, "HBM3")),
}
_KIND_NAMES = dict(_KINDS)
# "CPU1_DIMM_A1", "P0 CHANNEL A", "DIMM_P0_A0", "ChannelA-DIMM0": a socket, if any, and one letter for the channel.
_SOCKET = re.compile(r"(?:\b|_)(?:CPU|PROC|SOCKET|NODE|P)[ _]?([0-9])(?![0-9])", re.IGNORECASE)
_CHANNEL = re.compile(
    r"CHANNEL[ _]?(?P<named>[A-P])(?![A-Z])|(?:^|[ _]|DIMM[ _]?)(?P<letter>[A-P])[0-9]{0,2}(?:$|[ _-])", re.IGNORECASE
)


class _Structure(NamedTuple):
    kind: int
    area: bytes
    """From the type on, so that offsets are those of the specification."""
    strings: tuple[str, ...]

    def number(self, offset: int, size: int) -> int | None:
        """A little-endian number; None where the structure ends before it."""
        part = self.area[offset : offset + size]
        return int.from_bytes(part, "little") if len(part) == size else None

    def text(self, offset: int) -> str | None:
        """The string whose number stands at ``offset``."""
        place = self.number(offset, 1)
        return self.strings[place - 1] if place and place <= len(self.strings) else None


def memory_modules(root: Path = Path("/")) -> MemoryModules:
    """The sockets for memory and what is in them; missing where the table is not readable or lists none."""
    try:
        with (root / TABLE.lstrip("/")).open("rb") as file:
            table = file.read(MAX_TABLE_BYTES)
    except OSError as error:
        return MemoryModules(slots=IntFact.missing(TABLE, printable(error.strerror or str(error))))
    devices = [each for each in _structures(table) if each.kind == _MEMORY_DEVICE]
    modules = tuple(_module(each) for each in devices if len(each.area) >= _SHORTEST_MEMORY_DEVICE)
    if not modules:
        return MemoryModules(slots=IntFact.missing(TABLE, "lists no memory device"))
    present = [module for module in modules if module.size_bytes is not None and module.size_bytes.value]
    unread = sum(module.size_bytes is not None and module.size_bytes.value is None for module in modules)
    source = f"{TABLE} type 17"
    populated = (
        IntFact.missing(source, f"{unread} of {len(modules)} sockets do not say their size")
        if unread
        else IntFact.reported(len(present), source)
    )
    channels = _channels(present)
    return MemoryModules(
        modules=modules,
        slots=IntFact.reported(len(modules), source),
        populated=populated,
        channels=channels,
        nominal_bytes_per_s=_nominal(present, channels),
    )


def _structures(table: bytes) -> Iterator[_Structure]:
    place = 0
    for _ in range(MAX_STRUCTURES):
        if place + 4 > len(table):
            return
        kind, length = table[place], table[place + 1]
        if length < 4 or place + length > len(table):
            return
        end = table.find(b"\0\0", place + length)
        if end < 0:
            return
        raw = table[place + length : end]
        strings = tuple(printable(part.decode("latin-1").strip()) for part in raw.split(b"\0")) if raw else ()
        yield _Structure(kind, table[place : place + length], strings)
        if kind == _END_OF_TABLE:
            return
        place = end + 2


def _module(device: _Structure) -> MemoryModule:
    kind = device.number(18, 1)
    return MemoryModule(
        locator=device.text(16),
        bank=device.text(17),
        size_bytes=_size(device),
        speed_mt_per_s=_speed(device, 32, 88, "Configured Memory Speed"),
        rated_speed_mt_per_s=_speed(device, 21, 84, "Speed"),
        data_width_bits=_known(device.number(10, 2), "Data Width"),
        kind=_KIND_NAMES.get(kind) if kind is not None else None,
    )


def _size(device: _Structure) -> IntFact:
    source = f"{TABLE} type 17 Size"
    size = device.number(12, 2)
    if size is None or size == _UNKNOWN:
        return IntFact.missing(source, "the firmware does not know it")
    if size == _EXTENDED_SIZE:
        extended = device.number(28, 4)
        if extended is None:
            return IntFact.missing(source, "the structure is too short for it")
        return IntFact.reported((extended & 0x7FFFFFFF) << 20, source)
    return IntFact.reported((size & 0x7FFF) << (10 if size & 0x8000 else 20), source)


def _speed(device: _Structure, offset: int, extended_offset: int, name: str) -> IntFact:
    source = f"{TABLE} type 17 {name}"
    speed = device.number(offset, 2)
    if speed == _EXTENDED_SPEED:
        speed = device.number(extended_offset, 4)
    if not speed:
        return IntFact.missing(source, "the firmware does not know it")
    return IntFact.reported(speed & 0x7FFFFFFF, source)


def _known(number: int | None, name: str) -> IntFact:
    source = f"{TABLE} type 17 {name}"
    if number is None or number in (0, _UNKNOWN):
        return IntFact.missing(source, "the firmware does not know it")
    return IntFact.reported(number, source)


def _channels(present: list[MemoryModule]) -> IntFact:
    """Distinct channels that the names of the sockets spell out. Boards name them as they please."""
    source = f"{TABLE} type 17 Device Locator, Bank Locator"
    found = set()
    for module in present:
        names = [name for name in (module.bank, module.locator) if name]
        sockets = [match[1] for match in map(_SOCKET.search, names) if match]
        letters = [match for name in names if (match := _CHANNEL.search(_SOCKET.sub(" ", name)))]
        if not letters:
            shown = module.locator or "a socket without a name"
            return IntFact.missing(source, printable(f"no channel in the name {shown!r}"))
        letter = letters[0]["named"] or letters[0]["letter"]
        found.add((sockets[0] if sockets else "0", letter.upper()))
    if not found:
        return IntFact.missing(source, "no module is listed")
    return IntFact(value=len(found), source=source, provenance="assumed")


def _nominal(present: list[MemoryModule], channels: IntFact) -> FloatFact:
    source = "channels x configured speed x 8 bytes"
    speeds = [module.speed_mt_per_s.value for module in present if module.speed_mt_per_s is not None]
    known_speeds = [speed for speed in speeds if speed is not None]
    if channels.value is None or len(known_speeds) < len(present):
        return FloatFact.missing(source, "channels or speed are not known")
    rate = float(channels.value * min(known_speeds) * 10**6 * _CHANNEL_BYTES)
    return FloatFact(value=rate, source=source, provenance="assumed")
