"""KV-cache bytes of a model on one rank, summed over its layers."""

from __future__ import annotations

from collections.abc import Sequence

from formulas.kv_cache import cached_tokens, gqa_bytes, indexer_bytes, mla_bytes
from profiles.model import KvGroup, ModelSpec


def group_bytes_per_token(group: KvGroup, dtype: str, tp: int = 1, dtype_v: str | None = None) -> int:
    """Bytes one token takes in one layer of ``group`` on one tensor-parallel rank.

    The MLA latent is not divided by tensor parallelism; KV heads are, and replicate once there are fewer than ranks.
    """
    if group.layout == "linear":
        return 0
    if group.layout == "mla":
        size = mla_bytes(group.kv_lora_rank, group.rope_dim, dtype)
    else:
        heads = max(1, -(-group.n_kv_heads // tp))
        size = gqa_bytes(heads, group.head_dim, group.v_head_dim, dtype, dtype_v)
    return size + (indexer_bytes(group.index_head_dim) if group.index_head_dim else 0)


def layers_within(layers: Sequence[int], first: int, stop: int) -> int:
    """How many of ``layers`` lie in ``first..stop``."""
    if len(layers) == 0:
        return 0
    if layers[-1] - layers[0] + 1 == len(layers):
        return max(0, min(stop, layers[-1] + 1) - max(first, layers[0]))
    return sum([first <= layer < stop for layer in layers])


def bytes_per_token(model: ModelSpec, dtype: str, tp: int, first: int, stop: int) -> int:
    """Bytes one more token of unlimited context takes on a rank that holds layers ``first..stop``.

    Sliding-window layers are counted whole: they grow too until the window is full.
    """
    return sum(
        [
            group_bytes_per_token(group, dtype, tp) * layers_within(group.layers, first, stop)
            for group in model.kv_groups
        ]
    )


def sequence_bytes(
    model: ModelSpec, dtype: str, tp: int, first: int, stop: int, tokens: int, batched_tokens: int = 0
) -> int:
    """Bytes one sequence of ``tokens`` tokens takes on a rank: windows capped, constant states included."""
    total = 0
    for group in model.kv_groups:
        layers = layers_within(group.layers, first, stop)
        kept = cached_tokens(tokens, group.window, batched_tokens)
        total += layers * (group_bytes_per_token(group, dtype, tp) * kept + -(-group.state_bytes // tp))
    return total


def layout_name(model: ModelSpec) -> str:
    """The layout of most layers, ``mla``, ``gqa`` and so on."""
    return max(model.kv_groups, key=lambda group: len(group.layers)).layout
