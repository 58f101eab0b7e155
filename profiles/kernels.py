"""Measured kernels by GPU: one JSON file of series each in ``kernels``, made by ``benchmarks/kernel_tables.py``.

A file holds ``gpu`` (a hardware key), ``source`` and ``rows``: kernel, format class, engine and version that ran it,
dimensions, and points of (axis, microseconds). ``axis`` is ``batch`` (tokens), ``cached`` (tokens in the cache of all
sequences) or ``bytes`` (of a message). Experts were hit evenly: ``min(experts, tokens * top_k)`` of them.
"""

from __future__ import annotations

import json
from functools import cache
from math import log
from pathlib import Path
from typing import Literal, NamedTuple

from profiles.engines import version_tuple

_FOLDER = Path(__file__).parent / "kernels"
Axis = Literal["batch", "cached", "bytes"]


class KernelRow(NamedTuple):
    """One series. ``points`` are pairs of the axis and seconds, ascending.

    ``since`` is the first version whose engine takes this kernel, where that is known to be later than others.
    """

    gpu: str
    source: str
    engine: str
    version: tuple[int, ...]
    kernel: str
    format: str
    dims: tuple[tuple[str, int], ...]
    axis: Axis
    points: tuple[tuple[float, float], ...]
    since: tuple[int, ...] = ()

    def dim(self, name: str) -> int:
        """One dimension. Raises ``KeyError``."""
        return dict(self.dims)[name]


@cache
def kernel_gpus() -> tuple[str, ...]:
    """Hardware keys that have measured kernels."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


class KernelGroup(NamedTuple):
    """Series that differ in their shape alone, with the logarithms of their dimensions."""

    kernel: str
    format: str
    engine: str
    version: tuple[int, ...]
    since: tuple[int, ...]
    rows: tuple[KernelRow, ...]
    logs: tuple[dict[str, float], ...]


@cache
def kernel_groups(gpu: str) -> dict[str, tuple[KernelGroup, ...]]:
    """The series of one GPU by kernel, grouped. Raises as ``kernel_rows``."""
    found: dict[str, tuple[KernelGroup, ...]] = {}
    for kernel, rows in kernel_rows(gpu).items():
        groups: dict[tuple[str, str, tuple[int, ...], tuple[int, ...]], list[KernelRow]] = {}
        for row in rows:
            groups.setdefault((row.format, row.engine, row.version, row.since), []).append(row)
        found[kernel] = tuple([
            KernelGroup(kernel, *key, tuple(alike), tuple([{n: log(size) for n, size in row.dims} for row in alike]))
            for key, alike in groups.items()
        ])  # fmt: skip
    return found


@cache
def kernel_rows(gpu: str) -> dict[str, tuple[KernelRow, ...]]:
    """All series of one GPU by kernel. Raises ``FileNotFoundError`` for one without any."""
    table = json.loads((_FOLDER / f"{gpu}.json").read_text(encoding="utf-8"))
    rows: dict[str, list[KernelRow]] = {}
    for row in table["rows"]:
        points = tuple([(float(at), us * 1e-6) for at, us in row["us"]])
        found = KernelRow(
            table["gpu"], table["source"], row["engine"], version_tuple(row["version"]), row["kernel"], row["format"],
            tuple(row["dims"].items()), row["axis"], points, version_tuple(row["since"]) if "since" in row else (),
        )  # fmt: skip
        rows.setdefault(found.kernel, []).append(found)
    return {kernel: tuple(found) for kernel, found in rows.items()}
