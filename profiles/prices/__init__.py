"""Prices as facts: each with its provider, kind, date and source."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_FOLDER = Path(__file__).parent


class CloudPrice(NamedTuple):
    """Rent of one GPU for one hour, in US dollars. ``gpu`` is the hardware key, None where the offer leaves it open."""

    provider: str
    gpu: str | None
    usd_per_gpu_hour: float
    min_gpus: int
    kind: str
    date: str
    source: str


class ApiPrice(NamedTuple):
    """A hosted model in US dollars per million tokens; ``cached_input`` None where it is not cheaper."""

    provider: str
    model: str
    input: float
    output: float
    cached_input: float | None
    date: str
    source: str
    note: str


def _rows(name: str) -> list[dict[str, Any]]:
    with (_FOLDER / name).open("rb") as file:
        rows: list[dict[str, Any]] = tomllib.load(file)["price"]
    return rows


@cache
def cloud_prices() -> tuple[CloudPrice, ...]:
    """Every known rent."""
    return tuple(
        CloudPrice(
            row["provider"], row.get("gpu"), float(row["usd_per_gpu_hour"]), int(row.get("min_gpus", 1)), row["kind"],
            row.get("date", ""), row["source"],
        )
        for row in _rows("cloud.toml")
    )  # fmt: skip


@cache
def api_prices() -> tuple[ApiPrice, ...]:
    """Every known price of a hosted model."""
    return tuple(
        ApiPrice(
            row["provider"], row.get("model", ""), float(row["usd_per_million_input_tokens"]),
            float(row["usd_per_million_output_tokens"]), row.get("usd_per_million_cached_input_tokens"),
            row.get("date", ""), row["source"], row.get("note", ""),
        )
        for row in _rows("api.toml")
    )  # fmt: skip
