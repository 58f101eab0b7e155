"""A decode layer of latent attention and experts in numbers: its matrices as patterns, and its result in float64.

Of llama.cpp's and the engines' layers the rotation of positions and the writing of the cache are left out, which move
a few kilobytes; everything that reads weights or the cache is there, with the norms, sums and copies between.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .blocks import expert_layer, silu

Array = np.ndarray[Any, Any]
EPSILON = 1e-6
MATRICES = ("qkv_a", "q_b", "k_b", "v_b", "o", "gate_up", "down")
"""``k_b`` and ``v_b`` are of all heads: a matrix for each head, one below the other."""


class Sizes(NamedTuple):
    """The dimensions of a layer."""

    hidden: int
    heads: int
    q_lora: int
    kv_lora: int
    rope: int
    nope: int
    v: int
    experts: int
    top_k: int
    inter: int
    shared: int

    @property
    def head(self) -> int:
        """Columns of a query in latent form."""
        return self.kv_lora + self.rope

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of each matrix outside the experts."""
        found = {
            "qkv_a": (self.q_lora + self.kv_lora + self.rope, self.hidden),
            "q_b": (self.heads * (self.nope + self.rope), self.q_lora),
            "k_b": (self.heads * self.kv_lora, self.nope),
            "v_b": (self.heads * self.v, self.kv_lora),
            "o": (self.hidden, self.heads * self.v),
        }
        if self.shared:
            found |= {"gate_up": (2 * self.shared, self.hidden), "down": (self.hidden, self.shared)}
        return found


def sizes_of(dims: dict[str, int]) -> Sizes:
    """The sizes among the dimensions of a case."""
    return Sizes(**{name: dims[name] for name in Sizes._fields})


def normed(rows: Array) -> Array:
    """Rows of a mean square of one."""
    return np.asarray(rows / np.sqrt((rows * rows).mean(axis=-1, keepdims=True) + EPSILON))


def times(pattern: Array, rows: int, given: Array) -> Array:
    """Products with a matrix whose rows repeat those of a pattern."""
    by_row = given @ pattern.T
    return np.asarray(by_row[..., np.arange(rows) % len(pattern)])


def latent_attention(sizes: Sizes, pattern: dict[str, Array], tokens: Array, cache: Array) -> Array:
    """What attention adds to (tokens, hidden); ``cache`` is (tokens, cells, kv_lora + rope)."""
    shapes = sizes.shapes()
    wide = times(pattern["qkv_a"], shapes["qkv_a"][0], normed(tokens))
    queries = times(pattern["q_b"], shapes["q_b"][0], normed(wide[:, : sizes.q_lora]))
    queries = queries.reshape(len(tokens), sizes.heads, sizes.nope + sizes.rope)
    found = np.empty((len(tokens), sizes.heads, sizes.v))
    for head in range(sizes.heads):
        key_rows = (head * sizes.kv_lora + np.arange(sizes.kv_lora)) % len(pattern["k_b"])
        value_rows = (head * sizes.v + np.arange(sizes.v)) % len(pattern["v_b"])
        latent = (queries[:, head, : sizes.nope] @ pattern["k_b"].T)[:, key_rows]
        asked = np.concatenate([latent, queries[:, head, sizes.nope :]], axis=1)
        scores = np.einsum("th,tch->tc", asked, cache) * sizes.head**-0.5
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        mixed = np.einsum("tc,tch->th", chances, cache[:, :, : sizes.kv_lora])
        found[:, head] = (mixed @ pattern["v_b"].T)[:, value_rows]
    return times(pattern["o"], sizes.hidden, found.reshape(len(tokens), -1))


def feed_forward(
    sizes: Sizes, pattern: dict[str, Array], wide: Array, narrow: Array, tokens: Array, slots: Array, shares: Array
) -> Array:
    """What the experts, routed and shared, add to (tokens, hidden)."""
    given = normed(tokens)
    added = expert_layer(wide, narrow, given, slots, shares)
    if sizes.shared:
        both = times(pattern["gate_up"], 2 * sizes.shared, given)
        inner = silu(both[:, : sizes.shared]) * both[:, sizes.shared :]
        added = added + times(pattern["down"], sizes.hidden, inner)
    return added
