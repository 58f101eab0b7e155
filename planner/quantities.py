"""Sizes, rates, token counts and durations as people write them, parsed once for every view.

``24GB`` is 24 x 10^9 bytes, ``24GiB`` 24 x 2^30; ``400Gb/s`` is bits, ``400GB/s`` bytes; ``128k`` tokens is 131,072.
Every function raises ``BadRequest`` with the allowed form.
"""

from __future__ import annotations

import re
from typing import Final

from planner.errors import BadRequest

_UNITS: Final = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "pb": 10**15,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "pib": 1 << 50,
}
_SIZE: Final = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmgtp]?i?b)\s*", re.IGNORECASE | re.ASCII)
_RATE: Final = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KkMGT]?i?)([bB])(?:/s|ps)\s*", re.ASCII)
_TOKENS: Final = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([km]?)\s*", re.IGNORECASE | re.ASCII)
_DURATION: Final = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(us|ms|s|min|h)\s*", re.ASCII)
_COUNT: Final = re.compile(r"\s*([0-9]{1,9})\s*", re.ASCII)

MAX_BYTES: Final = 1 << 60
MAX_TOKENS: Final = 1 << 40


def parse_bytes(text: str, what: str) -> int:
    """A size such as ``24GB`` or ``24GiB``; at least 1 byte, at most 1 EiB.

    >>> parse_bytes("24GB", "--ram"), parse_bytes("24 GiB", "--ram")
    (24000000000, 25769803776)
    """
    found = _SIZE.fullmatch(text)
    if not found:
        raise BadRequest(f"{what}: {shown(text)} is not a size; write 512GiB, 512GB or 2TB")
    value = round(float(found[1]) * _UNITS[found[2].lower()])
    if not 1 <= value <= MAX_BYTES:
        raise BadRequest(f"{what}: {shown(text)} is out of range; 1 byte to 1 EiB is allowed")
    return value


def is_decimal_size(text: str) -> bool:
    """Whether a size was written in powers of ten (``512GB``), which memory modules never are."""
    return bool(re.search(r"[kmgtp]b\s*$", text, re.IGNORECASE))


def parse_rate(text: str, what: str) -> int:
    """A bandwidth such as ``400GB/s`` (bytes) or ``400Gb/s`` (bits); bytes per second.

    >>> parse_rate("400GB/s", "--ram-bandwidth"), parse_rate("400Gb/s", "--network")
    (400000000000, 50000000000)
    """
    found = _RATE.fullmatch(text)
    if not found:
        raise BadRequest(f"{what}: {shown(text)} is not a bandwidth; write 400GB/s (bytes) or 400Gb/s (bits)")
    scale = _UNITS[found[2].lower() + "b"]
    value = round(float(found[1]) * scale / (8 if found[3] == "b" else 1))
    if not 1 <= value <= 1 << 50:
        raise BadRequest(f"{what}: {shown(text)} is out of range; 1 B/s to 1 PiB/s is allowed")
    return value


def parse_tokens(text: str, what: str, *, low: int = 1) -> int:
    """A number of tokens; ``k`` is 1,024 and ``m`` 1,048,576.

    >>> parse_tokens("128k", "--context"), parse_tokens("8192", "--context")
    (131072, 8192)
    """
    found = _TOKENS.fullmatch(text)
    if not found:
        raise BadRequest(f"{what}: {shown(text)} is not a number of tokens; write 32768 or 128k")
    if not found[2] and not float(found[1]).is_integer():
        # 32.768 is how much of Europe writes 32,768.
        raise BadRequest(f"{what}: {shown(text)} is not a whole number of tokens; write 32768 or 128k")
    value = round(float(found[1]) * {"": 1, "k": 1024, "m": 1 << 20}[found[2].lower()])
    if not low <= value <= MAX_TOKENS:
        raise BadRequest(f"{what}: {shown(text)} is out of range; at least {low} is allowed")
    return value


def parse_duration(text: str, what: str) -> float:
    """A duration such as ``2s`` or ``50ms``, in seconds.

    >>> parse_duration("50ms", "--tpot")
    0.05
    """
    found = _DURATION.fullmatch(text)
    value = float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}[found[2]] if found else 0.0
    if value <= 0:
        raise BadRequest(f"{what}: {shown(text)} is not a duration above zero; write 50ms or 2s")
    return value


def parse_count(text: str, what: str, *, low: int = 1, high: int = 1_000_000) -> int:
    """A whole number in ``low..high``.

    >>> parse_count("8", "--tp")
    8
    """
    found = _COUNT.fullmatch(text)
    if not found or not low <= int(found[1]) <= high:
        raise BadRequest(f"{what}: {shown(text)} is not a whole number from {low} to {high}")
    return int(found[1])


def parse_fraction(text: str, what: str) -> float:
    """A fraction above 0 and at most 1.

    >>> parse_fraction("0.9", "--gpu-memory-utilization")
    0.9
    """
    try:
        value = float(text) if re.fullmatch(r"[0-9]{0,2}\.?[0-9]{1,9}", text.strip(), re.ASCII) else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise BadRequest(f"{what}: {shown(text)} is not a fraction above 0 and at most 1")
    return value


def shown(text: str) -> str:
    """Untrusted text, quoted, on one line and short."""
    quoted = ascii(text[:61])
    return quoted if len(quoted) <= 62 else f"{quoted[:58]}...{quoted[0]}"
