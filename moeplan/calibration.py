"""What was measured on a machine, kept for later predictions: ``moeplan.calibration/1``, one file a machine.

The files lie in the user's data folder and are named by the machine's fingerprint. A file is replaced whole, under a
lock, and sections that another command wrote stay as they are.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from formulas.units import GIB
from hwdetect.bench.measured import MeasuredSeries
from moeplan.calibrations import AUTO, NONE, place_of
from moeplan.cli.output import write_whole
from moeplan.text_safe import printable
from planner.compare import Row
from planner.errors import BadRequest
from planner.plan import Record
from planner.verify_report import MeasuredLoad

if TYPE_CHECKING:
    from hwdetect.inventory import Inventory, Software

CALIBRATION_SCHEMA: Final = "moeplan.calibration/1"
MAX_FILE_BYTES: Final = 16 << 20
MAX_STARTUPS: Final = 200
"""Start-ups kept for a machine; the oldest goes first."""
MAX_LOADS: Final = 200
"""Verified loads kept for a machine; the oldest goes first."""
STALE_AFTER: Final = timedelta(days=90)
PACKAGES: Final = {"ggml": "xllamacpp", "onnxruntime_cpu": "onnxruntime"}
"""Whose version a provider's is, where it is installed beside this program."""
_VERSION_OF: Final = r"(?:^|[ ,]){} ([0-9][^\s,()]*)"


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
    loads: tuple[MeasuredLoad, ...] = ()


class LoadedSeries(NamedTuple):
    """The series of a calibration that are evidence, those that are not and why, and what else is to be said."""

    kept: tuple[MeasuredSeries, ...]
    refused: dict[MeasuredSeries, str]
    remarks: tuple[str, ...]


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


def store(
    path: Path, startup: Startup, *, machine: str, description: str, generated_by: str, make_folder: bool = False
) -> None:
    """Add a start-up to a calibration; the same log with the same settings replaces what was stored of it.

    Raises ``BadRequest`` where the file is no calibration, is another machine's, or cannot be written.
    """

    def with_startup(found: Calibration) -> Calibration:
        kept = [one for one in found.startups if not _same(one, startup)]
        return found.model_copy(update={"startups": (*kept, startup)[-MAX_STARTUPS:]})

    _renew(path, with_startup, machine, description, generated_by, make_folder)


def store_kernels(
    path: Path,
    series: Sequence[MeasuredSeries],
    *,
    machine: str,
    description: str,
    generated_by: str,
    make_folder: bool = False,
) -> None:
    """Add measured kernels to a calibration: a new point replaces the old one, a new version all of the old.

    Raises as ``store`` does.
    """

    def with_kernels(found: Calibration) -> Calibration:
        kept = {_kernel_key(one): one for one in found.kernels}
        for one in series:
            old = kept.get(_kernel_key(one))
            kept[_kernel_key(one)] = _joined(old, one) if old is not None else one
        return found.model_copy(update={"kernels": tuple(kept.values())})

    _renew(path, with_kernels, machine, description, generated_by, make_folder)


def store_load(
    path: Path, load: MeasuredLoad, *, machine: str, description: str, generated_by: str, make_folder: bool = False
) -> None:
    """Add what a served model did under load. Raises as ``store`` does."""

    def with_load(found: Calibration) -> Calibration:
        return found.model_copy(update={"loads": (*found.loads, load)[-MAX_LOADS:]})

    _renew(path, with_load, machine, description, generated_by, make_folder)


def load_kernels(
    choice: str, inventory: Inventory, *, detected: bool = True
) -> tuple[tuple[MeasuredSeries, ...], tuple[str, ...]]:
    """The measured kernels of a machine, and for each that is refused the reason.

    Refused is what is older than ``STALE_AFTER``, and what another version of a library measured than is installed
    now. A file that is named for a machine that is only described is taken for one of that machine; it says what it is
    of. Raises ``BadRequest`` for a file that was named and is none, or is of another machine than the one detected;
    what lies in the data folder is refused with a note instead.
    """
    found = load_series(choice, inventory, detected=detected)
    return found.kept, tuple(dict.fromkeys((*found.remarks, *found.refused.values())))


