"""The plan screen: every key, and what happens while a plan is being made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import DataTable, OptionList, Static

from moeplan.screens import answer_of
from tests.moeplan.conftest import fitting, offloaded, plan_of
from tests.tui.conftest import Stage, planned, until
from tui.detail_screen import DetailScreen
from tui.help_screen import HelpScreen
from tui.knob_panel import KnobInput
from tui.memory_bars import MemoryBars
from tui.picker import Picker
from tui.plan_screen import PlanScreen
from tui.program import Refused, Values

Script = Callable[[Pilot[None]], Coroutine[Any, Any, None]]


def played(stage: Stage, script: Script, size: tuple[int, int] = (120, 40), **values: str) -> None:
    async def play() -> None:
        async with stage.app(**values).run_test(size=size) as pilot:
            await script(pilot)

    asyncio.run(play())


def text_of(pilot: Pilot[None], selector: str) -> str:
    return str(pilot.app.screen.query_one(selector, Static).content)


def knob(pilot: Pilot[None], name: str) -> KnobInput:
    return pilot.app.screen.query_one(f"#knob-{name}", KnobInput)


def test_it_opens_before_the_machine_is_known_and_plans_for_it_then(stage: Stage) -> None:
    stage.looking.clear()

    async def script(pilot: Pilot[None]) -> None:
        await pilot.pause()
        assert "looking at this machine" in text_of(pilot, "#status")
        assert stage.asked == []
        stage.looking.set()
        await planned(pilot)
        assert stage.asked == [{"model": "kimi-k2.5"}]
        assert pilot.app.screen.query_one(DataTable).row_count == len(answer_of(stage.plan).rows)

    played(stage, script)


def test_hardware_that_is_described_does_not_wait_for_a_machine_that_hangs(stage: Stage) -> None:
    stage.looking.clear()

    async def script(pilot: Pilot[None]) -> None:
        await pilot.pause()
        await pilot.press(*"8xH200")
        await planned(pilot)
        assert stage.asked[-1] == {"model": "kimi-k2.5", "gpu": "8xH200"}

    played(stage, script)
    stage.looking.set()


def test_a_machine_that_cannot_be_read_is_a_message_with_a_way_out(stage: Stage) -> None:
    stage.blind = "libnvidia-ml.so.1 broke"

    async def script(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "broke" in text_of(pilot, "#status"))
        assert "GPUs, as 8xH200" in text_of(pilot, "#status")

    played(stage, script)


def test_keys_that_follow_each_other_are_one_plan(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than a busy machine takes for two keys.
    monkeypatch.setattr("tui.plan_screen.QUIET_S", 2.0)

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        knob(pilot, "context").focus()
        await pilot.press(*"128k")
        await until(pilot, lambda: pilot.app.screen.is_up_to_date and len(stage.asked) > 1)  # type: ignore[attr-defined]
        assert stage.asked[1:] == [{"model": "kimi-k2.5", "gpu": "8xH200", "context": "128k"}]

    played(stage, script, gpu="8xH200")


def test_the_latest_wins_and_keys_are_taken_while_a_plan_is_made(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        stage.planning.clear()
        knob(pilot, "nodes").focus()
        await pilot.press("2")
        await until(pilot, lambda: len(stage.asked) == 2)
        await pilot.resize_terminal(80, 24)
        await pilot.press("backspace", "4")
        assert knob(pilot, "nodes").value == "4"
        await until(pilot, lambda: stage.asked[-1].get("nodes") == "4")
        assert "planning" in text_of(pilot, "#status")
        stage.planning.set()
        await planned(pilot)
        assert stage.asked[-1]["nodes"] == "4"
        await until(pilot, lambda: len(stage.stale) == len(stage.asked) - 2)
        assert stage.stale[0]["nodes"] == "2"

    played(stage, script, gpu="8xH200")


def test_what_is_wrong_with_a_knob_stands_under_it_until_it_is_right(stage: Stage) -> None:
    def refusal(values: Values) -> Refused | None:
        return Refused("--context: 'x' is not a number of tokens", "context") if values.get("context") == "x" else None

    stage.refusal = refusal

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        knob(pilot, "context").focus()
        await pilot.press("x")
        await until(pilot, lambda: pilot.app.screen.query("#knobs .error"))
        assert "not a number" in text_of(pilot, "#knobs .error")
        rows = list(pilot.app.screen.query_one("#knobs").children)
        assert rows.index(pilot.app.screen.query_one("#knobs .error")) == rows.index(knob(pilot, "context")) + 1
        assert "Not planned. Below is the plan before." in text_of(pilot, "#status")
        await pilot.press("f3")
        assert isinstance(pilot.app.screen, PlanScreen)
        await pilot.press("ctrl+l")
        await planned(pilot)
        assert not pilot.app.screen.query("#knobs .error")

    played(stage, script, gpu="8xH200")


def test_a_refusal_of_no_knob_stands_over_the_ranking(stage: Stage) -> None:
    stage.refusal = lambda values: Refused("no engine runs this")

    async def script(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "no engine runs this" in text_of(pilot, "#status"))

    played(stage, script, gpu="8xH200")


def test_the_bars_and_the_summary_follow_the_row(stage: Stage) -> None:
    rows = answer_of(stage.plan).rows

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        bars = pilot.app.screen.query_one(MemoryBars)
        assert bars.bars == rows[0].bars
        await pilot.press("down")
        assert bars.bars == rows[1].bars
        assert text_of(pilot, "#summary") == rows[1].summary
        await pilot.press("ctrl+end")
        assert text_of(pilot, "#summary") == rows[-1].summary
        assert rows[-1].candidate is None
        await pilot.press("f3")
        assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script, gpu="8xH200")


def test_the_row_stays_chosen_over_a_new_plan(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        screen: Any = pilot.app.screen
        await pilot.press("down")
        key = screen.row.key
        stage.plan = plan_of((offloaded(1), fitting(2)))
        knob(pilot, "nodes").focus()
        await pilot.press("1")
        await until(pilot, lambda: screen.is_up_to_date and len(stage.asked) == 2)
        assert (screen.row.key, screen.query_one(DataTable).cursor_row) == (key, 0)

    played(stage, script, gpu="8xH200")


def test_enter_shows_the_ledger_and_the_time_of_a_row(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, DetailScreen)
        console = Console(width=120, color_system=None)
        with console.capture() as captured:
            console.print(pilot.app.screen.query_one(".view", Static).content)
        assert {"Ledger", "Time"} <= {line.strip() for line in captured.get().splitlines()}
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, PlanScreen)
        await pilot.press("ctrl+end", "enter")
        assert isinstance(pilot.app.screen, DetailScreen)

    played(stage, script, gpu="8xH200")


def test_a_knob_is_turned_from_what_is_in_force(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        work = stage.plan.workload
        knob(pilot, "concurrency").focus()
        await pilot.press("shift+up")
        assert int(knob(pilot, "concurrency").value) > work.concurrency
        knob(pilot, "gpu").focus()
        await pilot.press("shift+down")
        assert knob(pilot, "gpu").value == "4xH200"
        knob(pilot, "objective").focus()
        await pilot.press("shift+up")
        assert knob(pilot, "objective").value == "balanced"
        await pilot.press("shift+down")
        assert knob(pilot, "objective").value == ""

    played(stage, script, gpu="8xH200")


def test_enter_chooses_from_a_list_that_typing_narrows(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        knob(pilot, "gpu").focus()
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, Picker)
        whole = pilot.app.screen.query_one(OptionList).option_count
        await pilot.press(*"b200", "down", "up")
        assert 0 < pilot.app.screen.query_one(OptionList).option_count < whole
        await pilot.press("enter")
        assert knob(pilot, "gpu").value.startswith("2x")
        assert "b200" in knob(pilot, "gpu").value
        await pilot.press("enter", "escape")
        assert isinstance(pilot.app.screen, PlanScreen)
        knob(pilot, "ttft").focus()
        await pilot.press("enter")
        assert pilot.app.focused is knob(pilot, "tpot")
        await pilot.press("up")
        assert pilot.app.focused is knob(pilot, "ttft")
        await pilot.press("down")
        assert pilot.app.focused is knob(pilot, "tpot")

    played(stage, script, gpu="2xH200")


def test_help_is_on_every_screen_and_f2_leads_back(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        for keys in ((), ("enter",), ("f3",), ("f4",)):
            await pilot.press(*keys, "f1")
            assert isinstance(pilot.app.screen, HelpScreen)
            assert "Escape" in text_of(pilot, "Static") or not keys
            await pilot.press("f1", "f2")
            assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script, gpu="8xH200")


def test_every_screen_can_be_reached_from_the_palette(stage: Stage) -> None:
    app = stage.app(gpu="8xH200")
    names = [command.title for command in app.get_system_commands(app._plan_screen)]
    assert {"Plan", "Launch files", "Hardware", "Look again", "Save the plan", "Help of this screen"} <= set(names)
    assert {"Find a knob", "Plots", "Plots beside the bars", "Save the report"} <= set(names)


def test_dark_and_light(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        dark = pilot.app.current_theme.dark
        await pilot.press("f8")
        assert pilot.app.current_theme.dark is not dark
        await pilot.press("f8")
        assert pilot.app.current_theme.dark is dark

    played(stage, script, gpu="8xH200")


def test_a_terminal_that_is_too_small_says_so_and_comes_back(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        too_small, body = pilot.app.screen.query_one("#too-small"), pilot.app.screen.query_one("#body")
        assert (too_small.display, body.display) == (False, True)
        await pilot.resize_terminal(40, 12)
        await until(pilot, lambda: too_small.display and not body.display)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: body.display and not too_small.display)

    played(stage, script, gpu="8xH200")


def test_the_plan_is_saved_as_json(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("ctrl+s")
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: stage.saved)
        assert stage.saved == [("plan.json", {"plan.json": stage.plan.to_json()}, False)]

    played(stage, script, gpu="8xH200")


def test_the_report_is_of_the_row_chosen(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("down", "ctrl+r")
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: stage.reported)
        assert stage.reported == [("plan.html", stage.plan, 2, False)]

    played(stage, script, gpu="8xH200")


def test_nothing_is_saved_of_a_plan_that_is_being_replaced(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        stage.planning.clear()
        knob(pilot, "nodes").focus()
        await pilot.press("2", "ctrl+s", "ctrl+r", "f3", "f7")
        assert isinstance(pilot.app.screen, PlanScreen)
        stage.planning.set()

    played(stage, script, gpu="8xH200")


def test_a_knob_out_of_sight_is_found_by_its_name(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("ctrl+f", *"share", "enter")
        await until(pilot, lambda: pilot.app.focused is knob(pilot, "dcp"))
        panel: Any = pilot.app.screen.query_one("#knobs")
        await until(pilot, lambda: panel.scrollable_content_region.contains_region(knob(pilot, "dcp").region))
        await pilot.press("8")
        await until(pilot, lambda: stage.asked[-1].get("dcp") == "8")
        await pilot.press("ctrl+f", "escape")
        assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script, size=(80, 24), gpu="8xH200")
