"""Public claims about models, collected to be checked."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def claims_of(model_id: str) -> tuple[str, tuple[dict[str, Any], ...]]:
    """Where the claims about a model come from, and the claims; empty when none are collected."""
    path = _FOLDER / f"{model_id}.toml"
    if not path.is_file():
        return "", ()
    with path.open("rb") as file:
        table = tomllib.load(file)
    return table["source"], tuple(table["claim"])
