"""Cells and bytes of llama.cpp's KV cache, and what it refuses to store in which type."""

from __future__ import annotations

from typing import Final, NamedTuple

from formulas.kv_cache import UnsupportedKvDtype, padded_cells
from planner.engines.base import Refusal
from planner.kv import group_bytes_per_token
from profiles.model import KvGroup, ModelSpec

CELL_PADDING: Final = 256
CACHE_TYPES: Final = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
"""What --cache-type-k and --cache-type-v take. Source: llama.cpp common/arg.cpp."""
PLAIN_CACHE_TYPES: Final = ("f32", "f16", "bf16")


class Cells(NamedTuple):
    """Cells of the cache. ``total`` over all sequences, of which one sees ``seen``; the same in windowed layers.

    ``streams`` sequences have a part of their own each (1: they share all of it).
    """

    total: int
    seen: int
    window_total: int
    window_seen: int
    streams: int


def cells_of(model: ModelSpec, context: int, sequences: int, unified: bool, ubatch: int) -> Cells:
    """Cells for ``context`` tokens over all sequences. A windowed layer keeps its window and one micro-batch.

    Source: llama.cpp 0.6.0 ``src/llama-context.cpp`` and ``src/llama-kv-cache-iswa.cpp``.
    """
    streams = 1 if unified else sequences
    total = padded_cells(context, sequences, unified, CELL_PADDING)
    seen = total // streams
    window = max([group.window or 0 for group in model.kv_groups])
    window_seen = 0
    if window:
        window_seen = padded_cells(min(seen, window * (sequences if unified else 1) + ubatch), pad=CELL_PADDING)
    return Cells(total, seen, window_seen * streams, window_seen, streams)


def kv_bytes_per_layer(model: ModelSpec, cells: Cells, sequences: int, dtype: str, dtype_v: str | None) -> list[int]:
    """Bytes of every layer's cache and recurrent states over all sequences. Raises ``UnsupportedKvDtype``."""
    sizes = [0] * model.layers
    for group in model.kv_groups:
        kept = cells.window_total if group.window else cells.total
        each = _group_bytes(group, dtype, dtype_v) * kept + group.state_bytes * sequences
        for layer in group.layers:
            sizes[layer] += each
    return sizes


def token_bytes(model: ModelSpec, dtype: str, dtype_v: str | None) -> int:
    """Bytes of one more token of unlimited context over all layers."""
    groups = [group for group in model.kv_groups if not group.window]
    return sum([_group_bytes(group, dtype, dtype_v) * len(group.layers) for group in groups])


def cell_bytes(model: ModelSpec, dtype: str, dtype_v: str | None = None) -> int:
    """Bytes of one KV cell averaged over the layers, rounded up. Raises ``UnsupportedKvDtype``."""
    total = sum([_group_bytes(group, dtype, dtype_v) * len(group.layers) for group in model.kv_groups])
    return -(-total // max(sum([len(group.layers) for group in model.kv_groups]), 1))


def _group_bytes(group: KvGroup, dtype: str, dtype_v: str | None) -> int:
    # llama.cpp keeps the indexer's keys in the type of the cache, where vLLM has FP8 with a scale.
    alike = group._replace(rope_dim=group.rope_dim + group.index_head_dim, index_head_dim=0)
    return group_bytes_per_token(alike, dtype, 1, dtype_v)


def is_exact_cache(model: ModelSpec) -> bool:
    """Whether the cache is one that was compared with llama.cpp's own: no indexer and no recurrent states."""
    return not any(group.index_head_dim or group.layout == "linear" for group in model.kv_groups)


def refused_cache(model: ModelSpec, dtype: str, dtype_v: str | None, *, flash: bool) -> Refusal | None:
    """Refusal of cache types that llama.cpp does not have, not together, or not for this model."""
    for flag, asked in (("--kv-dtype or --cache-type-k", dtype), ("--cache-type-v", dtype_v)):
        if asked is not None and asked not in CACHE_TYPES:
            return Refusal(None, f"llama.cpp has no {asked} KV cache", f"use {flag} {', '.join(CACHE_TYPES)}")
    value_type = dtype_v or dtype
    if not flash and value_type not in PLAIN_CACHE_TYPES:
        return Refusal(None, f"llama.cpp needs flash attention for a V cache in {value_type}", "leave it on")
    if model.uses_mla and value_type != dtype:
        reason = f"llama.cpp caches one latent for keys and values, which cannot be {dtype} and {value_type}"
        return Refusal(None, reason, f"use --cache-type-v {dtype}")
    try:
        cell_bytes(model, dtype, dtype_v)
    except UnsupportedKvDtype as error:
        return Refusal(None, str(error), "use --kv-dtype f16")
    return None
