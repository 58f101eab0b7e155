"""The knobs: lines of text that can be typed, turned, or chosen from a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Input, Label, Static

from tui.knobs import SECTIONS, Knob, turned
from tui.program import Choice, Values
from tui.text_line import TextLine


class KnobInput(TextLine):
    """The value of a knob."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Choose"),
        Binding("shift+up", "turn(True)", "Turn", key_display="⇧↑↓"),
        Binding("shift+down", "turn(False)", "Turn down", show=False),
        # What is typed behind them is the next knob's.
        Binding("up", "app.focus_previous", "Previous knob", show=False, priority=True),
        Binding("down", "app.focus_next", "Next knob", show=False, priority=True),
    ]
    EDITING: ClassVar[dict[str, str]] = {**TextLine.EDITING, "ctrl+l": "clear"}

    def __init__(self, knob: Knob, value: str) -> None:
        super().__init__(value, placeholder=knob.empty, id=f"knob-{knob.name}", compact=True, tooltip=knob.help)
        self.knob, self.in_force = knob, ""

    def action_turn(self, up: bool) -> None:
        """The next value, from what is in force where the knob is empty."""
        self.post_message(KnobPanel.Turned(self, up))

    def action_clear(self) -> None:
        """Back to what the program would take."""
        self.value = ""


class KnobPanel(VerticalScroll, can_focus=False):
    """All knobs. Posts ``Turned``, which it handles itself, and ``Changed`` for whoever plans."""

    class Changed(Message):
        """A knob has another value."""

    class Turned(Message):
        """A knob is to go a step up or down."""

        def __init__(self, source: KnobInput, up: bool) -> None:
            super().__init__()
            self.source, self.up = source, up

    def __init__(self, values: Values, choices: Callable[[str, Values], tuple[Choice, ...]]) -> None:
        super().__init__(id="knobs")
        self._initial, self._choices = values, choices

    def compose(self) -> ComposeResult:
        """A heading for each section, and a row for each knob."""
        for title, knobs in SECTIONS:
            yield Label(title, classes="section")
            for knob in knobs:
                yield Label(knob.label)
                yield KnobInput(knob, self._initial.get(knob.name, ""))

    def values(self) -> dict[str, str]:
        """What is set."""
        return {knob.knob.name: knob.value.strip() for knob in self.query(KnobInput) if knob.value.strip()}

    def show_in_force(self, values: Values) -> None:
        """Empty knobs say what the plan took instead."""
        for knob in self.query(KnobInput):
            knob.in_force = values.get(knob.knob.name, "")
            knob.placeholder = knob.in_force or knob.knob.empty

    def show_error(self, name: str | None, message: str = "") -> None:
        """What is wrong with one knob stands under it; all others are right."""
        self.query(".error").remove()
        if name is None:
            return
        error = Static(Text(message), classes="error")
        self.mount(error, after=self.query_one(f"#knob-{name}"))
        self.call_after_refresh(self._reveal, error)

    def _reveal(self, error: Static) -> None:
        # The next plan may have removed it.
        if error.is_attached:
            self.scroll_to_widget(error, animate=False)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Changed())

    @on(Turned)
    def _turned(self, event: Turned) -> None:
        knob = event.source
        listed: tuple[str, ...] = ()
        if knob.knob.kind == "choice":
            listed = tuple(choice.value for choice in self._choices(knob.knob.name, self.values()))
        start = knob.value if knob.knob.kind == "choice" else knob.value or knob.in_force
        value = turned(knob.knob, start, event.up, listed)
        if value is None:
            self.app.bell()
        else:
            knob.value = value

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        from tui.picker import values_of

        event.stop()
        source = event.input
        assert isinstance(source, KnobInput)
        if not source.knob.listed:
            self.screen.focus_next()
            return

        def chosen(value: str | None) -> None:
            if value is not None:
                source.value = value

        self.app.push_screen(values_of(source.knob, self._choices(source.knob.name, self.values())), chosen)

    def find(self) -> None:
        """Go to a knob by its name: a low terminal shows a part of them."""
        from tui.picker import knobs_of

        def chosen(label: str | None) -> None:
            knob = next((knob for knob in self.query(KnobInput) if knob.knob.label == label), None)
            if knob is not None:
                knob.focus()

        self.app.push_screen(knobs_of(self.values()), chosen)
