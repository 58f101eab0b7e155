"""What the package offers to programs; the command line is built on it and nothing else.

Options are the command line's flags as keyword arguments, with the same spellings (``context="128k"``); numbers are
accepted too, and ``gpu`` takes one text or several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from planner.options import Options

if TYPE_CHECKING:
    from hwdetect.inventory import Inventory
    from planner.findings import CheckReport
    from planner.memory_report import MemoryReport
    from planner.plan import Plan
    from profiles.model import ModelSpec

Progress = Callable[[int, int], None]
Value = str | int | float | bool | Iterable[str] | None


def options_of(model: str, values: dict[str, Value]) -> Options:
    """Keyword arguments as ``Options``. Raises ``TypeError`` for a name that is no option."""
    fields: dict[str, object] = {}
    for name, value in values.items():
        if name == "gpu":
            fields[name] = (value,) if isinstance(value, str) else tuple(value or ())  # type: ignore[arg-type]
        elif isinstance(value, bool) or value is None:
            fields[name] = value
        else:
            fields[name] = str(value)
    return Options(model, **fields)  # type: ignore[arg-type]


def plan(model: str, *, progress: Progress | None = None, **options: Value) -> Plan:
    """Search every engine, release and layout for ``model`` on a machine and rank what fits.

    Without a hardware option the machine in front of you is detected. Raises ``planner.errors.BadRequest`` for a bad
    option and ``planner.errors.Undetermined`` where a required fact is unreadable.
    """
    from moeplan.pipeline import run_plan

    return run_plan(options_of(model, options), exact=False, progress=progress)


def estimate(model: str, **options: Value) -> Plan:
    """Price exactly one configuration, with its ledger whether it fits or not. Raises as ``plan`` does."""
    from moeplan.pipeline import run_plan

    return run_plan(options_of(model, options), exact=True, progress=None)


def memory(model: str, *, claims: bool = False, **options: Value) -> MemoryReport:
    """Weights by release and class, KV cache by layout and dtype. Raises as ``plan`` does."""
    from moeplan.pipeline import run_memory

    return run_memory(options_of(model, options), claims=claims)


def detect(*, engine_python: str | None = None, model_folder: str | None = None) -> Inventory:
    """The hardware of this machine, every value with its provenance, and what ``bench`` measured of it.

    engine_python: interpreter of an engine's environment. model_folder: where models are kept, if not in the cache.
    """
    from hwdetect.detect import detect as detect_machine
    from moeplan.measured_rates import with_measured_rates

    return with_measured_rates(detect_machine(engine_python=engine_python, model_directory=model_folder))


def check(
    plan: Plan | None = None, *, strict: bool = False, progress: Progress | None = None, **options: str | None
) -> CheckReport:
    """Go or no-go for this machine, of health and of a plan's best candidate.

    Options: ``inventory``, ``rank``, ``bench``, ``engine_python``, ``model_folder``, ``cluster``, ``node_timeout``, as
    texts. Raises ``planner.errors.BadRequest`` for a bad one.
    """
    from moeplan.checking import run_check

    return run_check(plan, strict=strict, progress=progress or _silent, **options)


def _silent(done: int, total: int) -> None:
    del done, total


def load_model(text: str) -> ModelSpec:
    """A built-in model, a ``config.json`` or a folder with one. Raises as ``plan`` does."""
    from moeplan.pipeline import read_model

    return read_model(text)
