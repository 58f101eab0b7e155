"""What people see: byte for byte for sample objects, and properties that hold for any."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hwdetect.inventory import Inventory
from moeplan.text import WIDTH, drawn, line, show, stacked, table, verbatim
from moeplan.text_catalogue import hardware_view, models_view
from moeplan.text_machine import inventory_view
from moeplan.text_memory import memory_view
from moeplan.text_numbers import gib_span, ranges, span
from moeplan.text_plan import estimate_view, plan_view
from moeplan.text_rejections import best_remedy, reasons
from moeplan.text_safe import printable
from planner.memory_report import MemoryReport
from planner.plan import Fleet, FleetPool, Plan, Range, Rejection
from profiles.cpus import cpu_keys, load_cpu
from profiles.gpus import gpu_keys, load_gpu
from profiles.library import load_model

Golden = Callable[[str, str], None]


def test_plan(plan: Plan, golden: Golden) -> None:
    golden("plan.txt", drawn(plan_view(plan, default_workload=True)))


def test_plan_explained(plan: Plan, golden: Golden) -> None:
    golden("plan_explain.txt", drawn(plan_view(plan, explain=True)))


def test_plan_with_a_tight_best_says_so_first(tight_plan: Plan, golden: Golden) -> None:
    golden("plan_tight.txt", drawn(plan_view(tight_plan)))


def test_plan_where_nothing_fits(empty_plan: Plan, golden: Golden) -> None:
    golden("plan_nothing.txt", drawn(plan_view(empty_plan)))


def test_plan_over_two_nodes(two_node_plan: Plan, golden: Golden) -> None:
    golden("plan_two_nodes.txt", drawn(plan_view(two_node_plan)))


def test_plan_over_a_fleet(plan: Plan, golden: Golden) -> None:
    rate = Range(low=432_000, expected=540_000, high=675_000)
    pools = (
        FleetPool(
            description="8x h200-sxm-141, 2,048 GiB RAM", nodes=1001, node_names=("n0",), gpus_per_node=8,
            candidate_rank=1, nodes_per_replica=2, replicas=500, spare_nodes=1, stranded_gpus=8,
            idle_gpus_per_replica=0, concurrency=4000, decode_tokens_per_s_total=rate,
            why="2 nodes together hold one replica",
        ),
        FleetPool(
            description="1x l4-24, 32 GiB RAM", nodes=3, node_names=("n1", "n2", "n3"), gpus_per_node=1,
            candidate_rank=None, nodes_per_replica=None, replicas=0, spare_nodes=3, stranded_gpus=3,
            idle_gpus_per_replica=0, concurrency=0, decode_tokens_per_s_total=None,
            why="weights and buffers alone exceed the usable memory of a GPU",
        ),
    )  # fmt: skip
    fleet = Fleet(
        pools=pools, nodes=1004, gpus=8011, replicas=500, stranded_gpus=11, concurrency=4000,
        decode_tokens_per_s_total=rate,
    )  # fmt: skip
    one = plan.model_copy(update={"candidates": plan.candidates[:1], "rejected": (), "fleet": fleet})
    golden("plan_fleet.txt", drawn(plan_view(one)))


def test_estimate_that_fits(plan: Plan, golden: Golden) -> None:
    one = plan.model_copy(update={"candidates": plan.candidates[:1], "rejected": ()})
    golden("estimate.txt", drawn(estimate_view(one)))


def test_estimate_that_does_not_fit_has_its_ledger(refused_estimate: Plan, golden: Golden) -> None:
    golden("estimate_refused.txt", drawn(estimate_view(refused_estimate)))


def test_estimate_that_the_engine_refuses_has_no_ledger(plan: Plan) -> None:
    refused = plan.model_copy(update={"candidates": (), "rejected": plan.rejected[-1:]})
    text = drawn(estimate_view(refused))
    assert "the engine has no such kernel" in text
    assert "There is no ledger" in text


def test_memory(report: MemoryReport, golden: Golden) -> None:
    golden("memory.txt", drawn(memory_view(report)))


def test_claims(claims_report: MemoryReport, golden: Golden) -> None:
    golden("claims.txt", drawn(memory_view(claims_report)))


def test_inventory(inventory: Inventory, golden: Golden) -> None:
    golden("inventory.txt", drawn(inventory_view(inventory)))


def test_models_and_hardware(golden: Golden) -> None:
    models = [replace(load_model(name), releases=()) for name in ("kimi-k2.5", "llama-3.1-70b")]
    golden("models.txt", drawn(models_view(models)))
    gpus = [load_gpu(key) for key in ("h200-sxm-141", "rtx-4090-24")]
    golden("hardware.txt", drawn(hardware_view(gpus, [load_cpu("epyc-9004")])))


def test_every_table_fits_in_a_hundred_columns(plan: Plan, report: MemoryReport, inventory: Inventory) -> None:
    everything = hardware_view([load_gpu(key) for key in gpu_keys()], [load_cpu(key) for key in cpu_keys()])
    views = [
        plan_view(plan, explain=True),
        estimate_view(plan),
        memory_view(report),
        inventory_view(inventory),
        everything,
    ]
    for view in views:
        assert max(len(row) for row in drawn(view).splitlines()) <= WIDTH


@pytest.mark.parametrize("width", [20, 60, 80])
def test_a_narrow_terminal_never_cuts_a_number(plan: Plan, width: int) -> None:
    text = drawn(plan_view(plan), width)
    for number in ("1,576,297", "47.3-50.8", "502-832", "0.24-0.37", "128.6"):
        assert number in text


def test_a_command_is_never_broken() -> None:
    command = f"--{'x' * 300}"
    assert drawn(stacked(verbatim(command)), 40) == f"{command}\n"


def test_untrusted_text_is_shown_and_not_obeyed(plan: Plan) -> None:
    evil = "[red]\x1b[2Jname[/red]\n\u202e"
    changed = plan.model_copy(
        update={
            "model": plan.model.model_copy(update={"name": evil}),
            "notes": (evil,),
            "rejected": (Rejection(engine=evil, quantization=evil, parallel=None, reason=evil, remedy=evil),),
        }
    )
    text = drawn(plan_view(changed, explain=True), 400)
    assert text.count(r"[red]\x1b[2Jname[/red]\n\u202e") == 6
    assert all(part.isprintable() for part in text.splitlines())


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_terminals_that_want_it(plan: Plan, variables: dict[str, str], coloured: bool) -> None:
    file = io.StringIO()
    terminal = Console(file=file, width=100, force_terminal=True, color_system="standard", _environ=variables)
    terminal.print(plan_view(plan))
    assert ("\x1b[32m" in file.getvalue()) is coloured


def test_what_is_piped_has_no_colour_and_no_trailing_blanks(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    show(plan_view(plan))
    rows = capsys.readouterr().out.split("\n")
    assert not any("\x1b" in row for row in rows)
    assert [row for row in rows if row != row.rstrip()] == []


@given(st.text())
def test_printable_keeps_what_can_be_printed(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()


@given(st.lists(st.lists(st.text(max_size=20), min_size=2, max_size=2), max_size=4))
def test_any_text_makes_a_table(rows: list[list[str]]) -> None:
    assert drawn(table((">a", "b"), rows))


@given(st.text(max_size=50))
def test_a_line_is_drawn_as_it_is(text: str) -> None:
    assert drawn(line(text), 1000).strip() == printable(text).strip()


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_span_contains_its_ends(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    shown_low, shown_high = (float(part.replace(",", "")) for part in span(low, high).split("-"))
    assert shown_low <= shown_high
    assert shown_low == pytest.approx(low, rel=0.06, abs=0.0006)
    assert shown_high == pytest.approx(high, rel=0.06, abs=0.0006)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0, 0, "0.0"), (-1, 0, "0.0-0.0"), (-(3 << 30), -(1 << 30), "-3.0 to -1.0"), (1 << 30, (1 << 30) + 1, "1.0-1.0")],
)
def test_spans_of_bytes(low: int, high: int, text: str) -> None:
    assert gib_span(low, high) == text


@given(st.sets(st.integers(0, 40)))
def test_ranges_name_every_number_once(numbers: set[int]) -> None:
    named: list[int] = []
    for run in filter(None, ranges(sorted(numbers)).split(", ")):
        first, _, last = run.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)


def test_reasons_are_counted_and_the_nearest_miss_comes_first(plan: Plan) -> None:
    found = reasons(plan.rejected, by_quantization=False)
    assert [(reason.nearest.quantization, reason.count) for reason in found] == [("nvidia/nvfp4", 57), ("org/int4", 3)]
    assert len(reasons(plan.rejected, by_quantization=True)) == 3
    assert "at least 5 of these GPUs" in best_remedy(plan.rejected)
    assert best_remedy(()) == ""
