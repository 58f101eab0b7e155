"""Whatever could not be read: no failure becomes a pass, and no verdict becomes better than it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwdetect.inventory import Inventory, from_json, to_json
from planner.check import check
from planner.check_bandwidth import best
from planner.findings import CheckReport, Finding, verdict_of
from planner.plan import Plan
from profiles.gpus import load_gpu
from profiles.health import load_thresholds
from tests.support.healthy_host import BENCH, HOST
from tests.support.nvml_shim.machine import Shim

ODD = ("h200x8", "mig", "xid", "gb10", "retired_pages")
BROKEN = ("x8_link", "dead_nvlink", "remap_failed", "ecc_errors", "throttled", "exclusive_mode", "driver_too_old")


@pytest.fixture(scope="module")
def documents(shim: Shim) -> dict[str, str]:
    """Inventories of scenarios as JSON."""
    return {name: to_json(shim.inventory(name, HOST)) for name in (*BROKEN, *ODD)}


def facts_of(value: object, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of every fact in an inventory's JSON."""
    if isinstance(value, dict):
        if "provenance" in value:
            return [way]
        return [place for key, child in value.items() for place in facts_of(child, (*way, key))]
    if isinstance(value, list):
        return [place for key, child in enumerate(value) for place in facts_of(child, (*way, key))]
    return []


def blanked(document: object, places: list[tuple[Any, ...]], reason: str) -> Inventory:
    copy = json.loads(json.dumps(document))
    for *way, last in places:
        target = copy
        for key in way:
            target = target[key]
        target[last] = {"value": None, "source": "test", "provenance": "reported", "reason": reason}
    return from_json(json.dumps(copy))


def of_status(report: CheckReport, status: str) -> set[tuple[str, int | str]]:
    """(code, GPU or subject) of every finding with this status."""
    found: set[tuple[str, int | str]] = set()
    for each in report.findings:
        if each.status == status:
            found |= {(each.code, place) for place in gpus(each.subject)}
    return found


def gpus(subject: str) -> list[int | str]:
    if not subject.startswith("GPU "):
        return [subject]
    numbers: list[int | str] = []
    for part in subject.removeprefix("GPU ").split(", "):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@settings(max_examples=40)
@given(data=st.data(), name=st.sampled_from(BROKEN))
def test_a_failure_that_cannot_be_read_any_more_is_no_pass(
    documents: dict[str, str], plan: Plan, data: st.DataObject, name: str
) -> None:
    inventory, document = from_json(documents[name]), json.loads(documents[name])
    places = data.draw(st.lists(st.sampled_from(facts_of(document)), min_size=1, max_size=12, unique=True))
    reason = data.draw(st.sampled_from(["Unknown Error", "Not Supported", "Function Not Found"]))
    before, after = check(inventory, plan, bench=BENCH), check(blanked(document, places, reason), plan, bench=BENCH)
    assert not of_status(before, "fail") & of_status(after, "pass")


def test_a_machine_of_which_nothing_can_be_read(shim: Shim, plan: Plan) -> None:
    document = json.loads(to_json(shim.inventory("h200x8", HOST)))
    for reason in ("Unknown Error", "Not Supported"):
        report = check(blanked(document, facts_of(document), reason), plan)
        assert report.verdict != "go"
        read_without_facts = {"gpu_driver", "gpu_reachable", "plan_gpu_count", "plan_gpu_link", "gpus_alike"}
        assert {each.code for each in report.findings if each.status == "pass"} <= read_without_facts


def row(status: str, required: bool = True) -> Finding:
    return Finding(
        code="x", status=status, node="n", subject="s", evidence="", expected="e", actual="a", action="",  # type: ignore[arg-type]
        required=required,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "strict", "verdict"),
    [
        ([row("pass")], False, "go"),
        ([row("pass"), row("warn")], False, "go"),
        ([row("pass"), row("warn")], True, "no_go"),
        ([row("pass"), row("not_run", required=False)], False, "go"),
        ([row("pass"), row("not_run", required=False)], True, "no_go"),
        ([row("pass"), row("not_run")], False, "undetermined"),
        ([row("fail"), row("not_run")], False, "no_go"),
        ([], False, "undetermined"),
    ],
)
def test_verdicts(rows: list[Finding], strict: bool, verdict: str) -> None:
    assert verdict_of(rows, strict=strict) == verdict


