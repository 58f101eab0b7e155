"""Options in, results out: reads facts and files, calls the planner, and leaves the arithmetic to it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwdetect.inventory import Inventory, from_json
from moeplan import __version__
from moeplan.calibrations import AUTO, may_have_any
from moeplan.cli.progress import progress_bar
from planner.assemble import make_plan
from planner.build import build_request
from planner.errors import BadRequest, Undetermined
from planner.hardware import describe, machine_of
from planner.options import Options
from planner.plan import Plan
from planner.search import no_collection, search
from profiles.config_reader import BadConfig, UnknownFamily
from profiles.headers.errors import BadModelFile
from profiles.library import load_model
from profiles.model import ModelSpec
from profiles.names import AmbiguousName, UnknownName

if TYPE_CHECKING:
    from hwdetect.bench.measured import MeasuredSeries
    from moeplan.hub import Progress
    from planner.calibrate import ObservedStart
    from planner.memory_report import MemoryReport
    from planner.request import Request
    from planner.verify_report import MeasuredLoad

GENERATED_BY = f"moeplan {__version__}"
MAX_INVENTORY_BYTES = 1 << 30
Source = Literal["flags", "detected", "file"]


def read_model(text: str, progress: Progress | None = None) -> ModelSpec:
    """A model by name or path, or else from the hub. Raises ``BadRequest`` and ``Undetermined``.

    ``progress`` hears of a visit to the hub; without it the main thread draws a bar on the terminal.
    """
    try:
        return _read(text, progress)
    except UnknownFamily as error:
        raise Undetermined(str(error)) from None
    except (UnknownName, AmbiguousName, BadConfig, BadModelFile, ValueError) as error:
        raise BadRequest(str(error)) from None
    except OSError as error:
        raise BadRequest(f"{text}: {error.strerror or error}") from None


def _read(text: str, progress: Progress | None) -> ModelSpec:
    try:
        return load_model(text)
    except UnknownName:
        from moeplan.hub import fetch_hub_model, is_hub_id

        if not is_hub_id(text):
            raise
    if progress is not None or threading.current_thread() is not threading.main_thread():
        # Other threads work for a screen, which a bar would spoil.
        return fetch_hub_model(text, progress).spec
    with progress_bar(f"reading {text}") as draw:
        return fetch_hub_model(text, draw).spec


def read_inventory(options: Options) -> tuple[Inventory, Source]:
    """The hardware: described by flags, read from a file, or detected."""
    if options.inventory is not None:
        if options.describes_hardware:
            raise BadRequest("--inventory cannot be combined with flags that describe hardware")
        return read_inventory_file(Path(options.inventory)), "file"
    if options.describes_hardware:
        return describe(options), "flags"
    from hwdetect.detect import detect
    from moeplan.measured_rates import with_measured_rates

    found = detect()
    # What is stale is said once, of the kernels.
    measured = with_measured_rates(found, options.calibration or AUTO).model_copy(update={"notes": found.notes})
    return measured, "detected"


def read_inventory_file(path: Path) -> Inventory:
    """An inventory from a file. Raises ``BadRequest`` with one line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INVENTORY_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"--inventory {path}: {error.strerror or error}") from None
    if len(data) > MAX_INVENTORY_BYTES:
        raise BadRequest(f"--inventory {path}: larger than {MAX_INVENTORY_BYTES >> 20} MiB")
    try:
        return from_json(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadRequest(f"--inventory {path}: not UTF-8 text") from None
    except ValueError as error:
        raise BadRequest(f"--inventory {path}: {error}") from None


def run_plan(options: Options, *, exact: bool, progress: Progress | None) -> Plan:
    """``plan``, or with ``exact`` ``estimate``."""
    with no_collection():
        model = read_model(options.model)
        inventory, source = read_inventory(options)
        return plan_calibrated(options, model, inventory, source, exact=exact, progress=progress)


def plan_calibrated(
    options: Options,
    model: ModelSpec,
    inventory: Inventory,
    source: Source,
    *,
    exact: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """``plan_on`` with what was measured and observed on that hardware, as ``--calibration`` says."""
    kernels, remarks = measured_kernels(options.calibration, inventory, source)
    observed, notes = _observed(options, model, inventory, source)
    loads, said = _loads(options, model, inventory, source)
    return plan_on(
        options, model, inventory, source, exact=exact, progress=progress, kernels=kernels, observed=observed,
        loads=loads, notes=tuple(dict.fromkeys((*notes, *remarks, *said))),
    )  # fmt: skip


def _observed(
    options: Options, model: ModelSpec, inventory: Inventory, source: Source
) -> tuple[tuple[ObservedStart, ...], tuple[str, ...]]:
    """Start-ups that were observed on that hardware: none where it is only described, unless a file is named."""
    if source == "flags" and options.calibration in (None, "auto", "none"):
        return (), ()
    from moeplan.calibrating import observed_starts

    return observed_starts(options, model, inventory, source)


def _loads(
    options: Options, model: ModelSpec, inventory: Inventory, source: Source
) -> tuple[tuple[MeasuredLoad, ...], tuple[str, ...]]:
    """What served models did under load on that hardware."""
    if not may_have_any(options.calibration):
        return (), ()
    from moeplan.calibrating import measured_loads

    return measured_loads(options, model, inventory, source)


def measured_kernels(
    choice: str | None, inventory: Inventory, source: Source
) -> tuple[tuple[MeasuredSeries, ...], tuple[str, ...]]:
    """Kernels of the calibration that ``--calibration`` means, and what is to be said of it.

    Without a choice only the machine in front of us has one. Raises ``BadRequest`` for a file that was named.
    """
    if choice == "none" or (choice in (None, "auto") and source != "detected"):
        return (), ()
    from moeplan.calibration import load_kernels

    return load_kernels(choice or "auto", inventory, detected=source == "detected")


def plan_on(
    options: Options,
    model: ModelSpec,
    inventory: Inventory,
    source: Source,
    *,
    exact: bool = False,
    progress: Progress | None = None,
    kernels: tuple[MeasuredSeries, ...] = (),
    observed: tuple[ObservedStart, ...] = (),
    loads: tuple[MeasuredLoad, ...] = (),
    notes: tuple[str, ...] = (),
) -> Plan:
    """The plan of a model and hardware that have been read: no file, no machine, the same answer anywhere.

    ``kernels`` were measured on that hardware, ``observed`` and ``loads`` on engines that ran there.
    """
    with no_collection():
        request = request_on(
            options, model, inventory, source,
            exact=exact, kernels=kernels, observed=observed, loads=loads, notes=notes,
        )  # fmt: skip
        machine = request.machine
        if not exact and len(machine.nodes) > 1:
            from planner.fleet import is_fleet, plan_fleet

            if is_fleet(machine):
                return plan_fleet(request, inventory, GENERATED_BY, progress)
        outcome = search(request, progress)
        return make_plan(request, outcome, _inventory_dict(inventory), GENERATED_BY)


def request_on(
    options: Options,
    model: ModelSpec,
    inventory: Inventory,
    source: Source,
    *,
    exact: bool = False,
    kernels: tuple[MeasuredSeries, ...] = (),
    observed: tuple[ObservedStart, ...] = (),
    loads: tuple[MeasuredLoad, ...] = (),
    notes: tuple[str, ...] = (),
) -> Request:
    """What ``plan_on`` searches for."""
    machine = machine_of(inventory, source)
    if notes:
        machine = machine._replace(notes=(*machine.notes, *notes))
    request = build_request(options, model, machine, exact=exact, kernels=kernels)
    return replace(request, observed=observed, loads=loads) if observed or loads else request


def calibrated_request(options: Options, model: ModelSpec, inventory: Inventory, source: Source) -> Request:
    """What ``plan_calibrated`` searches for."""
    kernels, _ = measured_kernels(options.calibration, inventory, source)
    observed, _ = _observed(options, model, inventory, source)
    loads, _ = _loads(options, model, inventory, source)
    return request_on(options, model, inventory, source, kernels=kernels, observed=observed, loads=loads)


def _inventory_dict(inventory: Inventory) -> dict[str, Any]:
    return inventory.model_dump(mode="json", by_alias=True)


def run_memory(options: Options, *, claims: bool) -> MemoryReport:
    """``memory``: the calculator, with the claims of the model's card when asked."""
    from planner.calculator import memory_report

    return memory_report(options, read_model(options.model), GENERATED_BY, claims=claims)


def with_quality(model: str, report: MemoryReport) -> MemoryReport:
    """The report with what the model's quantizations cost in quality."""
    from planner.quality import quality_view

    return report.model_copy(update={"quality": quality_view(read_model(model))})
