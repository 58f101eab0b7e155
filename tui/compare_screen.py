"""Configurations side by side, each against the APIs of its model, and the least costly hardware for the work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ScrollableContainer, Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Input, ProgressBar, Static, TabbedContent, TabPane

from tui.compare_program import CompareProgram
from tui.latest import Answered, Latest
from tui.marks import Mark, Marks
from tui.program import Refused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tui.program import Alive, Answer, Machine, Values

SCROLLED: Final = {"sides": "#sides-scroll", "cost": "#cost-flags-scroll", "recommend": "#recommend-flags-scroll"}
"""Views, and what of each scrolls."""
UNMARKED: Final = 3
"""Rows of the ranking that are compared while nothing is marked."""
HINT: Final = "Space on a row of the plan screen marks it; a mark stays when knobs change."
NOTHING: Final = "There is nothing to compare: no row of the plan fits, and none is marked."
NO_PLAN: Final = "There is no plan yet for what the knobs say, and nothing is marked."
RENEW_S: Final = 0.5
"""How often it is looked up whether there is another plan meanwhile."""
SEARCH: Final = "R searches the least costly hardware for the model and the work of the plan screen."
_VIEWS: Final = Binding.Group("Views", compact=True)
_DROP: Final = Binding.Group("Drop", compact=True)
HELP: Final = """\
Rows that were marked on the plan screen, side by side: what differs first, then what is the same in all. A mark stays
when knobs change and is then "pinned", with the knobs that it had. Bold and "+": better than all others, whatever
happens within the ranges.

  1, 2, 3           side by side; each against the APIs of its model; the least costly hardware for the work
  E                 assume something else: flags of `moeplan cost`, or of `moeplan recommend`; Enter takes them
  R                 search the hardware; C cancels
  Shift+A ... D     drop a column; X drops all marks
  Up, Down          scroll; Left and Right where the terminal is narrow
  Escape            from the flags to the view, and from there back to the plan
"""


class Front(NamedTuple):
    """What the plan screen shows now; ``answer`` is None where it is not of what the knobs say."""

    values: Values
    answer: Answer | None
    machine: Machine | None
    marks: Marks


class Flags(Input):
    """Flags of the command line, as typed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Take them"),
        Binding("escape", "leave", "Leave"),
    ]

    def action_leave(self) -> None:
        """To the view."""
        self.screen.query_one(f"#{self.id}-scroll").focus()


