"""This machine: what a check of it found and what to do about it, then every fact with its provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ScrollableContainer
from textual.screen import Screen
from textual.widgets import Footer, Static

from tui.latest import Answered, Latest
from tui.program import Machine, Program, Refused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from planner.plan import Plan

HELP: Final = """\
This machine: the findings of `moeplan check`, worst first, each with what to do; then every fact that was detected,
with where it comes from. Where the plan is for this machine, it is held to the row chosen there.

  Up, Down, PageUp, PageDown    scroll
  R                             look again
  Escape                        back to the plan
"""


class HardwareScreen(Screen[None]):
    """Findings over facts. ``plan`` and ``rank`` are what the machine is held to, if anything."""

    HELP_TEXT: ClassVar[str] = HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back"),
        Binding("r", "app.look_again", "Look again"),
    ]

    def __init__(self, program: Program, plan: Plan | None, rank: int) -> None:
        super().__init__()
        self._program, self._plan, self._rank = program, plan, rank
        self._latest: Latest[RenderableType] = Latest(self)

    def compose(self) -> ComposeResult:
        """What is shown in a line, then findings and facts in one text that scrolls."""
        yield Static(Text("looking at this machine ..."), id="title")
        with ScrollableContainer():
            yield Static(id="findings", classes="view")
            yield Static(id="facts", classes="view")
        yield Footer(compact=True)

    def machine_sought(self) -> None:
        """The machine is looked at again."""
        self._latest.forget()
        self._say("looking at this machine ...")

    def machine_found(self, machine: Machine | None, reason: str = "") -> None:
        """Its facts, and a check of them; or why there are none."""
        facts, findings = self.query_one("#facts", Static), self.query_one("#findings", Static)
        findings.update("")
        if machine is None:
            facts.update("")
            self._say(f"{reason}. R looks again.", "red")
            return
        facts.update(self._program.machine_view(machine))
        self._say("checking ...")
        check = self._program.check
        self._latest.ask(lambda alive: check(machine, self._plan, self._rank))

    @on(Answered)
    def _answered(self, event: Answered) -> None:
        if not event.is_newest:
            return
        try:
            findings = cast("RenderableType", event.value())
        except Refused as refusal:
            self._say(f"Not checked: {refusal}", "red")
            return
        held = f", held to rank {self._rank} of the plan" if self._plan is not None else ""
        self._say(f"This machine{held}")
        self.query_one("#findings", Static).update(findings)

    def _say(self, text: str, style: str = "") -> None:
        self.query_one("#title", Static).update(Text(text, style=style, no_wrap=True, overflow="ellipsis"))
