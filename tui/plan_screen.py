"""The plan: knobs on the left; on the right the ranking, and the memory of the row under the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import DataTable, Footer, Static

from tui.curves_pane import Ask, CurvesPane
from tui.knob_panel import KnobPanel
from tui.latest import Answered, Latest
from tui.marks import MOST, Mark, Marks
from tui.memory_bars import MemoryBars
from tui.program import Answer, Machine, Program, Refused, Row, Values

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_S: Final = 0.12
"""A plan begins when the knobs have been quiet for this long."""
VERDICTS: Final = {"fits": "green", "tight": "yellow", "no": "dim"}
HELP: Final = """\
The plan follows the knobs on the left: every change plans anew, and the ranking, the summary and the memory bars
follow. A knob that is left empty shows in grey what the plan takes instead.

  Tab, Shift+Tab    from knob to knob, and on to the ranking
  Up, Down          from knob to knob; in the ranking, from row to row
  Enter             on a knob: choose from a list, where it has one; on a row: its ledger and its time by kernel
  Shift+Up, +Down   turn a knob: twice or half as many, or the next of its list
  Ctrl+F            find a knob by its name; Ctrl+L clears one
  Space             mark a row, or unmark it: F6 compares up to four, also of different knobs
  F3                files that start the row under the cursor
  F7                its KV cache and its speed against context and load, as plots and tables
  Ctrl+S            save the plan as JSON, which `moeplan launch` and `moeplan check` read
  Ctrl+R            save a report of it as a page for a browser, with the row under the cursor as the recommendation

