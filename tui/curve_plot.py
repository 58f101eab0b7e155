"""A plot in the terminal, drawn by plotext."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import Final

from textual.color import Color
from textual_plotext import PlotextPlot

from tui.program import Curve

COLOURS: Final = ("success", "warning", "error", "accent")
"""Theme colours of the lines, in their order."""
NARROW: Final = 4
"""A range whose ends are less than this many times apart has even ticks."""
FAINT: Final = 0.45
"""How much of the foreground the line of the plan has."""
DARKER: Final = 0.2
"""What theme colours lack in the light."""
RANGES_FROM: Final = 16
"""Rows of a plot that shows ranges."""
LEAST_TICK_GAP: Final = 2
"""Rows between two names on the vertical axis, at least."""


class CurvePlot(PlotextPlot):
    """Draws the ``Curve`` it is given. Lines are named where they end, so that no colour is needed to tell them."""

    def __init__(self, curve: Curve | None = None, id: str | None = None) -> None:
        super().__init__(id=id)
        self._curve = curve

    @property
    def curve(self) -> Curve | None:
        """What is drawn."""
        return self._curve

    @curve.setter
    def curve(self, curve: Curve | None) -> None:
        self._curve = curve
        self.refresh()

    def render(self) -> object:  # type: ignore[override]
        """The plot, as large as there is room."""
        self._draw()
        return super().render()

    def _draw(self) -> None:
        plot, curve = self.plt, self._curve
        plot.clear_data()
        plot.clear_figure()
        points = [point for line in curve.lines for point in line.points if point[1] > 0] if curve is not None else []
        if curve is None or not points:
            plot.xaxes(False, False)
            plot.yaxes(False, False)
            return
        heights = [y for line in curve.lines for _, y in (*line.points, *line.low, *line.high) if y > 0]
        low, high = log10(min(heights)), log10(max(heights))
        places = [log10(x) for x in (*(x for x, _ in points), *(x for x, _ in curve.ticks))]
        first, last = min(places), max(places)
        plot.title(curve.title)
        # Between few rows the ends of a range would lie on the line itself.
        ranged = self.size.height >= RANGES_FROM and any(line.low for line in curve.lines)
        plot.xlabel(f"{curve.across} (dots: range)" if ranged else curve.across)
        # plotext would take logarithms itself, but write their ticks as fractions.
        plot.xticks([log10(x) for x, _ in curve.ticks], [name for _, name in curve.ticks])
        marks = ticks(min(heights), max(heights), max((self.size.height - 5) // LEAST_TICK_GAP, 2))
        plot.yticks([log10(value) for value, _ in marks], [name for _, name in marks])
        width = max(self.size.width - 8, 16)
        cell = max(last - first, 0.1) / width
        # Room for the name of the line that ends at the right.
        names = [log10(line.points[-1][0]) + cell * (len(line.name) + 3) for line in curve.lines if line.points]
        plot.xlim(first, max(last, *names) if names else last)
        margin = max((high - low) * 0.03, 0.02)
        plot.ylim(low - margin, high + margin)
        here = log10(curve.here)
        surface = self._colour("surface")
        faint = surface.blend(self._colour("foreground"), FAINT)
        if first <= here <= last:
            plot.vline(here, faint.rgb)
            plot.text("plan", here, high + margin, color=faint.rgb, background=surface.rgb, alignment="center")
        for place, line in enumerate(curve.lines):
            colour = self._colour(COLOURS[place % len(COLOURS)])
            if not self.app.current_theme.dark:
                colour = colour.darken(DARKER)
            for ends in (line.low, line.high) if ranged else ():
                plot.plot(*_logs(ends), color=colour.rgb, marker="·")
            plot.plot(*_logs(line.points), color=colour.rgb, marker="braille")
            if line.points:
                x, y = line.points[-1]
                plot.text(
                    line.name, log10(x) + cell, log10(y), color=colour.rgb, background=surface.rgb, alignment="left"
                )

    def _colour(self, name: str) -> Color:
        return Color.parse(self.app.theme_variables[name])


def _logs(points: tuple[tuple[float, float], ...]) -> tuple[list[float], list[float]]:
    shown = [(log10(x), log10(y)) for x, y in points if x > 0 and y > 0]
    return [x for x, _ in shown], [y for _, y in shown]


def ticks(low: float, high: float, most: int) -> tuple[tuple[float, str], ...]:
    """At most ``most`` round numbers within a range of positive ones, as many as there is room for.

    >>> [name for _, name in ticks(7, 130, 6)], [name for _, name in ticks(0.06, 500, 5)]
    (['10', '20', '50', '100'], ['0.1', '1', '10', '100'])
    >>> [name for _, name in ticks(41, 56, 4)]
    ['45', '50', '55']
    """
    if high < NARROW * low:
        return tuple((value, f"{value:,g}") for value in _even_numbers(low, high, most))
    found: list[float] = []
    for steps, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        found = _round_numbers(low, high, steps, stride)
        if len(found) <= most:
            break
    return tuple((value, f"{value:,g}") for value in found[:most])


def _round_numbers(low: float, high: float, steps: tuple[int, ...], stride: int) -> list[float]:
    powers = range(floor(log10(low)), floor(log10(high)) + 1)
    values = [float(f"{step}e{power}") for power in powers if power % stride == 0 for step in steps]
    return [value for value in values if low <= value <= high]


def _even_numbers(low: float, high: float, most: int) -> list[float]:
    """Numbers at the same distance; the one itself where the ends are the same."""
    if low == high:
        return [low]
    power = floor(log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20, 50):
        step = float(f"{factor}e{power}")
        found = [place * step for place in range(ceil(low / step), floor(high / step) + 1)]
        if len(found) <= most:
            break
    return found or [(low * high) ** 0.5]
