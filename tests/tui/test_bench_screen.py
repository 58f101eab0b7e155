"""The bench screen: every key, what a run tells of itself, and what goes wrong."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import DataTable, ProgressBar, Static, TabbedContent

from moeplan.screens_bench import COLUMNS
from tests.tui import samples
from tests.tui.conftest import Stage, planned, until
from tests.tui.test_plan_screen import played, text_of
from tui.bench_screen import NO_PREDICTION, NO_RESULTS, BenchScreen, Kinds
from tui.help_screen import HelpScreen
from tui.plan_screen import PlanScreen


async def opened(pilot: Pilot[None]) -> BenchScreen:
    await planned(pilot)
    await pilot.press("f5")
    screen = pilot.app.screen
    assert isinstance(screen, BenchScreen)
    await until(pilot, lambda: screen.query_one(Kinds).option_count)
    return screen


async def measured(pilot: Pilot[None], *keys: str) -> BenchScreen:
    screen = await opened(pilot)
    await pilot.press(*keys, "enter")
    await until(pilot, lambda: "cases measured" in text_of(pilot, "#status"))
    return screen


def drawn(screen: Screen[Any], selector: str) -> str:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(screen.query_one(selector, Static).content)
    return captured.get()


def keys_shown(screen: BenchScreen) -> set[str]:
    return {one.binding.description for one in screen.active_bindings.values() if one.enabled and one.binding.show}


def test_it_says_what_can_be_measured(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        kinds = screen.query_one(Kinds)
        words = [str(kinds.get_option_at_index(place).prompt) for place in range(3)]
        assert words[0].startswith("quick kernels of kimi-k2.5's best rows here")
        assert words[1].startswith("plan  rank 1 beside its prediction: vllm")
        assert text_of(pilot, "#status") == NO_RESULTS
        assert {"Measure", "View", "Back"} <= keys_shown(screen)
        assert not {"Cancel", "Use it"} & keys_shown(screen)
        await pilot.press("escape", "down")
        assert isinstance(pilot.app.screen, PlanScreen)
        await pilot.press("f5")
        assert "rank 2" in str(kinds.get_option_at_index(1).prompt)
        await pilot.press("f2", "ctrl+end", "f5")
        assert kinds.get_option_at_index(1).disabled
        assert "needs a row that fits" in str(kinds.get_option_at_index(1).prompt)

    played(stage, script, gpu="8xH200")


def test_a_plan_for_this_machine_is_what_is_measured(stage: Stage) -> None:
    stage.detected_plan()

    async def script(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        assert "kernels of the ranked rows" in str(screen.query_one(Kinds).get_option_at_index(0).prompt)
        await pilot.press("enter")
        await until(pilot, lambda: stage.benched)
        assert stage.benched[0].plan == stage.plan

    played(stage, script)


@pytest.mark.parametrize(("place", "kind"), [(0, "quick"), (1, "plan"), (2, "all")])
def test_a_line_is_measured(stage: Stage, place: int, kind: str) -> None:
    async def script(pilot: Pilot[None]) -> None:
        screen = await measured(pilot, *["down"] * place)
        (task,) = stage.benched
        assert (task.kind, task.values, task.plan) == (kind, {"model": "kimi-k2.5", "gpu": "8xH200"}, stage.plan)
        assert task.candidate == stage.plan.candidates[0]
        assert screen.query_one(DataTable).row_count == len(samples.ROWS) + 1
        assert "1 unstable, 1 not measured" in text_of(pilot, "#status")
        assert ("The prediction differs: +37%" in text_of(pilot, "#status")) == (kind == "plan")

    played(stage, script, gpu="8xH200")


def test_a_run_tells_how_far_it_is_and_goes_on_behind_other_screens(stage: Stage) -> None:
    stage.measuring.clear()

    async def script(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.press("enter")
        table = screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 1)
        assert text_of(pilot, "#status") == "measuring: cpu_moe int4_g32, batch 1, by ggml"
        bar = screen.query_one(ProgressBar)
        assert (bar.display, bar.progress, bar.total) == (True, 1, 6)
        assert "Cancel" in keys_shown(screen)
        assert "Measure" not in keys_shown(screen)
        await pilot.press("enter")
        assert len(stage.benched) == 1
        await pilot.press("f2")
        assert isinstance(pilot.app.screen, PlanScreen)
        stage.measuring.set()
        await until(pilot, lambda: not screen.is_measuring)
        await pilot.press("f5")
        assert isinstance(pilot.app.screen, BenchScreen)
        assert "5 cases measured" in text_of(pilot, "#status")
        assert not bar.display

    played(stage, script, gpu="8xH200")


@pytest.mark.parametrize("key", ["c", "ctrl+c"])
def test_cancel_keeps_what_was_measured(stage: Stage, key: str) -> None:
    stage.measuring.clear()

    async def script(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: screen.query_one(DataTable).row_count)
        await pilot.press(key)
        await until(pilot, lambda: not screen.is_measuring)
        assert "2 cases measured" in text_of(pilot, "#status")
        assert "cancelled, Enter goes on from here. U uses it" in text_of(pilot, "#status")
        assert screen.query_one(DataTable).row_count == 2
        await pilot.press("u")
        assert len(stage.kept) == 1

    played(stage, script, gpu="8xH200")


def test_leaving_the_program_ends_a_run(stage: Stage) -> None:
    stage.measuring.clear()

    async def script(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: screen.query_one(DataTable).row_count)
        await pilot.press("ctrl+q")

    played(stage, script, gpu="8xH200")
    assert stage.stopped == 1


def test_use_it_keeps_it_and_the_plan_is_made_anew(stage: Stage) -> None:
    stage.detected_plan()

    async def script(pilot: Pilot[None]) -> None:
        screen = await measured(pilot)
        assert "Use it" in keys_shown(screen)
        await pilot.press("u")
        assert stage.kept == [samples.report()]
        assert text_of(pilot, "#status").startswith("Kept in calibration.json")
        assert "Use it" not in keys_shown(screen)
        await until(pilot, lambda: stage.looks == 2 and len(stage.asked) == 2)
        own = screen.query_one(Kinds)
        await until(pilot, lambda: "rank 1 beside" in str(own.get_option_at_index(1).prompt))
        await pilot.press("u")
        assert len(stage.kept) == 1

    played(stage, script)


def test_what_cannot_be_kept_is_told_and_can_be_tried_again(stage: Stage) -> None:
    stage.no_keep = "not stored: No space left on device"

    async def script(pilot: Pilot[None]) -> None:
        screen = await measured(pilot)
        await pilot.press("u")
        status = screen.query_one("#status", Static)
        assert text_of(pilot, "#status") == "Not kept: not stored: No space left on device"
        assert status.has_class("error")
        stage.no_keep = ""
        await pilot.press("u")
        assert not status.has_class("error")
        assert len(stage.kept) == 1

    played(stage, script, gpu="8xH200")


def test_what_cannot_be_measured_is_told_in_place(stage: Stage) -> None:
    stage.no_bench = "the plan is for h200-sxm-141, and this machine has none: validate it where it will run"

    async def script(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Not measured: the plan is for" in text_of(pilot, "#status"))
        assert screen.query_one("#status", Static).has_class("error")
        assert not screen.query_one(ProgressBar).display
        await pilot.press("u")
        assert stage.kept == []

    played(stage, script, gpu="8xH200")


def test_details_follow_the_row(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        screen = await measured(pilot)
        await pilot.press("1")
        table = screen.query_one(DataTable)
        assert pilot.app.focused is table
        assert [len(table.get_row_at(place)) for place in range(table.row_count)] == [len(COLUMNS)] * table.row_count
        await pilot.press("ctrl+home", "down")
        assert "kt_kernel: No module named" in drawn(screen, "#detail")
        assert "quartiles 1.30-1.32, 21 samples by the wall clock" in drawn(screen, "#detail")
        await pilot.press("ctrl+end")
        assert "did not answer in 60 s and was killed" in " ".join(drawn(screen, "#detail").split())
        await pilot.press("up")
        assert "spreads over 16 %" in drawn(screen, "#detail")

    played(stage, script, gpu="8xH200")


def test_the_views_by_their_keys(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        views = screen.query_one(TabbedContent)
        await pilot.press("2")
        assert views.active == "against"
        assert text_of(pilot, "#against-view") == NO_PREDICTION
        screen.query_one(Kinds).focus()
        await pilot.press("down", "enter")
        await until(pilot, lambda: screen.query_one(DataTable).row_count > 1 and not screen.is_measuring)
        assert "experts in RAM" in drawn(screen, "#against-view")
        assert "ktransformers, int4, one rank" in drawn(screen, "#against-view")
        await pilot.press("3")
        assert views.active == "plot"
        assert "Share of the ceiling" in drawn(screen, "#plot-view")
        assert "ms for each token" in drawn(screen, "#plot-view")
        await pilot.press("4")
        assert views.active == "notes"
        assert "before them in order, and not run" in drawn(screen, "#notes-view")
        await pilot.press("1")
        assert views.active == "results"

    played(stage, script, gpu="8xH200")


def test_a_click_measures_and_opens_a_view(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.click(Kinds, offset=(10, 2))
        await until(pilot, lambda: stage.benched and not screen.is_measuring)
        assert stage.benched[0].kind == "all"
        await pilot.click("#--content-tab-plot")
        await until(pilot, lambda: screen.query_one(TabbedContent).active == "plot")

    played(stage, script, gpu="8xH200")


def test_help_the_palette_and_a_terminal_that_is_too_small(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.press("f1")
        assert isinstance(pilot.app.screen, HelpScreen)
        assert "write it as this machine's calibration" in text_of(pilot, "Static")
        await pilot.press("f1")
        too_small, body = screen.query_one("#too-small"), screen.query_one("#body")
        await pilot.resize_terminal(40, 12)
        await until(pilot, lambda: too_small.display and not body.display)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: body.display and not too_small.display)
        app: Any = pilot.app
        assert {"Bench", "Compare"} <= {command.title for command in app.get_system_commands(screen)}

    played(stage, script, gpu="8xH200")
