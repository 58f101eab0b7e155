"""Everything that a key does, a click does."""

from __future__ import annotations

from typing import Any

import pytest
from textual.events import MouseScrollDown
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, OptionList, TabbedContent, Tabs
from textual.widgets._footer import FooterKey

from moeplan.screens import answer_of
from tests.tui.conftest import CURVES, FILES, Stage, planned, until
from tests.tui.test_plan_screen import knob, played, text_of
from tui.curves_screen import CurvesScreen
from tui.detail_screen import DetailScreen
from tui.hardware_screen import HardwareScreen
from tui.help_screen import HelpScreen
from tui.launch_screen import LaunchScreen
from tui.picker import Picker
from tui.plan_screen import PlanScreen


async def press_in_footer(pilot: Pilot[None], words: str) -> None:
    """Click what the footer calls so."""
    await until(pilot, lambda: any(key.description == words for key in pilot.app.screen.query(FooterKey)))
    (key,) = [key for key in pilot.app.screen.query(FooterKey) if key.description == words]
    assert await pilot.click(key)
    await pilot.pause()


def test_a_click_chooses_a_row_and_another_shows_all_of_it(stage: Stage) -> None:
    rows = answer_of(stage.plan).rows

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        # The heading is the first line.
        await pilot.click(DataTable, offset=(10, 2))
        assert text_of(pilot, "#summary") == rows[1].summary
        assert isinstance(pilot.app.screen, PlanScreen)
        await pilot.click(DataTable, offset=(10, 2))
        assert isinstance(pilot.app.screen, DetailScreen)
        await press_in_footer(pilot, "Back")
        assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script, gpu="8xH200")


def test_a_click_puts_the_cursor_into_a_knob(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.click("#knob-nodes")
        assert pilot.app.focused is knob(pilot, "nodes")
        await pilot.press("2")
        await until(pilot, lambda: stage.asked[-1].get("nodes") == "2")
        await pilot.click("#knob-engine")
        await press_in_footer(pilot, "Choose")
        assert isinstance(pilot.app.screen, Picker)
        await pilot.click(OptionList, offset=(3, 1))
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen))
        assert knob(pilot, "engine").value != ""

    played(stage, script, gpu="8xH200")


def test_the_wheel_over_the_panel_brings_up_the_knobs_below(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        panel: Any = pilot.app.screen.query_one("#knobs")
        assert not panel.scrollable_content_region.contains_region(knob(pilot, "dcp").region)
        for _ in range(20):
            await pilot._post_mouse_events([MouseScrollDown], widget="#knobs", offset=(2, 2))
        await until(pilot, lambda: panel.scrollable_content_region.contains_region(knob(pilot, "dcp").region))

    played(stage, script, size=(80, 24), gpu="8xH200")


@pytest.mark.parametrize(
    ("words", "screen"),
    [("Help", HelpScreen), ("Launch", LaunchScreen), ("Hardware", HardwareScreen), ("Plots", CurvesScreen)],
)
def test_a_click_in_the_footer_opens_a_screen(stage: Stage, words: str, screen: type) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await press_in_footer(pilot, words)
        assert isinstance(pilot.app.screen, screen)
        await press_in_footer(pilot, "Back")
        assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script, size=(200, 60), gpu="8xH200")


def test_a_click_on_a_tab_shows_its_plot(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("f7")
        tabs = pilot.app.screen.query_one(TabbedContent)
        await until(pilot, lambda: tabs.tab_count == len(CURVES))
        last = tabs.query_one(Tabs).query("Tab").last()
        await until(pilot, lambda: last.size.area)
        await pilot.click(last)
        await until(pilot, lambda: tabs.active_pane is not None and tabs.active_pane is list(tabs.query("TabPane"))[-1])
        await press_in_footer(pilot, "Table/plot")
        assert "-table" in pilot.app.screen.classes

    played(stage, script, gpu="8xH200")


def test_clicks_choose_a_format_and_a_file_and_save_them(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await press_in_footer(pilot, "Launch")
        files = pilot.app.screen.query_one("#files", OptionList)
        await until(pilot, lambda: files.option_count)
        await pilot.click("#formats", offset=(2, 1))
        await until(pilot, lambda: files.option_count and files.get_option_at_index(0).prompt == "compose-launch.sh")
        await pilot.click("#files", offset=(2, 1))
        shown: Any = pilot.app.screen.query_one("#file")
        await until(pilot, lambda: shown.content.code == FILES["README.md"])
        await press_in_footer(pilot, "Save all")
        place = pilot.app.screen.query_one(Input)
        assert place.value.endswith("-compose")
        await pilot.click(place, offset=(1, 0))
        await pilot.press("x", "enter")
        await until(pilot, lambda: stage.saved)
        name = stage.plan.model.id
        assert stage.saved[0][0] == f"{name[0]}x{name[1:]}-vllm-compose"

    played(stage, script, gpu="8xH200")
