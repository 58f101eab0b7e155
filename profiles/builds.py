"""Machines around a bought GPU: the project's own definitions, in `hardware/builds.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).parent / "hardware" / "builds.toml"


class Build(NamedTuple):
    """A host with RAM sizes to choose from; it takes ``gpus`` GPUs of ``form``, up to ``largest_gpu_gb`` each."""

    name: str
    cpu: str
    cores: int
    ram_gib: tuple[int, ...]
    form: str
    gpus: tuple[int, ...]
    largest_gpu_gb: int | None


@cache
def known_builds() -> tuple[Build, ...]:
    """Every build of the file."""
    with _FILE.open("rb") as file:
        rows = tomllib.load(file)["build"]
    return tuple(
        [
            Build(
                row["name"],
                row["cpu"],
                row["cores"],
                tuple(row["ram_gib"]),
                row["form"],
                tuple(row["gpus"]),
                row.get("largest_gpu_gb"),
            )
            for row in rows
        ]
    )
