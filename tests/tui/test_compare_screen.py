"""Marks on the plan screen, and the compare screen: every key, and what a search tells of itself."""

from __future__ import annotations

import pytest
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import DataTable, ProgressBar, Static, TabbedContent

from tests.moeplan.conftest import fitting, offloaded, plan_of
from tests.tui.conftest import Stage, planned, until
from tests.tui.test_bench_screen import drawn
from tests.tui.test_plan_screen import knob, played, text_of
from tui.compare_screen import HINT, NO_PLAN, NOTHING, SEARCH, CompareScreen, Flags
from tui.help_screen import HelpScreen
from tui.plan_screen import PlanScreen


async def opened(pilot: Pilot[None]) -> CompareScreen:
    await pilot.press("f6")
    screen = pilot.app.screen
    assert isinstance(screen, CompareScreen)
    await pilot.pause()
    return screen


async def turned(pilot: Pilot[None], stage: Stage, name: str, value: str) -> None:
    """A knob at another value, and the plan for it."""
    asked = len(stage.asked)
    knob(pilot, name).value = value
    await until(pilot, lambda: len(stage.asked) > asked)
    await planned(pilot)


def first_column(pilot: Pilot[None]) -> list[str]:
    table = pilot.app.screen.query_one(DataTable)
    return [str(table.get_row_at(place)[0]) for place in range(table.row_count)]


def keys_shown(screen: CompareScreen) -> set[str]:
    return {one.binding.description for one in screen.active_bindings.values() if one.enabled and one.binding.show}


def heads(screen: CompareScreen) -> str:
    return next(line for line in drawn(screen, "#sides-view").splitlines() if "what differs" in line)


