"""Which stored start-ups a prediction may use, and why others are not used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from moeplan.calibration import AUTO, NONE, Startup, fingerprint, place_of, read
from moeplan.text_safe import printable
from planner.build import build_request
from planner.calibrate import CALIBRATED, ObservedStart, terms_of
from planner.errors import BadRequest, Undetermined
from planner.hardware import machine_of
from planner.options import Options
from planner.search import search

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
    choice = options.calibration or AUTO
    if choice == NONE or (choice == AUTO and source == "flags"):
        return (), ()
    here = fingerprint(inventory)
    path = place_of(choice, here)
    assert path is not None
    if choice == AUTO and not path.exists():
        return (), ()
    try:
        found = read(path)
    except BadRequest as error:
        if choice != AUTO:
            raise
        # What nobody named must not stand in the way of a plan.
        return (), (f"measurements of this machine are not used: {error}",)
    if found is None:
        raise BadRequest(f"--calibration {printable(choice)}: no such file")
    if found.fingerprint != here and source != "flags":
        if choice == AUTO:
            # As above; the kernels of the same file are refused with a note.
            return (), ()
        raise BadRequest(f"--calibration {printable(choice)}: it is of another machine, {found.machine[:80]}")
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
