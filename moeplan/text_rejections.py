"""What does not fit, nearest miss first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.text import Text

from moeplan.text import FAINT, cell, heading, line, stacked, table
from moeplan.text_numbers import gib, plural
from planner.plan import Rejection

MAX_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Reason:
    """Rejections of one engine for one reason: the nearest of them, and how many there are."""

    nearest: Rejection
    count: int


def reasons(rejected: Sequence[Rejection], *, by_quantization: bool) -> list[Reason]:
    """Distinct reasons, those that lack the fewest bytes first, those that no memory mends last."""
    found: dict[tuple[str, str, str], Reason] = {}
    for rejection in rejected:
        key = (rejection.engine, rejection.quantization if by_quantization else "", rejection.reason)
        old = found.get(key)
        if old is None:
            found[key] = Reason(rejection, rejection.count)
        else:
            nearest = min(old.nearest, rejection, key=_distance)
            found[key] = Reason(nearest, old.count + rejection.count)
    return sorted(found.values(), key=lambda reason: _distance(reason.nearest))


def best_remedy(rejected: Sequence[Rejection]) -> str:
    """The nearest miss in a sentence with what would help; empty when nothing was rejected."""
    for reason in reasons(rejected, by_quantization=False)[:1]:
        miss = reason.nearest
        short = f", short by {gib(miss.short_by_bytes)} GiB" if miss.short_by_bytes else ""
        place = f" on {miss.device}" if short and miss.device else ""
        remedy = f". What helps: {miss.remedy}" if miss.remedy else ""
        return f"{miss.engine} with {miss.quantization}: {miss.reason}{short}{place}{remedy}."
    return ""


def rejections_view(rejected: Sequence[Rejection], *, everything: bool) -> RenderableType | None:
    """A table of the reasons; at most ``MAX_SHOWN`` unless everything is wanted."""
    found = reasons(rejected, by_quantization=everything)
    if not found:
        return None
    shown = found if everything else found[:MAX_SHOWN]
    rows: list[list[str | Text]] = [
        [
            cell(reason.nearest.engine, reason.nearest.quantization),
            f"{reason.count:,}",
            gib(reason.nearest.short_by_bytes) if reason.nearest.short_by_bytes else "",
            reason.nearest.reason,
            reason.nearest.remedy,
        ]
        for reason in shown
    ]
    hidden = len(found) - len(shown)
    more = line(f"  and {plural(hidden, 'other reason')}; --explain shows all", FAINT) if hidden else None
    columns = ("engine\nnearest with", ">tried", ">short by\nGiB", "why not", "what helps")
    return stacked(heading("Does not fit"), table(columns, rows), more)


def _distance(rejection: Rejection) -> float:
    return rejection.short_by_bytes if rejection.short_by_bytes else float("inf")
