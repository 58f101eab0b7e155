"""Which GPUs CUDA_VISIBLE_DEVICES lets CUDA see. NVML ignores the variable, so it must be read here.

Rules from the CUDA C++ Programming Guide, "CUDA Environment Variables": a list of ordinals, or of GPU- or
MIG- identifiers, which may be cut short while they stay unique; an entry that names nothing ends the list.
An entry that names a device twice empties it. Ordinals count in CUDA's own order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Device(NamedTuple):
    """A GPU by its identifier ("" when it could not be read) and those of its MIG devices."""

    uuid: str
    mig_names: tuple[frozenset[str], ...] = ()
    """For each MIG device every name CUDA accepts: MIG-uuid, MIG-GPU-uuid/instance/compute instance."""


class Visibility(NamedTuple):
    """True, False, or None where it cannot be told, for a GPU and each of its MIG devices."""

    gpu: bool | None
    mig: tuple[bool | None, ...] = ()


def visibility(variable: str | None, devices: Sequence[Device], ordinals_are_nvml: bool) -> tuple[Visibility, ...]:
    """What each device in NVML order is under this value of CUDA_VISIBLE_DEVICES (None: not set).

    ordinals_are_nvml: whether CUDA counts the devices as NVML does. Where it may not, ordinals that choose
    some of them leave open which.

    >>> visibility("1,-1,0", [Device("GPU-a"), Device("GPU-b")], True)
    (Visibility(gpu=False, mig=()), Visibility(gpu=True, mig=()))
    """
    if variable is None:
        return tuple(Visibility(True, (True,) * len(device.mig_names)) for device in devices)
    entries = [entry.strip() for entry in variable.split(",")]
    if entries[0].startswith("MIG-"):
        names = [names for device in devices for names in device.mig_names]
        chosen = _chosen(entries, lambda entry: _named(entry, "MIG-", names))
        return _by_mig(devices, chosen)
    if entries[0].startswith("GPU-"):
        uuids = [frozenset({device.uuid}) for device in devices]
        return _by_gpu(devices, _chosen(entries, lambda entry: _named(entry, "GPU-", uuids)))
    chosen = _chosen(entries, lambda entry: _ordinal(entry, len(devices)))
    if not ordinals_are_nvml and 0 < len(chosen) < len(devices):
        return tuple(Visibility(None, (None,) * len(device.mig_names)) for device in devices)
    return _by_gpu(devices, chosen)


def _chosen(entries: list[str], position: Callable[[str], int | None]) -> frozenset[int]:
    chosen: set[int] = set()
    for entry in entries:
        found = position(entry)
        if found is None:
            break
        if found in chosen:
            return frozenset()
        chosen.add(found)
    return frozenset(chosen)


def _named(entry: str, prefix: str, devices: Sequence[frozenset[str]]) -> int | None:
    if not entry.startswith(prefix):
        return None
    matches = [place for place, names in enumerate(devices) if any(name.startswith(entry) for name in names)]
    return matches[0] if len(matches) == 1 else None


def _ordinal(entry: str, count: int) -> int | None:
    # CUDA reads digits as C's strtol does and ignores what follows them.
    digits = re.match(r"[+-]?[0-9]{1,9}", entry)
    number = int(digits.group()) if digits else -1
    return number if 0 <= number < count else None


def _by_gpu(devices: Sequence[Device], chosen: frozenset[int]) -> tuple[Visibility, ...]:
    # Naming a GPU that is split leaves it to CUDA which of its MIG devices it takes.
    return tuple(
        Visibility(place in chosen, (None if place in chosen else False,) * len(device.mig_names))
        for place, device in enumerate(devices)
    )


def _by_mig(devices: Sequence[Device], chosen: frozenset[int]) -> tuple[Visibility, ...]:
    result: list[Visibility] = []
    first = 0
    for device in devices:
        seen = tuple(place in chosen for place in range(first, first + len(device.mig_names)))
        result.append(Visibility(any(seen), seen))
        first += len(seen)
    return tuple(result)
