"""Printed sizes into bytes, kept by term and rank."""

from __future__ import annotations

import re
from typing import Final

from hwdetect.serving.observation import LEAST, SUMMED, Measurement, Reading, Term

NUMBER: Final = r"(-?[0-9]{1,12}(?:\.[0-9]{1,12})?)"
"""A printed number as one group of a pattern."""
PRINTED_DECIMALS: Final = 2
"""Engines print two decimals and leave out zeros at the end: 4.0 is as sure as 4.05."""
MAX_PLACES: Final = 4096


class Readings:
    """The last value of every term at every place; a coarser print of what was printed finer is not a new value."""

    def __init__(self) -> None:
        self._found: dict[Term, dict[str, tuple[int, int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def __contains__(self, term: Term) -> bool:
        return term in self._found

    def size(self, term: Term, place: str, number: str, unit: int) -> None:
        """A size printed as ``number`` times ``unit`` bytes."""
        decimals = max(len(number.partition(".")[2]), PRINTED_DECIMALS)
        self._keep(term, place, round(float(number) * unit), max(unit // 10**decimals, 1))

    def add_size(self, term: Term, place: str, number: str, unit: int) -> None:
        """The same, added to what the place has already."""
        places = self._found.get(term, {})
        before, coarser = places.pop(place, (0, 0))
        self.size(term, place, number, unit)
        if place in self._found[term]:
            value, resolution = self._found[term][place]
            self._found[term][place] = (before + value, max(resolution, coarser))

    def count(self, term: Term, place: str, number: str, resolution: int = 1) -> None:
        """A count such as ``476,016``."""
        self._keep(term, place, int(number.replace(",", "")), resolution)

    def value(self, term: Term, place: str) -> int | None:
        """What is known of a term at a place, or at the only place there is."""
        places = self._found.get(term, {})
        found = places.get(place) or (next(iter(places.values())) if len(places) == 1 else None)
        return found[0] if found else None

    def resolution(self, term: Term) -> int:
        """The coarsest print of a term."""
        return max((resolution for _, resolution in self._found[term].values()), default=0)

    def set_bytes(self, term: Term, place: str, value: int, resolution: int) -> None:
        """A value that follows from others."""
        self._keep(term, place, value, resolution)

    def forget(self, *terms: Term) -> None:
        """Drop these terms; without any, drop everything."""
        for term in terms or tuple(self._found):
            self._found.pop(term, None)

    def measurements(self, *, summed: bool = False) -> tuple[Measurement, ...]:
        """Every term with its value: of all ranks the fullest or worst off, or ``summed`` over buffers."""
        return tuple(_measurement(term, places, summed=summed) for term, places in self._found.items())

    def _keep(self, term: Term, place: str, value: int, resolution: int) -> None:
        places = self._found.setdefault(term, {})
        known = places.get(place)
        if known is not None and known[1] < resolution and abs(known[0] - value) <= resolution:
            return
        if known is not None or len(places) < MAX_PLACES:
            places[place] = (value, resolution)


def _measurement(term: Term, places: dict[str, tuple[int, int]], *, summed: bool) -> Measurement:
    values = [value for value, _ in places.values()]
    whole = sum(values) if summed and term in SUMMED else min(values) if term in LEAST else max(values)
    resolutions = [resolution for _, resolution in places.values()]
    return Measurement(
        term=term,
        unit="tokens" if term == "kv_tokens" else "bytes",
        value=whole,
        resolution=sum(resolutions) if summed and term in SUMMED else max(resolutions),
        readings=tuple(Reading(place=place, value=value) for place, (value, _) in places.items()),
    )


def argument(line: str, name: str) -> str | None:
    """The value of ``name`` in a printed argument list, ``'tp': 8`` or ``tp=8``; None where it is absent or None.

    >>> argument("args: {'model': 'org/M', 'tensor_parallel_size': 8}", "tensor_parallel_size")
    '8'
    >>> argument("ServerArgs(model_path='org/M', quantization=None)", "model_path")
    'org/M'
    >>> argument("ServerArgs(model_path='org/M', quantization=None)", "quantization") is None
    True
    """
    at = line.find(name)
    while at >= 0:
        found = _VALUE.match(line, at + len(name))
        if found is not None and not (at and (line[at - 1].isalnum() or line[at - 1] in "_-")):
            value = next(group for group in found.groups() if group is not None)
            return None if value in ("None", "") else value
        at = line.find(name, at + 1)
    return None


# A pattern with the name in it would be tried at every character of a line that may be long.
_VALUE: Final = re.compile(r"['\"]?\s?[:=]\s?(?:'([^']{0,1000})|\"([^\"]{0,1000})|([^\s,'\"()\[\]{}]{1,1000}))")
