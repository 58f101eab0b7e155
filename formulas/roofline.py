"""Roofline time and the two collectives, from bytes, operations and rates."""

from __future__ import annotations


def roofline_s(moved_bytes: float, flops: float, bytes_per_s: float, flops_per_s: float | None) -> float:
    """Time of a kernel that moves ``moved_bytes`` and computes ``flops``: the slower of the two.

    ``flops_per_s`` None means that the rate is unknown and that only the bytes count.
    Raises ``ValueError`` when a rate is not positive.

    >>> round(roofline_s(4_217_000_000, 0, 4.8e12, None) * 1e3, 3)       # K2.5 active bytes of one GPU of eight
    0.879
    """
    if bytes_per_s <= 0 or (flops_per_s is not None and flops_per_s <= 0):
        raise ValueError("rates must be positive")
    memory_s = moved_bytes / bytes_per_s
    if flops_per_s is None:
        return memory_s
    return max(memory_s, flops / flops_per_s)


def all_reduce_s(message_bytes: float, ranks: int, bytes_per_s: float, latency_s: float) -> float:
    """Ring or one-shot all-reduce of a message: ``latency + 2 (n - 1) / n * bytes / bandwidth``.

    ``bytes_per_s`` is one GPU's bandwidth in one direction. One rank costs nothing.

    >>> round(all_reduce_s(64 * 7168 * 2, 8, 450e9, 8e-6) * 1e6, 2)      # K2.5 hidden state of 64 tokens
    11.57
    """
    if ranks <= 1:
        return 0.0
    return latency_s + 2 * (ranks - 1) / ranks * message_bytes / bytes_per_s


def all_to_all_s(message_bytes: float, ranks: int, bytes_per_s: float, latency_s: float) -> float:
    """All-to-all in which each rank sends ``message_bytes`` spread over all ranks.

    >>> all_to_all_s(1e6, 1, 450e9, 8e-6)
    0.0
    """
    if ranks <= 1:
        return 0.0
    return latency_s + (ranks - 1) / ranks * message_bytes / bytes_per_s


def mla_decode_flops(n_heads: int, kv_lora_rank: int, rope_dim: int, cached_tokens: float) -> float:
    """Operations of absorbed MLA attention for one token of one layer: scores and values.

    ``2 * heads * cached * (2 * kv_lora_rank + rope_dim)``

    >>> mla_decode_flops(64, 512, 64, 8192)
    1140850688.0
    """
    return 2.0 * n_heads * cached_tokens * (2 * kv_lora_rank + rope_dim)


def attention_flops(n_heads: int, qk_head_dim: int, v_head_dim: int, cached_tokens: float) -> float:
    """Operations of per-head attention for one token of one layer.

    >>> attention_flops(64, 192, 128, 4096)
    167772160.0
    """
    return 2.0 * n_heads * cached_tokens * (qk_head_dim + v_head_dim)
