"""The blocks that several architectures share: norms, grouped-query attention, SwiGLU, routed experts.

Every function returns tensor groups in the checkpoint's own names; ``prefix`` ends with a dot and may hold
``{layer}``. Matrices are (out, in) in ``dtype``, biases are vectors in the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from profiles.families.fields import MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, BadConfig, Fields, divisible
from profiles.model import KvGroup, Role, TensorClass, TensorGroup

Layers = tuple[int, ...]


def dtype_of(config: Fields) -> str:
    """Storage format of the tensors that are not quantized, from ``dtype`` or the older ``torch_dtype``.

    ``auto`` and an absent value mean bf16, in which every release of the known families is published.
    """
    key = "dtype" if config.has("dtype") else "torch_dtype"
    allowed = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "auto": "bf16"}
    return allowed[config.choice(key, tuple(allowed), "auto")]


def layer_count(config: Fields, key: str = "num_hidden_layers") -> int:
    """Number of decoder layers."""
    return config.integer(key, high=MAX_LAYERS)


def norm(name: str, width: int, dtype: str, layers: Layers = ()) -> TensorGroup:
    """A norm's vector."""
    return TensorGroup(name, (width,), "norm", "norms", dtype, layers)


def decoder_norms(prefix: str, hidden: int, dtype: str, layers: Layers) -> list[TensorGroup]:
    """The norms before attention and before the FFN."""
    return [
        norm(f"{prefix}input_layernorm.weight", hidden, dtype, layers),
        norm(f"{prefix}post_attention_layernorm.weight", hidden, dtype, layers),
    ]


def embedding(name: str, vocab: int, hidden: int, dtype: str) -> TensorGroup:
    """The token embedding."""
    return TensorGroup(name, (vocab, hidden), "embedding", "embedding", dtype)


def lm_head(name: str, vocab: int, hidden: int, dtype: str) -> TensorGroup:
    """The output head; a model with tied embeddings stores none."""
    return TensorGroup(name, (vocab, hidden), "lm_head", "lm_head", dtype)


class GroupedQueries:
    """Grouped-query attention: its checked geometry, its tensors and its KV groups."""

    def __init__(self, config: Fields, hidden: int) -> None:
        self.hidden = hidden
        self.heads = config.integer("num_attention_heads", high=MAX_HEADS)
        self.kv_heads = config.integer("num_key_value_heads", self.heads, high=MAX_HEADS)
        divisible(config, "num_attention_heads", self.heads, self.kv_heads, "num_key_value_heads")
        if config.has("head_dim"):
            self.head_dim = config.integer("head_dim")
        else:
            self.head_dim = divisible(config, "hidden_size", hidden, self.heads, "num_attention_heads")

    def tensors(
        self, prefix: str, dtype: str, layers: Layers, *, bias: bool = False, output_bias: bool | None = None,
        gated: bool = False,
    ) -> list[TensorGroup]:  # fmt: skip
        """Projections of query, key, value and output.

        ``output_bias`` follows ``bias`` unless given; ``gated`` doubles the query projection by an output
        gate.
        """
        queries = self.heads * self.head_dim
        rows: tuple[tuple[str, Role, int], ...] = (
            ("q", "q", queries * (2 if gated else 1)),
            ("k", "k", self.kv_heads * self.head_dim),
            ("v", "v", self.kv_heads * self.head_dim),
        )
        groups = [
            TensorGroup(f"{prefix}{part}_proj.weight", (out, self.hidden), role, "attention", dtype, layers)
            for part, role, out in rows
        ]
        groups.append(TensorGroup(f"{prefix}o_proj.weight", (self.hidden, queries), "o", "attention", dtype, layers))
        if bias:
            groups += [_bias(f"{prefix}{part}_proj.bias", out, dtype, layers) for part, _, out in rows]
        if bias if output_bias is None else output_bias:
            groups.append(_bias(f"{prefix}o_proj.bias", self.hidden, dtype, layers))
        return groups

    def qk_norms(self, prefix: str, dtype: str, layers: Layers) -> list[TensorGroup]:
        """A norm over each head of the queries and of the keys."""
        return [norm(f"{prefix}{part}_norm.weight", self.head_dim, dtype, layers) for part in "qk"]

    def cache(self, layers: Layers, window: int | None = None) -> KvGroup:
        """The KV group of ``layers``."""
        layout: Literal["mha", "gqa", "mqa"] = "gqa"
        if self.kv_heads == 1:
            layout = "mqa"
        elif self.kv_heads == self.heads:
            layout = "mha"
        return KvGroup(
            layout,
            layers,
            n_kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            v_head_dim=self.head_dim,
            window=window,
        )

    def caches(self, windows: Iterable[int | None]) -> tuple[KvGroup, ...]:
        """KV groups of layers with and without a window; ``windows`` holds one entry per layer."""
        by_window: dict[int | None, list[int]] = {}
        for layer, window in enumerate(windows):
            by_window.setdefault(window, []).append(layer)
        return tuple(self.cache(tuple(layers), window) for window, layers in by_window.items())


