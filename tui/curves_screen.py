"""The plots of one row, each with its table."""

from __future__ import annotations

from typing import ClassVar, Final, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ScrollableContainer
from textual.screen import Screen
from textual.widgets import Footer, Static, TabbedContent, TabPane, Tabs

from tui.curve_plot import CurvePlot
from tui.curves_pane import Ask
from tui.latest import Answered, Latest
from tui.program import Curve, Refused

HELP: Final = """\
How the configuration chosen on the plan screen would do at other contexts and under other loads. Both axes are
logarithmic; the line marked "plan" is what the knobs say. Dots are the ends of a line's range.

  KV cache          one sequence against its length: the model's own layout beside what GQA and MHA would take
  Speed by context  as many requests as the knobs say, each of the whole context; a line ends where they do not fit
  Speed by load     requests of the workload, from one at a time to more than run at a time

  Left, Right       from plot to plot, with the cursor in the tabs; Tab moves on to the table
  T                 the table instead of the plot, and back; a high terminal shows both
  Escape            back to the plan
"""


class CurvesScreen(Screen[None]):
    """Tabs of plots."""

    HELP_TEXT: ClassVar[str] = HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back"),
        Binding("t", "table", "Table/plot"),
    ]

    def __init__(self, ask: Ask, title: str) -> None:
        super().__init__()
        self._ask, self._title = ask, title
        self._latest: Latest[tuple[Curve, ...]] = Latest(self)

    def compose(self) -> ComposeResult:
        """Whose plots in a line, then the tabs."""
        yield Static(Text(self._title, no_wrap=True, overflow="ellipsis"), id="title")
        yield Static("drawing ...", id="status")
        yield TabbedContent()
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Ask for the plots."""
        self._latest.ask(self._ask)

    @on(Answered)
    async def _answered(self, event: Answered) -> None:
        if not event.is_newest:
            return
        status = self.query_one("#status", Static)
        try:
            curves = cast("tuple[Curve, ...]", event.value())
        except Refused as refusal:
            status.update(Text(str(refusal), style="red"))
            return
        status.display = False
        tabs = self.query_one(TabbedContent)
        for curve in curves:
            table = ScrollableContainer(Static(curve.table), classes="curve-table")
            await tabs.add_pane(TabPane(Text(curve.name).plain, CurvePlot(curve), table))
        self.query_one(Tabs).focus()

    def action_table(self) -> None:
        """The table instead of the plot, or the plot again."""
        self.toggle_class("-table")
