"""The geometry that a GGUF header states, per architecture, checked against the tensors of the same file.

The KV cache of every architecture here is what llama.cpp allocates for it, verified against its own memory breakdown.
Source: ``src/models`` and ``llama-hparams.cpp`` of ggml-org/llama.cpp.
"""

from __future__ import annotations

from itertools import groupby
from typing import Final, Literal, NamedTuple

from profiles.families.fields import MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, BadConfig, UnknownFamily, shown
from profiles.model import KvGroup, ModelSpec, Moe, Role
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
_NAMES: Final[dict[Role, str]] = {
    "k": "attn_k", "v": "attn_v", "kv_a": "attn_kv_a_mqa", "kv_b": "attn_kv_b", "k_b": "attn_k_b", "v_b": "attn_v_b",
}  # fmt: skip


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
    is_latent = attention in ("latent", "kimi_delta")
    heads = _latent_heads(keys, layers.decoder) if is_latent else _heads(keys, layers.decoder, hidden)
    caches = tuple(_caches(keys, architecture, attention, layers, heads, tensors))
    dense = tensors.matrices("dense_down")
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


def _latent_heads(keys: Hyperparameters, layers: int) -> Heads:
    """Heads of latent attention. In the oldest conversions the plain widths mean what ``_mla`` ones mean since."""
    suffix = "_mla" if keys.has("attention.key_length_mla") else ""
    key, rope = keys.integer(f"attention.key_length{suffix}"), keys.integer("rope.dimension_count")
    if key <= rope:
        raise BadConfig(f"attention.key_length{suffix} {key} must exceed rope.dimension_count {rope}")
    queries = max(keys.per_layer("attention.head_count", layers, high=MAX_HEADS))
    if queries < 1:
        raise BadConfig("attention.head_count must be at least 1")
    return Heads(queries, key, keys.integer(f"attention.value_length{suffix}"), key - rope)


def _caches(
    keys: Hyperparameters, architecture: str, attention: Attention, layers: Layers, heads: Heads,
    tensors: GroupedTensors,
) -> list[KvGroup]:  # fmt: skip
    full = tuple(layer for layer in range(layers.decoder) if layer not in layers.linear)
    if attention == "kimi_delta" or (attention == "latent" and keys.has("attention.key_length_mla")):
        caches = _latent_caches(keys, full, heads, tensors)
    elif attention == "latent":
        if architecture != "deepseek2":
            raise BadConfig(f"{architecture}.attention.key_length_mla is missing")
        caches = _expanded_caches(keys, full, heads, tensors)
    else:
        caches = _head_caches(keys, _windows(keys, architecture, layers.decoder), heads, full, tensors)
    if layers.linear:
        state_bytes = _kimi_state(keys, heads) if attention == "kimi_delta" else _gated_state(keys)
        caches.append(KvGroup("linear", tuple(sorted(layers.linear)), state_bytes=state_bytes))
    return caches


def _latent_caches(
    keys: Hyperparameters, layers: tuple[int, ...], heads: Heads, tensors: GroupedTensors
) -> list[KvGroup]:
    rank, rope = keys.integer("attention.kv_lora_rank"), keys.integer("rope.dimension_count")
    _check(tensors, "kv_a", layers, (rank + rope,), "attention.kv_lora_rank plus rope.dimension_count")
    _check(tensors, "k_b", layers, (heads.queries, rank, heads.nope), "the geometry of its latent attention")
    _check(tensors, "v_b", layers, (heads.queries, heads.value, rank), "the geometry of its latent attention")
    width = keys.integer("attention.indexer.key_length", 0, low=0)
    indexed = frozenset(tensors.layers_of("indexer_k") if width else ())
    if width and keys.has("attention.indexer.types"):
        types = keys.per_layer("attention.indexer.types", layers[-1] + 1, high=1)
        indexed = frozenset(layer for layer in layers if types[layer])
    parts = groupby(sorted(layers, key=lambda layer: layer not in indexed), key=lambda layer: layer in indexed)
    return [
        KvGroup("mla", tuple(found), kv_lora_rank=rank, rope_dim=rope, index_head_dim=width if has_indexer else 0)
        for has_indexer, found in parts
    ]


def _expanded_caches(
    keys: Hyperparameters, layers: tuple[int, ...], heads: Heads, tensors: GroupedTensors
) -> list[KvGroup]:
    """Conversions from before llama.cpp cached the latent itself: every head has its own key and value."""
    rank = keys.integer("attention.kv_lora_rank")
    _check(tensors, "kv_b", layers, (heads.queries * (heads.nope + heads.value), rank), "the geometry of its heads")
    return [KvGroup("mha", layers, heads.queries, heads.key, heads.value)]


def _head_caches(
    keys: Hyperparameters, windows: list[int | None], heads: Heads, layers: tuple[int, ...], tensors: GroupedTensors
) -> list[KvGroup]:
    count = len(windows)
    queries = keys.per_layer("attention.head_count", count, high=MAX_HEADS)
    has_kv = keys.has("attention.head_count_kv")
    stated = keys.per_layer("attention.head_count_kv", count, high=MAX_HEADS) if has_kv else queries
    by_kind: dict[tuple[int, int | None], list[int]] = {}
    for layer in layers:
        if not stated[layer] or queries[layer] % stated[layer]:
            raise BadConfig(
                f"attention.head_count {queries[layer]} must be divisible by attention.head_count_kv {stated[layer]}"
            )
        by_kind.setdefault((stated[layer], windows[layer]), []).append(layer)
    fused = {layer for group in tensors.matrices("q") if "qkv" in group.name for layer in group.layers}
    for (kv, _), found in by_kind.items():
        apart = tuple(layer for layer in found if layer not in fused)
        _check(tensors, "k", apart, (kv * heads.key,), "attention.head_count_kv times key_length")
        _check(tensors, "v", apart, (kv * heads.value,), "attention.head_count_kv times value_length")
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
    window = keys.integer("attention.sliding_window", _CHUNK if architecture == "llama4" else None, low=0)
    if architecture == "llama4" and window:
        window = _CHUNK  # whatever the header states
    if not window:
        return [None] * layers
    if keys.is_array("attention.sliding_window_pattern"):
        flags = keys.per_layer("attention.sliding_window_pattern", layers, high=1)
        return [window if is_windowed else None for is_windowed in flags]
    period = keys.integer("attention.sliding_window_pattern", period, low=0)
    return [window if not period or layer % period < period - 1 else None for layer in range(layers)]


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
            raise UnknownFamily("a GGUF file with one tensor per expert is not read: llama.cpp no longer loads those")
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


def _check(tensors: GroupedTensors, role: Role, layers: tuple[int, ...], shape: tuple[int, ...], what: str) -> None:
    """That every one of ``layers`` has a tensor of ``role`` whose shape begins with ``shape``."""
    shapes = {layer: group for group in tensors.matrices(role) for layer in group.layers}
    for layer in layers:
        group = shapes.get(layer)
        if group is None:
            raise BadConfig(f"layer {layer} has no {_NAMES[role]} tensor, as llama.cpp needs one here")
        if group.shape[: len(shape)] != shape:
            raise BadConfig(f"{group.name} has shape {list(group.shape)}, but {what} is {list(shape)}")
