"""The memory of one device as named entries. A total is the sum of its ledger and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Kind = Literal["weights", "kv_cache", "compute", "overhead"]
DeviceKind = Literal["gpu", "host", "unified", "disk"]


class Entry(NamedTuple):
    """Bytes of one purpose with their range, the formula and the source they come from."""

    kind: Kind
    what: str
    bytes: int
    low: int
    high: int
    formula: str
    source: str
    evidence: Literal["exact", "measured", "modelled", "assumed"]


def exact(kind: Kind, what: str, size: int, formula: str, source: str) -> Entry:
    """An entry that is exact to the byte."""
    return Entry(kind, what, size, size, size, formula, source, "exact")


def ranged(
    kind: Kind,
    what: str,
    size: float,
    low: float,
    high: float,
    formula: str,
    source: str,
    evidence: Literal["measured", "modelled", "assumed"] = "modelled",
) -> Entry:
    """An entry known within a range."""
    return Entry(kind, what, int(size), int(low), int(high), formula, source, evidence)


class Device(NamedTuple):
    """A device with its ledger. ``usable`` is what the engine may use of ``visible``; all in bytes.

    ``copies`` devices from ``first_index`` on carry this ledger.
    """

    node: int
    kind: DeviceKind
    first_index: int
    copies: int
    name: str
    capacity: int
    visible: int
    usable: int
    usable_low: int
    usable_high: int
    entries: tuple[Entry, ...]

    @property
    def free(self) -> int:
        """Expected bytes left; negative when short."""
        return self.usable - sum([entry.bytes for entry in self.entries])

    @property
    def free_low(self) -> int:
        """Bytes left when everything uncertain goes badly."""
        return self.usable_low - sum([entry.high for entry in self.entries])

    @property
    def free_high(self) -> int:
        """Bytes left when everything uncertain goes well."""
        return self.usable_high - sum([entry.low for entry in self.entries])

    def total(self, kind: Kind) -> int:
        """Expected bytes of one kind."""
        return sum([entry.bytes for entry in self.entries if entry.kind == kind])


def verdict(devices: Sequence[Device]) -> Literal["fits", "tight", "no"]:
    """``fits`` when no device can be short, ``no`` when one certainly is, ``tight`` when the range straddles zero."""
    if all(device.free_low >= 0 for device in devices):
        return "fits"
    if all(device.free_high >= 0 for device in devices):
        return "tight"
    return "no"


def shortest(devices: Sequence[Device]) -> Device:
    """The device that is most short of memory (or has the least left)."""
    return min(devices, key=lambda device: device.free_low)
