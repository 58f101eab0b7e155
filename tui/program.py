"""What the screens are handed: objects to draw and callables to ask. They compute nothing and know no machine.

Every callable may take its time and is called in a thread, except ``choices`` and ``save``, which answer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from planner.plan import Candidate, Plan, Verdict
    from tui.bench_program import BenchProgram
    from tui.compare_program import CompareProgram

Machine = Any
"""An inventory, which the screens only hand on."""
Values = Mapping[str, str]
"""Knobs by name; one that is not set is not there."""
Alive = Callable[[int, int], None]
"""Called with (done, total) while something is computed; raises to end what nobody waits for any more."""


class Refused(Exception):
    """A request that cannot be met, in one line. ``knob`` is the one that it is about, None for the whole."""

    def __init__(self, message: str, knob: str | None = None) -> None:
        super().__init__(message)
        self.knob = knob


class Part(NamedTuple):
    """A share of a device's memory: name, bytes."""

    name: str
    bytes: int


class DeviceBar(NamedTuple):
    """A bar for devices that carry the same. ``usable_bytes`` is its whole length, ``free`` the rest in words."""

    place: str
    parts: tuple[Part, ...]
    usable_bytes: int
    free: str
    verdict: Verdict


@runtime_checkable
class MachineScreen(Protocol):
    """A screen that wants to hear of this machine."""

    def machine_sought(self) -> None:
        """It is looked at again."""

    def machine_found(self, machine: Machine | None, reason: str = "") -> None:
        """It, or why it is not known."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the ranking. ``key`` names the same configuration in the next plan; no candidate: rejected."""

    key: str
    cells: tuple[str, ...]
    verdict: Verdict
    summary: str
    details: Callable[[], RenderableType]
    bars: tuple[DeviceBar, ...] = ()
    candidate: Candidate | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan as the plan screen shows it. ``in_force`` are the values of knobs that were left empty."""

    plan: Plan
    title: str
    counts: str
    rows: tuple[Row, ...]
    in_force: Values = field(default_factory=dict)


class Line(NamedTuple):
    """A line of a plot; ``low`` and ``high``, where there are any, are the ends of its range at the same places."""

    name: str
    points: tuple[tuple[float, float], ...]
    low: tuple[tuple[float, float], ...] = ()
    high: tuple[tuple[float, float], ...] = ()


class Curve(NamedTuple):
    """A plot of positive numbers on logarithmic axes, and ``table``, the same for those who read rather than look.

    ``ticks`` are places of the horizontal axis with their names, ``here`` the one of the plan.
    """

    name: str
    title: str
    across: str
    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    here: float
    table: RenderableType


class Choice(NamedTuple):
    """A value of a knob and what to know about it."""

    value: str
    note: str


class LaunchFiles(NamedTuple):
    """Texts by file name, and what to know before they are run."""

    files: dict[str, str]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """The program behind the screens.

    columns: heads of a row's cells; ``>`` stands before those of numbers.
    replan: the plan of the knobs, on ``Machine`` where they describe no hardware; raises ``Refused``.
    described: whether the knobs describe hardware. detect, check: raise ``Refused`` where they fail.
    curves: plots of a candidate of the plan that ``replan`` made of the same knobs and machine; raises ``Refused``.
    save: writes files into a folder, (folder, files, overwrite), and returns what was done in a line; ``save_plan``
    the same for a plan and a file, ``save_report`` for the report of a plan and the rank it recommends. All raise
    ``Refused``. ``bench`` and ``compare`` are asked for when their screens are opened.
    """

    columns: tuple[str, ...]
    formats: tuple[str, ...]
    replan: Callable[[Values, Machine | None, Alive], Answer]
    described: Callable[[Values], bool]
    choices: Callable[[str, Values], tuple[Choice, ...]]
    detect: Callable[[], Machine]
    machine_view: Callable[[Machine], RenderableType]
    check: Callable[[Machine, Plan | None, int], RenderableType]
    launch_files: Callable[[Plan, Candidate, str], LaunchFiles]
    save: Callable[[str, dict[str, str], bool], str]
    save_plan: Callable[[str, Plan, bool], str]
    save_report: Callable[[str, Plan, int, bool], str]
    curves: Callable[[Values, Machine | None, Candidate, Alive], tuple[Curve, ...]]
    bench: Callable[[], BenchProgram]
    compare: Callable[[], CompareProgram]
