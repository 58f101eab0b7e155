"""Bytes of the KV cache per token and layer, for every attention layout.

``K`` is the cached key, ``V`` the cached value, of one token in one layer::

    mha / gqa / mqa    n_kv_heads * (head_dim + v_head_dim) * bytes
    mla                (kv_lora_rank + rope_dim) * bytes          one shared vector, no heads, no factor two
    mla expanded       n_heads * (nope + rope + v) * bytes        what eager Hugging Face code stores
    indexer            index_head_dim + 4 bytes                   fp8 key and one F32 scale (DeepSeek sparse attention)
    compressed         one state per ``tokens_per_state`` tokens, and what the pooling of the next one still needs

Sources: vLLM 0.33.0 ``v1/kv_cache_interface.py`` and ``layers/attention/mla_attention.py``; SGLang 0.5.23
``mem_cache``; llama.cpp PR 19067 (no V cache for MLA); DeepSeek-V3.2 technical report (indexer); for DeepSeek V4 vLLM
0.33.0 ``models/deepseek_v4`` and SGLang 0.5.23 ``mem_cache/deepseek_v4_memory_pool.py``.
"""

from __future__ import annotations

from typing import Final

from formulas.storage import FORMATS, tensor_bytes

KV_DTYPES: Final = (
    "bf16", "f16", "fp8", "fp8_ds_mla", "nvfp4", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "f32",
)  # fmt: skip
"""Element types a KV cache can have; the q and iq names are llama.cpp's."""


class UnsupportedKvDtype(ValueError):
    """A KV dtype that this layout cannot be stored in."""


def vector_bytes(width: int, dtype: str) -> int:
    """Bytes of one cached vector of ``width`` elements.

    >>> vector_bytes(576, "bf16"), vector_bytes(576, "fp8"), vector_bytes(576, "q8_0"), vector_bytes(576, "q4_0")
    (1152, 576, 612, 324)

    Raises ``UnsupportedKvDtype`` when the width does not fill whole blocks of a block type.
    """
    if width == 0:
        return 0
    if dtype in ("bf16", "f16"):
        return 2 * width
    if dtype == "fp8":
        return width
    if dtype == "f32":
        return 4 * width
    if dtype == "nvfp4":
        return -(-width // 2) + -(-width // 16)
    if dtype not in KV_DTYPES or dtype == "fp8_ds_mla":
        raise UnsupportedKvDtype(f"a plain vector cannot be stored as {dtype}")
    fmt = FORMATS[dtype.upper()]
    if width % fmt.block:
        raise UnsupportedKvDtype(f"{dtype} stores blocks of {fmt.block} elements, not {width}")
    return tensor_bytes(fmt, (width,))


def gqa_bytes(n_kv_heads: int, head_dim: int, v_head_dim: int, dtype_k: str, dtype_v: str | None = None) -> int:
    """Bytes per token and layer for MHA, GQA and MQA (they differ only in ``n_kv_heads``).

    >>> 61 * gqa_bytes(8, 128, 128, "bf16") * 262144            # K2.5 as if it had GQA-8
    65498251264
    """
    return n_kv_heads * (vector_bytes(head_dim, dtype_k) + vector_bytes(v_head_dim, dtype_v or dtype_k))


def mla_bytes(kv_lora_rank: int, rope_dim: int, dtype: str) -> int:
    """Bytes per token and layer of the MLA latent and its rope key.

    ``fp8_ds_mla`` keeps the latent in fp8 with one F32 scale per 128 elements and the rope key in bf16; ``nvfp4``
    keeps the latent in 4 bits with one fp8 scale per 16 elements and the rope key in fp8.

    >>> 61 * mla_bytes(512, 64, "bf16")
    70272
    >>> mla_bytes(512, 64, "fp8_ds_mla"), mla_bytes(512, 64, "nvfp4")
    (656, 352)
    """
    if dtype == "fp8_ds_mla":
        return kv_lora_rank + 4 * -(-kv_lora_rank // 128) + 2 * rope_dim
    if dtype == "nvfp4":
        return -(-kv_lora_rank // 2) + -(-kv_lora_rank // 16) + rope_dim
    return vector_bytes(kv_lora_rank + rope_dim, dtype)


def expanded_mla_bytes(n_heads: int, nope_dim: int, rope_dim: int, v_head_dim: int, dtype: str) -> int:
    """Bytes per token and layer when MLA is cached per head, after expansion.

    >>> 61 * expanded_mla_bytes(64, 128, 64, 128, "bf16") * 262144
    654982512640
    """
    return gqa_bytes(n_heads, nope_dim + rope_dim, v_head_dim, dtype)


def indexer_bytes(index_head_dim: int) -> int:
    """Bytes per token and layer of a sparse-attention indexer key: fp8 and one F32 scale per 128 elements.

    >>> indexer_bytes(128)
    132
    """
    return index_head_dim + 4 * -(-index_head_dim // 128)


def packed_state_bytes(nope_dim: int, rope_dim: int) -> int:
    """Bytes of one cached state of DeepSeek V4 in ``fp8_ds_mla``.

    The part without rope in fp8 with one E8M0 scale per 64 elements, the scales padded to eight bytes; the rope part in
    bf16. Kimi K2.5 has no such state: its latent would take ``mla_bytes(512, 64, "fp8_ds_mla")``.

    >>> packed_state_bytes(448, 64), mla_bytes(512, 64, "fp8_ds_mla")
    (584, 656)
    """
    scales = -(-nope_dim // 64)
    return nope_dim + 2 * rope_dim + -(-scales // 8) * 8


def compressor_state_bytes(tokens_per_state: int, head_dim: int, *, overlapping: bool) -> int:
    """Bytes per sequence and layer of what a compressor keeps of the tokens that no state holds yet.

    Each of ``tokens_per_state`` tokens keeps a value and a score of ``head_dim`` F32 elements; ``overlapping`` states
    pool two windows of tokens through two sets of both, which is four times as much.

    >>> compressor_state_bytes(128, 512, overlapping=False), compressor_state_bytes(4, 512, overlapping=True)
    (524288, 65536)
    """
    windows = 2 if overlapping else 1
    return windows * tokens_per_state * 2 * windows * head_dim * 4


def cached_states(tokens: int, tokens_per_state: int) -> int:
    """States cached for ``tokens`` tokens; those that do not fill a state wait in the compressor.

    >>> cached_states(262144, 1), cached_states(262144, 128), cached_states(100, 128)
    (262144, 2048, 0)
    """
    return tokens // tokens_per_state


def cached_tokens(tokens: int, window: int | None, batched_tokens: int = 0) -> int:
    """Tokens a sliding-window layer keeps for one sequence: at most window - 1 plus the tokens of one step.

    Source: vLLM 0.33.0 ``SlidingWindowSpec`` (max_num_batched_tokens is added while a chunk is processed).

    >>> cached_tokens(262144, None), cached_tokens(262144, 128, 8192), cached_tokens(64, 128)
    (262144, 8319, 64)
    """
    if window is None:
        return tokens
    return min(tokens, window - 1 + max(batched_tokens, 1))


def padded_cells(tokens: int, sequences: int = 1, unified: bool = True, pad: int = 256) -> int:
    """Cells llama.cpp allocates for a total context of ``tokens``.

    Unified caches round the total up to ``pad``; otherwise each sequence gets its own padded share.

    >>> padded_cells(10000), padded_cells(10000, 3, unified=False)
    (10240, 10752)
    """
    if unified:
        return -(-tokens // pad) * pad
    total = -(-tokens // pad) * pad
    return -(-(total // sequences) // pad) * pad * sequences