def bench_with(**point: object) -> dict[str, Any]:
    series = BENCH["kernels"][3]
    return {"kernels": [{**series, "points": [{**series["points"][0], **point}]}]}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("bench", "trusted"),
    [
        (BENCH, True),
        (bench_with(stable=False), False),
        (bench_with(median_s=0), False),
        (bench_with(median_s=None), False),
        (bench_with(bytes=1 << 20), False),
        ({"kernels": [{**BENCH["kernels"][3], "device": "a100-sxm-80"}]}, False),
        ({"kernels": [{**BENCH["kernels"][3], "series": "all_reduce/bf16/hidden1"}]}, False),
        ({}, False),
        (None, False),
        ({"kernels": "soon"}, False),
        ({"kernels": [None, {"series": 3, "points": [None]}]}, False),
    ],
)
def test_only_measurements_that_say_something_count(bench: dict[str, Any] | None, trusted: bool) -> None:
    least = load_thresholds().least_all_reduce.value
    found = best(bench, "all_reduce", load_gpu("h200-sxm-141"), least)
    assert (found is not None) == trusted
    if found is not None:
        assert found.bytes_per_s == pytest.approx(275e9 * 2 * 7 / 8)


def test_a_slow_machine_fails_by_the_figure_of_its_kind(shim: Shim) -> None:
    slow = {"kernels": [{**BENCH["kernels"][1], "points": [{"bytes": 4e9, "median_s": 4e9 / 30e9}]}]}
    report = check(shim.inventory("h200x8", HOST), bench=slow)
    (found,) = [each for each in report.findings if each.code == "bandwidth_host_to_device"]
    assert (found.status, found.expected, found.actual) == ("fail", "at least 48 GB/s", "30 GB/s")
    assert "azurehpc-health-checks" in found.evidence


NATURALS = st.integers(0, 2**63 - 1)
TEXTS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12) | st.sampled_from(
    ["13.x", "0", "."]
)


def like(value: object) -> st.SearchStrategy[object]:
    """Another value of the same type, or the absence of a limit. A missing value does not say its type."""
    if value is None:
        return st.none()
    if isinstance(value, bool):
        return st.none() | st.booleans()
    if isinstance(value, int):
        return st.none() | st.sampled_from([0, 1]) | NATURALS
    if isinstance(value, float):
        return st.none() | st.floats(0, 1e30)
    if isinstance(value, list):
        # What an empty list would hold cannot be seen here.
        return st.none() | (
            st.lists(TEXTS if isinstance(value[0], str) else NATURALS, max_size=3) if value else st.just([])
        )
    return st.none() | TEXTS


@settings(max_examples=40)
@given(data=st.data(), name=st.sampled_from(ODD))
def test_any_inventory_is_judged(documents: dict[str, str], plan: Plan, data: st.DataObject, name: str) -> None:
    """Values that a driver of tomorrow or a person's file may hold give findings, never an error."""
    document = json.loads(documents[name])
    places = data.draw(st.lists(st.sampled_from(facts_of(document)), min_size=1, max_size=6, unique=True))
    for *way, last in places:
        target = document
        for key in way:
            target = target[key]
        value = data.draw(like(target[last]["value"]))
        target[last] = {"value": value, "source": "test", "provenance": "assumed"}
        if value is None:
            target[last]["unlimited"] = True
    inventory = from_json(json.dumps(document))
    for against in (plan, None):
        report = check(inventory, against, bench=BENCH)
        assert report.findings and all(each.expected and each.actual for each in report.findings)
