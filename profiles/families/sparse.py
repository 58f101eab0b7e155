"""Decoders with grouped-query attention and routed experts: Qwen3-MoE, Mixtral and MiniMax-M2.

They share everything but names: of the MoE block, of an expert's three matrices, of the keys in the
configuration; and a few parts that one has and another lacks (see ``_Naming``). Sources: published
checkpoints and their parameter totals; transformers 5.23 ``qwen3_moe``, ``mixtral`` and ``minimax_m2``.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from profiles.families.blocks import (
    GroupedQueries,
    Layers,
    decoder_norms,
    dtype_of,
    embedding,
    expert_counts,
    layer_count,
    lm_head,
    norm,
    routed_experts,
    router,
    router_bias,
    swiglu,
    without,
)
from profiles.families.dense import windows
from profiles.families.fields import MAX_LAYERS, BadConfig, Fields
from profiles.model import ModelSpec, Moe, TensorGroup


class _Naming(NamedTuple):
    """What differs. ``qk_norm`` is over each head, or over all heads together.

    ``f32_router`` marks checkpoints that keep the router in F32 (MiniMax-M2: 230,121,630,720 bytes, as hf-mem
    reads from its headers).
    """

    experts_key: str
    expert_ffn_key: str
    block: str
    matrices: tuple[str, str, str]
    qk_norm: Literal["per_head", "per_layer"] | None = None
    f32_router: bool = False


_W = ("w1.weight", "w3.weight", "w2.weight")
_FAMILIES: Final = {
    "mixtral": _Naming("num_local_experts", "intermediate_size", "block_sparse_moe.", _W),
    "minimax_m2": _Naming("num_local_experts", "intermediate_size", "block_sparse_moe.", _W, "per_layer", True),
    "qwen3_moe": _Naming(
        "num_experts",
        "moe_intermediate_size",
        "mlp.",
        ("gate_proj.weight", "up_proj.weight", "down_proj.weight"),
        "per_head",
    ),
}


def read(config: Fields) -> ModelSpec:
    """The tensors and geometry of a decoder with routed experts."""
    family = config.text("model_type")
    naming = _FAMILIES[family]
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    layers, dtype = layer_count(config), dtype_of(config)
    attention = GroupedQueries(config, hidden)
    experts, top_k = expert_counts(config, naming.experts_key, "num_experts_per_tok")
    expert_ffn = config.integer(naming.expert_ffn_key)
    tied = config.flag("tie_word_embeddings", False)
    sparse = _sparse_layers(config, layers)
    dense = without(layers, sparse)
    every, layer = tuple(range(layers)), "model.layers.{layer}."

    tensors = [embedding("model.embed_tokens.weight", vocab, hidden, dtype)]
    tensors += attention.tensors(f"{layer}self_attn.", dtype, every, bias=config.flag("attention_bias", False))
    tensors += _qk_norms(naming, attention, f"{layer}self_attn.", dtype, every)
    tensors += decoder_norms(layer, hidden, dtype, every)
    dense_ffn = config.integer("intermediate_size") if dense else 0
    if dense:
        tensors += swiglu(f"{layer}mlp.", hidden, dense_ffn, dtype, dense)
    block = f"{layer}{naming.block}"
    router_dtype = "f32" if naming.f32_router else dtype
    tensors.append(router(f"{block}gate.weight", experts, hidden, router_dtype, sparse))
    if config.flag("use_routing_bias", False):
        tensors.append(router_bias(f"{block}e_score_correction_bias", experts, sparse))
    tensors += routed_experts(
        f"{block}experts.{{expert}}.", experts, hidden, expert_ffn, dtype, sparse, naming.matrices
    )
    tensors.append(norm("model.norm.weight", hidden, dtype))
    if not tied:
        tensors.append(lm_head("lm_head.weight", vocab, hidden, dtype))
    return ModelSpec(
        id="",
        name="",
        family=family,
        repository="",
        hidden=hidden,
        vocab=vocab,
        layers=layers,
        max_context=config.integer("max_position_embeddings"),
        heads=attention.heads,
        q_head_dim=attention.head_dim,
        v_head_dim=attention.head_dim,
        nope_dim=0,
        dense_ffn=dense_ffn,
        moe=Moe(experts, top_k, expert_ffn, 0, sparse),
        kv_groups=attention.caches(windows(config, layers)),
        tensors=tuple(tensors),
        native_quantization=dtype,
        tied_embeddings=tied,
    )


def _qk_norms(naming: _Naming, attention: GroupedQueries, prefix: str, dtype: str, layers: Layers) -> list[TensorGroup]:
    if naming.qk_norm == "per_head":
        return attention.qk_norms(prefix, dtype, layers)
    if naming.qk_norm == "per_layer":
        widths = {"q": attention.heads, "k": attention.kv_heads}
        return [
            norm(f"{prefix}{part}_norm.weight", heads * attention.head_dim, dtype, layers)
            for part, heads in widths.items()
        ]
    return []


def _sparse_layers(config: Fields, layers: int) -> Layers:
    """Layers with routed experts: every ``decoder_sparse_step``-th that is not in ``mlp_only_layers``."""
    step = config.integer("decoder_sparse_step", 1, high=MAX_LAYERS)
    dense = frozenset(config.integers("mlp_only_layers", high=MAX_LAYERS) if config.has("mlp_only_layers") else ())
    sparse = tuple(layer for layer in range(layers) if (layer + 1) % step == 0 and layer not in dense)
    if not sparse:
        raise BadConfig(f"{config.name('mlp_only_layers')} leaves no layer for the routed experts")
    return sparse
