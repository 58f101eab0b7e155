"""Plots: beside the bars where there is room, on a screen of their own everywhere, and never of a plan that is gone."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Static, TabbedContent

from tests.tui.conftest import CURVES, Stage, planned, until
from tests.tui.test_plan_screen import knob, played, text_of
from tui.curve_plot import CurvePlot, ticks
from tui.curves_pane import CurvesPane
from tui.curves_screen import CurvesScreen
from tui.plan_screen import PlanScreen


def pane(pilot: Pilot[None]) -> CurvesPane:
    return pilot.app.screen.query_one(CurvesPane)


def drawn_text(plot: CurvePlot) -> str:
    return str(plot.render())


def _has_room(plot: CurvePlot) -> bool:
    return plot.size.area > 0


async def opened(pilot: Pilot[None]) -> TabbedContent:
    await planned(pilot)
    await pilot.press("f7")
    screen = pilot.app.screen
    assert isinstance(screen, CurvesScreen)
    tabs = screen.query_one(TabbedContent)
    await until(pilot, lambda: tabs.tab_count == len(CURVES))
    return tabs


def test_the_plots_follow_the_row_and_its_plan(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await until(pilot, lambda: pane(pilot).curves)
        assert stage.drawn == [({"model": "kimi-k2.5", "gpu": "8xH200"}, 1)]
        await pilot.press("down")
        await until(pilot, lambda: len(stage.drawn) == 2)
        assert stage.drawn[1][1] == 2
        knob(pilot, "nodes").focus()
        await pilot.press("2")
        await until(pilot, lambda: len(stage.drawn) == 3)
        assert stage.drawn[2] == ({"model": "kimi-k2.5", "gpu": "8xH200", "nodes": "2"}, 2)

    played(stage, script, size=(200, 60), gpu="8xH200")


def test_a_knob_that_changes_ends_the_plots_under_way(stage: Stage) -> None:
    stage.drawing.clear()

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await until(pilot, lambda: len(stage.drawn) == 1)
        stage.planning.clear()
        knob(pilot, "nodes").focus()
        await pilot.press("2")
        await until(pilot, lambda: len(stage.asked) == 2)
        stage.drawing.set()
        await until(pilot, lambda: stage.undrawn == [1])
        assert pane(pilot).curves == ()
        stage.planning.set()
        await until(pilot, lambda: pane(pilot).curves)

    played(stage, script, gpu="8xH200")


def test_what_nobody_sees_is_not_computed(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("down", "up")
        assert (stage.drawn, pane(pilot).display) == ([], False)
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: pane(pilot).curves)
        assert len(stage.drawn) == 1
        pilot.app.action_pane()  # type: ignore[attr-defined]
        await until(pilot, lambda: not pane(pilot).display)
        await pilot.press("down")
        await pilot.press("f3", "escape")
        assert len(stage.drawn) == 1

    played(stage, script, size=(80, 24), gpu="8xH200")


def test_a_row_that_does_not_fit_has_no_plots(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("ctrl+end")
        assert "does not fit" in text_of(pilot, "#no-curves")
        await pilot.press("f7")
        assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script, gpu="8xH200")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_why_there_are_no_plots_stands_where_they_would(stage: Stage, size: tuple[int, int]) -> None:
    stage.plotless = "no plots of a fleet"

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        if size == (120, 40):
            await until(pilot, lambda: "no plots of a fleet" in text_of(pilot, "#no-curves"))
        await pilot.press("f7")
        await until(pilot, lambda: "no plots of a fleet" in text_of(pilot, "#status"))
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script, size=size, gpu="8xH200")


def test_every_plot_has_a_tab_and_its_table(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        tabs = await opened(pilot)
        for place, curve in enumerate(CURVES):
            active: Any = tabs.active_pane
            plot = active.query_one(CurvePlot)
            table = active.query_one(".curve-table")
            await until(pilot, partial(_has_room, plot))
            shown = drawn_text(plot)
            assert curve.title in shown
            assert all(line.name in shown for line in curve.lines)
            assert (plot.display, table.display) == (True, False)
            await pilot.press("t")
            assert (plot.display, table.display) == (False, True)
            assert active.query_one(".curve-table Static", Static).content is curve.table
            await pilot.press("t")
            if place < len(CURVES) - 1:
                await pilot.press("right")
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script, size=(80, 24), gpu="8xH200")


def test_a_high_terminal_shows_plot_and_table(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        tabs = await opened(pilot)
        active: Any = tabs.active_pane
        await until(pilot, lambda: active.query_one(".curve-table").size.area)
        assert active.query_one(CurvePlot).size.area

    played(stage, script, gpu="8xH200")


def test_a_plot_can_be_as_small_as_it_likes(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await opened(pilot)
        for size in ((60, 16), (30, 6), (3, 3), (120, 40)):
            await pilot.resize_terminal(*size)
            await pilot.pause()

    played(stage, script, gpu="8xH200")


@given(st.floats(1e-9, 1e12), st.floats(1, 1e12), st.integers(2, 12))
def test_ticks_lie_within_and_there_is_one_at_least_but_not_too_many(low: float, factor: float, most: int) -> None:
    found = ticks(low, low * factor, most)
    assert 1 <= len(found) <= most
    assert all(low * 0.999 <= value <= low * factor * 1.001 for value, _ in found)
