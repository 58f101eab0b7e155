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
from tui.program import Alive, Answer, Curve, LaunchFiles, Line, Machine, Program, Refused, Values

WAIT_S = 20
FILES = {
    "launch.sh": "#!/usr/bin/env bash\nset -euo pipefail\nexec vllm serve moonshotai/Kimi-K2.5 \\\n  --port 8000\n",
    "README.md": "# Kimi K2.5\n\nRun `./launch.sh`.\n",
}


def doubling(start: float, factor: float, count: int = 9) -> tuple[tuple[float, float], ...]:
    """Points from 1,024 tokens on, each at twice as many."""
    return tuple((1024.0 * 2**place, start * factor**place) for place in range(count))


def curve(name: str, title: str, lines: tuple[Line, ...], facts: str) -> Curve:
    ticks = ((1024.0, "1k"), (16384.0, "16k"), (262144.0, "256k"))
    return Curve(name, title, "context, tokens", lines, ticks, 32768.0, Text(facts))


CURVES = (
    curve(
        "KV cache",
        "KV cache of one sequence, GiB (bf16)",
        tuple(Line(name, doubling(size, 2)) for name, size in (("MLA", 0.067), ("GQA", 0.24), ("MHA", 1.9))),
        "GiB: 0.067 of MLA, 1.9 of MHA",
    ),
    curve(
        "Speed by context",
        "tok/s, 8 requests that fill the context",
        tuple(
            Line(name, doubling(rate, 0.7, 7), doubling(0.8 * rate, 0.7, 7), doubling(1.2 * rate, 0.7, 7))
            for name, rate in (("in total", 600.0), ("each", 75.0))
        ),
        "tok/s: 480-720 in total",
    ),
    curve("Speed by load", "tok/s, requests of the workload", (Line("each", doubling(130, 0.8)),), "tok/s: 130 alone"),
)


@dataclass
class Stage:
    """A program whose answers a test arranges. Gates are open unless it closes them."""

    asked: list[dict[str, str]] = field(default_factory=list)
    stale: list[dict[str, str]] = field(default_factory=list)
    saved: list[tuple[str, dict[str, str], bool]] = field(default_factory=list)
    checked: list[tuple[Plan | None, int]] = field(default_factory=list)
    reported: list[tuple[str, Plan, int, bool]] = field(default_factory=list)
    drawn: list[tuple[dict[str, str], int]] = field(default_factory=list)
    undrawn: list[int] = field(default_factory=list)
    plotless: str = ""
    looks: int = 0
    plan: Plan = field(default_factory=lambda: plan_of((fitting(), offloaded())))
    refusal: Callable[[Values], Refused | None] = lambda values: None
    blind: str = ""
    planning: threading.Event = field(default_factory=threading.Event)
    looking: threading.Event = field(default_factory=threading.Event)
    drawing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.drawing.set()
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

    def save_report(self, path: str, plan: Plan, rank: int, overwrite: bool) -> str:
        self.reported.append((path, plan, rank, overwrite))
        return f"The report is in {path}"

    def curves(self, values: Values, machine: Machine | None, candidate: Candidate, alive: Alive) -> tuple[Curve, ...]:
        self.drawn.append((dict(values), candidate.rank))
        assert self.drawing.wait(WAIT_S)
        try:
            alive(0, 1)
        except Exception:
            self.undrawn.append(candidate.rank)
            raise
        if self.plotless:
            raise Refused(self.plotless)
        return CURVES

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
            save_report=self.save_report,
            curves=self.curves,
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
