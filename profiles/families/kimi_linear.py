"""Kimi-Linear: Kimi delta attention in three of four layers, latent attention without positions in the others.

Names, shapes and dtypes follow the published headers of moonshotai/Kimi-Linear-48B-A3B-Instruct (revision e1df551:
20,493 tensors, 49,122,681,728 parameters, 98,245,528,576 bytes): all bf16, the score correction of the router too, but
for ``A_log`` and ``dt_bias``, which are F32. Sources: those headers; transformers 5.19 ``kimi_linear``.
"""

from __future__ import annotations

from profiles.families.blocks import (
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
from profiles.model import ModelSpec, Moe


def read(config: Fields) -> ModelSpec:
    """The tensors and geometry of the model."""
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    layers, dtype = layer_count(config), dtype_of(config)
    linear = config.section("linear_attn_config")
    _refuse_parts_of_k3(config, linear)
    mla, kda = Mla.read(config, hidden), Kda.read(linear, hidden)
    full, delta = attention_layers(linear, layers)
    experts, top_k = expert_counts(config, "num_experts", "num_experts_per_token")
    expert_ffn, shared = config.integer("moe_intermediate_size"), config.integer("num_shared_experts", 0, low=0)
    first, step = config.integer("first_k_dense_replace", 0, low=0), config.integer("moe_layer_freq", 1)
    sparse = tuple(layer for layer in range(layers) if layer >= first and layer % step == 0)
    if not sparse:
        raise BadConfig(f"{config.name('first_k_dense_replace')} leaves no layer for the routed experts")
    if shared > MAX_EXPERTS:
        raise BadConfig(f"{config.name('num_shared_experts')} must be at most {MAX_EXPERTS}")
    dense = without(layers, sparse)
    dense_ffn = config.integer("intermediate_size") if dense else 0
    tied = config.flag("tie_word_embeddings", False)
    every, layer = tuple(range(layers)), "model.layers.{layer}."
    block, attention = f"{layer}block_sparse_moe.", f"{layer}self_attn."
    tensors = [
        embedding("model.embed_tokens.weight", vocab, hidden, dtype),
        *kda.tensors(attention, dtype, delta),
        *mla.tensors(attention, dtype, full),
        *decoder_norms(layer, hidden, dtype, every),
        *(swiglu(f"{layer}mlp.", hidden, dense_ffn, dtype, dense) if dense else ()),
        router(f"{block}gate.weight", experts, hidden, dtype, sparse),
        router_bias(f"{block}gate.e_score_correction_bias", experts, sparse, dtype),
        *(swiglu(f"{block}shared_experts.", hidden, shared * expert_ffn, dtype, sparse, shared=True) if shared else ()),
        *routed_experts(
            f"{block}experts.{{expert}}.", experts, hidden, expert_ffn, dtype, sparse,
            ("w1.weight", "w3.weight", "w2.weight"),
        ),
        norm("model.norm.weight", hidden, dtype),
    ]  # fmt: skip
    if not tied:
        tensors.append(lm_head("lm_head.weight", vocab, hidden, dtype))
    context = "max_position_embeddings" if config.has("max_position_embeddings") else "model_max_length"
    return ModelSpec(
        id="",
        name="",
        family=config.text("model_type"),
        repository="",
        hidden=hidden,
        vocab=vocab,
        layers=layers,
        max_context=config.integer(context),
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


def _refuse_parts_of_k3(config: Fields, linear: Fields) -> None:
    """The text model of Kimi K3 goes by the same name; alone it has never been published."""
    parts = (
        ("linear_attn_config.use_full_rank_gate", linear.flag("use_full_rank_gate", False)),
        ("mla_use_output_gate", config.flag("mla_use_output_gate", False)),
        ("attn_res_block_size", config.has("attn_res_block_size")),
        ("routed_expert_hidden_size", config.has("routed_expert_hidden_size")),
        ("num_nextn_predict_layers", config.integer("num_nextn_predict_layers", 0, low=0) > 0),
    )
    if found := [name for name, present in parts if present]:
        raise UnknownFamily(f"KimiLinearForCausalLM with {', '.join(found)} has no exact reader outside kimi_k3")
