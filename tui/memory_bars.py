"""The memory of every device as a bar that moves with the knobs."""

from __future__ import annotations

from typing import Final

from rich.text import Text
from textual.app import RenderResult
from textual.reactive import reactive
from textual.widget import Widget

from tui.program import DeviceBar

COLOURS: Final = {"weights": "cyan", "KV cache": "blue", "compute": "magenta", "overhead": "yellow"}
LEGEND: Final = "w weights k KV c compute o overhead . free ! over"
FREE_STYLES: Final = {"fits": "green", "tight": "yellow", "no": "red"}
LEAST: Final = 10


class MemoryBars(Widget):
    """One line for each group of devices; the letters say in black and white what the colours say."""

    bars: reactive[tuple[DeviceBar, ...]] = reactive((), layout=True)

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        """A line each, and the legend."""
        del container, viewport, width
        return len(self.bars) + 1 if self.bars else 0

    def render(self) -> RenderResult:
        """The bars, as wide as there is room."""
        if not self.bars:
            return Text("")
        places = max(len(bar.place) for bar in self.bars)
        frees = max(len(bar.free) for bar in self.bars)
        width = max(self.size.width - places - frees - 5, LEAST)
        lines = [_line(bar, places, width) for bar in self.bars]
        return Text("\n", no_wrap=True, overflow="ellipsis").join([*lines, Text(LEGEND, style="dim")])


def _line(bar: DeviceBar, places: int, width: int) -> Text:
    line = Text(f"{bar.place:{places}} [", no_wrap=True)
    end, drawn = 0, 0
    for part, cells in zip(bar.parts, shares([part.bytes for part in bar.parts], bar.usable_bytes, width), strict=True):
        end += part.bytes
        line.append(part.name[0].lower() * cells, style=f"black on {COLOURS[part.name]}")
        drawn += cells
    line.append("." * (width - drawn), style="dim")
    line.append("]! " if end > bar.usable_bytes else "]  ")
    line.append(bar.free, style=FREE_STYLES[bar.verdict])
    return line


def shares(sizes: list[int], whole: int, width: int) -> list[int]:
    """Cells of each part of a bar; what is there has one at least, as long as there are any.

    >>> shares([72, 3, 0, 1], 120, 20), shares([72, 90, 0, 1], 120, 20)
    ([12, 1, 0, 1], [12, 8, 0, 0])
    """
    cells: list[int] = []
    end = 0
    for size in sizes:
        end += size
        drawn = sum(cells)
        wanted = max(round(width * end / max(whole, 1)) - drawn, 1) if size > 0 else 0
        cells.append(min(wanted, width - drawn))
    return cells
