"""Tables on terminals of any width: nothing is lost, no number is cut, and lines end where the terminal does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType

from moeplan.cli import main
from moeplan.text import drawn, table
from moeplan.text_memory import memory_view
from moeplan.text_plan import estimate_view, plan_view
from moeplan.text_table import Packed
from planner.memory_report import MemoryReport
from planner.plan import Plan

WORDS = st.text("abcdefgh", min_size=1, max_size=9)
NUMBERS = st.integers(0, 10**9).map(lambda number: f"{number:,}")
ROWS = st.lists(st.tuples(WORDS, NUMBERS, NUMBERS, NUMBERS, WORDS, NUMBERS), min_size=1, max_size=5)
HEADS = ("name", ">first", ">second", ">third", "remark", ">last")


def longest(view: RenderableType, width: int) -> int:
    """The longest line that is not one of the command to start."""
    text = drawn(view, width)
    start = text.find("\nStart")
    end = text.find("\n\n", start)
    rest = text if start < 0 else text[:start] + text[end:]
    return max(len(line) for line in rest.splitlines())


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_line_is_longer_than_the_terminal(
    width: int, plan: Plan, refused_estimate: Plan, report: MemoryReport, claims_report: MemoryReport
) -> None:
    views = (
        plan_view(plan), plan_view(plan, explain=True), estimate_view(plan), estimate_view(refused_estimate),
        memory_view(report), memory_view(claims_report),
    )  # fmt: skip
    assert [longest(view, width) for view in views if longest(view, width) > width] == []


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RenderableType]:
    """What the program really shows, before it is drawn."""
    place = str(tmp_path_factory.mktemp("plan") / "plan.json")
    shown: list[RenderableType] = []
    commands = {
        "plan": ("plan", "kimi-k2.5", "--gpu", "8xH200", "--explain", "--output", place),
        "cost": ("cost", place),
        "check": ("check", place),
        "recommend": ("recommend", "kimi-k2.5", "--tpot", "50ms", "--top", "1", "--engine", "vllm"),
        "memory": ("memory", "kimi-k2.5"),
        "detect": ("detect",),
        "hardware": ("hardware",),
        "models": ("models",),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moeplan.text.show", shown.append)
        for argv in commands.values():
            assert main(list(argv)) in (0, 1)
    assert len(shown) == len(commands)
    return dict(zip(commands, shown, strict=True))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_of_a_command_is_longer_than_the_terminal(width: int, answers: dict[str, RenderableType]) -> None:
    assert {name: longest(view, width) for name, view in answers.items() if longest(view, width) > width} == {}


@given(ROWS, st.integers(30, 130))
def test_a_table_of_any_width_has_every_number_whole(rows: list[tuple[str, ...]], width: int) -> None:
    text = drawn(table(HEADS, rows), width)
    shown = text.split()
    for row in rows:
        assert all(number in shown for number in (row[1], row[2], row[3], row[5]))
    assert all(len(line) <= width for line in text.splitlines())
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


@given(ROWS)
def test_columns_of_numbers_end_at_the_same_place(rows: list[tuple[str, ...]]) -> None:
    for block in drawn(table(HEADS[:4], [row[:4] for row in rows]), 40).split("\n\n"):
        lines = [line for line in block.splitlines() if "\u2500" not in line]
        assert len({len(line) for line in lines}) == 1


def test_a_narrow_terminal_gets_several_tables_and_leaves_out_rows_without_a_value() -> None:
    rows = [("one", "1,000,000", "2,000,000", "", ""), ("two", "4,000,000", "5,000,000", "6,000,000", "9")]
    heads = ("name", ">first", ">second", ">third", ">note")
    assert drawn(table(heads, rows), 30) == (
        "  name      first     second\n"
        "  ───────────────────────────\n"
        "  one   1,000,000  2,000,000\n"
        "  two   4,000,000  5,000,000\n"
        "\n"
        "  name      third  note\n"
        "  ──────────────────────\n"
        "  two   6,000,000     9\n"
    )


def test_what_is_packed_is_never_broken() -> None:
    view = Packed([f"{letter} {letter * 8}" for letter in "abcdef"])
    assert drawn(view, 30) == "  a aaaaaaaa    b bbbbbbbb\n  c cccccccc    d dddddddd\n  e eeeeeeee    f ffffffff\n"
    assert drawn(view, 5).split() == drawn(view, 200).split()
