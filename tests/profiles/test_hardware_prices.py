"""The price lists: every row priced, placed and sourced."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from profiles import gpus
from profiles.cpus import cpu_keys
from profiles.gpus import gpu_keys

PRICES = Path(gpus.__file__).parent / "prices"
COMMON = {"kind", "date", "source", "note"}
FIELDS = {
    "cloud": COMMON | {"provider", "offered_as", "gpu", "usd_per_gpu_hour", "min_gpus"},
    "purchase": COMMON | {"item", "gpu", "gpus_per_item", "usd_low", "usd_high"},
    "api": COMMON
    | {"provider", "model", "provider_model", "usd_per_million_input_tokens"}
    | {"usd_per_million_output_tokens", "usd_per_million_cached_input_tokens", "ends", "ends_source"},
    "memory": COMMON | {"item", "cpus", "usd_per_gib_low", "usd_per_gib_high"},
}


def rows(name: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = tomllib.loads((PRICES / f"{name}.toml").read_text(encoding="utf-8"))["price"]
    return listed


@pytest.mark.parametrize(("name", "count"), [("cloud", 92), ("purchase", 19), ("api", 13), ("memory", 2)])
def test_every_row_is_sourced_and_dated_or_says_why_not(name: str, count: int) -> None:
    listed = rows(name)
    assert len(listed) == count
    for row in listed:
        assert row.keys() <= FIELDS[name]
        assert row["source"] and row["source"] != "same" and row["kind"]
        if "date" in row:
            assert re.fullmatch(r"20\d\d(-\d\d(-\d\d)?)?", row["date"])
        else:
            assert "not recorded" in row["note"] or "not stated" in row["note"]
        assert "gpu" not in row or row["gpu"] in gpu_keys()


def test_rents_are_per_gpu_and_hour() -> None:
    for row in rows("cloud"):
        assert 0.1 < row["usd_per_gpu_hour"] < 20
        assert row["min_gpus"] in (1, 2, 4, 8)
        assert row["kind"] in {"on-demand", "spot", "serverless"}


def test_memory_is_priced_for_known_processors_and_for_each_once() -> None:
    keys = [key for row in rows("memory") for key in row["cpus"]]
    assert set(keys) <= set(cpu_keys()) and len(keys) == len(set(keys))
    for row in rows("memory"):
        assert 1 < row["usd_per_gib_low"] <= row["usd_per_gib_high"] < 100


def test_purchase_ranges_are_ordered() -> None:
    for row in rows("purchase"):
        assert 0 < row["usd_low"] <= row["usd_high"]


def test_api_prices_of_kimi_k25() -> None:
    official = [r for r in rows("api") if r["provider"] == "Moonshot (official)" and r["model"] == "kimi-k2.5"]
    assert [(r["usd_per_million_input_tokens"], r["usd_per_million_output_tokens"]) for r in official] == [(0.6, 3.0)]
    for row in rows("api"):
        cached = row.get("usd_per_million_cached_input_tokens", 0)
        assert cached < row["usd_per_million_input_tokens"] < row["usd_per_million_output_tokens"]
