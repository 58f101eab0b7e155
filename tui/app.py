"""The app: what all screens share, and how one leads to another.

Screens are imported when they are opened, so that the first is drawn the sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tui.latest import Answered, Latest
from tui.plan_screen import PlanScreen
from tui.program import Machine, MachineScreen, Program, Refused, Values

if TYPE_CHECKING:
    from planner.plan import Plan
    from tui.bench_program import BenchTask
    from tui.compare_screen import Front

DARK, LIGHT = "textual-dark", "textual-light"


class MoeplanApp(App[None]):
    """``values`` are knobs that were set on the command line."""

    TITLE = "moeplan"
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 - Textual declares it without ClassVar
        (0, "-tiny"), (60, "-narrow"), (100, "-normal"), (150, "-wide"),
    ]  # fmt: skip
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (16, "-tall"), (36, "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "explain", "Help", priority=True),
        Binding("f2", "plan", "Plan", priority=True),
        Binding("f3", "launch", "Launch", priority=True),
        Binding("f4", "hardware", "Hardware", priority=True),
        Binding("f5", "bench", "Bench", priority=True),
        Binding("f6", "compare", "Compare", priority=True),
        Binding("f7", "curves", "Plots", priority=True),
        Binding("f8", "dark_or_light", "Dark/light", show=False, priority=True),
        Binding("f10", "quit", "Quit", priority=True),
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, program: Program, values: Values) -> None:
        super().__init__()
        self._program, self._values = program, values
        self._latest: Latest[Machine] = Latest(self)
        self._machine: Machine | None = None
        self._no_machine = ""
        self._plan_screen = PlanScreen(program, values)
        self._kept: dict[str, Screen[None]] = {}

    def on_mount(self) -> None:
        """The plan screen first; the machine is looked at behind it."""
        self.theme = DARK
        self.push_screen(self._plan_screen)
        # Not before something is drawn: threads and the screen share one interpreter.
        self.call_after_refresh(self.action_look_again)

    @on(Answered)
    def _looked(self, event: Answered) -> None:
        if not event.is_newest:
            return
        try:
            self._machine, self._no_machine = event.value(), ""
        except Refused as refusal:
            self._machine, self._no_machine = None, f"This machine could not be read: {refusal}"
        for screen in self.screen_stack:
            if isinstance(screen, MachineScreen):
                screen.machine_found(self._machine, self._no_machine)

    def action_look_again(self) -> None:
        """Detect this machine, in a thread."""
        detect = self._program.detect
        for screen in self.screen_stack:
            if isinstance(screen, MachineScreen):
                screen.machine_sought()
        self._machine, self._no_machine = None, ""
        self._latest.ask(lambda alive: detect())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """On the plan screen nothing leads there, which leaves room in the footer."""
        del parameters
        return action != "plan" or self.screen is not self._plan_screen

    def action_explain(self) -> None:
        """The help of the screen shown."""
        from tui.help_screen import HelpScreen

        if isinstance(self.screen, HelpScreen):
            self.pop_screen()
            return
        text = next((found for one in reversed(self.screen_stack) if (found := getattr(one, "HELP_TEXT", ""))), "")
        self.push_screen(HelpScreen(text))

    def action_plan(self) -> None:
        """Back to the plan, whatever is open over it."""
        while self.screen is not self._plan_screen and len(self.screen_stack) > 1:
            self.pop_screen()

    def action_launch(self) -> None:
        """Files of the row chosen, if it is of what the knobs say now."""
        plan = self._plan_screen
        row, answer = plan.row, plan.answer
        if not plan.is_up_to_date or answer is None:
            self.notify("There is no plan yet for what the knobs say.", severity="warning")
        elif row is None or row.candidate is None:
            self.notify("This row does not fit; there is nothing to launch.", severity="warning")
        else:
            from tui.launch_screen import LaunchScreen

            self.action_plan()
            title = f"{answer.plan.model.name}: rank {row.candidate.rank}, {row.key}"
            self.push_screen(LaunchScreen(self._program, answer.plan, row.candidate, title))

    def action_curves(self) -> None:
        """Plots of the row chosen, if it is of what the knobs say now."""
        plan = self._plan_screen
        ask, row = plan.ask_of_curves(), plan.row
        if not plan.is_up_to_date or row is None:
            self.notify("There is no plan yet for what the knobs say.", severity="warning")
        elif ask is None:
            self.notify("This row does not fit; there is nothing to draw.", severity="warning")
        else:
            from tui.curves_screen import CurvesScreen

            self.action_plan()
            self.push_screen(CurvesScreen(ask, row.key))

    async def action_hardware(self) -> None:
        """This machine, held to the row chosen where the plan is for this machine."""
        from tui.hardware_screen import HardwareScreen

        self.action_plan()
        row, answer = self._plan_screen.row, self._plan_screen.answer
        plan, rank = None, 1
        is_shown = self._plan_screen.is_up_to_date and row is not None and row.candidate is not None
        if is_shown and answer is not None and answer.plan.hardware.source == "detected":
            plan, rank = answer.plan, row.candidate.rank  # type: ignore[union-attr]
        screen = HardwareScreen(self._program, plan, rank)
        await self.push_screen(screen)
        if self._machine is not None or self._no_machine:
            screen.machine_found(self._machine, self._no_machine)

    def action_bench(self) -> None:
        """Kernels measured on this machine."""
        from tui.bench_screen import BenchScreen

        self._show_kept("bench", lambda: BenchScreen(self._program.bench(), self._what_to_bench))

    def action_compare(self) -> None:
        """What is marked side by side, against APIs, and other hardware."""
        from tui.compare_screen import CompareScreen

        self._show_kept("compare", lambda: CompareScreen(self._program.compare(), self._front))

    def _show_kept(self, name: str, made: Callable[[], Screen[None]]) -> None:
        """A screen that stays as it was left, and whose work goes on behind others."""
        self.action_plan()
        if name not in self._kept:
            self._kept[name] = made()
            self.install_screen(self._kept[name], name)
        self.push_screen(name)

    def _what_to_bench(self) -> BenchTask:
        from tui.bench_program import BenchTask

        plan, row = self._plan_screen, self._plan_screen.row
        if not plan.is_up_to_date or plan.answer is None:
            return BenchTask("quick", plan.values, None, None)
        return BenchTask("quick", plan.values, plan.answer.plan, row.candidate if row is not None else None)

    def _front(self) -> Front:
        from tui.compare_screen import Front

        plan = self._plan_screen
        return Front(plan.values, plan.answer if plan.is_up_to_date else None, self._machine, plan.marks)

    def action_save_plan(self) -> None:
        """The plan as JSON."""
        plan = self._plan_to_save()
        if plan is not None:
            save = self._program.save_plan
            self._ask_where("Save the plan as", "plan.json", lambda path, over: save(path, plan, over))

    def action_save_report(self) -> None:
        """The report of the plan, with the row chosen as what it recommends where that fits."""
        plan, row = self._plan_to_save(), self._plan_screen.row
        if plan is not None:
            save = self._program.save_report
            rank = row.candidate.rank if row is not None and row.candidate is not None else 1
            self._ask_where("Save the report as", "plan.html", lambda path, over: save(path, plan, rank, over))

    def _plan_to_save(self) -> Plan | None:
        answer = self._plan_screen.answer
        if answer is not None and self._plan_screen.is_up_to_date:
            return answer.plan
        self.notify("There is no plan yet for what the knobs say.", severity="warning")
        return None

    def _ask_where(self, title: str, place: str, save: Callable[[str, bool], str]) -> None:
        from tui.save_dialog import SaveDialog

        def saved(line: str | None) -> None:
            if line:
                self.notify(line, markup=False)

        self.push_screen(SaveDialog(title, place, save), saved)

    def action_find_knob(self) -> None:
        """To a knob of the plan screen by its name."""
        self.action_plan()
        self._plan_screen.action_find_knob()

    def action_pane(self) -> None:
        """The plots beside the bars, or a longer ranking."""
        self._plan_screen.toggle_class("-no-curves")

    def action_dark_or_light(self) -> None:
        """The other of the two."""
        self.theme = LIGHT if self.current_theme.dark else DARK

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Ours before Textual's own."""
        yield SystemCommand("Plan", "Knobs and ranking", self.action_plan)
        yield SystemCommand("Launch files", "What starts the row chosen", self.action_launch)
        yield SystemCommand("Hardware", "This machine and its check", self.action_hardware)
        yield SystemCommand("Bench", "Kernels measured on this machine, beside the prediction", self.action_bench)
        yield SystemCommand("Compare", "Rows side by side, against APIs, other hardware", self.action_compare)
        yield SystemCommand("Look again", "Detect this machine anew", self.action_look_again)
        yield SystemCommand("Find a knob", "By its name", self.action_find_knob)
        yield SystemCommand("Plots", "KV cache and speed against context and load", self.action_curves)
        yield SystemCommand("Plots beside the bars", "Show or hide them, where there is room", self.action_pane)
        yield SystemCommand("Save the plan", "As JSON", self.action_save_plan)
        yield SystemCommand("Save the report", "As a page for a browser", self.action_save_report)
        yield SystemCommand("Help of this screen", "What its keys do", self.action_explain)
        yield SystemCommand("Dark or light", "The other of the two", self.action_dark_or_light)
        yield from super().get_system_commands(screen)
