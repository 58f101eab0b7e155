"""Launch files, and the hardware with its check."""

from __future__ import annotations

from typing import Any

from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from tests.tui.conftest import FILES, Stage, planned, until
from tests.tui.test_plan_screen import played, text_of
from tui.hardware_screen import HardwareScreen
from tui.launch_screen import LaunchScreen
from tui.plan_screen import PlanScreen
from tui.save_dialog import SaveDialog


async def launched(pilot: Pilot[None]) -> None:
    await planned(pilot)
    await pilot.press("f3")
    assert isinstance(pilot.app.screen, LaunchScreen)
    await until(pilot, lambda: pilot.app.screen.query_one("#files", OptionList).option_count)


def test_launch_shows_copies_and_saves_the_files_of_a_format(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await launched(pilot)
        assert "pin a revision" in text_of(pilot, "#status")
        shown: Any = pilot.app.screen.query_one("#file", Static).content
        assert shown.code == FILES["launch.sh"]
        await pilot.press("c")
        assert pilot.app.clipboard == FILES["launch.sh"]
        await pilot.press("tab", "down")
        shown = pilot.app.screen.query_one("#file", Static).content
        assert shown.code == FILES["README.md"]
        await pilot.press("s")
        await pilot.pause()
        folder = pilot.app.screen.query_one(Input)
        assert folder.value == f"{stage.plan.model.id}-vllm-shell"
        folder.value = "there"
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, SaveDialog)
        assert "Ctrl+O overwrites it" in text_of(pilot, ".error")
        await pilot.press("ctrl+o")
        await until(pilot, lambda: stage.saved)
        assert stage.saved == [("there", {f"shell-{name}": text for name, text in FILES.items()}, True)]
        assert isinstance(pilot.app.screen, LaunchScreen)
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script, gpu="8xH200")


def test_a_format_that_does_not_apply_says_why_and_leaves_nothing_to_save(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await launched(pilot)
        await pilot.press("up")
        await until(pilot, lambda: "slurm is not allowed" in text_of(pilot, "#status"))
        await pilot.press("c", "s")
        assert isinstance(pilot.app.screen, LaunchScreen)
        assert pilot.app.clipboard == ""
        await pilot.press("up")
        await until(pilot, lambda: pilot.app.screen.query_one("#files", OptionList).option_count == len(FILES))

    played(stage, script, gpu="8xH200")


def test_a_save_dialog_without_a_name_asks_for_one_and_escape_leaves_it(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await launched(pilot)
        await pilot.press("s")
        await pilot.pause()
        pilot.app.screen.query_one(Input).value = " "
        await pilot.press("enter")
        assert "a name is needed" in text_of(pilot, ".error")
        await pilot.press("escape")
        assert (isinstance(pilot.app.screen, LaunchScreen), stage.saved) == (True, [])

    played(stage, script, gpu="8xH200")


def test_hardware_shows_findings_with_their_actions_over_facts(stage: Stage) -> None:
    stage.detected_plan()

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("down", "f4")
        assert isinstance(pilot.app.screen, HardwareScreen)
        await until(pilot, lambda: "NO-GO" in text_of(pilot, "#findings"))
        assert "held to rank 2" in text_of(pilot, "#title")
        assert "replace it" in text_of(pilot, "#findings")
        assert text_of(pilot, "#facts") == "facts of the machine"
        assert stage.checked == [(stage.plan, 2)]
        await pilot.press("r")
        await until(pilot, lambda: stage.looks == 2 and len(stage.checked) == 2)
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, PlanScreen)

    played(stage, script)


def test_a_described_plan_is_not_what_this_machine_is_held_to(stage: Stage) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("f4")
        await until(pilot, lambda: stage.checked)
        assert stage.checked == [(None, 1)]

    played(stage, script, gpu="8xH200")


def test_a_machine_that_hangs_and_then_fails_is_told_on_the_hardware_screen(stage: Stage) -> None:
    stage.looking.clear()
    stage.blind = "the driver does not answer"

    async def script(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("f4")
        assert "looking at this machine" in text_of(pilot, "#title")
        stage.looking.set()
        await until(pilot, lambda: "the driver does not answer" in text_of(pilot, "#title"))
        assert stage.checked == []

    played(stage, script, gpu="8xH200")
