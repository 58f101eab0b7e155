"""Kimi K3: Kimi delta attention (KDA) in three of four layers, gated latent attention in the others, latent
experts.

Routed experts work in a latent space, between one projection into it and one out of it that every token uses.
Attention residuals give every layer two score vectors. Names, shapes and dtypes follow the published headers
(revision 9f62e4e: 497,220 tensors, 1,560,860,324,864 bytes), among them ``A_log`` with one entry per channel
of a head where the model code declares one per head. Sources: moonshotai/Kimi-K3 index and headers, as
reduced in Constructive-Programming/rivoli ``docs/measurement/k3-reference``; vLLM 0.33.0 ``models/kimi_k3``.
"""

from __future__ import annotations

from dataclasses import replace

from profiles.families.blocks import (
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
from profiles.families.deepseek import Mla
from profiles.families.fields import MAX_EXPERTS, BadConfig, Fields, UnknownFamily
from profiles.families.kda import Kda, attention_layers
from profiles.families.moonvit import moonvit
from profiles.model import ModelSpec, Moe, TensorGroup


def read(config: Fields) -> ModelSpec:
    """The text model under ``language_model.``, the vision tower and the projector between them."""
    text = _text(config.section("text_config"), "language_model.")
    vision, tensors = moonvit(config.section("vision_config"), text.hidden, dtype_of(config))
    return replace(text, family=config.text("model_type"), vision=vision, tensors=(*text.tensors, *tensors))


def _text(config: Fields, prefix: str) -> ModelSpec:
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    layers, dtype = layer_count(config), dtype_of(config)
    linear = config.section("linear_attn_config")
    _refuse_other_layouts(config, linear)
    mla = Mla.read(config, hidden)
    kda = Kda.read(linear, hidden)
    full, delta = attention_layers(linear, layers)
    experts, top_k = expert_counts(config, "num_experts", "num_experts_per_token")
    expert_ffn, latent = config.integer("moe_intermediate_size"), config.integer("routed_expert_hidden_size")
    shared = config.integer("num_shared_experts", high=MAX_EXPERTS)
    first, step = config.integer("first_k_dense_replace", 0, low=0), config.integer("moe_layer_freq", 1)
    sparse = tuple(layer for layer in range(layers) if layer >= first and layer % step == 0)
    if not sparse:
        raise BadConfig(f"{config.name('first_k_dense_replace')} leaves no layer for the routed experts")
    dense = without(layers, sparse)
    dense_ffn = config.integer("intermediate_size") if dense else 0
    every, layer = tuple(range(layers)), f"{prefix}model.layers.{{layer}}."
    block, attention = f"{layer}block_sparse_moe.", f"{layer}self_attn."
    tied = config.flag("tie_word_embeddings", False)
    gate_shape = (mla.heads * mla.v_head, hidden)
    gate = TensorGroup(f"{attention}g_proj.weight", gate_shape, "attention_gate", "attention", dtype, full)
    tensors = [
        embedding(f"{prefix}model.embed_tokens.weight", vocab, hidden, dtype),
        *kda.tensors(attention, dtype, delta),
        *mla.tensors(attention, dtype, full),
        gate,
        *decoder_norms(layer, hidden, dtype, every),
        *_residual(f"{layer}self_attention_res", hidden, dtype, every),
        *_residual(f"{layer}mlp_res", hidden, dtype, every),
        *(swiglu(f"{layer}mlp.", hidden, dense_ffn, dtype, dense) if dense else ()),
        router(f"{block}gate.weight", experts, hidden, dtype, sparse),
        router_bias(f"{block}gate.e_score_correction_bias", experts, sparse),
        *_latent(block, hidden, latent, dtype, sparse),
        *swiglu(f"{block}shared_experts.", hidden, shared * expert_ffn, dtype, sparse, shared=True),
        *routed_experts(
            f"{block}experts.{{expert}}.", experts, latent, expert_ffn, dtype, sparse,
            ("w1.weight", "w3.weight", "w2.weight"),
        ),
        *_residual(f"{prefix}model.output_attn_res", hidden, dtype, ()),
        norm(f"{prefix}model.norm.weight", hidden, dtype),
    ]  # fmt: skip
    if not tied:
        tensors.append(lm_head(f"{prefix}lm_head.weight", vocab, hidden, dtype))
    return ModelSpec(
        id="",
        name="",
        family=config.text("model_type"),
        repository="",
        hidden=hidden,
        vocab=vocab,
        layers=layers,
        max_context=config.integer("max_position_embeddings"),
        heads=mla.heads,
        q_head_dim=mla.q_head,
        v_head_dim=mla.v_head,
        nope_dim=mla.nope,
        dense_ffn=dense_ffn,
        moe=Moe(experts, top_k, expert_ffn, shared, sparse),
        kv_groups=(mla.cache(full), kda.cache(delta)),
        tensors=tuple(tensors),
        native_quantization=dtype,
        tied_embeddings=tied,
    )


def _refuse_other_layouts(config: Fields, linear: Fields) -> None:
    """Kimi-Linear shares the name of the text model but not its layout; it is read when it stands alone."""
    parts = (
        ("linear_attn_config.use_full_rank_gate", linear.flag("use_full_rank_gate", False)),
        ("mla_use_output_gate", config.flag("mla_use_output_gate", False)),
        ("latent_moe_use_norm", config.flag("latent_moe_use_norm", False)),
        ("attn_res_block_size", config.has("attn_res_block_size")),
        ("routed_expert_hidden_size", config.has("routed_expert_hidden_size")),
    )
    missing = [name for name, present in parts if not present]
    if missing:
        raise UnknownFamily(f"KimiLinearForCausalLM without {', '.join(missing)} has no exact reader")
    if config.integer("num_nextn_predict_layers", 0, low=0):
        raise UnknownFamily("KimiLinearForCausalLM with num_nextn_predict_layers has no exact reader")


def _residual(name: str, hidden: int, dtype: str, layers: Layers) -> list[TensorGroup]:
    """The score vector of an attention residual and its norm."""
    return [
        TensorGroup(f"{name}_proj.weight", (1, hidden), "norm", "norms", dtype, layers),
        norm(f"{name}_norm.weight", hidden, dtype, layers),
    ]


def _latent(block: str, hidden: int, latent: int, dtype: str, layers: Layers) -> list[TensorGroup]:
    """Into the latent space of the routed experts and, normed, out of it."""
    down, up = f"{block}routed_expert_down_proj.weight", f"{block}routed_expert_up_proj.weight"
    return [
        TensorGroup(down, (latent, hidden), "latent_down", "shared_experts", dtype, layers),
        TensorGroup(up, (hidden, latent), "latent_up", "shared_experts", dtype, layers),
        norm(f"{block}routed_expert_norm.weight", latent, dtype, layers),
    ]
