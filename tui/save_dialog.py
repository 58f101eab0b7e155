"""Asks where to save something."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Label, Static

from tui.program import Refused
from tui.text_line import TextLine


class SaveDialog(ModalScreen[str | None]):
    """Ends with what was done in a line, or None. ``save`` takes the place and whether to overwrite."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back"),
        Binding("ctrl+o", "overwrite", "Overwrite", priority=True),
    ]

    def __init__(self, title: str, place: str, save: Callable[[str, bool], str]) -> None:
        super().__init__()
        self._title, self._place, self._save = title, place, save

    def compose(self) -> ComposeResult:
        """The place, and what is wrong with it."""
        with Vertical(classes="dialog -short"):
            yield Label(f"{self._title}; Enter saves", markup=False)
            yield TextLine(self._place, compact=True)
            yield Static(classes="error")
        yield Footer()

    @on(Input.Submitted)
    def _entered(self) -> None:
        self._try(overwrite=False)

    def action_overwrite(self) -> None:
        """Save over what is there."""
        self._try(overwrite=True)

    def _try(self, overwrite: bool) -> None:
        place = self.query_one(Input).value.strip()
        try:
            if not place:
                raise Refused("a name is needed")
            self.dismiss(self._save(place, overwrite))
        except Refused as refusal:
            self.query_one(".error", Static).update(Text(str(refusal)))