class CompareScreen(Screen[None]):
    """Kept over its visits. ``front`` is what the plan screen shows now."""

    AUTO_FOCUS = "#sides-scroll"
    HELP_TEXT: ClassVar[str] = HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "edit", "Assume"),
        Binding("r", "search", "Search"),
        Binding("c", "cancel", "Cancel"),
        *[Binding(letter, f"drop({place})", "Drop", group=_DROP) for place, letter in enumerate("ABCD")],
        Binding("x", "clear", "No marks"),
        *[Binding(str(place), f"view('{name}')", "View", group=_VIEWS) for place, name in enumerate(SCROLLED, 1)],
        Binding("escape", "app.plan", "Back"),
    ]

    class Progressed(Message, bubble=False):
        """How far the search is."""

        def __init__(self, done: int, total: int) -> None:
            super().__init__()
            self.done, self.total = done, total

    def __init__(self, program: CompareProgram, front: Callable[[], Front]) -> None:
        super().__init__()
        self._program, self._front = program, front
        self._costs: Latest[RenderableType] = Latest(self)
        self._search: Latest[RenderableType] = Latest(self)
        self._shown: tuple[Mark, ...] = ()
        self._nothing = ""
        self._answer: Answer | None = None
        self._marks: tuple[Mark, ...] = ()
        self._searched: Values | None = None
        self.is_searching = False

    def compose(self) -> ComposeResult:
        """Three views; two of them under a line of flags."""
        yield Static(Text("Compare"), id="title")
        with Vertical(id="body"), TabbedContent(initial="sides", id="views"):
            with TabPane("Side by side", id="sides"):
                yield Static(id="sides-status", classes="status")
                with ScrollableContainer(id="sides-scroll"):
                    yield Static(id="sides-view", classes="fitting")
            with TabPane("Local or API", id="cost"):
                yield Flags(placeholder=self._program.cost_flags, compact=True, id="cost-flags", select_on_focus=False)
                yield Static(id="cost-status", classes="status")
                with ScrollableContainer(id="cost-flags-scroll"):
                    yield Static(id="cost-view", classes="view")
            with TabPane("Recommend", id="recommend"):
                yield Flags(
                    placeholder=self._program.recommend_flags, compact=True, id="recommend-flags", select_on_focus=False
                )
                yield Static(Text(SEARCH), id="recommend-status", classes="status")
                yield ProgressBar(id="progress", show_eta=False)
                with ScrollableContainer(id="recommend-flags-scroll"):
                    yield Static(id="recommend-view", classes="view")
        yield Static(Text("Too small: 60 columns and 16 lines are needed."), id="too-small")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """No search yet."""
        self.query_one("#progress").display = False
        self.set_interval(RENEW_S, self._renew)

    def on_screen_resume(self) -> None:
        """Marks and knobs may have changed."""
        self._compare()
        if self._searched is not None and dict(self._front().values) != dict(self._searched) and not self.is_searching:
            self._say("recommend", "This was for the knobs before. R searches anew.")

    def _renew(self) -> None:
        front = self._front()
        if self.is_current and (front.answer is not self._answer or front.marks.all != self._marks):
            self._compare()

    def _compare(self) -> None:
        front = self._front()
        self._answer, self._marks = front.answer, front.marks.all
        marks = front.marks.all
        self._shown = shown = (*marks, *_first(front, UNMARKED if not marks else 2 - len(marks)))
        self._nothing = "" if shown else NO_PLAN if front.answer is None else NOTHING
        status = self._nothing or (f"{HINT} Until then the first rows are compared." if len(marks) < 2 else "")
        self._say("sides", status)
        view = self._program.compare(shown, front.values) if shown else ""
        self.query_one("#sides-view", Static).update(view)
        self._cost()
        self.refresh_bindings()

    def _cost(self) -> None:
        shown, flags = self._shown, self.query_one("#cost-flags", Flags).value
        self._say("cost", self._nothing)
        if shown:
            cost = self._program.cost
            self._costs.ask(lambda alive: cost(shown, flags))
        else:
            self._costs.forget()
            self.query_one("#cost-view", Static).update("")

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        if event.input.id == "cost-flags":
            self._cost()
        else:
            self.action_search()
        self.query_one(f"#{event.input.id}-scroll").focus()

    @on(Answered)
    def _answered(self, event: Answered) -> None:
        if not event.is_newest:
            return
        name = "recommend" if event.latest is self._search else "cost"
        if name == "recommend":
            self._ended()
        try:
            view = cast("RenderableType", event.value())
        except Refused as refusal:
            self.query_one(f"#{name}-view", Static).update("")
            self._say(name, str(refusal), "error")
            return
        self._say(name, "")
        self.query_one(f"#{name}-view", Static).update(view)

    def _ended(self) -> None:
        self.is_searching = False
        self.query_one("#progress").display = False
        self.refresh_bindings()

    @on(Progressed)
    def _progressed(self, event: Progressed) -> None:
        if self.is_searching:
            self.query_one("#progress", ProgressBar).update(total=event.total, progress=event.done)

    def _say(self, name: str, text: str, kind: str = "") -> None:
        status = self.query_one(f"#{name}-status", Static)
        status.set_class(kind == "error", "error")
        status.display = bool(text)
        status.update(Text(text))

    @property
    def _view(self) -> str:
        return self.query_one(TabbedContent).active

    @on(TabbedContent.TabActivated)
    def _activated(self) -> None:
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that can do something now."""
        marks = self._front().marks.all if self.is_mounted else ()
        view = self._view if self.is_mounted else ""
        if action in ("drop", "clear"):
            place = cast(int, parameters[0]) if parameters else 0
            return view == "sides" and place < len(marks)
        return {
            "edit": view in ("cost", "recommend"),
            "search": view == "recommend" and not self.is_searching,
            "cancel": view == "recommend" and self.is_searching,
        }.get(action, True)

    def action_view(self, name: str) -> None:
        """One of the views, ready to scroll."""
        # Before the old one is hidden: the cursor would go to the flags, where keys are letters.
        self.set_focus(self.query_one(SCROLLED[name]))
        self.query_one(TabbedContent).active = name

    def action_edit(self) -> None:
        """The flags of this view."""
        self.query_one(f"#{self._view}-flags").focus()

    def action_drop(self, place: int) -> None:
        """One column less."""
        self._front().marks.drop(place)
        self._compare()

    def action_clear(self) -> None:
        """No marks."""
        self._front().marks.all = ()
        self._compare()

    def action_search(self) -> None:
        """The least costly hardware, in a thread."""
        front, flags = self._front(), self.query_one("#recommend-flags", Flags).value
        recommend = self._program.recommend
        self.is_searching, self._searched = True, front.values
        self._say("recommend", "searching ...")
        bar = self.query_one("#progress", ProgressBar)
        bar.update(total=None, progress=0)
        bar.display = True
        self.refresh_bindings()

        def work(alive: Alive) -> RenderableType:
            def told(done: int, total: int) -> None:
                alive(done, total)
                # The program may be about to end, and its event loop with it.
                with suppress(RuntimeError):
                    self.post_message(self.Progressed(done, total))

            return recommend(front.values, front.machine, flags, told)

        self._search.ask(work)

    def action_cancel(self) -> None:
        """Nobody waits for the search any more."""
        self._search.forget()
        self._ended()
        self._say("recommend", f"Cancelled. {SEARCH}")


def _first(front: Front, wanted: int) -> tuple[Mark, ...]:
    """The first rows of the ranking that are not marked, so many of them."""
    if front.answer is None:
        return ()
    plan, values = front.answer.plan, front.values
    rows = [
        Mark(row.key, values, plan, row.candidate)
        for row in front.answer.rows
        if row.candidate is not None and not front.marks.has(row.key, values)
    ]
    return tuple(rows[: max(wanted, 0)])
