"""The geometry that a GGUF header states, per architecture, checked against the tensors of the same file.

The KV cache of every architecture here is what llama.cpp allocates for it, verified against its own memory breakdown.
Source: ``src/models`` and ``llama-hparams.cpp`` of ggml-org/llama.cpp.
"""

from __future__ import annotations

from itertools import groupby
from typing import Final, Literal, NamedTuple

from profiles.families.fields import MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, BadConfig, UnknownFamily, shown
from profiles.model import KvGroup, ModelSpec, Moe, TensorGroup
from profiles.weights.gguf_metadata import Hyperparameters
from profiles.weights.gguf_names import GroupedTensors

Attention = Literal["heads", "windowed", "latent", "kimi_delta", "gated_delta"]

ARCHITECTURES: Final[dict[str, Attention]] = {
    **dict.fromkeys(("llama", "mistral3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe"), "heads"),
    **dict.fromkeys(("deepseek", "dots1", "ernie4_5-moe", "glm4moe", "minimax-m2"), "heads"),
    **dict.fromkeys(("gpt-oss", "llama4"), "windowed"),
    **dict.fromkeys(("deepseek2", "deepseek32", "glm-dsa"), "latent"),
    "kimi-linear": "kimi_delta",
    **dict.fromkeys(("qwen3next", "qwen35", "qwen35moe"), "gated_delta"),
}
"""Every ``general.architecture`` that is read exactly, and what its layers cache."""

_REFUSED: Final = {
    "deepseek4": "its KV cache holds one state per several tokens, which has no description here yet",
    "kimi-k3": "llama.cpp's names for its tensors and the size of its cache were not checked against a file",
    "minimax-m3": "the index cache of its attention has no description here yet",
}
_CHUNK: Final = 8192
"""Tokens of a chunk in Llama 4, which llama.cpp takes as given."""
_WINDOW_PERIOD: Final = {"gpt-oss": 2, "llama4": 4}
"""Every so many layers one sees the whole context, where the header does not say which."""


class Heads(NamedTuple):
    """Heads of attention: query heads, and widths of one head in elements (``nope`` is 0 without latent attention)."""

    queries: int
    key: int
    value: int
    nope: int = 0


class Layers(NamedTuple):
    """``decoder`` layers come first, ``mtp`` layers of multi-token prediction after them."""

    decoder: int
    mtp: int
    linear: frozenset[int]


def attention_of(architecture: str) -> Attention:
    """What the layers of an architecture cache. Raises ``UnknownFamily``, with the reason where one is known."""
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    named = f"GGUF architecture {shown(architecture)}"
    if architecture in _REFUSED:
        raise UnknownFamily(f"the {named} is not read: {_REFUSED[architecture]}")
    raise UnknownFamily(f"no reader for the {named}; known: {', '.join(ARCHITECTURES)}")


def read_layers(keys: Hyperparameters, attention: Attention) -> Layers:
    """How many layers there are, and which have linear attention."""
    every = keys.integer("block_count", high=MAX_LAYERS)
    mtp = keys.integer("nextn_predict_layers", 0, low=0, high=every - 1)
    decoder = every - mtp
    linear: set[int] = set()
    if attention == "kimi_delta":
        kv_heads = keys.per_layer("attention.head_count_kv", decoder, high=MAX_HEADS)
        linear = {layer for layer, heads in enumerate(kv_heads) if not heads}
    elif attention == "gated_delta" and keys.has("attention.recurrent_layers"):
        recurrent = keys.per_layer("attention.recurrent_layers", decoder, high=1)
        linear = {layer for layer, is_linear in enumerate(recurrent) if is_linear}
    elif attention == "gated_delta":
        interval = keys.integer("full_attention_interval", 4, high=MAX_LAYERS)
        linear = {layer for layer in range(decoder) if (layer + 1) % interval}
    if len(linear) == decoder:
        raise BadConfig("all its layers have linear attention; at least one with a KV cache is needed")
    return Layers(decoder, mtp, frozenset(linear))


def read_geometry(
    keys: Hyperparameters, architecture: str, attention: Attention, layers: Layers, tensors: GroupedTensors
) -> ModelSpec:
    """The model without names and releases. Raises ``BadConfig`` where the header and its tensors disagree."""
    vocab, hidden = _embedding(tensors, keys)
    _refuse_missing_layers(tensors, layers.decoder)
    heads = _heads(keys, layers.decoder, hidden)
    caches = tuple(_caches(keys, architecture, attention, layers, heads, tensors))
    dense = tensors.matrices("dense_down")
    if attention in ("latent", "kimi_delta") and caches[0].layout == "mla":
        heads = _latent_heads(keys)
    return ModelSpec(
        id="",
        name="",
        family=architecture,
        repository="",
        hidden=hidden,
        vocab=vocab,
        layers=layers.decoder,
        max_context=keys.integer("context_length"),
        heads=heads.queries,
        q_head_dim=heads.key,
        v_head_dim=heads.value,
        nope_dim=heads.nope,
        dense_ffn=max((group.shape[-1] for group in dense), default=0),
        moe=_moe(keys, tensors),
        kv_groups=caches,
        tensors=tensors.groups,
        native_quantization="",
        mtp_layers=layers.mtp,
        tied_embeddings=not tensors.matrices("lm_head"),
    )


