"""What the compare screen is handed: views to draw, and callables to ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tui.marks import Mark
    from tui.program import Alive, Machine, Values


@dataclass(frozen=True, slots=True)
class CompareProgram:
    """compare: marks side by side, at once. cost: each against the APIs; recommend: the least costly hardware.

    The last two take flags of the command line of the same name as typed, may take their time, and raise ``Refused``.
    ``cost_flags`` and ``recommend_flags`` are examples of them.
    """

    cost_flags: str
    recommend_flags: str
    compare: Callable[[tuple[Mark, ...], Values], RenderableType]
    cost: Callable[[tuple[Mark, ...], str], RenderableType]
    recommend: Callable[[Values, Machine | None, str, Alive], RenderableType]
