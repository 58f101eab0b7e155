"""Which stored start-ups and verified loads a prediction may use, and why others are not used."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from moeplan.calibration import (
    STALE_AFTER,
    Calibration,
    Startup,
    fingerprint,
    read,
)
from moeplan.calibrations import AUTO, NONE, place_of
from moeplan.text_safe import printable
from planner.build import build_request
from planner.calibrate import CALIBRATED, ObservedStart, terms_of
from planner.errors import BadRequest, Undetermined
from planner.hardware import machine_of
from planner.options import Options
from planner.search import search
from planner.verify_report import MeasuredLoad

if TYPE_CHECKING:
    from hwdetect.inventory import Inventory
    from planner.machine import Machine
    from profiles.model import ModelSpec

HARDWARE: Final = (
    "gpu", "nodes", "ram", "ram_bandwidth", "cpu", "cores", "disk", "link", "network", "inventory", "calibration",
)  # fmt: skip
MOST_STARTUPS: Final = 20
"""Newest start-ups of the model that are priced again to be compared."""


def observed_starts(
    options: Options, model: ModelSpec, inventory: Inventory, source: Literal["flags", "detected", "file"]
) -> tuple[tuple[ObservedStart, ...], tuple[str, ...]]:
    """Start-ups that the configurations asked for may be calibrated with, newest first, and notes on those left out.

    ``auto`` reads what was stored of the machine in front, or of the inventory given, and nothing for hardware that is
    only described. A file that was named is read for described hardware too. Raises ``BadRequest`` for one that is of
    another machine, or no calibration.
    """
    path, found, refused = _of_machine(options, inventory, source)
    if found is None or path is None:
        return (), refused
    machine = machine_of(inventory, source)
    starts: list[ObservedStart] = []
    notes: list[str] = []
    for startup in list(reversed(found.startups))[:MOST_STARTUPS]:
        if startup.model != model.id or startup.engine not in CALIBRATED:
            continue
        stale = _stale(startup, options)
        start = None if stale else _priced_again(startup, model, machine, path)
        if start is not None:
            starts.append(start)
        else:
            notes.append(stale or f"the start-up of {startup.observed_at} cannot be priced again and is not used")
    return tuple(starts), tuple(dict.fromkeys(notes))


def _of_machine(
    options: Options, inventory: Inventory, source: Literal["flags", "detected", "file"]
) -> tuple[Path | None, Calibration | None, tuple[str, ...]]:
    """The calibration of that hardware and where it lies; none, and perhaps why. Raises as ``observed_starts``."""
    choice = options.calibration or AUTO
    if choice == NONE or (choice == AUTO and source == "flags"):
        return None, None, ()
    here = fingerprint(inventory)
    path = place_of(choice, here)
    assert path is not None
    if choice == AUTO and not path.exists():
        return None, None, ()
    try:
        found = read(path)
    except BadRequest as error:
        if choice != AUTO:
            raise
        # What nobody named must not stand in the way of a plan.
        return path, None, (f"measurements of this machine are not used: {error}",)
    if found is None:
        raise BadRequest(f"--calibration {printable(choice)}: no such file")
    if found.fingerprint != here and source != "flags":
        if choice == AUTO:
            # As above; the kernels of the same file are refused with a note.
            return path, None, ()
        raise BadRequest(f"--calibration {printable(choice)}: it is of another machine, {found.machine[:80]}")
    return path, found, ()


def measured_loads(
    options: Options, model: ModelSpec, inventory: Inventory, source: Literal["flags", "detected", "file"]
) -> tuple[tuple[MeasuredLoad, ...], tuple[str, ...]]:
    """Verified loads of the model on that hardware, newest first, and notes on those left out.

    Of hardware that is only described none is used until its file is named; that there is one is said. Raises as
    ``observed_starts``.
    """
    if source == "flags" and options.calibration in (None, AUTO):
        return (), _unnamed(model, inventory)
    _, found, refused = _of_machine(options, inventory, source)
    if found is None:
        return (), refused
    loads: list[MeasuredLoad] = []
    notes: list[str] = []
    for load in reversed(found.loads):
        if load.model != model.id or options.engine not in (None, load.engine):
            continue
        reason = _old(load) or _other_version(load, options)
        if reason:
            notes.append(f"the load that was verified on {printable(load.measured_at[:10])} is not used: {reason}")
        else:
            loads.append(load)
    return tuple(loads), tuple(dict.fromkeys(notes))


def _unnamed(model: ModelSpec, inventory: Inventory) -> tuple[str, ...]:
    """That loads were verified on hardware of this description."""
    path = place_of(AUTO, fingerprint(inventory))
    assert path is not None
    try:
        found = read(path)
    except BadRequest:
        return ()
    if found is None or all(load.model != model.id for load in found.loads):
        return ()
    return (f"{model.id} was verified on such hardware: --calibration {printable(str(path))} plans with it",)


def _old(load: MeasuredLoad) -> str:
    try:
        age = datetime.now(UTC).date() - datetime.fromisoformat(load.measured_at).date()
    except ValueError:
        return "it has no date"
    return f"that is more than {STALE_AFTER.days} days ago; moeplan verify renews it" if age > STALE_AFTER else ""


def _other_version(load: MeasuredLoad, options: Options) -> str:
    """Why a load says nothing of the version asked for; a build that names none stands for the planned one."""
    from planner.engines import load_engine_model
    from planner.verify import same_version

    wanted = options.engine_version or load_engine_model(load.engine).facts.default_version
    same = same_version(wanted, load.engine_version)
    if same is None and load.planned_version is not None:
        same = same_version(wanted, load.planned_version)
    if same:
        return ""
    return f"{load.engine} {printable(load.engine_version)} ran, and {wanted} is planned"


def _stale(startup: Startup, options: Options) -> str:
    """Why a start-up says nothing of the engine asked for; empty where it does."""
    from planner.engines import load_engine_model
    from profiles.engines import UnknownVersion, version_tuple

    if options.engine not in (None, startup.engine):
        return ""
    wanted = options.engine_version or load_engine_model(startup.engine).facts.default_version
    try:
        same = version_tuple(startup.engine_version) == version_tuple(wanted)
    except UnknownVersion:
        same = False
    if same:
        return ""
    return (
        f"the start-up of {startup.observed_at} is of {startup.engine} {startup.engine_version} and is not used for "
        f"{wanted}"
    )


def _priced_again(startup: Startup, model: ModelSpec, machine: Machine, path: Path) -> ObservedStart | None:
    """The start-up with today's prediction of its own configuration; None where there is none any more."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in startup.settings.items()
        if name not in HARDWARE
    }
    settings |= {"engine": startup.engine, "engine_version": startup.engine_version}
    try:
        request = build_request(Options(model.id, **settings), model, machine, exact=True)
        outcome = search(request)
    except (BadRequest, Undetermined, TypeError, LookupError):
        return None
    priced = [found.priced for found in outcome.found]
    priced += [missed.priced for missed in outcome.missed if missed.priced is not None]
    observed = {
        row.term: int(row.observed)
        for row in startup.rows
        if row.observed is not None and row.unit == "bytes" and row.term != "kv_bytes_per_token"
    }
    if not priced or not observed:
        return None
    resolution = max(int(row.tolerance) for row in startup.rows if row.unit == "bytes" and row.observed is not None)
    return ObservedStart(
        priced[0].config,
        startup.quantization,
        observed,
        terms_of(priced[0].devices[0]),
        resolution,
        request.settings.enforce_eager,
        f"start-up of {startup.observed_at}, {path.name}, log {startup.log_sha256[:12]}",
    )
