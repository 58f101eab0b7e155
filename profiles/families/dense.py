"""Dense decoders with grouped-query attention and SwiGLU: Llama and Qwen3, which adds norms of queries and
keys.

Sources: published checkpoints; transformers 5.23 ``llama`` and ``qwen3``.
"""

from __future__ import annotations

from profiles.families.blocks import (
    GroupedQueries,
    decoder_norms,
    dtype_of,
    embedding,
    layer_count,
    lm_head,
    norm,
    swiglu,
)
from profiles.families.fields import MAX_LAYERS, Fields
from profiles.model import ModelSpec, TensorGroup


def read(config: Fields) -> ModelSpec:
    """The tensors and geometry of a dense decoder."""
    family = config.text("model_type")
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    ffn, layers, dtype = config.integer("intermediate_size"), layer_count(config), dtype_of(config)
    attention = GroupedQueries(config, hidden)
    tied = config.flag("tie_word_embeddings", False)
    every, layer = tuple(range(layers)), "model.layers.{layer}."
    tensors = [embedding("model.embed_tokens.weight", vocab, hidden, dtype)]
    tensors += attention.tensors(f"{layer}self_attn.", dtype, every, bias=config.flag("attention_bias", False))
    if family == "qwen3":
        tensors += attention.qk_norms(f"{layer}self_attn.", dtype, every)
    tensors += decoder_norms(layer, hidden, dtype, every)
    tensors += swiglu(f"{layer}mlp.", hidden, ffn, dtype, every)
    if config.flag("mlp_bias", False):
        widths = {"gate": ffn, "up": ffn, "down": hidden}
        tensors += [
            TensorGroup(f"{layer}mlp.{part}_proj.bias", (width,), "ffn_bias", "dense_ffn", dtype, every)
            for part, width in widths.items()
        ]
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
        dense_ffn=ffn,
        moe=None,
        kv_groups=attention.caches(windows(config, layers)),
        tensors=tuple(tensors),
        native_quantization=dtype,
        tied_embeddings=tied,
    )


def windows(config: Fields, layers: int) -> list[int | None]:
    """The sliding window of each layer, None where the whole context is cached.

    ``layer_types`` says it per layer; without it Qwen's ``use_sliding_window`` gives one to the layers from
    ``max_window_layers`` on.
    """
    if not config.has("sliding_window") or not config.flag("use_sliding_window", True):
        return [None] * layers
    window = config.integer("sliding_window")
    if config.has("layer_types"):
        kinds = config.texts("layer_types", ("full_attention", "sliding_attention"), layers)
        return [window if kind == "sliding_attention" else None for kind in kinds]
    first = config.integer("max_window_layers", 0, low=0, high=MAX_LAYERS)
    return [window if layer >= first else None for layer in range(layers)]
