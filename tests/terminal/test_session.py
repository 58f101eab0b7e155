"""From opening the program to a saved launch file, and what terminals do besides."""

from __future__ import annotations

import json
import os
import re

import pytest

from tests.terminal.conftest import Terminal

GREYS = {0, 7, 8, 15, 16, 59, 102, 145, 188, *range(231, 256)}
"""Of the 256 colours of a terminal."""
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
    terminal.wait_for("files into the folder")
    terminal.wait_for(FOLDER)
    terminal.press("Enter")
    terminal.wait_for(f"files are in {FOLDER}")
    script = terminal.folder / FOLDER / "launch.sh"
    assert "--model-path moonshotai/Kimi-K2.5" in script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)

    terminal.press("s")
    terminal.wait_for("files into the folder")
    terminal.wait_for(FOLDER)
    # In one burst, as it is pasted.
    terminal.press("C-u")
    terminal.type("start")
    terminal.press("Enter")
    terminal.wait_for("files are in start")
    assert (terminal.folder / "start" / "README.md").is_file()

    terminal.press("s")
    terminal.wait_for("files into the folder")
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


def test_plots_and_their_table_on_a_small_terminal(terminal: Terminal) -> None:
    terminal.start("tui", "--gpu", "8xH200")
    terminal.wait_for("GiB free")
    terminal.press("F7")
    shown = terminal.wait_for("context, tokens")
    assert all(name in shown for name in ("MLA", "GQA", "MHA", "256k", "Speed by load"))
    terminal.press("t")
    assert "262,144" in terminal.wait_for("17.16")
    terminal.press("Escape")
    terminal.wait_for("GiB free")


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


@pytest.mark.parametrize("variables", ["NO_COLOR=1", "TERM=dumb NO_COLOR=1", "TERM=dumb"])
def test_a_terminal_without_colours(terminal: Terminal, variables: str) -> None:
    terminal.start("tui", "--gpu", "8xH200", size=(120, 40), variables=variables)
    terminal.wait_for("context, tokens")
    shown = terminal.wait_for("GiB free")
    assert all(word in shown for word in ("fits", "[www", "MLA", "Launch"))
    if "NO_COLOR" in variables:
        assert _is_grey(terminal.shown("-e"))
    terminal.press("C-q")
    terminal.wait_for("ended with 0")


def _is_grey(text: str) -> bool:
    """Whether every colour asked for is a grey one."""
    exact, listed = re.compile(r"[34]8;2;(\d+);(\d+);(\d+)"), re.compile(r"[34]8;5;(\d+)")
    colours = [[int(part) for part in found] for found in exact.findall(text)]
    numbers = {int(found) for found in listed.findall(text)}
    named = re.search(r"\x1b\[(?:[0-9;]*;)?(?:[349][1-6]|10[1-6])m", listed.sub("", exact.sub("", text)))
    return named is None and numbers <= GREYS and all(max(one) - min(one) <= 2 for one in colours)


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