def _bias(name: str, width: int, dtype: str, layers: Layers) -> TensorGroup:
    return TensorGroup(name, (width,), "attention_bias", "attention", dtype, layers)


def swiglu(
    prefix: str, hidden: int, ffn: int, dtype: str, layers: Layers, *, shared: bool = False
) -> list[TensorGroup]:
    """A dense FFN, or the ``shared`` expert of a layer: gate, up and down projections."""
    kind: TensorClass = "shared_experts" if shared else "dense_ffn"
    parts: tuple[tuple[str, Role, tuple[int, int]], ...] = (
        ("gate_proj", "shared_gate" if shared else "dense_gate", (ffn, hidden)),
        ("up_proj", "shared_up" if shared else "dense_up", (ffn, hidden)),
        ("down_proj", "shared_down" if shared else "dense_down", (hidden, ffn)),
    )
    return [TensorGroup(f"{prefix}{part}.weight", shape, role, kind, dtype, layers) for part, role, shape in parts]


def routed_experts(
    prefix: str, experts: int, hidden: int, ffn: int, dtype: str, layers: Layers,
    names: tuple[str, str, str] = ("gate_proj.weight", "up_proj.weight", "down_proj.weight"),
) -> list[TensorGroup]:  # fmt: skip
    """Gate, up and down projections of each routed expert; ``prefix`` holds ``{expert}`` when each has its
    own.

    ``names`` are what the checkpoint calls gate, up and down.
    """
    gate, up, down = names
    parts: tuple[tuple[str, Role, tuple[int, int]], ...] = (
        (gate, "expert_gate", (ffn, hidden)),
        (up, "expert_up", (ffn, hidden)),
        (down, "expert_down", (hidden, ffn)),
    )
    return [
        TensorGroup(f"{prefix}{part}", shape, role, "routed_experts", dtype, layers, experts)
        for part, role, shape in parts
    ]


def router(name: str, experts: int, hidden: int, dtype: str, layers: Layers) -> TensorGroup:
    """The router's matrix, one row per expert."""
    return TensorGroup(name, (experts, hidden), "router", "router", dtype, layers)


def router_bias(name: str, experts: int, layers: Layers, dtype: str = "f32") -> TensorGroup:
    """The score correction of the router."""
    return TensorGroup(name, (experts,), "router_bias", "router", dtype, layers)


def expert_counts(config: Fields, experts_key: str, top_k_key: str) -> tuple[int, int]:
    """Number of routed experts and how many a token uses, which cannot be more."""
    experts = config.integer(experts_key, high=MAX_EXPERTS)
    top_k = config.integer(top_k_key, high=MAX_EXPERTS)
    if top_k > experts:
        raise BadConfig(f"{config.name(top_k_key)} {top_k} must be at most {experts_key} {experts}")
    return experts, top_k


def without(layers: int, excluded: Iterable[int]) -> Layers:
    """The layers that are not ``excluded``."""
    left_out = frozenset(excluded)
    return tuple(layer for layer in range(layers) if layer not in left_out)


def as_mtp(groups: Iterable[TensorGroup]) -> list[TensorGroup]:
    """The same tensors as part of a multi-token-prediction layer."""
    return [group._replace(tensor_class="mtp") for group in groups]
