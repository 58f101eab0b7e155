"""How hosted APIs of a model are called, from ``hosted.toml``."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from profiles.prices import api_prices

_FILE = Path(__file__).parent / "hosted.toml"


class HostedMode(NamedTuple):
    """A way to ask: what its request adds."""

    name: str
    extra: dict[str, Any]


class Hosted(NamedTuple):
    """A provider's API of one model. ``asked_model`` is the provider's own name for it, ``ends`` when it is to end."""

    name: str
    provider: str
    asked_model: str
    base_url: str
    key_variable: str
    images: bool
    modes: tuple[HostedMode, ...]
    ends: str | None
    note: str
    source: str


@cache
def hosted_apis(model: str) -> tuple[Hosted, ...]:
    """The providers of a model whose address is known. Raises ``KeyError`` for an incomplete fact.

    >>> [(one.name, one.asked_model) for one in hosted_apis("kimi-k2.5")][:2]
    [('moonshot', 'kimi-k2.5'), ('deepinfra', 'moonshotai/Kimi-K2.5')]
    """
    with _FILE.open("rb") as file:
        rows: list[dict[str, Any]] = tomllib.load(file)["hosted"]
    priced = {price.provider: price for price in api_prices() if price.model == model}
    return tuple([
        Hosted(
            row["name"],
            row["provider"],
            priced[row["provider"]].provider_model,
            row["base_url"],
            row["key_variable"],
            row.get("images", False),
            tuple([HostedMode(mode["name"], dict(mode.get("extra", {}))) for mode in row["mode"]]),
            priced[row["provider"]].ends,
            row.get("note", ""),
            row["source"],
        )
        for row in rows
        if row["model"] == model
    ])  # fmt: skip
