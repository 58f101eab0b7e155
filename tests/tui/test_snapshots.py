"""Pictures of sample plans. `pytest tests/tui --snapshot-update` draws them anew, to be looked at before a commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from tests.tui.conftest import Stage, planned, until

SnapCompare = Callable[..., bool]


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_plan(stage: Stage, snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=size, run_before=planned)


def test_plan_in_the_light(stage: Stage, snap_compare: SnapCompare) -> None:
    async def light(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("f8")

    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(120, 40), run_before=light)


def test_plan_without_colours(stage: Stage, snap_compare: SnapCompare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(stage.app(gpu="8xH200"), terminal_size=(80, 24), run_before=planned)


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
