"""A plan as one HTML file that needs no network and no program: ``write_report(path, plan)``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import BadRequest

if TYPE_CHECKING:
    from datetime import date

    from moeplan.bench_report import BenchReport
    from planner.cost_report import CostReport
    from planner.findings import CheckReport
    from planner.plan import Plan

__all__ = ["report_html", "write_report"]


def report_html(
    plan: Plan,
    *,
    rank: int = 1,
    check: CheckReport | None = None,
    bench: BenchReport | None = None,
    cost: CostReport | None = None,
    cdn: bool = False,
    today: date | None = None,
) -> str:
    """The page of a plan's candidate, or of a plan where nothing fits.

    Without ``cost`` the comparison with APIs is that of the known prices. ``cdn``: the charts' library is loaded from
    the network, where the page is otherwise whole. Raises ``BadRequest`` for a rank that the plan does not have.
    """
    from datetime import date as calendar

    from moeplan.report.page import page
    from moeplan.report.subject import subject_of

    return page(subject_of(plan, rank, check, bench, cost, today or calendar.today()), cdn=cdn)


def write_report(
    path: Path,
    plan: Plan,
    *,
    rank: int = 1,
    check: CheckReport | None = None,
    bench: BenchReport | None = None,
    cost: CostReport | None = None,
    cdn: bool = False,
    overwrite: bool = False,
) -> int:
    """Write the page so that nobody ever sees half of it; its size in bytes.

    Raises ``BadRequest`` for a file that is there without ``overwrite``, for a place that cannot be written, and as
    ``report_html`` does.
    """
    from moeplan.cli.output import write_whole
    from moeplan.text_safe import printable

    if not overwrite and path.exists():
        raise BadRequest(f"{printable(str(path))} exists; --force overwrites it")
    text = report_html(plan, rank=rank, check=check, bench=bench, cost=cost, cdn=cdn)
    write_whole(path, text, "-o")
    return len(text.encode("utf-8"))
