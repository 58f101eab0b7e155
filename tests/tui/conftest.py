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

from moeplan import screens_bench, screens_compare
from moeplan.screens import COLUMNS, answer_of, choices, described
from planner.plan import Candidate, Plan
from tests.moeplan.conftest import fitting, offloaded, plan_of
from tests.tui import samples
from tui.app import MoeplanApp
from tui.bench_program import BenchAnswer, BenchProgram, BenchTask, BenchWatch
from tui.compare_program import CompareProgram
from tui.marks import Mark
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
    benched: list[BenchTask] = field(default_factory=list)
    kept: list[object] = field(default_factory=list)
    costed: list[tuple[list[str], str]] = field(default_factory=list)
    recommended: list[tuple[dict[str, str], Machine | None, str]] = field(default_factory=list)
    stopped: int = 0
    looks: int = 0
    plan: Plan = field(default_factory=lambda: plan_of((fitting(), offloaded())))
    refusal: Callable[[Values], Refused | None] = lambda values: None
    blind: str = ""
    planning: threading.Event = field(default_factory=threading.Event)
    looking: threading.Event = field(default_factory=threading.Event)
    drawing: threading.Event = field(default_factory=threading.Event)
    measuring: threading.Event = field(default_factory=threading.Event)
    searching: threading.Event = field(default_factory=threading.Event)
    no_bench: str = ""
    no_keep: str = ""

    def __post_init__(self) -> None:
        self.drawing.set()
        self.planning.set()
        self.looking.set()
        self.measuring.set()
        self.searching.set()

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

    def run_bench(self, task: BenchTask, watch: BenchWatch) -> BenchAnswer:
        self.benched.append(task)
        if self.no_bench:
            raise Refused(self.no_bench)
        watch.begins("cpu_moe int4_g32, batch 1, by ggml")
        watch.progress(1, 6)
        watch.found(screens_bench.lines_of(samples.ROWS[:1], ()))
        while not self.measuring.wait(0.01):
            if watch.is_cancelled():
                self.stopped += 1
                ended = samples.report(ended="interrupted", rows=samples.ROWS[:2], not_measured=())
                return screens_bench.answer_of(ended, None)
        return screens_bench.answer_of(samples.report(), samples.validation() if task.kind == "plan" else None)

    def keep(self, result: object) -> str:
        if self.no_keep:
            raise Refused(self.no_keep)
        self.kept.append(result)
        return "Kept in calibration.json: plans of this machine use it"

    def bench_program(self) -> BenchProgram:
        return BenchProgram(screens_bench.COLUMNS, screens_bench.offers, self.run_bench, self.keep)

    def cost(self, marks: tuple[Mark, ...], flags: str) -> Text:
        self.costed.append(([mark.key for mark in marks], flags))
        if flags.startswith("--nonsense"):
            raise Refused("unknown flag --nonsense")
        return Text(f"API: the API is the sensible choice {flags}")

    def recommend(self, values: Values, machine: Machine | None, flags: str, alive: Alive) -> Text:
        self.recommended.append((dict(values), machine, flags))
        alive(1, 4)
        while not self.searching.wait(0.01):
            try:
                alive(2, 4)
            except Exception:
                self.stopped += 1
                raise
        if flags.startswith("--nonsense"):
            raise Refused("unknown flag --nonsense")
        return Text("rent: 8x H200")

    def compare_program(self) -> CompareProgram:
        return CompareProgram(
            cost_flags=screens_compare.COST_FLAGS, recommend_flags=screens_compare.RECOMMEND_FLAGS,
            compare=screens_compare.compare, cost=self.cost, recommend=self.recommend,
        )  # fmt: skip

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
            bench=self.bench_program,
            compare=self.compare_program,
        )

    def app(self, **values: str) -> MoeplanApp:
        app = MoeplanApp(self.program(), {"model": "kimi-k2.5", **values})
        # What moves would be at another place in every picture.
        app.animation_level = "none"
        return app

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
