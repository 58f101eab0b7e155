"""Numbers for people: always with a label beside them, and a range wherever there is one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from formulas.units import GIB

if TYPE_CHECKING:
    from planner.plan import Range


def gib(size: int, digits: int = 1) -> str:
    """Bytes in GiB, the unit not written.

    >>> gib(3 * 2**29), gib(-(2**30))
    ('1.5', '-1.0')
    """
    text = f"{size / GIB:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def gib_span(low: int, high: int, digits: int = 1) -> str:
    """A range of bytes in GiB; one number where both ends are the same byte.

    >>> gib_span(2**30, 2**31), gib_span(-(2**30), 2**30), gib_span(2**30, 2**30)
    ('1.0-2.0', '-1.0 to 1.0', '1.0')
    """
    if low == high:
        return gib(low, digits)
    return _joined(gib(low, digits), gib(high, digits))


def span(low: float, high: float) -> str:
    """A range with as many digits as its width deserves.

    >>> span(31.4, 52.04), span(0.418, 0.711), span(1240.2, 2410.9), span(12.2, 12.4)
    ('31-52', '0.42-0.71', '1,240-2,411', '12.2-12.4')
    """
    digits = 0 if low >= 10 else 1 if low >= 1 else 2 if low >= 0.1 else 3
    while digits < 4 and f"{low:.{digits}f}" == f"{high:.{digits}f}":
        digits += 1
    return _joined(f"{low:,.{digits}f}", f"{high:,.{digits}f}")


def span_of(quantity: Range, scale: float = 1.0) -> str:
    """``span`` of a quantity, multiplied by ``scale``."""
    return span(quantity.low * scale, quantity.high * scale)


def plural(count: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in ascending order, runs joined.

    >>> ranges([0, 1, 2, 3, 5])
    '0-3, 5'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(str(end) for end in run) for run in runs)


def _joined(low: str, high: str) -> str:
    return f"{low} to {high}" if low.startswith("-") or high.startswith("-") else f"{low}-{high}"
