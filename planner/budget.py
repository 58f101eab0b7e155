"""The time of a step as rows: seconds by kernel, what bounds each, how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import exp, log, sqrt
from typing import Final, Literal, NamedTuple

from profiles.engines import Fact, load_engine

Bound = Literal["HBM", "compute", "latency", "link", "RAM", "CPU", "disk"]


class Term(NamedTuple):
    """Seconds of one kind of kernel in a step, what bounds it, its spread (a factor either way) and its evidence.

    ``floor_s`` of the seconds pass whatever the kernel has to do.
    """

    what: str
    seconds: float
    bound: Bound
    spread: float
    source: str
    measured: bool = False
    floor_s: float = 0.0


class Budget(NamedTuple):
    """The time of one step by kernel."""

    terms: tuple[Term, ...]

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum([term.seconds for term in self.terms])

    @property
    def spread(self) -> float:
        """The factor by which the step may be faster or slower."""
        return combined_spread([(term.seconds, term.spread) for term in self.terms])

    @property
    def bound_by(self) -> Bound:
        """What bounds most of the step."""
        sums: dict[Bound, float] = {}
        for term in self.terms:
            sums[term.bound] = sums.get(term.bound, 0.0) + term.seconds
        return max(sums, key=lambda name: sums[name])

    @property
    def measured_share(self) -> float:
        """Share of the time whose kernels a calibration of this machine measured."""
        total = self.total
        return sum([term.seconds for term in self.terms if term.measured]) / total if total else 0.0


SPEED: Final = "speed"
VERSION: Final = "1"


@cache
def fact(key: str) -> Fact:
    """A constant of the speed model."""
    return load_engine(SPEED).at(key, VERSION)


def spread_of(known: Fact) -> float:
    """A fact's range as a factor either way."""
    return sqrt(known.high / known.low) if known.low > 0 else 1.0


def merged(terms: list[Term]) -> tuple[Term, ...]:
    """One term for each row of the budget; the longest part says what bounds it and where it is from."""
    rows: dict[str, list[Term]] = {}
    for term in terms:
        rows.setdefault(term.what, []).append(term)
    found = []
    for what, parts in rows.items():
        if len(parts) == 1:
            only = parts[0]
            # As a sum of one would be.
            spread = exp(only.seconds * log(only.spread) / only.seconds) if only.seconds else 1.0
            found.append(only._replace(spread=spread))
            continue
        longest = max(parts, key=lambda term: term.seconds)
        total = sum([term.seconds for term in parts])
        weighed = sum([term.seconds * log(term.spread) for term in parts]) / total if total else 0.0
        floor = sum([term.floor_s for term in parts])
        found.append(longest._replace(what=what, seconds=total, spread=exp(weighed), floor_s=floor))
    return tuple(found)


def combined_spread(parts: Sequence[tuple[float, float]]) -> float:
    """The factor either way of a sum of (seconds, factor): half of each error is common to all, half independent.

    >>> round(combined_spread([(1.0, 1.2), (1.0, 1.2)]), 3)
    1.168
    """
    total = sum([seconds for seconds, _ in parts])
    if total <= 0:
        return 1.0
    weighed = [seconds * log(factor) for seconds, factor in parts]
    common = sum(weighed) / total
    independent = sqrt(sum([part**2 for part in weighed])) / total
    return exp((common + independent) / 2)
