"""Symmetric INT4 in groups of 32 columns as Kimi K2.5's own checkpoint has it, and the reference of an expert layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
GROUP = 32
ROWS = 13
"""Rows of a pattern that tensors repeat: prime, so that no blocking of a kernel lines up with it."""


class Int4Rows(NamedTuple):
    """Rows as two nibbles a byte (low one first, eight is zero), float32 scales, and the numbers they mean."""

    packed: Array
    scales: Array
    values: Array

    def tensor(self, rows: int, first: int) -> tuple[Array, Array]:
        """Packed bytes and scales of a tensor of so many rows, from pattern row ``first`` on."""
        order = (np.arange(rows) + first) % ROWS
        return self.packed[order], self.scales[order]


def int4_rows(columns: int, seed: int) -> Int4Rows:
    """Random normal rows, rounded to INT4.

    >>> rows = int4_rows(64, 1)
    >>> rows.packed.shape, rows.scales.shape, rows.values.shape
    ((13, 32), (13, 2), (13, 64))
    """
    weights = np.random.default_rng(seed).standard_normal((ROWS, columns // GROUP, GROUP)) / columns**0.5
    # Scales are stored as bf16: the upper half of a float32.
    exact = (np.abs(weights).max(axis=2) / 7.5).astype(np.float32)
    scales = (exact.view(np.uint32) & 0xFFFF0000).view(np.float32)
    steps = np.clip(np.rint(weights / scales[:, :, None]), -8, 7)
    values = (steps * scales[:, :, None]).reshape(ROWS, columns)
    nibbles = (steps + 8).astype(np.uint8).reshape(ROWS, columns)
    return Int4Rows(nibbles[:, ::2] | nibbles[:, 1::2] << 4, scales, values)


def activations(shape: tuple[int, ...], seed: int) -> Array:
    """Random normal float32 that no weights of the same seed resemble."""
    return np.random.default_rng([seed, 77]).standard_normal(shape).astype(np.float32)


def silu(values: Array) -> Array:
    """``x / (1 + exp(-x))``."""
    return np.asarray(values / (1.0 + np.exp(-values)))


def expert_layer(wide: Array, narrow: Array, tokens: Array, slots: Array, shares: Array) -> Array:
    """Float64 output of a layer of experts whose weights repeat the rows of two patterns.

    Row r of the gate of slot s is ``wide[(s * inter + r) % len(wide)]``, of its up one row further; ``narrow`` the same
    for down. ``tokens`` is (tokens, hidden), ``slots`` and ``shares`` (tokens, top_k); inter and hidden are the columns
    of ``narrow`` and ``wide``. Slot -1 is nobody's here.
    """
    hidden, inter = wide.shape[1], narrow.shape[1]
    wanted = np.zeros((len(tokens), hidden))
    for token in range(len(tokens)):
        by_row = wide @ tokens[token].astype(np.float64)
        for slot, share in zip(slots[token].tolist(), shares[token].tolist(), strict=True):
            if slot < 0:
                continue
            rows = slot * inter + np.arange(inter)
            inner = silu(by_row[rows % len(wide)]) * by_row[(rows + 1) % len(wide)]
            wanted[token] += share * (narrow @ inner)[(slot * hidden + np.arange(hidden)) % len(narrow)]
    return wanted
