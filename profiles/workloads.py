"""Workloads that a plan is made for: the project's own definitions, one TOML file each in `workloads`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.names import UnknownName, near_names

DEFAULT_WORKLOAD = "chat"

_WORKLOADS = Path(__file__).parent / "workloads"


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of use.

    `input_tokens` (including `images`, which are a number of images per request) and `output_tokens` are of
    one request, `concurrency` requests run at a time, and `context` is the longest request that the engine
    must admit. `prefix_cache_hit_rate` is the part of the input tokens found in the cache; None assumes
    nothing about it.
    """

    name: str
    input_tokens: int
    output_tokens: int
    concurrency: int
    context: int
    prefix_cache_hit_rate: float | None
    images: int
    note: str
    source: str


def workload_names() -> tuple[str, ...]:
    """Every workload, sorted; read from the file names alone."""
    return tuple(sorted(path.stem for path in _WORKLOADS.glob("*.toml")))


def load_workload(name: str) -> Workload:
    """The workload of this name; raises `UnknownName`."""
    names = workload_names()
    if name not in names:
        raise UnknownName("workload", name, near_names(name, names, 3, 0.6) or names)
    raw: dict[str, Any] = tomllib.loads((_WORKLOADS / f"{name}.toml").read_text(encoding="utf-8"))
    return Workload(
        name=name,
        input_tokens=raw["input_tokens"],
        output_tokens=raw["output_tokens"],
        concurrency=raw["concurrency"],
        context=raw["context"],
        prefix_cache_hit_rate=raw.get("prefix_cache_hit_rate"),
        images=raw["images"],
        note=raw["note"],
        source=raw["source"],
    )
