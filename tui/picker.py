"""A list to choose a knob's value from, narrowed by typing."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Label, OptionList
from textual.widgets.option_list import Option

from tui.knobs import SECTIONS, Knob
from tui.program import Choice, Values
from tui.text_line import TextLine


class Picker(ModalScreen[str | None]):
    """Ends with the value, an empty one for "any", or None where nothing was chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back"),
        Binding("down", "move(1)", "Next", show=False, priority=True),
        Binding("up", "move(-1)", "Previous", show=False, priority=True),
    ]

    def __init__(self, title: str, choices: tuple[Choice, ...]) -> None:
        super().__init__()
        self._title, self._choices = title, choices
        self._shown: tuple[Choice, ...] = ()

    def compose(self) -> ComposeResult:
        """A line to search in over the list."""
        with Vertical(classes="dialog"):
            yield Label(self._title, markup=False)
            yield TextLine(placeholder="type to search", compact=True)
            yield OptionList(compact=True, markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Everything, until something is typed."""
        self._narrow("")

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._narrow(event.value)

    def _narrow(self, text: str) -> None:
        words = text.lower().split()
        self._shown = tuple(
            choice for choice in self._choices if all(word in f"{choice.value} {choice.note}".lower() for word in words)
        )
        options = self.query_one(OptionList)
        options.clear_options()
        width = max((len(choice.value) for choice in self._shown), default=0)
        options.add_options([Option(_line(choice, width)) for choice in self._shown])
        options.highlighted = 0 if self._shown else None

    def action_move(self, by: int) -> None:
        """The list follows the arrows while the search line has the cursor."""
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            options.highlighted = (options.highlighted + by) % len(self._shown)

    @on(Input.Submitted)
    def _entered(self) -> None:
        place = self.query_one(OptionList).highlighted
        if place is not None:
            self.dismiss(self._shown[place].value)

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._shown[event.option_index].value)


def _line(choice: Choice, width: int) -> Text:
    return Text.assemble(f"{choice.value:{width}}", (f"  {choice.note}" if choice.note else "", "dim"))


def values_of(knob: Knob, choices: tuple[Choice, ...]) -> Picker:
    """Asks for the value of a knob."""
    empty = () if knob.name == "model" else (Choice("", f"({knob.empty or 'as the program takes it'})"),)
    return Picker(f"{knob.label}: {knob.help}", (*empty, *choices))


def knobs_of(values: Values) -> Picker:
    """Asks for a knob, by its label, which may stand outside of what is seen of the panel."""
    listed = [
        Choice(knob.label, f"{title}: {knob.help}" + (f" [{values[knob.name]}]" if values.get(knob.name) else ""))
        for title, knobs in SECTIONS
        for knob in knobs
    ]
    return Picker("Go to a knob", tuple(listed))
