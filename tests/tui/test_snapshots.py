"""Pictures of sample plans. `pytest tests/tui --snapshot-update` draws them anew, to be looked at before a commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, OptionList, ProgressBar, Static, TabbedContent, TabPane

from tests.tui.conftest import CURVES, Stage, planned, until
from tui.curve_plot import CurvePlot

SnapCompare = Callable[..., bool]


SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")


async def drawn(pilot: Pilot[None]) -> None:
    """The plan, and its plots where there is room for them."""
    await planned(pilot)
    plots = pilot.app.screen.query_one("#plots")
    if plots.size.area:
        await until(
            pilot, lambda: all(plot.size.area or not plot.display for plot in plots.children) and plots.children
        )


@SIZES
def test_plan(stage: Stage, snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=size, run_before=drawn)


@SIZES
def test_plots(stage: Stage, snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    async def plots(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await pilot.press("f7")
        tabs = pilot.app.screen.query_one(TabbedContent)
        await until(pilot, lambda: tabs.tab_count == len(CURVES))
        await pilot.press("right")
        second = list(tabs.query(TabPane))[1]
        await until(pilot, lambda: tabs.active_pane is second and _is_drawn(tabs))

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=size, run_before=plots)


def _is_drawn(tabs: TabbedContent) -> bool:
    pane = tabs.active_pane
    return pane is not None and pane.query_one(CurvePlot).size.area > 0


def test_plots_as_a_table(stage: Stage, snap_compare: SnapCompare) -> None:
    async def table(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await pilot.press("f7")
        tabs = pilot.app.screen.query_one(TabbedContent)
        await until(pilot, lambda: tabs.tab_count == len(CURVES) and _is_drawn(tabs))
        await pilot.press("t")

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(80, 24), run_before=table)


def test_a_knob_is_sought(stage: Stage, snap_compare: SnapCompare) -> None:
    async def sought(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await pilot.press("ctrl+f", *"rank")
        line = pilot.app.screen.query_one(Input)
        # Blinking would make two pictures of it.
        line.cursor_blink = False
        await until(pilot, lambda: line.value == "rank")

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(80, 24), run_before=sought)


def test_plan_in_the_light(stage: Stage, snap_compare: SnapCompare) -> None:
    async def light(pilot: Pilot[None]) -> None:
        await drawn(pilot)
        await pilot.press("f8")

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(120, 40), run_before=light)


def test_plan_without_colours(stage: Stage, snap_compare: SnapCompare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(80, 24), run_before=drawn)


def test_launch(stage: Stage, snap_compare: SnapCompare) -> None:
    async def launch(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("f3")
        await until(pilot, lambda: pilot.app.screen.query_one("#files", OptionList).option_count)

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(80, 24), run_before=launch)


def test_hardware(stage: Stage, snap_compare: SnapCompare) -> None:
    stage.detected_plan()

    async def hardware(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("f4")
        await until(pilot, lambda: stage.checked)
        screen: Any = pilot.app.screen
        await until(pilot, lambda: "replace it" in str(screen.query_one("#findings").content))

    assert snap_compare(stage.app(), terminal_size=(80, 24), run_before=hardware)


async def benched(pilot: Pilot[None], *keys: str) -> None:
    await planned(pilot)
    await pilot.press("down", "f5", *keys, "enter")
    await until(pilot, lambda: "cases measured" in str(pilot.app.screen.query_one("#status", Static).content))


@SIZES
def test_bench(stage: Stage, snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    async def details(pilot: Pilot[None]) -> None:
        await benched(pilot)
        await pilot.press("1", "ctrl+end", "up")

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=size, run_before=details)


def test_bench_while_it_runs(stage: Stage, snap_compare: SnapCompare) -> None:
    stage.measuring.clear()

    async def running(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("f5", "enter")
        await until(pilot, lambda: pilot.app.screen.query_one(DataTable).row_count)

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(80, 24), run_before=running)


@pytest.mark.parametrize(("view", "light"), [("2", False), ("3", True), ("4", False)])
def test_bench_views(stage: Stage, snap_compare: SnapCompare, view: str, light: bool) -> None:
    async def seen(pilot: Pilot[None]) -> None:
        await benched(pilot, "down")
        await pilot.press(view, *["f8"] * light)

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(80, 24), run_before=seen)


async def compared(pilot: Pilot[None]) -> None:
    await planned(pilot)
    await pilot.press("space", "down", "space", "f6")


@SIZES
def test_compare(stage: Stage, snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=size, run_before=compared)


def test_compare_of_other_knobs_in_the_light(stage: Stage, snap_compare: SnapCompare) -> None:
    async def pinned(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("space", "down", "space")
        screen: Any = pilot.app.screen
        screen.query_one("#knob-context").value = "128k"
        await until(pilot, lambda: len(stage.asked) == 2 and screen.is_up_to_date)
        await pilot.press("space", "up", "space", "f6", "f8")

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(120, 40), run_before=pinned)


def test_cost(stage: Stage, snap_compare: SnapCompare) -> None:
    async def costed(pilot: Pilot[None]) -> None:
        await compared(pilot)
        await pilot.press("2")
        await until(pilot, lambda: "sensible" in str(pilot.app.screen.query_one("#cost-view", Static).content))

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(80, 24), run_before=costed)


def test_recommend_while_it_searches(stage: Stage, snap_compare: SnapCompare) -> None:
    stage.searching.clear()

    async def searching(pilot: Pilot[None]) -> None:
        await compared(pilot)
        await pilot.press("3", "r")
        await until(pilot, lambda: pilot.app.screen.query_one(ProgressBar).progress == 2)

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(80, 24), run_before=searching)
