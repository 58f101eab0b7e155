"""Units of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from formulas import units


def test_decimal_and_binary_units_differ() -> None:
    assert (units.KB, units.MB, units.GB, units.TB) == (10**3, 10**6, 10**9, 10**12)
    assert (units.KIB, units.MIB, units.GIB, units.TIB) == (2**10, 2**20, 2**30, 2**40)


@given(st.integers(0, 1 << 52))
def test_gib_round_trips(size: int) -> None:
    assert units.gib_bytes(units.gib(size)) == size


@given(st.integers(0, 1 << 52))
def test_a_size_has_more_gb_than_gib(size: int) -> None:
    assert units.gb(size) >= units.gib(size)
