"""What one request found out and the next need not: kept in this process while what it depends on stays the same.

A screen asks again whenever a knob is turned, and a recommendation asks of one machine after another. Keys are compared
by value, so that what is kept can never belong to something else; all of it is bounded in number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from profiles.mixtures import ReleaseTensors, release_tensors
from profiles.model import ModelSpec, Release

if TYPE_CHECKING:
    from planner.request import Request

Value = TypeVar("Value")
MODELS: Final = 4
SCENES: Final = 16
FULL: Final = 1500
"""Entries of a release from which on the next request begins without them."""


class Recent(Generic[Value]):
    """The values of the last few keys, found by comparing: a machine has tables of rates, which have no hash."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: list[tuple[object, Value]] = []

    def of(self, key: object, make: Callable[[], Value]) -> Value:
        """The value of the key, made where there is none."""
        rows = self._rows
        for place, (known, value) in enumerate(rows):
            if known == key:
                if place:
                    self._rows = [rows[place], *rows[:place], *rows[place + 1 :]]
                return value
        made = make()
        # Threads may meet here: each has a list of its own, and the last one stays.
        self._rows = [(key, made), *rows[: self._size - 1]]
        return made


class ReleaseKept(NamedTuple):
    """Of one release of a model: its tensors, and what depends on both alone or names the rest in its key."""

    tensors: ReleaseTensors
    entries: dict[Any, Any]


_MODELS: Final[Recent[dict[Release, ReleaseKept]]] = Recent(MODELS)


def kept_of(model: ModelSpec, release: Release) -> ReleaseKept:
    """What is kept of a release. Raises ``UnknownMixture``."""
    known = _MODELS.of(model, dict)
    found = known.get(release)
    if found is None:
        found = known[release] = ReleaseKept(release_tensors(model, release), {})
    elif len(found.entries) > FULL:
        # Whoever still uses the old entries keeps them.
        found = known[release] = ReleaseKept(found.tensors, {})
    return found


class Scene:
    """Where steps run and how tokens choose experts: what a step depends on beside release, layout and batch."""


_SCENES: Final[Recent[Scene]] = Recent(SCENES)
_last: tuple[object, object, object, Scene] | None = None


def scene_of(request: Request) -> Scene:
    """The same for requests with the same machine, measured kernels and routing."""
    global _last
    machine, kernels, routing = request.machine, request.kernels, request.demand.routing
    last = _last
    if last is not None and last[0] is machine and last[1] is kernels and last[2] == routing:
        return last[3]
    found = _SCENES.of((machine, kernels, routing), Scene)
    _last = (machine, kernels, routing, found)
    return found
