"""Which experts the tokens of a step go to, and which copies of the weights stand for them.

A step draws its experts anew. The experts drawn are then laid on the next slots of a pool in a fixed cyclic order, so
that a slot comes back only after all the others: with a pool of several times the cache no weight is read warm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .timing import Options

Array = np.ndarray[Any, Any]
POWER_LAW_EXPONENT = 1.01
"""Popularity of the expert of rank r is r to the minus this: the mild skew that aiconfigurator's tables use too."""


class Router:
    """Draws ``top_k`` of ``experts_total`` experts for each token; this rank holds the first ``experts`` of them."""

    def __init__(self, experts: int, experts_total: int, top_k: int, options: Options) -> None:
        self.experts, self.total, self.top_k = experts, experts_total, top_k
        self.random = np.random.default_rng(options.seed)
        self.weights: Array | None = None
        self.trace: Array | None = None
        if options.routing == "power_law":
            ranks = self.random.permutation(experts_total) + 1
            self.weights = np.log(ranks.astype(np.float64)) * -POWER_LAW_EXPONENT
        elif options.routing == "replay":
            self.trace = _read_trace(options.trace, experts_total, top_k)
            self.at = int(self.random.integers(len(self.trace)))
        elif options.routing != "uniform":
            raise ValueError(f"routing {options.routing!r} is none of uniform, power_law, replay")

    def draw(self, tokens: int) -> Array:
        """Expert ids, int32 (tokens, top_k), distinct within a token; -1 stands for one that another rank holds.

        >>> ids = Router(384, 384, 8, Options()).draw(4)
        >>> ids.shape, int(ids.max()) < 384, len(set(ids[0].tolist()))
        ((4, 8), True, 8)
        """
        if self.trace is not None:
            rows = (self.at + np.arange(tokens)) % len(self.trace)
            self.at = int(rows[-1] + 1) % len(self.trace)
            return self._held(self.trace[rows].astype(np.int32))
        # The largest of independently perturbed logits are a draw without replacement (the Gumbel top-k trick).
        keys = self.random.gumbel(size=(tokens, self.total))
        if self.weights is not None:
            keys += self.weights
        return self._held(np.argpartition(keys, -self.top_k, axis=1)[:, -self.top_k :].astype(np.int32))

    def _held(self, ids: Array) -> Array:
        return np.where(ids < self.experts, ids, np.int32(-1))


def _read_trace(path: str | None, experts_total: int, top_k: int) -> Array:
    if path is None:
        raise ValueError("replay needs a recorded trace")
    trace: Array = np.load(path, allow_pickle=False)
    if trace.ndim != 2 or trace.shape[1] != top_k or not len(trace):
        raise ValueError(f"{path}: a trace has the shape (tokens, {top_k}), not {trace.shape}")
    if trace.dtype.kind not in "iu" or trace.min() < 0 or trace.max() >= experts_total:
        raise ValueError(f"{path}: expert ids are integers from 0 to {experts_total - 1}")
    return trace


class Slots:
    """A pool of weights of ``slots`` experts, walked in a fixed cyclic order; ``warm`` always takes the first ones."""

    def __init__(self, slots: int, seed: int, *, warm: bool = False) -> None:
        self.order = np.random.default_rng(seed).permutation(slots).astype(np.int32)
        self.at, self.warm = 0, warm

    def place(self, ids: Array) -> tuple[Array, int, int]:
        """The slots of the experts of ``ids``; how many are distinct, and the tokens of the busiest. -1 stays.

        Raises ``MemoryError`` when more experts are drawn than the pool has.
        """
        here = ids >= 0
        distinct, inverse, counts = np.unique(ids[here], return_inverse=True, return_counts=True)
        if len(distinct) > len(self.order):
            raise MemoryError(f"{len(distinct)} experts are hit, and the memory allowed holds {len(self.order)}")
        taken = self.order[(self.at + np.arange(len(distinct))) % len(self.order)]
        if not self.warm:
            self.at = (self.at + len(distinct)) % len(self.order)
        placed = np.full(ids.shape, -1, dtype=np.int32)
        placed[here] = taken[inverse.reshape(-1)]
        return placed, len(distinct), int(counts.max(initial=0))


def slots_needed(expert_bytes: float, top_k: int, experts: int, options: Options) -> int:
    """Experts that a pool holds: what the largest batch may hit, but at least four times the cache.

    Raises ``MemoryError`` where the memory allowed holds less than four times the cache, or than two tokens use.
    """
    least = max(int(-(-4 * options.cache_bytes // expert_bytes)), 2 * top_k)
    room = int(options.memory_bytes // expert_bytes)
    if room < least:
        raise MemoryError(
            f"{least * expert_bytes / 1e9:.1f} GB of weights are needed to stay out of the cache, "
            f"{options.memory_bytes / 1e9:.1f} GB are allowed"
        )
    return max(least, min(experts, options.largest_batch * top_k, room))