def _embedding(tensors: GroupedTensors, keys: Hyperparameters) -> tuple[int, int]:
    found = tensors.matrices("embedding")
    if len(found) != 1 or len(found[0].shape) != 2:
        raise BadConfig("tensor 'token_embd.weight' is missing or no matrix; every model here has it")
    vocab, hidden = found[0].shape
    if hidden != keys.integer("embedding_length"):
        raise BadConfig(f"embedding_length is {keys.integer('embedding_length')}, but token_embd.weight has {hidden}")
    return vocab, hidden


def _refuse_missing_layers(tensors: GroupedTensors, layers: int) -> None:
    present = {layer for group in tensors.groups for layer in group.layers}
    missing = next((layer for layer in range(layers) if layer not in present), None)
    if missing is not None:
        raise BadConfig(f"block_count is {layers} without multi-token prediction, but layer {missing} has no tensors")


def _heads(keys: Hyperparameters, layers: int, hidden: int) -> Heads:
    queries = max(keys.per_layer("attention.head_count", layers, high=MAX_HEADS))
    if queries < 1:
        raise BadConfig("attention.head_count must be at least 1")
    default = hidden // queries or None
    key = keys.integer("attention.key_length", default)
    return Heads(queries, key, keys.integer("attention.value_length", default))


def _latent_heads(keys: Hyperparameters) -> Heads:
    key, rope = keys.integer("attention.key_length_mla"), keys.integer("rope.dimension_count")
    queries = keys.per_layer("attention.head_count", 1, high=MAX_HEADS)[0]
    if key <= rope:
        raise BadConfig(f"attention.key_length_mla {key} must exceed rope.dimension_count {rope}")
    return Heads(queries, key, keys.integer("attention.value_length_mla"), key - rope)


def _caches(
    keys: Hyperparameters, architecture: str, attention: Attention, layers: Layers, heads: Heads,
    tensors: GroupedTensors,
) -> list[KvGroup]:  # fmt: skip
    full = tuple(layer for layer in range(layers.decoder) if layer not in layers.linear)
    # The oldest conversions of DeepSeek state no sizes of latent heads: llama.cpp then caches them expanded.
    if attention in ("latent", "kimi_delta") and keys.has("attention.key_length_mla"):
        caches = _latent_caches(keys, full, tensors)
    elif architecture in ("deepseek2", *(name for name, kind in ARCHITECTURES.items() if kind != "latent")):
        caches = _head_caches(keys, architecture, heads, full, layers.decoder, tensors)
    else:
        raise BadConfig(f"{architecture}.attention.key_length_mla is missing")
    if layers.linear:
        state_bytes = _kimi_state(keys, heads) if attention == "kimi_delta" else _gated_state(keys)
        caches.append(KvGroup("linear", tuple(sorted(layers.linear)), state_bytes=state_bytes))
    return caches


def _latent_caches(keys: Hyperparameters, layers: tuple[int, ...], tensors: GroupedTensors) -> list[KvGroup]:
    rank, rope = keys.integer("attention.kv_lora_rank"), keys.integer("rope.dimension_count")
    _check_rows(tensors.matrices("kv_a"), rank + rope, "attention.kv_lora_rank plus rope.dimension_count")
    if tensors.layers_of("kv_a") != layers:
        raise BadConfig("some layers of latent attention lack attn_kv_a_mqa")
    indexed: tuple[int, ...] = ()
    width = 0
    if keys.has("attention.indexer.key_length"):
        width, indexed = keys.integer("attention.indexer.key_length"), tensors.layers_of("indexer_k")
        if keys.has("attention.indexer.types"):
            types = keys.per_layer("attention.indexer.types", layers[-1] + 1, high=1)
            indexed = tuple(layer for layer in layers if types[layer])
    parts = groupby(sorted(layers, key=lambda layer: layer not in indexed), key=lambda layer: layer in indexed)
    return [
        KvGroup("mla", tuple(found), kv_lora_rank=rank, rope_dim=rope, index_head_dim=width if has_indexer else 0)
        for has_indexer, found in parts
    ]


