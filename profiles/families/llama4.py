"""Llama 4: routed experts in every n-th layer beside one shared expert, chunked attention, a vision tower.

The checkpoint fuses gate and up of all experts of a layer into one tensor, stored (in, out); here each
expert's matrices are listed apart and as (out, in), which takes the same bytes. Three of four layers use rope
and attend only within a chunk, which caps what they cache; the others attend to everything. Sources:
transformers 5.23 ``llama4``; meta-llama/Llama-4-Maverick-17B-128E-Instruct, 401,583,781,376 parameters with
its vision tower.
"""

from __future__ import annotations

from dataclasses import replace

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
    swiglu,
    without,
)
from profiles.families.fields import MAX_HEADS, MAX_LAYERS, BadConfig, Fields
from profiles.model import ModelSpec, Moe, Role, TensorGroup, Vision

_NO_VISION = "config.json describes no vision tower; the published checkpoint has one, which is not counted"


def read(config: Fields) -> ModelSpec:
    """The text model, and the vision tower where the configuration describes it."""
    if not config.has("text_config"):
        return _text(config, "")
    text = replace(_text(config.section("text_config"), "language_model."), family=config.text("model_type"))
    if not config.has("vision_config"):
        return replace(text, notes=(_NO_VISION,))
    vision, tensors = _vision(config.section("vision_config"), text.hidden, dtype_of(config))
    return replace(text, vision=vision, tensors=(*text.tensors, *tensors))


def _text(config: Fields, prefix: str) -> ModelSpec:
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    layers, dtype = layer_count(config), dtype_of(config)
    attention = GroupedQueries(config, hidden)
    experts, top_k = expert_counts(config, "num_local_experts", "num_experts_per_tok")
    expert_ffn = config.integer("intermediate_size")
    every, sparse = tuple(range(layers)), _sparse_layers(config, layers)
    dense = without(layers, sparse)
    dense_ffn = config.integer("intermediate_size_mlp") if dense else 0
    tied = config.flag("tie_word_embeddings", False)
    layer = f"{prefix}model.layers.{{layer}}."
    ffn = f"{layer}feed_forward."
    tensors = [
        embedding(f"{prefix}model.embed_tokens.weight", vocab, hidden, dtype),
        *attention.tensors(f"{layer}self_attn.", dtype, every, bias=config.flag("attention_bias", False)),
        *decoder_norms(layer, hidden, dtype, every),
        *(swiglu(ffn, hidden, dense_ffn, dtype, dense) if dense else ()),
        router(f"{ffn}router.weight", experts, hidden, dtype, sparse),
        *swiglu(f"{ffn}shared_expert.", hidden, expert_ffn, dtype, sparse, shared=True),
        *routed_experts(
            f"{ffn}experts.",
            experts,
            hidden,
            expert_ffn,
            dtype,
            sparse,
            ("gate_up_proj", "gate_up_proj", "down_proj"),
        ),
        norm(f"{prefix}model.norm.weight", hidden, dtype),
    ]
    if not tied:
        tensors.append(lm_head(f"{prefix}lm_head.weight", vocab, hidden, dtype))
    chunk = config.integer("attention_chunk_size", 8192)
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
        dense_ffn=dense_ffn,
        moe=Moe(experts, top_k, expert_ffn, 1, sparse),
        kv_groups=attention.caches(chunk if uses_rope else None for uses_rope in _rope_layers(config, layers)),
        tensors=tuple(tensors),
        native_quantization=dtype,
        tied_embeddings=tied,
    )


def _sparse_layers(config: Fields, layers: int) -> Layers:
    if config.has("moe_layers"):
        listed = config.integers("moe_layers", high=layers - 1)
        if not listed or len(set(listed)) != len(listed):
            raise BadConfig(f"{config.name('moe_layers')} must list at least one layer, each once")
        return tuple(sorted(listed))
    step = config.integer("interleave_moe_layer_step", 1, high=MAX_LAYERS)
    sparse = tuple(range(step - 1, layers, step))
    if not sparse:
        raise BadConfig(f"{config.name('interleave_moe_layer_step')} {step} leaves no layer for the routed experts")
    return sparse


def _rope_layers(config: Fields, layers: int) -> list[bool]:
    """Which layers have rope: ``no_rope_layers`` holds 1 for them, or every fourth has none."""
    if config.raw("no_rope_layers"):
        return [bool(value) for value in config.integers("no_rope_layers", high=1, length=layers)]
    interval = config.integer("no_rope_layer_interval", 4, high=MAX_LAYERS)
    return [(layer + 1) % interval != 0 for layer in range(layers)]


def _vision(config: Fields, text_hidden: int, dtype: str) -> tuple[Vision, list[TensorGroup]]:
    hidden, ffn = config.integer("hidden_size"), config.integer("intermediate_size")
    patch, image = config.integer("patch_size", high=1024), config.integer("image_size", high=1 << 16)
    if config.raw("pixel_shuffle_ratio") not in (None, 0.5):
        raise BadConfig(f"{config.name('pixel_shuffle_ratio')} must be 0.5")
    joined, out = config.integer("projector_input_dim"), config.integer("projector_output_dim")
    vision = Vision(
        layers=layer_count(config),
        hidden=hidden,
        heads=config.integer("num_attention_heads", high=MAX_HEADS),
        ffn=ffn,
        patch=patch,
        merge=2,
    )
    blocks, block = vision.layers, "vision_model.model.layers.{block}."

    def part(name: str, shape: tuple[int, ...], role: Role = "vision_other", count: int = 1) -> TensorGroup:
        return TensorGroup(name, shape, role, "vision", dtype, per_layer=count)

    def both(name: str, width: int, count: int = 1) -> list[TensorGroup]:
        return [part(f"{name}.{kind}", (width,), count=count) for kind in ("weight", "bias")]

    tensors = [
        part(
            "vision_model.patch_embedding.linear.weight",
            (hidden, config.integer("num_channels", 3) * patch**2),
        ),
        part("vision_model.class_embedding", (hidden,)),
        part("vision_model.positional_embedding_vlm", ((image // patch) ** 2 + 1, hidden)),
        *both("vision_model.layernorm_pre", hidden),
        *both("vision_model.layernorm_post", hidden),
        *both(f"{block}input_layernorm", hidden, blocks),
        *both(f"{block}post_attention_layernorm", hidden, blocks),
    ]
    for name in ("q", "k", "v"):
        tensors.append(part(f"{block}self_attn.{name}_proj.weight", (hidden, hidden), "vision_column", blocks))
        tensors.append(part(f"{block}self_attn.{name}_proj.bias", (hidden,), "vision_column", blocks))
    return vision, [
        *tensors,
        part(f"{block}self_attn.o_proj.weight", (hidden, hidden), "vision_row", blocks),
        part(f"{block}self_attn.o_proj.bias", (hidden,), count=blocks),
        part(f"{block}mlp.fc1.weight", (ffn, hidden), "vision_column", blocks),
        part(f"{block}mlp.fc1.bias", (ffn,), "vision_column", blocks),
        part(f"{block}mlp.fc2.weight", (hidden, ffn), "vision_row", blocks),
        part(f"{block}mlp.fc2.bias", (hidden,), count=blocks),
        part("vision_model.vision_adapter.mlp.fc1.weight", (joined, ffn), "projector"),
        part("vision_model.vision_adapter.mlp.fc2.weight", (out, out), "projector"),
        part(
            "multi_modal_projector.linear_1.weight",
            (text_hidden, config.integer("vision_output_dim")),
            "projector",
        ),
    ]