Verdicts: "fits" means that memory suffices even when everything goes badly; "tight", that it may; "no" rows say how
many GiB are missing on the device that is short. The GPUs knob left empty plans for this machine.
"""


class PlanScreen(Screen[None]):
    """The first screen. ``row`` and ``answer`` are what the others start from."""

    AUTO_FOCUS = "#knob-gpu"
    HELP_TEXT: ClassVar[str] = HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+f", "find_knob", "Find knob", show=False, priority=True),
        Binding("ctrl+s", "app.save_plan", "Save plan", show=False),
        Binding("ctrl+r", "app.save_report", "Save report", show=False),
        Binding("space", "mark", "Mark"),
    ]

    def __init__(self, program: Program, values: Values) -> None:
        super().__init__()
        self._program, self._initial = program, values
        self._latest: Latest[Answer] = Latest(self)
        self._asked: tuple[dict[str, str], Machine | None] | None = None
        self._quiet: Timer | None = None
        self._machine: Machine | None = None
        self._no_machine = ""
        self._has_begun = False
        self._shown_key = ""
        self.answer: Answer | None = None
        self.row: Row | None = None
        self.is_up_to_date = False
        self.marks = Marks()

    def compose(self) -> ComposeResult:
        """What is planned in a line, knobs, ranking, summary and bars."""
        yield Static(Text("moeplan"), id="title")
        with Horizontal(id="body"):
            yield KnobPanel(self._initial, self._program.choices)
            with Vertical(id="result"):
                yield Static(id="status")
                yield DataTable(cursor_type="row", zebra_stripes=False)
                yield Static(id="summary")
                yield MemoryBars()
                yield CurvesPane()
        yield Static(Text("Too small: 60 columns and 16 lines are needed."), id="too-small")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """The first plan, unless the machine has to be found first."""
        table = self.query_one(DataTable)
        for column in self._program.columns:
            table.add_column(Text(column.lstrip(">"), justify=_side(column)))
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        self._has_begun = True
        self._plan()

    def action_find_knob(self) -> None:
        """To a knob by its name."""
        self.query_one(KnobPanel).find()

    def machine_sought(self) -> None:
        """A plan for this machine waits for what is found."""
        self.machine_found(None)

    def machine_found(self, machine: Machine | None, reason: str = "") -> None:
        """This machine, or why it is not known."""
        self._machine, self._no_machine = machine, reason
        if self._has_begun and not self._program.described(self.query_one(KnobPanel).values()):
            self._plan()

    @on(KnobPanel.Changed)
    def _changed(self) -> None:
        values = self.query_one(KnobPanel).values()
        if self._asked is None or values == self._asked[0]:
            return
        self.is_up_to_date = False
        self._latest.forget()
        self.query_one(CurvesPane).forget()
        self._say("planning ...")
        if self._quiet is not None:
            self._quiet.stop()
        self._quiet = self.set_timer(QUIET_S, self._plan)

    def _plan(self) -> None:
        values = self.query_one(KnobPanel).values()
        described = self._program.described(values)
        machine = None if described else self._machine
        if not described and machine is None:
            self._asked = (values, None)
            self._wait_for_machine()
            return
        self._asked = (values, machine)
        self.is_up_to_date = False
        self._say("planning ...")
        replan = self._program.replan

        def work(alive: Callable[[int, int], None]) -> Answer:
            return replan(values, machine, alive)

        self._latest.ask(work)

    def _wait_for_machine(self) -> None:
        self._latest.forget()
        self.is_up_to_date = False
        self.query_one(KnobPanel).show_error(None)
        if self._no_machine:
            self._say(f"{self._no_machine}. Describe one: GPUs, as 8xH200.", "error")
        else:
            self._say("looking at this machine ... (or describe one: GPUs, as 8xH200)")

    @on(Answered)
    def _answered(self, event: Answered) -> None:
        if not event.is_newest:
            return
        try:
            answer = cast(Answer, event.value())
        except Refused as refusal:
            self._refused(refusal)
            return
        self.is_up_to_date = True
        self.answer = answer
        panel = self.query_one(KnobPanel)
        panel.show_error(None)
        panel.show_in_force(answer.in_force)
        self.marks.renew(answer, self.values)
        self.query_one("#title", Static).update(Text(answer.title, no_wrap=True, overflow="ellipsis"))
        self._say_counts(answer)
        self._fill(answer)

    @property
    def values(self) -> dict[str, str]:
        """The knobs: of the plan shown, where it is up to date."""
        if self.is_up_to_date and self._asked is not None:
            return self._asked[0]
        return self.query_one(KnobPanel).values()

    def _say_counts(self, answer: Answer) -> None:
        marked = len(self.marks.all)
        self._say(f"{marked} marked, F6 compares. {answer.counts}" if marked else answer.counts)

    def _refused(self, refusal: Refused) -> None:
        self.query_one(KnobPanel).show_error(refusal.knob, str(refusal))
        before = " Below is the plan before." if self.answer is not None else ""
        self._say(f"Not planned: {refusal}.{before}" if refusal.knob is None else f"Not planned.{before}", "error")

    def _say(self, text: str, kind: str = "") -> None:
        status = self.query_one("#status", Static)
        status.set_class(kind == "error", "error")
        status.update(Text(text))
        self.query_one("#result").set_class(not self.is_up_to_date, "-before")

    def _fill(self, answer: Answer) -> None:
        table = self.query_one(DataTable)
        keep = self._shown_key
        table.clear()
        for row in answer.rows:
            style = VERDICTS[row.verdict]
            faint = "dim" if row.candidate is None else ""
            cells = [
                Text(cell, style=style if place == 1 else faint, justify=_side(column))
                for place, (column, cell) in enumerate(zip(self._program.columns, row.cells, strict=True))
            ]
            if self.marks.has(row.key, self.values):
                cells[0] = Text(f"{row.cells[0]}*", style="bold")
            table.add_row(*cells)
        keys = [row.key for row in answer.rows]
        place = keys.index(keep) if keep in keys else 0
        if answer.rows:
            table.move_cursor(row=place)
        self._show(answer.rows[place] if answer.rows else None)

    @on(DataTable.RowHighlighted)
    def _moved(self, event: DataTable.RowHighlighted) -> None:
        rows, place = self.answer.rows if self.answer is not None else (), event.data_table.cursor_row
        # A table that is filled anew tells of rows where the cursor is no more.
        if event.data_table.has_focus and event.cursor_row == place < len(rows) and rows[place] is not self.row:
            self._show(rows[place])

    def _show(self, row: Row | None) -> None:
        self.row = row
        if row is not None:
            self._shown_key = row.key
        self.query_one("#summary", Static).update(Text(row.summary if row is not None else ""))
        self.query_one(MemoryBars).bars = row.bars if row is not None else ()
        self.query_one(CurvesPane).follow(self.ask_of_curves(), "" if row is None else "This row does not fit.")

    def ask_of_curves(self) -> Ask | None:
        """What computes the plots of the row; None where it has none."""
        candidate = self.row.candidate if self.row is not None else None
        if candidate is None or self._asked is None:
            return None
        values, machine = self._asked
        curves = self._program.curves
        return lambda alive: curves(values, machine, candidate, alive)

    @on(DataTable.RowSelected)
    def _selected(self) -> None:
        from tui.detail_screen import DetailScreen

        if self.row is not None:
            self.app.push_screen(DetailScreen(self.row.details()))

    def on_screen_resume(self) -> None:
        """Marks may have been dropped where they are compared."""
        if self.is_up_to_date and self.answer is not None:
            self._say_counts(self.answer)
            self._fill(self.answer)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Rows are marked in the ranking; a knob takes the space as a letter."""
        del parameters
        return action != "mark" or isinstance(self.focused, DataTable)

    def action_mark(self) -> None:
        """Keep the row to be compared, over changes of the knobs."""
        row, answer = self.row, self.answer
        if row is None or answer is None or not self.is_up_to_date:
            return
        if row.candidate is None:
            self.notify("This row does not fit; there is nothing to compare.", severity="warning")
        elif not self.marks.toggle(Mark(row.key, self.values, answer.plan, row.candidate)):
            self.notify(f"{MOST} are marked already: F6 compares and drops them.", severity="warning")
        else:
            self._say_counts(answer)
            self._fill(answer)


def _side(column: str) -> Literal["left", "right"]:
    return "right" if column.startswith(">") else "left"
