"""Decimal and binary units of bytes, and conversions between the two."""

from __future__ import annotations

from typing import Final

KB: Final = 10**3
MB: Final = 10**6
GB: Final = 10**9
TB: Final = 10**12
KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40


def gb(count: int) -> float:
    """Bytes as 10^9 bytes.

    >>> gb(595_148_192_736)
    595.148192736
    """
    return count / GB


def gib(count: int) -> float:
    """Bytes as 2^30 bytes.

    >>> round(gib(595_148_192_736), 2)
    554.27
    """
    return count / GIB


def gib_bytes(gibibytes: float) -> int:
    """Bytes of a number of GiB, rounded to a whole byte.

    >>> gib_bytes(79.19)
    85029615043
    """
    return round(gibibytes * GIB)
