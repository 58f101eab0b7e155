"""What the keys of a screen do."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

EVERYWHERE = """
Everywhere
  F1 help    F2 plan    F3 launch files    F4 hardware and its check    F5 bench    F6 compare    F7 plots
  F8 dark or light
  Ctrl+P finds every command by name    F10 or Ctrl+Q ends
"""


class HelpScreen(ModalScreen[None]):
    """The help of the screen below, and the keys that work everywhere."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1", "dismiss", "Back")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """The text."""
        with VerticalScroll(classes="dialog"):
            yield Static(Text(f"{self._text}{EVERYWHERE}"))
        yield Footer(compact=True)
