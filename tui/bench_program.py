"""What the bench screen is handed: kernels that were measured, as it draws them, and callables to ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.console import RenderableType

    from planner.plan import Candidate, Plan
    from tui.program import Values

Kind = Literal["quick", "plan", "all"]
KINDS: Final[tuple[Kind, ...]] = ("quick", "plan", "all")


class BenchTask(NamedTuple):
    """The kernels of ``plan`` if it is for this machine, else of the knobs' model; of ``candidate`` for ``plan``."""

    kind: Kind
    values: Values
    plan: Plan | None
    candidate: Candidate | None


class BenchOffer(NamedTuple):
    """What a kind would measure, in words; ``is_possible`` is false where the words say why not."""

    kind: Kind
    words: str
    is_possible: bool


class BenchLine(NamedTuple):
    """A row of the results; ``details`` are everything about it."""

    key: str
    cells: tuple[str, ...]
    state: Literal["stable", "unstable", "missing"]
    details: RenderableType


class BenchWatch(NamedTuple):
    """How a run in a thread tells of itself, and whether it is to end."""

    begins: Callable[[str], None]
    progress: Callable[[int, int], None]
    found: Callable[[tuple[BenchLine, ...]], None]
    is_cancelled: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class BenchAnswer:
    """A run that came to an end, or was cancelled. ``result`` is what ``keep`` takes, None where nothing can be kept.

    ``verdict`` is what became of the prediction, in words, where there was one to be held to.
    """

    ended: str
    lines: tuple[BenchLine, ...]
    verdict: str
    verdict_style: str
    against: RenderableType | None
    plot: RenderableType | None
    notes: RenderableType | None
    result: object | None


@dataclass(frozen=True, slots=True)
class BenchProgram:
    """columns: of the results, ``>`` before those of numbers. offers: what can be measured now, at once.

    run: raises ``Refused``. keep: writes what was measured as this machine's calibration and says so in a line; raises
    ``Refused``.
    """

    columns: tuple[str, ...]
    offers: Callable[[BenchTask], tuple[BenchOffer, ...]]
    run: Callable[[BenchTask, BenchWatch], BenchAnswer]
    keep: Callable[[object], str]
