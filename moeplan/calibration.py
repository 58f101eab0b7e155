"""What was measured on a machine, kept for later predictions: ``moeplan.calibration/1``, one file a machine.

The files lie in the user's data folder and are named by the machine's fingerprint. A file is replaced whole, under a
lock, and sections that another command wrote stay as they are.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from formulas.units import GIB
from hwdetect.bench.measured import MeasuredSeries
from moeplan.cli.output import write_whole
from moeplan.text_safe import printable
from planner.compare import Row
from planner.errors import BadRequest
from planner.plan import Record

if TYPE_CHECKING:
    from hwdetect.inventory import Inventory

CALIBRATION_SCHEMA: Final = "moeplan.calibration/1"
MAX_FILE_BYTES: Final = 16 << 20
MAX_STARTUPS: Final = 200
"""Start-ups kept for a machine; the oldest goes first."""
NONE: Final = "none"
AUTO: Final = "auto"


class Startup(Record):
    """One observed start-up of an engine. ``settings`` are the flags that it was priced with."""

    observed_at: str
    log_sha256: str
    engine: str
    engine_version: str
    model: str
    quantization: str
    settings: dict[str, str | bool | list[str]]
    verdict: Literal["holds", "differs", "nothing_to_compare"]
    rows: tuple[Row, ...]


class Calibration(Record):
    """Everything measured on the machine that ``fingerprint`` identifies. ``machine`` describes it in words."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True, protected_namespaces=())

    schema_: Literal["moeplan.calibration/1"] = Field(CALIBRATION_SCHEMA, alias="schema")
    generated_by: str
    fingerprint: str
    machine: str
    startups: tuple[Startup, ...] = ()
    kernels: tuple[MeasuredSeries, ...] = ()


def fingerprint(inventory: Inventory) -> str:
    """16 hex digits of what a machine is: its accelerators, processors and memory, not its name or identifiers.

    Memory counts in whole GiB, since what a kernel reports of the same modules differs a little between boots.
    """
    from hwdetect.inventory import known

    nodes = []
    for node in inventory.nodes:
        gpus = [
            (gpu.key or known(gpu.name), _gib(known(gpu.memory.total_bytes) if gpu.memory else None))
            for gpu in node.gpus
        ]
        cpu, memory = node.cpu, node.memory
        nodes.append((gpus, known(cpu.model), known(cpu.sockets), _gib(known(memory.total_bytes))))
    return hashlib.sha256(json.dumps(nodes).encode()).hexdigest()[:16]


def _gib(size: int | None) -> int | None:
    return None if size is None else round(size / GIB)


def data_folder() -> Path:
    """Where this user's data of programs lies: XDG_DATA_HOME, or the platform's default."""
    given = os.environ.get("XDG_DATA_HOME", "")
    if given and Path(given).is_absolute():
        return Path(given) / "moeplan"
    home = Path.home()
    return (home / "Library/Application Support" if sys.platform == "darwin" else home / ".local/share") / "moeplan"


def place_of(choice: str, machine: str) -> Path | None:
    """The file that ``--calibration`` means for a machine's fingerprint; None for ``none``."""
    if choice == NONE:
        return None
    return data_folder() / "calibrations" / f"{machine}.json" if choice == AUTO else Path(choice)


def store(
    path: Path, startup: Startup, *, machine: str, description: str, generated_by: str, make_folder: bool = False
) -> None:
    """Add a start-up to a calibration; the same log with the same settings replaces what was stored of it.

    Raises ``BadRequest`` where the file is no calibration, is another machine's, or cannot be written.
    """
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            found = _read(path)
            if found is not None and found.fingerprint != machine:
                raise BadRequest(
                    f"--calibration {printable(str(path))}: it is of another machine, {found.machine[:80]}"
                )
            extra = dict(found.model_extra or {}) if found is not None else {}
            kept = [one for one in (found.startups if found is not None else ()) if not _same(one, startup)]
            renewed = Calibration.model_validate({
                **extra, "schema": CALIBRATION_SCHEMA, "generated_by": generated_by, "fingerprint": machine,
                "machine": description, "startups": [*kept, startup][-MAX_STARTUPS:],
            })  # fmt: skip
            write_whole(path, renewed.model_dump_json(indent=2, by_alias=True) + "\n", "--calibration")
    except OSError as error:
        raise BadRequest(f"--calibration {printable(str(path))}: {error.strerror or error}") from None


def kernels_of(choice: str | None, inventory: Inventory, *, detected: bool) -> tuple[MeasuredSeries, ...]:
    """Kernels that were measured on a machine, by what ``--calibration`` says; without it, those of this machine.

    ``auto`` looks only for the machine in front of us: a described one was not measured. Raises ``BadRequest`` where a
    file that was named does not exist, is no calibration, or is another machine's.
    """
    named = choice not in (None, AUTO, NONE)
    if choice == NONE or not (named or detected):
        return ()
    machine = fingerprint(inventory)
    path = place_of(choice or AUTO, machine)
    found = _read(path) if path is not None else None
    if found is None:
        if named:
            raise BadRequest(f"--calibration {printable(str(choice))}: no such file")
        return ()
    if detected and found.fingerprint != machine:
        raise BadRequest(f"--calibration {printable(str(path))}: it is of another machine, {found.machine[:80]}")
    return found.kernels


def _same(one: Startup, other: Startup) -> bool:
    return (one.log_sha256, one.settings) == (other.log_sha256, other.settings)


def read(path: Path) -> Calibration | None:
    """A calibration; None where there is no such file. Raises ``BadRequest`` where it is none or cannot be read."""
    try:
        return _read(path)
    except OSError as error:
        raise BadRequest(f"--calibration {printable(str(path))}: {error.strerror or error}") from None


def _read(path: Path) -> Calibration | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        if len(data) > MAX_FILE_BYTES:
            raise ValueError
        value: Any = json.loads(data)
        return Calibration.model_validate(value)
    except (ValueError, RecursionError, ValidationError):
        raise BadRequest(f"--calibration {printable(str(path))}: not a {CALIBRATION_SCHEMA}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time: two that read, add and replace would lose what one of them added."""
    if path.exists() and not path.is_file():
        raise BadRequest(f"--calibration {printable(str(path))}: not a regular file")
    with path.with_name(f".{path.name[:200]}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
