"""Tables that a narrow terminal does not spoil."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WHOLE_FROM: Final = 100
"""Columns of a terminal from which every table is drawn whole, with its text as narrow as it takes."""
INDENT: Final = 2
GAP: Final = 2
TEXT_LEAST: Final = 12
"""Columns that a text is given at least, and more where a word is longer, up to ``WORD_MOST``."""
WORD_MOST: Final = 20
KEY_MOST: Final = 3
"""A first column that is no wider than this is a number of the row, and the second its name."""


class Column(NamedTuple):
    """A column with its head and cells. One that is ``kept`` is never broken: half a number is another number."""

    head: Text
    cells: tuple[Text, ...]
    to_the_right: bool
    kept: bool

    @property
    def widest(self) -> int:
        """The longest line."""
        return max(part.cell_len for text in (self.head, *self.cells) for part in text.split())

    @property
    def least(self) -> int:
        """Columns that it takes without breaking what must not be broken."""
        if self.kept:
            return self.widest
        words = [len(word) for text in (self.head, *self.cells) for word in text.plain.split()]
        return min(self.widest, max(TEXT_LEAST, min(max(words, default=0), WORD_MOST)))


class Responsive:
    """A table; where it is too wide, several under each other, each with the column that names the rows."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        for place, block in enumerate(self.blocks(width)):
            if place:
                yield Text("")
            # What cannot be made narrower is left to the terminal to wrap: nothing is dropped.
            needed = _width_of(block) + INDENT
            yield from console.render(
                Padding(_drawing(block), (0, 0, 0, INDENT)), options.update(width=max(width, needed))
            )

    def blocks(self, width: int) -> list[tuple[Column, ...]]:
        """The columns of each table for a terminal of this width."""
        columns = self.columns
        if width >= WHOLE_FROM or _width_of(columns) + INDENT <= width or len(columns) < 3:
            return [columns]
        keys = columns[: 2 if columns[0].widest <= KEY_MOST and len(columns) > 2 else 1]
        rest = columns[len(keys) :]
        fewest = len(_packed(keys, rest, width - INDENT))
        # No narrower than it takes for as few tables, so that none is left with a single column.
        even = next(least for least in range(1, width) if len(_packed(keys, rest, least)) == fewest)
        return [_told(keys, block) for block in _packed(keys, rest, even)]


def _packed(keys: tuple[Column, ...], rest: tuple[Column, ...], width: int) -> list[tuple[Column, ...]]:
    """As many columns beside the keys as there is room for, one at least."""
    blocks: list[tuple[Column, ...]] = []
    block: tuple[Column, ...] = ()
    for column in rest:
        if block and _width_of((*keys, *block, column)) > width:
            blocks.append(block)
            block = ()
        block = (*block, column)
    return [*blocks, block]


def _told(keys: tuple[Column, ...], block: tuple[Column, ...]) -> tuple[Column, ...]:
    """The columns without the rows of which they say nothing."""
    rows = [place for place in range(len(keys[0].cells)) if any(column.cells[place].plain for column in block)]
    return tuple(column._replace(cells=tuple(column.cells[place] for place in rows)) for column in (*keys, *block))


def _width_of(columns: Sequence[Column]) -> int:
    return sum(column.least for column in columns) + GAP * (len(columns) - 1)


def _drawing(columns: Sequence[Column]) -> Table:
    drawing = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        drawing.add_column(
            column.head,
            justify="right" if column.to_the_right else "left",
            overflow="fold",
            min_width=column.widest if column.kept else None,
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        drawing.add_row(*row)
    return drawing


class Packed:
    """Short texts beside each other, as many in a line as there is room for; none is broken."""

    def __init__(self, texts: Sequence[str], style: str = "", gap: int = 4, indent: int = INDENT) -> None:
        self.texts, self.style, self.gap, self.indent = texts, style, gap, indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for row in self._rows(options.max_width):
            yield Text(" " * self.indent + row, style=self.style, no_wrap=True, overflow="ignore")

    def _rows(self, width: int) -> Iterator[str]:
        row = ""
        for text in self.texts:
            longer = f"{row}{' ' * self.gap}{text}" if row else text
            if row and self.indent + len(longer) > width:
                yield row
                longer = text
            row = longer
        yield row
