"""A total is the sum of its ledger, and a verdict follows from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.ledger import Device, Entry, Kind, exact, ranged, shortest, verdict
from tests.planner.planning import outcome_of

KINDS: tuple[Kind, ...] = ("weights", "kv_cache", "compute", "overhead")


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    low, size, high = sorted(draw(st.lists(st.integers(0, 1 << 40), min_size=3, max_size=3)))
    return ranged(draw(st.sampled_from(KINDS)), "x", size, low, high, "", "")


@st.composite
def devices(draw: st.DrawFn) -> Device:
    low, usable, high = sorted(draw(st.lists(st.integers(0, 1 << 41), min_size=3, max_size=3)))
    ledger = tuple(draw(st.lists(entries(), max_size=6)))
    return Device(0, "gpu", 0, 1, "x", high, high, usable, low, high, ledger)


@given(devices())
def test_a_total_is_the_sum_of_its_entries(device: Device) -> None:
    assert sum(device.total(kind) for kind in KINDS) == sum(entry.bytes for entry in device.entries)
    assert device.free == device.usable - sum(device.total(kind) for kind in KINDS)
    assert device.free_low <= device.free <= device.free_high


@given(st.lists(devices(), min_size=1, max_size=4))
def test_a_verdict_is_that_of_the_worst_device(several: list[Device]) -> None:
    order = ("no", "tight", "fits")
    assert verdict(several) == min([verdict([device]) for device in several], key=order.index)
    assert shortest(several).free_low == min(device.free_low for device in several)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(60, 100, "fits"), (60, 101, "tight"), (100, 120, "tight"), (101, 120, "no")]
)
def test_fits_means_that_nothing_can_go_wrong(low: int, high: int, expected: str) -> None:
    device = Device(0, "gpu", 0, 1, "x", 100, 100, 100, 100, 100, (ranged("weights", "x", high, low, high, "", ""),))
    assert verdict([device]) == expected


def test_an_exact_entry_has_no_range() -> None:
    entry = exact("weights", "x", 7, "", "")
    assert (entry.low, entry.bytes, entry.high, entry.evidence) == (7, 7, 7, "exact")


@pytest.mark.parametrize(
    "hardware",
    [{"gpu": "8xH200"}, {"gpu": "4xA100-80", "ram": "256GiB", "disk": "2TB"}, {"gpu": "m3-ultra"}, {"ram": "1TiB"}],
    ids=lambda hardware: hardware.get("gpu", "none"),
)
def test_every_ledger_of_a_search_says_where_its_numbers_come_from(hardware: dict[str, Any]) -> None:
    outcome = outcome_of(**hardware)
    assert outcome.found
    for found in outcome.found:
        assert verdict(found.priced.devices) == found.priced.verdict
        for device in found.priced.devices:
            assert device.usable_low <= device.usable <= device.usable_high <= device.capacity
            assert device.usable <= device.visible <= device.capacity
            for entry in device.entries:
                assert 0 <= entry.low <= entry.bytes <= entry.high, entry
                assert entry.what and entry.formula and entry.source, entry
                assert (entry.low == entry.high == entry.bytes) or entry.evidence != "exact", entry
