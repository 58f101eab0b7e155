"""Kernels measured on this machine: what to measure, how far it is, what came out, and whether to plan with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ScrollableContainer, Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, OptionList, ProgressBar, Static, TabbedContent, TabPane
from textual.widgets.option_list import Option

from tui.bench_program import KINDS, BenchAnswer, BenchLine, BenchOffer, BenchProgram, BenchTask, BenchWatch
from tui.latest import Answered, Latest
from tui.program import Refused

if TYPE_CHECKING:
    from rich.console import RenderableType

STATES: Final = {"stable": "green", "unstable": "yellow", "missing": "red"}
STATE: Final = "stable"
"""The column that is coloured."""
NO_RESULTS: Final = "Nothing is measured yet. Enter on a line above begins."
NO_PREDICTION: Final = 'Measured beside its prediction is what a plan runs: "plan" in the list above.'
END_S: Final = 5.0
"""How long leaving the program waits for a worker to be gone."""
RENEW_S: Final = 0.5
"""How often it is looked up what the plan screen shows meanwhile: what is used here makes another plan there."""
VIEWS: Final = ("results", "against", "plot", "notes")
_GROUP: Final = Binding.Group("Views", compact=True)
HELP: Final = """\
Kernels measured on this machine, as `moeplan bench` and `moeplan validate` do. Each kernel runs in a worker process, by
the first library that really runs it, checked against float64 first.

  Enter             measure the line under the cursor: "quick" under a minute, "plan" what the row under the cursor of
                    the plan screen runs, beside its prediction, "all" every batch and context around it
  C, or Ctrl+C      cancel; what was measured is kept here, and the same line goes on from there within a day
  U                 use it: write it as this machine's calibration, and plan anew with it
  1, 2, 3, 4        results, prediction, plot, notes; Left and Right on their names as well
  Tab, Shift+Tab    list, names of the views, results, details
  Escape            back to the plan; a run goes on meanwhile

