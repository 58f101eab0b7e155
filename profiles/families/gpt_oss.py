"""gpt-oss: attention with learned sinks, full and windowed in turn; experts in MXFP4; biases everywhere.

The checkpoint fuses gate and up of all experts of a layer into one tensor; here each expert's gate and up are
listed apart, which takes the same bytes. Sources: openai/gpt-oss-120b and -20b checkpoints (116,829,156,672
and 20,914,757,184 parameters); transformers 5.23 ``gpt_oss``.
"""

from __future__ import annotations

from profiles.families.blocks import (
    GroupedQueries,
    decoder_norms,
    dtype_of,
    embedding,
    expert_counts,
    layer_count,
    lm_head,
    norm,
    routed_experts,
    router,
)
from profiles.families.dense import windows
from profiles.families.fields import Fields
from profiles.model import ModelSpec, Moe, TensorGroup


def read(config: Fields) -> ModelSpec:
    """The tensors and geometry of a gpt-oss model."""
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    ffn, layers, dtype = config.integer("intermediate_size"), layer_count(config), dtype_of(config)
    attention = GroupedQueries(config, hidden)
    experts, top_k = expert_counts(config, "num_local_experts", "num_experts_per_tok")
    tied = config.flag("tie_word_embeddings", False)
    every, layer = tuple(range(layers)), "model.layers.{layer}."
    mlp = f"{layer}mlp.experts."
    tensors = [
        embedding("model.embed_tokens.weight", vocab, hidden, dtype),
        *attention.tensors(f"{layer}self_attn.", dtype, every, bias=config.flag("attention_bias", True)),
        TensorGroup(f"{layer}self_attn.sinks", (attention.heads,), "attention_sink", "attention", dtype, every),
        *decoder_norms(layer, hidden, dtype, every),
        router(f"{layer}mlp.router.weight", experts, hidden, dtype, every),
        TensorGroup(f"{layer}mlp.router.bias", (experts,), "router_bias", "router", dtype, every),
        *routed_experts(mlp, experts, hidden, ffn, dtype, every, ("gate_up_proj", "gate_up_proj", "down_proj")),
        TensorGroup(f"{mlp}gate_up_proj_bias", (2 * ffn,), "expert_bias", "routed_experts", dtype, every, experts),
        TensorGroup(f"{mlp}down_proj_bias", (hidden,), "expert_bias", "routed_experts", dtype, every, experts),
        norm("model.norm.weight", hidden, dtype),
    ]
    if not tied:
        tensors.append(lm_head("lm_head.weight", vocab, hidden, dtype))
    return ModelSpec(
        id="",
        name="",
        family=config.text("model_type"),
        repository="",
        hidden=hidden,
        vocab=vocab,
        layers=layers,
        max_context=config.integer("max_position_embeddings"),
        heads=attention.heads,
        q_head_dim=attention.head_dim,
        v_head_dim=attention.head_dim,
        nope_dim=0,
        dense_ffn=0,
        moe=Moe(experts, top_k, ffn, 0, every),
        kv_groups=attention.caches(windows(config, layers)),
        tensors=tuple(tensors),
        native_quantization=dtype,
        tied_embeddings=tied,
    )
