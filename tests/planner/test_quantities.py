"""Sizes, rates, token counts and durations as people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from formulas.units import GIB
from planner.errors import BadRequest
from planner.quantities import (
    is_decimal_size,
    parse_bytes,
    parse_count,
    parse_duration,
    parse_fraction,
    parse_rate,
    parse_tokens,
    shown,
)

PARSERS: dict[str, Callable[[str, str], float]] = {
    "bytes": parse_bytes,
    "rate": parse_rate,
    "tokens": parse_tokens,
    "duration": parse_duration,
    "count": parse_count,
    "fraction": parse_fraction,
}
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9), ("24GiB", 24 * 2**30), ("24 gib", 24 * 2**30), (" 1.5TB ", 1_500_000_000_000),
        ("512b", 512), ("1PB", 10**15), ("0.5KiB", 512), ("1024PiB", 1 << 60),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, "--ram") == size


@pytest.mark.parametrize(
    "text",
    ["", "24", "24G", "-24GB", "24 GB GB", "GB", "1e3GB", "24,5GB", "0GB", "0.1B", "1025PiB", "24GB\x00", "nan"],
)  # fmt: skip
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^--ram: .* (is not a size; write 512GiB|is out of range; 1 byte to 1 EiB)"):
        parse_bytes(text, "--ram")


@given(st.integers(1, 10**6), st.sampled_from(sorted(UNITS)))
def test_a_formatted_size_reads_back(count: int, unit: str) -> None:
    assert parse_bytes(f"{count}{unit}", "x") == count * UNITS[unit]
    assert parse_bytes(f"{count} {unit.lower()}", "x") == count * UNITS[unit]


@given(st.integers(1, 4096))
def test_gib_with_decimals_reads_back(quarters: int) -> None:
    assert parse_bytes(f"{quarters / 4:.2f}GiB", "x") == quarters * GIB // 4


def test_only_powers_of_ten_are_decimal() -> None:
    assert [text for text in ("512GB", "512gb ", "512GiB", "512B", "2TB") if is_decimal_size(text)] == [
        "512GB", "512gb ", "2TB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("400GB/s", 400 * 10**9), ("400Gb/s", 50 * 10**9), ("400Gbps", 50 * 10**9), ("7 GB/s", 7 * 10**9),
        ("1GiB/s", 2**30), ("8b/s", 1), ("3.2TB/s", 3_200_000_000_000),
    ],
)  # fmt: skip
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text, "--network") == rate


@pytest.mark.parametrize(
    "text", ["", "400", "400GB", "GB/s", "-1GB/s", "0GB/s", "400 GB /s", "9999999TB/s", "400gbit/s"]
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^--network: .*(bandwidth; write 400GB/s|out of range; 1 B/s)"):
        parse_rate(text, "--network")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("8192", 8192), ("128k", 131_072), ("1m", 1 << 20), ("1.5K", 1536), (" 32768 ", 32_768), ("8.0", 8)],
)
def test_tokens(text: str, tokens: int) -> None:
    assert parse_tokens(text, "--context") == tokens


@pytest.mark.parametrize("text", ["", "0", "-1", "32,768", "32.768", "8 192", "128kB", "1g", "1e5", "0.0001k"])
def test_what_is_no_number_of_tokens(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^--context: .*(write 32768 or 128k|at least 1 is allowed)"):
        parse_tokens(text, "--context")


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("2s", 2.0), ("1.5 min", 90.0), ("1h", 3600.0), ("200us", 0.0002)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--tpot") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "2", "0s", "-2s", "2 hours", "2S", "1e-3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^--tpot: .*not a duration above zero; write 50ms or 2s"):
        parse_duration(text, "--tpot")


@pytest.mark.parametrize("text", ["", "0", "9", "1.0", "+3", "-1", "3x", "٣"])
def test_what_is_no_count_in_range(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^--tp: .*not a whole number from 1 to 8"):
        parse_count(text, "--tp", high=8)


@pytest.mark.parametrize(("text", "value"), [("0.9", 0.9), ("1", 1.0), (".5", 0.5), ("0.95 ", 0.95), ("1.0", 1.0)])
def test_fractions(text: str, value: float) -> None:
    assert parse_fraction(text, "--gpu-memory-utilization") == value


@pytest.mark.parametrize("text", ["", "0", "1.1", "-0.5", "90%", "nan", "inf", "1e-1", ".", "0.0"])
def test_what_is_no_fraction(text: str) -> None:
    with pytest.raises(BadRequest, match="not a fraction above 0 and at most 1"):
        parse_fraction(text, "--gpu-memory-utilization")


@pytest.mark.parametrize("name", sorted(PARSERS))
@given(text=st.text(max_size=40))
@example(text="1" * 5000)
@example(text="\ud800")
@example(text="9" * 15 + ".999999999PiB")
def test_any_text_is_a_number_or_one_line_of_complaint(name: str, text: str) -> None:
    try:
        assert PARSERS[name](text, "--flag") > 0
    except BadRequest as error:
        message = str(error)
        assert message.startswith("--flag: ")
        assert message.isascii() and message.isprintable()
        assert len(message) < 200


@given(st.text(max_size=200))
def test_shown_text_is_one_short_printable_line(text: str) -> None:
    assert shown(text).isprintable()
    assert shown(text).isascii()