def _head_caches(
    keys: Hyperparameters, architecture: str, heads: Heads, layers: tuple[int, ...], count: int,
    tensors: GroupedTensors,
) -> list[KvGroup]:  # fmt: skip
    queries = keys.per_layer("attention.head_count", count, high=MAX_HEADS)
    stated = (
        keys.per_layer("attention.head_count_kv", count, high=MAX_HEADS)
        if keys.has("attention.head_count_kv")
        else queries
    )
    windows = _windows(keys, architecture, count)
    by_kind: dict[tuple[int, int | None], list[int]] = {}
    for layer in layers:
        if not stated[layer] or queries[layer] % stated[layer]:
            raise BadConfig(
                f"attention.head_count {queries[layer]} must be divisible by attention.head_count_kv {stated[layer]}"
            )
        by_kind.setdefault((stated[layer], windows[layer]), []).append(layer)
    for group in tensors.matrices("k"):
        _check_rows([group], stated[group.layers[0]] * heads.key, "attention.head_count_kv times key_length")
    for group in tensors.matrices("v"):
        _check_rows([group], stated[group.layers[0]] * heads.value, "attention.head_count_kv times value_length")
    _check_rows(
        [group for group in tensors.matrices("kv_b") if "rope" not in group.name],
        heads.queries * (heads.key - keys.integer("rope.dimension_count", 0, low=0) + heads.value),
        "head_count times the widths of a key without rope and of a value",
    )
    return [
        KvGroup(_layout(kv, heads.queries), tuple(found), kv, heads.key, heads.value, window=window)
        for (kv, window), found in by_kind.items()
    ]


def _layout(kv_heads: int, queries: int) -> Literal["mha", "gqa", "mqa"]:
    if kv_heads == queries:
        return "mha"
    return "mqa" if kv_heads == 1 else "gqa"


def _windows(keys: Hyperparameters, architecture: str, layers: int) -> list[int | None]:
    """The window of each layer, None where it sees the whole context."""
    period = _WINDOW_PERIOD.get(architecture)
    if period is None:
        return [None] * layers
    window = keys.integer("attention.sliding_window", low=0) if architecture != "llama4" else _CHUNK
    if architecture == "llama4" and keys.integer("attention.sliding_window", _CHUNK, low=0) == 0:
        return [None] * layers
    pattern = keys.per_layer("attention.sliding_window_pattern", layers, period, high=MAX_LAYERS)
    if len(set(pattern)) == 1 and pattern[0] > 1:
        period = pattern[0]
        return [window if layer % period < period - 1 else None for layer in range(layers)]
    return [window if is_windowed else None for is_windowed in pattern]


def _kimi_state(keys: Hyperparameters, heads: Heads) -> int:
    """An F32 state per head and the last inputs of three convolutions, all in F32."""
    width, kernel = keys.integer("kda.head_dim"), keys.integer("ssm.conv_kernel", high=1024)
    return 4 * heads.queries * (width * width + 3 * width * (kernel - 1))


def _gated_state(keys: Hyperparameters) -> int:
    """The state of a gated delta net and the last inputs of its convolution, all in F32."""
    state, inner = keys.integer("ssm.state_size"), keys.integer("ssm.inner_size")
    groups, kernel = keys.integer("ssm.group_count"), keys.integer("ssm.conv_kernel", high=1024)
    return 4 * (state * inner + (kernel - 1) * (inner + 2 * groups * state))


def _moe(keys: Hyperparameters, tensors: GroupedTensors) -> Moe | None:
    down = tensors.matrices("expert_down")
    if not down:
        if any(".ffn_down." in name for name in tensors.unknown):
            raise UnknownFamily("its experts are stored one by one, as llama.cpp no longer loads them")
        return None
    experts = keys.integer("expert_count", high=MAX_EXPERTS)
    top_k = keys.integer("expert_used_count", high=MAX_EXPERTS)
    if top_k > experts:
        raise BadConfig(f"expert_used_count {top_k} must be at most expert_count {experts}")
    for group in (*tensors.matrices("expert_gate"), *tensors.matrices("expert_up"), *down):
        if len(group.shape) != 3 or group.shape[0] != experts:
            raise BadConfig(f"{group.name} has shape {list(group.shape)}, but expert_count is {experts}")
    shared = keys.integer("expert_shared_count", 1 if tensors.matrices("shared_down") else 0, low=0, high=MAX_EXPERTS)
    return Moe(experts, top_k, max(group.shape[-1] for group in down), shared, tensors.layers_of("expert_down"))


def _check_rows(groups: list[TensorGroup], rows: int, what: str) -> None:
    for group in groups:
        if len(group.shape) != 2 or group.shape[0] != rows:
            raise BadConfig(f"{group.name} has shape {list(group.shape)}, but {what} is {rows}")
