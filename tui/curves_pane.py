"""The plots beside the memory bars, where a terminal has room for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widgets import Static

from tui.latest import Answered, Latest
from tui.program import Alive, Curve, Refused

QUIET_S: Final = 0.1
"""Plots begin when the row has been chosen for this long: the plan is drawn first."""
Ask = Callable[[Alive], tuple[Curve, ...]]


class CurvesPane(Vertical, can_focus=False):
    """Draws the curves of the row chosen; what nobody sees is not computed."""

    def __init__(self) -> None:
        super().__init__()
        self._latest: Latest[tuple[Curve, ...]] = Latest(self)
        self._wanted: Ask | None = None
        self._quiet: Timer | None = None
        self.curves: tuple[Curve, ...] = ()

    def compose(self) -> ComposeResult:
        """Why there are none in a line, and the plots."""
        yield Static(id="no-curves")
        yield Horizontal(id="plots")

    def follow(self, ask: Ask | None, reason: str = "") -> None:
        """Another row, or the same of another plan; ``reason`` says why it has no curves."""
        self.forget()
        self._wanted = ask
        if ask is None:
            self._draw((), reason)
        else:
            self._begin_soon()

    def forget(self) -> None:
        """What is under way is of a plan that is being replaced."""
        self._latest.forget()
        self._wanted = None
        if self._quiet is not None:
            self._quiet.stop()

    def on_resize(self) -> None:
        """There may be room now."""
        self._begin_soon()

    def _begin_soon(self) -> None:
        if self._wanted is None or not self.size.area:
            return
        if self._quiet is not None:
            self._quiet.stop()
        self._quiet = self.set_timer(QUIET_S, self._begin)

    def _begin(self) -> None:
        if self._wanted is not None:
            self._latest.ask(self._wanted)
            self._wanted = None

    @on(Answered)
    def _answered(self, event: Answered) -> None:
        if not event.is_newest:
            return
        try:
            self._draw(cast("tuple[Curve, ...]", event.value()))
        except Refused as refusal:
            self._draw((), str(refusal))

    def _draw(self, curves: tuple[Curve, ...], reason: str = "") -> None:
        # plotext is loaded with the first plot, long after the first screen.
        from tui.curve_plot import CurvePlot

        self.curves = curves
        status = self.query_one("#no-curves", Static)
        status.display = bool(reason)
        status.update(Text(reason))
        shown = list(self.query(CurvePlot))
        for plot, curve in zip(shown, curves, strict=False):
            plot.curve = curve
        for plot in shown[len(curves) :]:
            plot.curve = None
        if len(curves) > len(shown):
            new = [CurvePlot(curve, id=f"plot-{place}") for place, curve in enumerate(curves)]
            self.query_one("#plots").mount(*new[len(shown) :])
