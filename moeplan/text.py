"""Tables for people: how they look and how they reach the terminal; ``text_*`` say what stands in them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from moeplan.text_safe import printable

WIDTH = 100
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


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], least: int = WIDTH) -> RenderableType:
    """A table, ``least`` wide where the terminal is narrower.

    A column whose name begins with ``>`` is aligned to the right. Such a column, and one whose name begins with ``!``,
    is never broken: half a number is another number.
    """
    drawing = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    cells = [[one if isinstance(one, Text) else line(one) for one in row] for row in rows]
    for place, name in enumerate(columns):
        head = Text(name.lstrip(">!"))
        whole = max(part.cell_len for text in (head, *(row[place] for row in cells)) for part in text.split())
        drawing.add_column(
            head,
            justify="right" if name.startswith(">") else "left",
            overflow="fold",
            min_width=whole if name.startswith((">", "!")) else None,
        )
    for row in cells:
        drawing.add_row(*row)
    return _AtLeast(Padding(drawing, (0, 0, 0, 2)), least)


class _AtLeast:
    """Drawn this wide at least: a narrower terminal breaks lines, where a table would drop columns."""

    def __init__(self, view: RenderableType, width: int) -> None:
        self.view, self.width = view, width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return console.render(self.view, options.update(width=max(options.max_width, self.width)))


def cell(*parts: str) -> Text:
    """A cell of several lines, one for each part."""
    return Text("\n".join(printable(part) for part in parts))


def stacked(*parts: RenderableType | None) -> Group:
    """Parts under each other; None is left out."""
    return Group(*[part for part in parts if part is not None])
