"""From opening the program to a saved launch file, and what terminals do besides."""

from __future__ import annotations

import json
import os

from tests.terminal.conftest import Terminal

FOLDER = "kimi-k2.5-sglang-shell"


def test_from_opening_to_a_saved_launch_file(terminal: Terminal) -> None:
    terminal.start("tui", size=(120, 40))
    terminal.wait_for("this machine")
    terminal.type("8xH200")
    shown = terminal.wait_for("Kimi K2.5 on 8x h200-sxm-141")
    assert "int4 (moonshotai)" in shown
    assert "GiB free" in shown

    terminal.press("F3")
    terminal.wait_for("exec python3")
    terminal.press("s")
    terminal.wait_for("Save 2 files into the folder")
    terminal.wait_for(FOLDER)
    terminal.press("Enter")
    terminal.wait_for(f"2 files are in {FOLDER}")
    script = terminal.folder / FOLDER / "launch.sh"
    assert "--model-path moonshotai/Kimi-K2.5" in script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)

    terminal.press("s")
    terminal.wait_for("Save 2 files into the folder")
    terminal.wait_for(FOLDER)
    terminal.press("Enter")
    terminal.wait_for("is there already")
    terminal.press("Escape")

    terminal.press("F2")
    terminal.press("C-s")
    terminal.wait_for("Save the plan as")
    terminal.press("Enter")
    terminal.wait_for("The plan is in plan.json")
    plan = json.loads((terminal.folder / "plan.json").read_text(encoding="utf-8"))
    assert (plan["schema"], plan["candidates"][0]["fits"]) == ("moeplan.plan/1", True)

    terminal.press("C-q")
    terminal.wait_for("ended with 0")


def test_kernels_are_measured_and_kept_and_rows_compared(terminal: Terminal) -> None:
    terminal.start("tui", "kimi-k2.5", size=(100, 30))
    terminal.wait_for("do not; objective")
    terminal.press("F5")
    terminal.wait_for("Nothing is measured yet")
    terminal.press("Enter")
    terminal.wait_for("ms median, quartiles")
    terminal.press("c")
    terminal.wait_for("cancelled, Enter goes on from here")
    terminal.press("u")
    terminal.wait_for("Kept in")
    (kept,) = (terminal.folder / "data" / "moeplan" / "calibrations").glob("*.json")
    found = json.loads(kept.read_text(encoding="utf-8"))["kernels"]
    assert any(one["series"].startswith("memory_read/") for one in found)

    terminal.press("F2")
    terminal.wait_for("do not; objective")
    terminal.type("8xH200")
    terminal.wait_for("Kimi K2.5 on 8x h200-sxm-141")
    terminal.press("F6")
    shown = terminal.wait_for("tok/s in total")
    assert "A: rank 1" in shown
    terminal.type("3r")
    terminal.wait_for("Rent, cheapest first")
    terminal.press("C-q")
    terminal.wait_for("ended with 0")


def test_a_bad_knob_is_told_where_it_is_and_the_window_may_shrink_meanwhile(terminal: Terminal) -> None:
    terminal.start("tui", "--gpu", "8xH200", "--context", "lots")
    terminal.wait_for("Not planned")
    terminal.tmux("resize-window", "-t", "test", "-x", "40", "-y", "12")
    terminal.wait_for("Too small")
    terminal.tmux("resize-window", "-t", "test", "-x", "100", "-y", "50")
    shown = terminal.wait_for("--context")
    lines = shown.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.lstrip().startswith("context")]
    assert "--context" in lines[place + 1]
    terminal.press("C-q")
    terminal.wait_for("ended with 0")
