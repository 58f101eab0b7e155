"""Draft models of speculative decoding, from ``drafters.toml``."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from profiles.names import UnknownName

MTP = "mtp"
"""The multi-token-prediction layers that some checkpoints carry themselves."""
_FILE = Path(__file__).parent / "drafters.toml"


class Drafter(NamedTuple):
    """One drafter of a model. All zeros with ``method`` ``mtp``: its layers are in the target's own tensor list.

    ``matrix_bytes`` are divided by tensor parallelism, as is the vocabulary, ``vocabulary_bytes``; an engine that
    shares the target's embedding or head with the drafter saves at most ``shareable_bytes`` of them. ``kv_layers``
    layers of ``n_kv_heads`` heads cache keys and values, or one latent of ``latent_width`` where that is not 0.
    """

    method: str
    release: str
    tokens: int
    matrix_bytes: int = 0
    vocabulary_bytes: int = 0
    shareable_bytes: int = 0
    kv_layers: int = 0
    n_kv_heads: int = 0
    head_dim: int = 0
    latent_width: int = 0
    source: str = ""

    def kv_bytes_per_token(self, tp: int, element_bytes: int) -> int:
        """Bytes of one cached token on one rank: heads are divided, a latent is not."""
        width = self.latent_width or 2 * max(1, -(-self.n_kv_heads // tp)) * self.head_dim
        return self.kv_layers * width * element_bytes


@lru_cache(maxsize=1)
def _table() -> dict[str, list[Drafter]]:
    rows = tomllib.loads(_FILE.read_text(encoding="utf-8"))["drafter"]
    found: dict[str, list[Drafter]] = {}
    for row in rows:
        models = row.pop("models")
        for model in models:
            found.setdefault(model, []).append(Drafter(**row))
    return found


def drafters_of(model_id: str) -> tuple[Drafter, ...]:
    """Separate draft models published for a model."""
    return tuple(_table().get(model_id, ()))


def find_drafter(model_id: str, method: str, *, has_mtp: bool) -> Drafter:
    """The drafter of this method. Raises ``UnknownName`` with the methods that the model has."""
    known = {drafter.method: drafter for drafter in drafters_of(model_id)}
    if has_mtp:
        known[MTP] = Drafter(MTP, "", 1, source="multi-token-prediction layers of the checkpoint")
    if method not in known:
        raise UnknownName("drafter", method, tuple(known))
    return known[method]