Spread is the middle half of the samples over their median; a result that doubts itself is not stable, and says why.
The ceiling is the memory's own rate, measured in between. What is not used is not part of any plan.
"""

Front = Callable[[], BenchTask]


class Kinds(OptionList):
    """What can be measured."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "Measure")]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """One run at a time."""
        del parameters
        return action != "select" or not cast(BenchScreen, self.screen).is_measuring


class BenchScreen(Screen[None]):
    """Kept over its visits: a run goes on behind other screens. ``front`` is what the plan screen shows now."""

    AUTO_FOCUS = "#kinds"
    HELP_TEXT: ClassVar[str] = HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "cancel", "Cancel"),
        Binding("ctrl+c", "cancel_or_copy", show=False),
        Binding("u", "keep", "Use it"),
        *[Binding(str(place), f"view('{name}')", "View", group=_GROUP) for place, name in enumerate(VIEWS, 1)],
        Binding("escape", "app.plan", "Back"),
    ]

    class Began(Message, bubble=False):
        """A provider was handed a case."""

        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what

    class Progressed(Message, bubble=False):
        """So many cases of all are over."""

        def __init__(self, done: int, total: int) -> None:
            super().__init__()
            self.done, self.total = done, total

    class Found(Message, bubble=False):
        """There are results, these in all."""

        def __init__(self, lines: tuple[BenchLine, ...]) -> None:
            super().__init__()
            self.lines = lines

    def __init__(self, program: BenchProgram, front: Front) -> None:
        super().__init__()
        self._program, self._front = program, front
        self._latest: Latest[BenchAnswer] = Latest(self)
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self._lines: tuple[BenchLine, ...] = ()
        self._offers: tuple[BenchOffer, ...] = ()
        self._answer: BenchAnswer | None = None
        self._is_kept = False
        self.is_measuring = False

    def compose(self) -> ComposeResult:
        """What to measure, how far it is, and the views of what came out."""
        yield Static(Text("Bench: kernels on this machine"), id="title")
        with Vertical(id="body"):
            yield Kinds(id="kinds", compact=True, markup=False)
            yield Static(Text(NO_RESULTS), id="status")
            yield ProgressBar(id="progress", show_eta=False)
            with TabbedContent(initial="results", id="views"):
                with TabPane("Results", id="results"):
                    yield DataTable(cursor_type="row", zebra_stripes=False)
                    with ScrollableContainer(id="details"):
                        yield Static(id="detail")
                for name, label in (("against", "Prediction"), ("plot", "Plot"), ("notes", "Notes")):
                    with TabPane(label, id=name), ScrollableContainer():
                        yield Static(id=f"{name}-view", classes="fitting")
        yield Static(Text("Too small: 60 columns and 16 lines are needed."), id="too-small")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Empty views."""
        table = self.query_one(DataTable)
        for column in self._program.columns:
            table.add_column(Text(column.lstrip(">"), justify="right" if column.startswith(">") else "left"))
        self.query_one("#progress").display = False
        self._show_views(None)
        self.set_interval(RENEW_S, self._renew)

    def on_screen_resume(self) -> None:
        """The row under the cursor of the plan screen may be another one."""
        self._offer()

    def _renew(self) -> None:
        if self.is_current and self._program.offers(self._front()) != self._offers:
            self._offer()

    def on_unmount(self) -> None:
        """No worker outlives the program."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(END_S)

    def _offer(self) -> None:
        kinds = self.query_one(Kinds)
        place = kinds.highlighted or 0
        kinds.clear_options()
        self._offers = offers = self._program.offers(self._front())
        kinds.add_options(
            [
                Option(
                    Text.assemble((f"{offer.kind:6}", "bold"), offer.words, no_wrap=True, overflow="ellipsis"),
                    id=offer.kind,
                    disabled=not offer.is_possible or self.is_measuring,
                )
                for offer in offers
            ]
        )
        kinds.highlighted = place

    @on(OptionList.OptionSelected, "#kinds")
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        kind = next((kind for kind in KINDS if kind == event.option_id), None)
        if kind is None or self.is_measuring:
            return
        task = self._front()._replace(kind=kind)
        self._cancelled = cancelled = threading.Event()
        watch = BenchWatch(
            begins=lambda what: self._post(self.Began(what)),
            progress=lambda done, total: self._post(self.Progressed(done, total)),
            found=lambda lines: self._post(self.Found(lines)),
            is_cancelled=cancelled.is_set,
        )
        self._answer, self._is_kept, self.is_measuring = None, False, True
        self._fill(())
        self._show_views(None)
        self._say("measuring ...")
        bar = self.query_one("#progress", ProgressBar)
        bar.update(total=None, progress=0)
        bar.display = True
        self._offer()
        self.refresh_bindings()
        run = self._program.run
        self._thread = self._latest.ask(lambda alive: run(task, watch))

    def _post(self, message: Message) -> None:
        # The program may be about to end, and its event loop with it.
        with suppress(RuntimeError):
            self.post_message(message)

    @on(Began)
    def _began(self, event: Began) -> None:
        if self.is_measuring and not self._cancelled.is_set():
            bar = self.query_one("#progress", ProgressBar)
            so_far = f" ({bar.progress:.0f} of {bar.total:.0f} done)" if bar.total else ""
            self._say(f"measuring: {event.what}{so_far}")

    @on(Progressed)
    def _progressed(self, event: Progressed) -> None:
        if self.is_measuring:
            self.query_one("#progress", ProgressBar).update(total=event.total, progress=event.done)

    @on(Found)
    def _found(self, event: Found) -> None:
        if self.is_measuring:
            self._fill(event.lines)

    @on(Answered)
    def _answered(self, event: Answered) -> None:
        if not event.is_newest:
            return
        self.is_measuring = False
        self.query_one("#progress").display = False
        try:
            self._answer = answer = cast(BenchAnswer, event.value())
        except Refused as refusal:
            self._say(f"Not measured: {refusal}", "error")
        else:
            self._fill(answer.lines)
            self._show_views(answer)
            self._say_ended()
        self._offer()
        self.refresh_bindings()
        if self.app.screen is not self:
            self.notify(str(self.query_one("#status", Static).content), title="Bench", markup=False)

    def _say_ended(self, more: str = "", kind: str = "") -> None:
        answer = self._answer
        assert answer is not None
        use = "" if self._is_kept or answer.result is None else " U uses it for plans of this machine."
        text = Text(more or f"{answer.ended}.{use}")
        if answer.verdict:
            text.append(f"\n{answer.verdict}", style=answer.verdict_style)
        status = self.query_one("#status", Static)
        status.set_class(kind == "error", "error")
        status.update(text)

    def _say(self, text: str, kind: str = "") -> None:
        status = self.query_one("#status", Static)
        status.set_class(kind == "error", "error")
        status.update(Text(text))

    def _show_views(self, answer: BenchAnswer | None) -> None:
        shown: dict[str, RenderableType | None] = {
            "against": (answer.against if answer is not None else None) or Text(NO_PREDICTION),
            "plot": (answer.plot if answer is not None else None) or Text(NO_RESULTS),
            "notes": (answer.notes if answer is not None else None) or Text(NO_RESULTS),
        }
        for name, view in shown.items():
            self.query_one(f"#{name}-view", Static).update(view or "")

    def _fill(self, lines: tuple[BenchLine, ...]) -> None:
        """All rows anew; the cursor follows the newest while it is on the last."""
        table = self.query_one(DataTable)
        before, place = self._lines, table.cursor_row
        self._lines = lines
        table.clear()
        for line in lines:
            faint = "dim" if line.state == "missing" else ""
            cells = zip(self._program.columns, line.cells, strict=True)
            table.add_row(
                *[
                    Text(
                        cell,
                        style=STATES[line.state] if column == STATE else faint,
                        justify="right" if column.startswith(">") else "left",
                    )
                    for column, cell in cells
                ]
            )
        follows = self.is_measuring and place >= len(before) - 1
        if lines:
            table.move_cursor(row=len(lines) - 1 if follows else min(place, len(lines) - 1))
        self._show_line()

    @on(DataTable.RowHighlighted)
    def _show_line(self) -> None:
        place = self.query_one(DataTable).cursor_row
        shown = self._lines[place].details if 0 <= place < len(self._lines) else ""
        self.query_one("#detail", Static).update(shown)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that can do something now."""
        del parameters
        if action == "cancel":
            return self.is_measuring
        if action == "keep":
            return self._answer is not None and self._answer.result is not None and not self._is_kept
        return True

    def action_cancel(self) -> None:
        """End the run with what there is."""
        self._cancelled.set()
        self._say("cancelling ...")

    def action_cancel_or_copy(self) -> None:
        """As in a shell while something runs, else what it does on every screen."""
        if self.is_measuring:
            self.action_cancel()
        else:
            self.action_copy_text()

    def action_keep(self) -> None:
        """Write what was measured as this machine's calibration, and look at the machine and the plan anew."""
        answer = self._answer
        assert answer is not None and answer.result is not None
        try:
            line = self._program.keep(answer.result)
        except Refused as refusal:
            self._say_ended(f"Not kept: {refusal}", "error")
            return
        self._is_kept = True
        self._say_ended(line)
        self.refresh_bindings()
        self.call_later(self.run_action, "app.look_again")

    def action_view(self, name: str) -> None:
        """One of the views, ready to scroll."""
        self.set_focus(self.query_one(f"#{name}", TabPane).query("DataTable, ScrollableContainer").first())
        self.query_one(TabbedContent).active = name
