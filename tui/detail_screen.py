"""Everything about one row: its ledger and its time, or why it was rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ScrollableContainer
from textual.screen import Screen
from textual.widgets import Footer, Static

if TYPE_CHECKING:
    from rich.console import RenderableType

HELP: Final = """\
Everything about one configuration: every entry of the memory ledger of each device, with its formula, where that comes
from and how sure it is, and the time of one output token by kernel.

  Up, Down, PageUp, PageDown, Home, End    scroll
  Escape                                   back to the plan
"""


class DetailScreen(Screen[None]):
    """A view that scrolls."""

    HELP_TEXT: ClassVar[str] = HELP
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Back")]

    def __init__(self, view: RenderableType) -> None:
        super().__init__()
        self._view = view

    def compose(self) -> ComposeResult:
        """The view."""
        with ScrollableContainer():
            yield Static(self._view, classes="view")
        yield Footer(compact=True)
