"""Facts of the inference engines: constants, defaults and flags, each with the versions it holds for.

A fact file ``profiles/engines/<engine>.toml`` holds ``[[fact]]`` tables (``key``, ``value``, optional ``low``,
``high``, ``since``, ``until``, ``source``) and ``[[flag]]`` tables (``key``, ``flag``, ``since``, ``until``).
``[[kv_kernel]]`` tables say which GPUs have a kernel for a KV dtype of an ``attention``, where an engine chooses:
``gpus`` are major compute capabilities of CUDA and vendors, ``value`` is how the engine calls the dtype.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

_FOLDER = Path(__file__).parent / "engines"


class MissingFact(LookupError):
    """No fact of that key holds for that version."""


class Fact(NamedTuple):
    """A number with its range and source; ``low`` and ``high`` equal ``value`` where it is certain."""

    value: float
    low: float
    high: float
    source: str


class KvKernel(NamedTuple):
    """A KV dtype with the GPUs that read it, its name for the engine, and the back end to ask for, if one must be."""

    dtype: str
    gpus: tuple[str, ...]
    value: str
    backend: str | None


class UnknownVersion(ValueError):
    """A version string that is not dotted numbers."""


@lru_cache(maxsize=4096)
def version_tuple(text: str) -> tuple[int, ...]:
    """``0.18.0.post1`` as ``(0, 18, 0)``; ``(0, 0)`` sorts before everything.

    >>> version_tuple("0.18"), version_tuple("v0.5.6.post1")
    ((0, 18), (0, 5, 6))

    Raises ``UnknownVersion``.
    """
    found = re.match(r"v?([0-9]{1,6}(?:\.[0-9]{1,9}){0,4})(?:$|[.+\-_a-z])", text.strip(), re.ASCII)
    if not found:
        raise UnknownVersion(f"{text[:40]!r} is not a version; write 0.18 or 0.18.0")
    return tuple(int(part) for part in found[1].split("."))


class EngineFacts:
    """All facts of one engine."""

    def __init__(self, name: str, table: dict[str, Any]) -> None:
        self.name = name
        self.default_version: str = table["default_version"]
        self.repository: str = table["repository"]
        self._facts: dict[str, list[dict[str, Any]]] = {}
        self._flags: dict[str, list[dict[str, Any]]] = {}
        for row in table.get("fact", []):
            self._facts.setdefault(row["key"], []).append(row)
        for row in table.get("flag", []):
            self._flags.setdefault(row["key"], []).append(row)
        self._kernels: list[dict[str, Any]] = table.get("kv_kernel", [])
        self._known: dict[tuple[str, str], Fact] = {}
        self._found: dict[tuple[str, str], tuple[KvKernel, ...]] = {}
        self._has: dict[tuple[str, str, str], bool] = {}

    def at(self, key: str, version: str) -> Fact:
        """The fact ``key`` in that version. Raises ``MissingFact``."""
        known = self._known.get((key, version))
        if known is None:
            row = _valid(self._facts.get(key, []), version)
            if row is None:
                raise MissingFact(f"{self.name} {version}: no fact {key!r}")
            value = float(row["value"])
            known = Fact(value, float(row.get("low", value)), float(row.get("high", value)), row["source"])
            self._known[key, version] = known
        return known

    def since(self, key: str) -> str | None:
        """The version from which there is a fact of this key; None where there is none, or where it always held."""
        starts = [str(row.get("since", "0")) for row in self._facts.get(key, [])]
        first = min(starts, key=version_tuple, default="0")
        return None if first == "0" else first

    def has_fact(self, key: str, version: str) -> bool:
        """Whether there is a fact of this key in that version."""
        return self._holds_in("fact", self._facts, key, version)

    def flag(self, key: str, version: str) -> str:
        """The spelling of a flag in that version. Raises ``MissingFact`` when the version does not have it."""
        row = _valid(self._flags.get(key, []), version)
        if row is None:
            raise MissingFact(f"{self.name} {version}: no flag for {key!r}")
        return str(row["flag"])

    def has_flag(self, key: str, version: str) -> bool:
        """Whether the version has this flag."""
        return self._holds_in("flag", self._flags, key, version)

    def _holds_in(self, kind: str, rows: dict[str, list[dict[str, Any]]], key: str, version: str) -> bool:
        known = self._has.get((kind, key, version))
        if known is None:
            known = self._has[kind, key, version] = _valid(rows.get(key, []), version) is not None
        return known

    def flags(self) -> dict[str, list[dict[str, Any]]]:
        """Every flag's rows by key: spelling, versions, source."""
        return self._flags

    def kv_kernels(self, attention: str, version: str) -> tuple[KvKernel, ...]:
        """Kernels of that attention in that version; none where nothing is said about it."""
        found = self._found.get((attention, version))
        if found is None:
            rows = [
                row for row in self._kernels if row["attention"] == attention and _holds(row, version_tuple(version))
            ]
            found = self._found[attention, version] = tuple(
                KvKernel(row["dtype"], tuple(row["gpus"]), row.get("value", row["dtype"]), row.get("backend"))
                for row in rows
            )
        return found

    def parser(self, kind: str, name: str, version: str) -> str | None:
        """What the version calls the ``tool`` or ``reasoning`` parser that vLLM calls ``name``.

        None for a version from before the engine had it.
        """
        rows = self._flags.get(f"{kind} parser {name}")
        if rows is None:
            return name
        row = _valid(rows, version)
        return None if row is None else str(row["flag"])

    def sources(self) -> dict[str, str]:
        """Source of every fact by key (the newest row)."""
        return {key: rows[-1]["source"] for key, rows in self._facts.items()}


def _valid(rows: list[dict[str, Any]], version: str) -> dict[str, Any] | None:
    number = version_tuple(version)
    return next((row for row in reversed(rows) if _holds(row, number)), None)


def _holds(row: dict[str, Any], number: tuple[int, ...]) -> bool:
    since: str = row.get("since", "0")
    until: str | None = row.get("until")
    return number >= version_tuple(since) and (until is None or number < version_tuple(until))


@cache
def load_engine(name: str) -> EngineFacts:
    """The facts of an engine by name. Raises ``FileNotFoundError`` for an unknown one."""
    return EngineFacts(name, engine_table(name))


@cache
def engine_table(name: str) -> dict[str, Any]:
    """The fact file of an engine as it is written. Raises ``FileNotFoundError`` for an unknown one."""
    with (_FOLDER / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def engine_names() -> tuple[str, ...]:
    """Engines that have a fact file."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml") if path.stem != "speed"))
