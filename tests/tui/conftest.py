"""The app over a program that answers at once with sample plans, unless a test holds it back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable

from moeplan.screens import COLUMNS, answer_of, choices, described
from planner.plan import Candidate, Plan
from tests.moeplan.conftest import fitting, offloaded, plan_of
from tui.app import MoeplanApp
from tui.program import Alive, Answer, LaunchFiles, Machine, Program, Refused, Values

WAIT_S = 20
FILES = {
    "launch.sh": "#!/usr/bin/env bash\nset -euo pipefail\nexec vllm serve moonshotai/Kimi-K2.5 \\\n  --port 8000\n",
    "README.md": "# Kimi K2.5\n\nRun `./launch.sh`.\n",
}


@dataclass
class Stage:
    """A program whose answers a test arranges. Gates are open unless it closes them."""

    asked: list[dict[str, str]] = field(default_factory=list)
    stale: list[dict[str, str]] = field(default_factory=list)
    saved: list[tuple[str, dict[str, str], bool]] = field(default_factory=list)
    checked: list[tuple[Plan | None, int]] = field(default_factory=list)
    looks: int = 0
    plan: Plan = field(default_factory=lambda: plan_of((fitting(), offloaded())))
    refusal: Callable[[Values], Refused | None] = lambda values: None
    blind: str = ""
    planning: threading.Event = field(default_factory=threading.Event)
    looking: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.planning.set()
        self.looking.set()

    def replan(self, values: Values, machine: Machine | None, alive: Alive) -> Answer:
        self.asked.append(dict(values))
        assert self.planning.wait(WAIT_S)
        try:
            alive(0, 1)
        except Exception:
            self.stale.append(dict(values))
            raise
        refusal = self.refusal(values)
        if refusal is not None:
            raise refusal
        return answer_of(self.plan)

    def detect(self) -> Machine:
        self.looks += 1
        assert self.looking.wait(WAIT_S)
        if self.blind:
            raise Refused(self.blind)
        return "machine"

    def check(self, machine: Machine, plan: Plan | None, rank: int) -> Text:
        self.checked.append((plan, rank))
        return Text("NO-GO: 1 failed, 3 passed\n  FAIL  GPU 3\n  do    replace it")

    def launch_files(self, plan: Plan, candidate: Candidate, kind: str) -> LaunchFiles:
        if kind == "slurm":
            raise Refused("--format: slurm is not allowed here")
        return LaunchFiles({f"{kind}-{name}": text for name, text in FILES.items()}, ("pin a revision",))

    def save(self, folder: str, files: dict[str, str], overwrite: bool) -> str:
        if folder == "there" and not overwrite:
            raise Refused("there/launch.sh is there already; Ctrl+O overwrites it")
        self.saved.append((folder, files, overwrite))
        return f"{len(files)} files are in {folder}"

    def save_plan(self, path: str, plan: Plan, overwrite: bool) -> str:
        return self.save(path, {path: plan.to_json()}, overwrite)

    def program(self) -> Program:
        return Program(
            columns=COLUMNS,
            formats=("shell", "compose", "slurm"),
            replan=self.replan,
            described=described,
            choices=choices,
            detect=self.detect,
            machine_view=lambda machine: Text(f"facts of the {machine}"),
            check=self.check,
            launch_files=self.launch_files,
            save=self.save,
            save_plan=self.save_plan,
        )

    def app(self, **values: str) -> MoeplanApp:
        return MoeplanApp(self.program(), {"model": "kimi-k2.5", **values})

    def detected_plan(self) -> None:
        """Plans are for this machine."""
        self.plan = replace_source(self.plan)


def replace_source(plan: Plan) -> Plan:
    return plan.model_copy(update={"hardware": plan.hardware.model_copy(update={"source": "detected"})})


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def until(pilot: Pilot[None], holds: Callable[[], Any]) -> None:
    """Wait for what a thread brings about."""
    for _ in range(WAIT_S * 50):
        if holds():
            await pilot.pause()
            return
        await pilot.pause(0.02)
    raise AssertionError("it did not come about")


async def planned(pilot: Pilot[None]) -> None:
    """Wait for the plan of what the knobs say, with the cursor in the ranking, where nothing blinks."""
    screen: Any = pilot.app.screen
    await until(pilot, lambda: screen.is_up_to_date)
    screen.query_one(DataTable).focus()
    await pilot.pause()
