"""Configurations that were marked to be compared, each with the knobs that it was planned with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from planner.plan import Candidate, Plan
    from tui.program import Answer, Values

MOST: Final = 4


class Mark(NamedTuple):
    """``key`` is the row's; with ``values`` it says which configuration of which question this is."""

    key: str
    values: Values
    plan: Plan
    candidate: Candidate

    def is_of(self, key: str, values: Values) -> bool:
        """Whether this is that row of the plan for these knobs."""
        return self.key == key and dict(self.values) == dict(values)


class Marks:
    """At most ``MOST``, in the order marked. A mark outlives the knobs that it was planned with."""

    def __init__(self) -> None:
        self.all: tuple[Mark, ...] = ()

    def has(self, key: str, values: Values) -> bool:
        """Whether this row is marked."""
        return any(mark.is_of(key, values) for mark in self.all)

    def toggle(self, mark: Mark) -> bool:
        """Mark or unmark; False where as many are marked as can be compared."""
        rest = tuple(one for one in self.all if not one.is_of(mark.key, mark.values))
        if len(rest) < len(self.all):
            self.all = rest
        elif len(rest) < MOST:
            self.all = (*rest, mark)
        else:
            return False
        return True

    def drop(self, place: int) -> None:
        """Unmark one of them."""
        self.all = (*self.all[:place], *self.all[place + 1 :])

    def renew(self, answer: Answer, values: Values) -> None:
        """What was marked in an earlier plan for the same knobs is what the newest plan says of it."""
        rows = {row.key: row.candidate for row in answer.rows}
        self.all = tuple(
            mark._replace(plan=answer.plan, candidate=found)
            if dict(mark.values) == dict(values) and (found := rows.get(mark.key)) is not None
            else mark
            for mark in self.all
        )
