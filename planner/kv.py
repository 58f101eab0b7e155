"""KV-cache bytes of a model on one rank, summed over its layers."""

from __future__ import annotations

from collections.abc import Sequence

from formulas.kv_cache import cached_states, cached_tokens, gqa_bytes, indexer_bytes, mla_bytes
from profiles.model import KvGroup, ModelSpec


def group_bytes_per_state(group: KvGroup, dtype: str, tp: int = 1, dtype_v: str | None = None) -> int:
    """Bytes one cached state takes in one layer of ``group`` on one tensor-parallel rank.

    A state holds one token, or ``tokens_per_state`` of them. The MLA latent and the keys of an indexer are not divided
    by tensor parallelism; KV heads are, and replicate once there are fewer than ranks.
    """
    if group.layout == "linear":
        return 0
    if group.layout == "mla":
        packed = group.packed_bytes if dtype == "fp8_ds_mla" else 0
        size = packed or mla_bytes(group.kv_lora_rank, group.rope_dim, dtype)
    else:
        heads = max(1, -(-group.n_kv_heads // tp))
        size = gqa_bytes(heads, group.head_dim, group.v_head_dim, dtype, dtype_v)
    indexer = indexer_bytes(group.index_head_dim) if group.index_head_dim else 0
    return size + indexer + group.index_key_bytes


def group_bytes_per_token(group: KvGroup, dtype: str, tp: int = 1, dtype_v: str | None = None) -> int:
    """Bytes one more token takes in one layer of ``group`` on one rank, rounded up where states hold several."""
    return -(-group_bytes_per_state(group, dtype, tp, dtype_v) // group.tokens_per_state)


def group_sequence_bytes(group: KvGroup, dtype: str, tp: int, tokens: int, batched_tokens: int = 0) -> int:
    """Bytes one sequence of ``tokens`` tokens takes in one layer of ``group``: those of its window, in whole states."""
    kept = cached_states(cached_tokens(tokens, group.window, batched_tokens), group.tokens_per_state)
    return group_bytes_per_state(group, dtype, tp) * kept + group_state_bytes(group, tp)


def group_state_bytes(group: KvGroup, tp: int) -> int:
    """Constant bytes of one sequence in one layer on one rank.

    Heads of linear attention are divided; what compresses a latent is, like the latent, whole on every rank.
    """
    return group.state_bytes if group.layout == "mla" else -(-group.state_bytes // tp)


def layers_within(layers: Sequence[int], first: int, stop: int) -> int:
    """How many of ``layers`` lie in ``first..stop``."""
    if len(layers) == 0:
        return 0
    if layers[-1] - layers[0] + 1 == len(layers):
        return max(0, min(stop, layers[-1] + 1) - max(first, layers[0]))
    return sum([first <= layer < stop for layer in layers])


def bytes_per_token(model: ModelSpec, dtype: str, tp: int, first: int, stop: int) -> float:
    """Bytes one more token of unlimited context takes on a rank that holds layers ``first..stop``.

    Sliding-window layers are counted whole, since they grow too until the window is full, but not a window that a layer
    keeps beside its cache of the whole context.
    """
    growing = frozenset([layer for group in model.kv_groups if _grows(group) for layer in group.layers])
    total = 0.0
    for group in model.kv_groups:
        layers = group.layers
        if group.window:
            layers = tuple([layer for layer in layers if layer not in growing])
        each = group_bytes_per_state(group, dtype, tp) / group.tokens_per_state
        total += each * layers_within(layers, first, stop)
    return total


def sequence_bytes(
    model: ModelSpec, dtype: str, tp: int, first: int, stop: int, tokens: int, batched_tokens: int = 0
) -> int:
    """Bytes one sequence of ``tokens`` tokens takes on a rank: windows capped, constant states included."""
    return sum(
        [
            layers_within(group.layers, first, stop) * group_sequence_bytes(group, dtype, tp, tokens, batched_tokens)
            for group in model.kv_groups
        ]
    )


def _grows(group: KvGroup) -> bool:
    return group.layout != "linear" and group.window is None


def layout_name(model: ModelSpec) -> str:
    """The layout of most layers, ``mla``, ``gqa`` and so on."""
    return max(model.kv_groups, key=lambda group: len(group.layers)).layout
