"""Keys that come in one burst, as from a terminal on a busy machine, act in the order in which they were pressed."""

from __future__ import annotations

from typing import Any

import pytest
from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Input

from tests.tui.conftest import Stage, planned, until
from tests.tui.test_plan_screen import knob, played
from tui.picker import Picker
from tui.save_dialog import SaveDialog


def burst(pilot: Pilot[None], *keys: str) -> None:
    """All keys at once: none waits until the one before has been acted on."""
    for key in keys:
        pilot.app.post_message(Key(key, key if len(key) == 1 else None))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (("ctrl+u", *"start"), "start"),
        (("end", *"xy", "backspace", "z"), "plan.jsonxz"),
        (("home", "delete", *"P", "right", "right", "ctrl+k", "!"), "Pla!"),
        (("end", *"2", "left", "left", "ctrl+w", *"a.", "end", *"x"), "plan.a.n2x"),
    ],
)
def test_a_burst_in_the_save_dialog(stage: Stage, keys: tuple[str, ...], text: str) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert isinstance(pilot.app.screen, SaveDialog)
        burst(pilot, *keys)
        line = pilot.app.screen.query_one(Input)
        await until(pilot, lambda: line.value == text)
        await pilot.press("enter")
        await until(pilot, lambda: stage.saved)
        assert stage.saved[0][0] == text

    played(stage, script, gpu="8xH200")


def test_a_burst_over_several_knobs_fills_each(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        knob(pilot, "gpu").focus()
        await pilot.pause()
        burst(pilot, "ctrl+l", *"4xB200", "down", *"2", "down", *"1TiB", "up", "backspace", *"3")
        await until(pilot, lambda: stage.asked[-1].get("nodes") == "3")
        values: dict[str, Any] = stage.asked[-1]
        assert values == {"model": "kimi-k2.5", "gpu": "4xB200", "nodes": "3", "ram": "1TiB"}

    played(stage, script, gpu="8xH200")


def test_a_burst_in_the_search_of_a_list(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        knob(pilot, "gpu").focus()
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, Picker)
        burst(pilot, *"h100", "ctrl+u", *"b200")
        await until(pilot, lambda: pilot.app.screen.query_one(Input).value == "b200")

    played(stage, script, gpu="8xH200")
