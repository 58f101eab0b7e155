"""The section ``loads`` of a calibration: what a served model did under load, as ``moeplan verify`` measured it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from moeplan.calibration import CALIBRATION_SCHEMA, Calibration, _locked, _read
from moeplan.cli.output import write_whole
from moeplan.text_safe import printable
from planner.errors import BadRequest
from planner.plan import Parallel, Record
from planner.verify_report import LoadStep

SECTION: Final = "loads"
MAX_LOADS: Final = 200
"""Measurements kept for a machine; the oldest goes first."""


class Measured(Record):
    """One verification of a configuration; ``steps`` are its loads."""

    measured_at: str
    engine: str
    engine_version: str
    model: str
    quantization: str
    parallel: Parallel
    kv_tokens: int | None
    steps: tuple[LoadStep, ...]


def store_load(
    path: Path, measured: Measured, *, machine: str, description: str, generated_by: str, make_folder: bool = False
) -> None:
    """Add a measurement to a calibration; its other sections stay as they are.

    Raises ``BadRequest`` where the file is no calibration, is another machine's, or cannot be written.
    """
    where = f"--calibration {printable(str(path))}"
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            found = _read(path)
            if found is not None and found.fingerprint != machine:
                raise BadRequest(f"{where}: it is of another machine, {found.machine[:80]}")
            kept: dict[str, Any] = found.model_dump(mode="json", by_alias=True) if found is not None else {}
            rows = kept.get(SECTION)
            before = list(rows) if isinstance(rows, list) else []
            value = {
                **kept, "schema": CALIBRATION_SCHEMA, "generated_by": generated_by, "fingerprint": machine,
                "machine": description, SECTION: [*before, measured.model_dump(mode="json")][-MAX_LOADS:],
            }  # fmt: skip
            renewed = Calibration.model_validate(value)
            write_whole(path, renewed.model_dump_json(indent=2, by_alias=True) + "\n", "--calibration")
    except OSError as error:
        raise BadRequest(f"{where}: {error.strerror or error}") from None
    except ValidationError:
        raise BadRequest(f"{where}: not a {CALIBRATION_SCHEMA}") from None