def test_space_marks_and_unmarks_a_row(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("space", "down", "space")
        assert first_column(pilot)[:2] == ["1*", "2*"]
        assert text_of(pilot, "#status").startswith("2 marked, F6 compares. 1 fit, 1 tight")
        await pilot.press("space")
        assert first_column(pilot)[:2] == ["1*", "2"]
        await pilot.press("ctrl+end", "space")
        assert "1 marked" in text_of(pilot, "#status")

    played(stage, script, gpu="8xH200")


def test_a_knob_takes_the_space_as_a_letter(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        knob(pilot, "engine").focus()
        await pilot.press("space", "x")
        assert knob(pilot, "engine").value == " x"
        await until(pilot, lambda: len(stage.asked) == 2)
        await planned(pilot)
        assert "marked" not in text_of(pilot, "#status")

    played(stage, script, gpu="8xH200")


def test_a_mark_stays_when_knobs_change_and_says_which_knobs_it_had(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("space")
        await turned(pilot, stage, "context", "128k")
        assert first_column(pilot)[0] == "1"
        await pilot.press("space")
        assert text_of(pilot, "#status").startswith("2 marked")
        screen = await opened(pilot)
        assert "A: rank 1, pinned" in heads(screen)
        assert "B: rank 1 " in heads(screen)
        (line,) = [line for line in drawn(screen, "#sides-view").splitlines() if "knob: context" in line]
        assert line.split()[2:] == ["(32768)", "128k"]
        await pilot.press("f2")
        await turned(pilot, stage, "context", "")
        assert first_column(pilot)[0] == "1*"
        await opened(pilot)
        assert "A: rank 1 " in heads(screen)
        assert "B: rank 1, pinned" in heads(screen)

    played(stage, script, gpu="8xH200")


def test_four_can_be_marked_and_a_fifth_says_so(stage: Stage) -> None:
    stage.plan = plan_of(tuple(fitting(rank).model_copy(update={"parallel": _split(rank)}) for rank in range(1, 6)))

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        for _ in range(5):
            await pilot.press("space", "down")
        assert first_column(pilot)[:5] == ["1*", "2*", "3*", "4*", "5"]
        assert text_of(pilot, "#status").startswith("4 marked")
        screen = await opened(pilot)
        assert all(letter in heads(screen) for letter in ("A:", "B:", "C:", "D:"))

    played(stage, script, gpu="8xH200")


def _split(rank: int) -> object:
    return fitting().parallel.model_copy(update={"pp": rank})


def test_what_is_marked_follows_the_newest_plan_for_the_same_knobs(stage: Stage) -> None:
    stage.detected_plan()

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("space", "down", "space")
        screen = await opened(pilot)
        assert "modelled" in drawn(screen, "#sides-view")
        measured = [
            one.model_copy(update={"performance": one.performance.model_copy(update={"evidence": "calibrated"})})
            for one in stage.plan.candidates
        ]
        stage.plan = stage.plan.model_copy(update={"candidates": tuple(measured)})
        await pilot.press("f4", "r")
        await until(pilot, lambda: len(stage.asked) == 2)
        await pilot.press("f2")
        await planned(pilot)
        await opened(pilot)
        assert "calibrated" in drawn(screen, "#sides-view")
        assert "modelled" not in drawn(screen, "#sides-view")

    played(stage, script)


def test_unmarked_the_first_rows_are_compared(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        screen = await opened(pilot)
        assert text_of(pilot, "#sides-status").startswith(HINT)
        assert "A: rank 1" in heads(screen)
        assert "B: rank 2" in heads(screen)
        await pilot.press("f2", "down", "space")
        await opened(pilot)
        assert "A: rank 2" in heads(screen)
        assert "B: rank 1" in heads(screen)

    played(stage, script, gpu="8xH200")


def test_where_nothing_fits_there_is_nothing_to_compare(stage: Stage) -> None:
    stage.plan = plan_of(())

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await opened(pilot)
        assert text_of(pilot, "#sides-status") == NOTHING
        await pilot.press("2")
        assert text_of(pilot, "#cost-status") == NOTHING
        assert stage.costed == []

    played(stage, script, gpu="8xH200")


def test_a_plan_that_is_still_being_made_is_compared_when_it_is_there(stage: Stage) -> None:
    stage.planning.clear()

    async def script(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: stage.asked)
        screen = await opened(pilot)
        assert text_of(pilot, "#sides-status") == NO_PLAN
        stage.planning.set()
        await until(pilot, lambda: "A: rank 1" in drawn(screen, "#sides-view"))
        assert text_of(pilot, "#sides-status").startswith(HINT)

    played(stage, script, gpu="8xH200")


def test_columns_are_dropped_by_their_letters(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("space", "down", "space")
        screen = await opened(pilot)
        assert {"Drop", "No marks", "View", "Back"} <= keys_shown(screen)
        await pilot.press("A")
        assert "A: rank 2" in heads(screen)
        await pilot.press("x")
        assert not {"Drop", "No marks"} & keys_shown(screen)
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, PlanScreen)
        assert first_column(pilot)[:2] == ["1", "2"]
        assert "marked" not in text_of(pilot, "#status")

    played(stage, script, gpu="8xH200")


def test_each_is_put_against_the_apis_with_other_assumptions(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("space", "down", "space")
        screen = await opened(pilot)
        await pilot.press("2")
        assert screen.query_one(TabbedContent).active == "cost"
        await until(pilot, lambda: "sensible choice" in drawn(screen, "#cost-view"))
        assert [len(keys) for keys, _ in stage.costed] == [2]
        assert "Assume" in keys_shown(screen)
        await pilot.press("e")
        flags = screen.query_one("#cost-flags", Flags)
        assert pilot.app.focused is flags
        await pilot.press(*"--years 2", "enter")
        await until(pilot, lambda: "--years 2" in drawn(screen, "#cost-view"))
        assert pilot.app.focused is not flags
        flags.value = "--nonsense"
        await pilot.press("e", "enter")
        await until(pilot, lambda: text_of(pilot, "#cost-status") == "unknown flag --nonsense")
        assert screen.query_one("#cost-status", Static).has_class("error")
        await pilot.press("e", "escape")
        assert isinstance(pilot.app.screen, CompareScreen)
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script, gpu="8xH200")


def test_hardware_is_searched_for_the_work_of_the_knobs(stage: Stage) -> None:
    stage.searching.clear()

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        screen = await opened(pilot)
        await pilot.press("3")
        assert text_of(pilot, "#recommend-status") == SEARCH
        await pilot.press("r")
        bar = screen.query_one(ProgressBar)
        await until(pilot, lambda: bar.progress == 2)
        assert (bar.display, bar.total) == (True, 4)
        assert "Cancel" in keys_shown(screen)
        assert "Search" not in keys_shown(screen)
        await pilot.press("escape")
        stage.searching.set()
        await until(pilot, lambda: not screen.is_searching)
        await opened(pilot)
        assert "rent: 8x H200" in drawn(screen, "#recommend-view")
        assert not bar.display
        assert stage.recommended == [({"model": "kimi-k2.5", "gpu": "8xH200"}, "machine", "")]
        await pilot.press("escape")
        await turned(pilot, stage, "concurrency", "64")
        await opened(pilot)
        assert "knobs before" in text_of(pilot, "#recommend-status")

    played(stage, script, gpu="8xH200")


def test_a_search_is_cancelled(stage: Stage) -> None:
    stage.searching.clear()

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        screen = await opened(pilot)
        await pilot.press("3", "r")
        await until(pilot, lambda: stage.recommended)
        await pilot.press("c")
        await until(pilot, lambda: stage.stopped == 1)
        assert text_of(pilot, "#recommend-status") == f"Cancelled. {SEARCH}"
        assert not screen.is_searching
        stage.searching.set()
        await pilot.press("e", *"--top 1", "enter")
        await until(pilot, lambda: "rent" in drawn(screen, "#recommend-view"))
        assert stage.recommended[-1][2] == "--top 1"

    played(stage, script, gpu="8xH200")


def test_what_is_wrong_with_a_search_is_told_in_place(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        screen = await opened(pilot)
        await pilot.press("3", "e", *"--nonsense", "enter")
        await until(pilot, lambda: text_of(pilot, "#recommend-status") == "unknown flag --nonsense")
        assert screen.query_one("#recommend-status", Static).has_class("error")

    played(stage, script, gpu="8xH200")


@pytest.mark.parametrize("key", ["f1", "f5"])
def test_help_and_the_other_screens_are_a_key_away(stage: Stage, key: str) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        screen = await opened(pilot)
        await pilot.press(key)
        if key == "f1":
            assert isinstance(pilot.app.screen, HelpScreen)
            assert "what differs first" in text_of(pilot, "Static")
        await pilot.press("f6")
        assert pilot.app.screen is screen

    played(stage, script, gpu="8xH200")


def test_a_terminal_that_is_too_small_says_so_and_a_narrow_one_shows_all_columns(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("space", "down", "space")
        screen = await opened(pilot)
        too_small, body = screen.query_one("#too-small"), screen.query_one("#body")
        await pilot.resize_terminal(40, 12)
        await until(pilot, lambda: too_small.display and not body.display)
        await pilot.resize_terminal(60, 20)
        await until(pilot, lambda: body.display and not too_small.display)
        view = screen.query_one("#sides-view", Static)
        await until(pilot, lambda: 0 < view.size.width <= 60)
        console = Console(width=58, color_system=None)
        with console.capture() as captured:
            console.print(view.content)
        assert "A: rank 1" in captured.get()
        assert "B: rank 2" in captured.get()

    played(stage, script, gpu="8xH200")


def test_rows_of_two_models_are_compared(stage: Stage) -> None:
    stage.plan = plan_of((offloaded(1),))

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("space")
        stage.plan = plan_of((fitting(1),))
        await turned(pilot, stage, "model", "deepseek-v3")
        screen = await opened(pilot)
        shown = drawn(screen, "#sides-view")
        assert "knob: model" in shown
        assert "deepseek-v3" in shown

    played(stage, script, gpu="8xH200")