def load_series(choice: str, inventory: Inventory, *, detected: bool = True) -> LoadedSeries:
    """What ``load_kernels`` returns with the reason of each series by itself. Raises as it does."""
    machine = fingerprint(inventory)
    path = place_of(choice, machine)
    try:
        found = _read(path) if path is not None else None
        if found is None:
            if choice not in (AUTO, NONE):
                raise BadRequest(f"--calibration {printable(choice)}: no such file")
            return LoadedSeries((), {}, ())
        if detected and found.fingerprint != machine:
            raise BadRequest(f"--calibration {printable(str(path))}: it is of another machine, {found.machine[:80]}")
    except (BadRequest, OSError) as error:
        if choice != AUTO:
            raise
        return LoadedSeries((), {}, (f"not used: {error}",))
    software = [one for node in inventory.nodes for one in node.software]
    reasons = {series: _stale(series) or _renewed(series, software) for series in found.kernels}
    return LoadedSeries(
        tuple([series for series, reason in reasons.items() if reason is None]),
        {series: reason for series, reason in reasons.items() if reason is not None},
        () if detected else (f"kernels are used that were measured on {printable(found.machine[:200])}",),
    )


def _stale(series: MeasuredSeries) -> str | None:
    """Why a series is no evidence any more."""
    try:
        age = datetime.now(UTC).date() - datetime.fromisoformat(series.date).date()
    except ValueError:
        return f"kernels of {printable(series.provider)} are not used: they have no date"
    if age > STALE_AFTER:
        return (
            f"kernels of {printable(series.provider)} are not used: measured on {series.date}, more than "
            f"{STALE_AFTER.days} days ago; moeplan bench renews them"
        )
    package = PACKAGES.get(series.provider)
    if package is None:
        return None
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = f"{package} {version(package)}"
    except PackageNotFoundError:
        return None
    if package in series.version and installed not in series.version:
        return (
            f"kernels of {printable(series.provider)} are not used: measured with {printable(series.version)}, and "
            f"{installed} is installed now; moeplan bench renews them"
        )
    return None


def _renewed(series: MeasuredSeries, software: Sequence[Software]) -> str | None:
    """Which package its interpreter has in another version now, as far as that interpreter was asked."""
    if series.python is None:
        return None
    for one in software:
        found = _VERSION_OF.format(re.escape(one.name))
        measured = re.search(found, series.version)
        installed = one.version.value if one.version is not None else None
        if measured is None or installed is None or one.place is None:
            continue
        # What a package calls itself may lack the build that its metadata has, or the other way round.
        is_same = measured[1].partition("+")[0] == installed.partition("+")[0]
        if _environment(one.place) == _environment(series.python) and not is_same:
            return (
                f"kernels of {printable(series.provider)} are not used: measured with {printable(series.version)}, and "
                f"{printable(series.python)} has {one.name} {installed} now; moeplan bench renews them"
            )
    return None


def _environment(python: str) -> Path:
    """The virtual environment of an interpreter, which has several names in it; else the interpreter itself."""
    folder = Path(python).parent.resolve()
    return folder.parent if (folder.parent / "pyvenv.cfg").is_file() else folder / Path(python).name


def _kernel_key(one: MeasuredSeries) -> tuple[str, str, str, int | None, str]:
    # A machine has several disks; another processor or GPU in its place replaces what was measured of the old one.
    disk = one.device if one.series.startswith("disk_read/") else ""
    return one.series, one.provider, one.routing, one.threads, disk


def _joined(old: MeasuredSeries, new: MeasuredSeries) -> MeasuredSeries:
    if (old.version, old.device) != (new.version, new.device):
        return new
    points = {(point.batch, point.context): point for point in (*old.points, *new.points)}
    return new.model_copy(update={"points": tuple(points[key] for key in sorted(points))})


def _renew(
    path: Path,
    change: Callable[[Calibration], Calibration],
    machine: str,
    description: str,
    generated_by: str,
    make_folder: bool,
) -> None:
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            found = _read(path)
            if found is not None and found.fingerprint != machine:
                raise BadRequest(
                    f"--calibration {printable(str(path))}: it is of another machine, {found.machine[:80]}"
                )
            start = found or Calibration(
                schema=CALIBRATION_SCHEMA, generated_by=generated_by, fingerprint=machine, machine=description
            )
            renewed = change(start).model_copy(update={"generated_by": generated_by, "machine": description})
            write_whole(path, renewed.model_dump_json(indent=2, by_alias=True) + "\n", "--calibration")
    except OSError as error:
        raise BadRequest(f"--calibration {printable(str(path))}: {error.strerror or error}") from None


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
