"""Tables for people: how they look and how they reach the terminal; ``text_*`` say what stands in them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from moeplan.text_safe import printable
from moeplan.text_table import WHOLE_FROM, Column, Responsive

WIDTH = WHOLE_FROM
"""Columns where no terminal says how many it has."""

GOOD, DOUBTFUL, BAD, HEADING, FAINT = "green", "yellow", "red", "bold", "dim"
VERDICT_STYLES = {"fits": GOOD, "tight": DOUBTFUL, "no": BAD}


def show(view: RenderableType) -> None:
    """Print on stdout: in colour on a terminal unless NO_COLOR is set, as wide as the terminal or COLUMNS."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else WIDTH
    sys.stdout.write(_rendered(view, Console(file=sys.stdout, width=width, highlight=False)))


def drawn(view: RenderableType, width: int = WIDTH) -> str:
    """The view as plain text."""
    return _rendered(view, Console(file=io.StringIO(), width=width, color_system=None, highlight=False))


def _rendered(view: RenderableType, console: Console) -> str:
    with console.capture() as captured:
        # Commands may be longer than the terminal is wide: cut, they would be wrong.
        console.print(view, crop=False)
    text = captured.get().lstrip("\n")
    return text if console.is_terminal else "\n".join(row.rstrip() for row in text.split("\n"))


def line(text: str, style: str = "") -> Text:
    """A paragraph of text that others may have written."""
    return Text(printable(text), style=style)


def verbatim(text: str, style: str = "") -> Text:
    """A line that must not be broken, such as one of a command."""
    return Text(printable(text), style=style, no_wrap=True, overflow="ignore")


def heading(text: str) -> Text:
    """What stands over a table."""
    return Text(f"\n{printable(text)}", style=HEADING)


def bullets(lines: Sequence[str], style: str = "") -> RenderableType:
    """A list."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=3, justify="right")
    grid.add_column(overflow="fold")
    for text in lines:
        grid.add_row("-", line(text, style))
    return grid


def pairs(rows: Sequence[tuple[str, str]]) -> RenderableType:
    """Names and values in two columns; a row without a value is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value:
            grid.add_row(Text(f"  {name}", style=FAINT), line(value))
    return grid


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> RenderableType:
    """A table. A column whose name begins with ``>`` is aligned to the right.

    Such a column, and one whose name begins with ``!``, is never broken. Where a terminal is too narrow for all
    columns, they are drawn as several tables.
    """
    cells = [[one if isinstance(one, Text) else line(one) for one in row] for row in rows]
    return Responsive(
        [
            Column(
                Text(name.lstrip(">!")), tuple(row[place] for row in cells),
                to_the_right=name.startswith(">"), kept=name.startswith((">", "!")),
            )
            for place, name in enumerate(columns)
        ]
    )  # fmt: skip


def cell(*parts: str) -> Text:
    """A cell of several lines, one for each part."""
    return Text("\n".join(printable(part) for part in parts))


def stacked(*parts: RenderableType | None) -> Group:
    """Parts under each other; None is left out."""
    return Group(*[part for part in parts if part is not None])
