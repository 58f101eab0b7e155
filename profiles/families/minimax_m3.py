"""MiniMax M3: grouped queries that from the fourth layer on attend to selected blocks, routed experts, a vision tower.

A layer with sparse attention caches beside its keys and values one key per token that selects blocks of tokens. Names,
shapes and dtypes follow the published headers of MiniMaxAI/MiniMax-M3 (59 shards, 23,416 tensors, 427,040,140,160
parameters, of which 46,339,200 in F32, 854,172,958,720 bytes; its index states 869,157,697,024) and -M3-MXFP8 (45,838
tensors). The multi-token-prediction modules that the configuration counts are in neither. Sources: those headers;
transformers 5.19 ``minimax_m3_vl``; vLLM 0.33.0 ``models/minimax_m3``.
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
    router_bias,
    swiglu,
    without,
)
from profiles.families.fields import MAX_EXPERTS, MAX_HEADS, BadConfig, Fields
from profiles.model import KvGroup, ModelSpec, Moe, Role, TensorGroup, Vision

_NO_VISION = "config.json describes no vision tower; the published checkpoint has one, which is not counted"
_NO_MTP = "config.json counts multi-token-prediction modules; the published checkpoints hold none, and none is counted"


def read(config: Fields) -> ModelSpec:
    """The text model alone, or under ``language_model.`` beside its vision tower."""
    if not config.has("text_config"):
        text = _text(config, "")
        return replace(text, notes=(*text.notes, _NO_VISION))
    text = replace(_text(config.section("text_config"), "language_model."), family=config.text("model_type"))
    vision, tensors = _vision(config, text.hidden, dtype_of(config))
    return replace(text, vision=vision, tensors=(*text.tensors, *tensors))


def _text(config: Fields, prefix: str) -> ModelSpec:
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    layers, dtype = layer_count(config), dtype_of(config)
    if config.flag("attention_output_gate", False):
        raise BadConfig(f"{config.name('attention_output_gate')} must be false")
    attention = GroupedQueries(config, hidden)
    experts, top_k = expert_counts(config, "num_local_experts", "num_experts_per_tok")
    expert_ffn, shared = config.integer("intermediate_size"), config.integer("n_shared_experts", 0, low=0)
    if shared > MAX_EXPERTS:
        raise BadConfig(f"{config.name('n_shared_experts')} must be at most {MAX_EXPERTS}")
    shared_ffn = shared * config.integer("shared_intermediate_size", expert_ffn)
    every, sparse = tuple(range(layers)), _marked(config, "moe_layer_freq", layers)
    dense = without(layers, sparse)
    dense_ffn = config.integer("dense_intermediate_size") if dense else 0
    selection = config.section("sparse_attention_config")
    selecting, index_width = _selecting(selection, layers), selection.integer("sparse_index_dim")
    layer = f"{prefix}model.layers.{{layer}}."
    block, own = f"{layer}block_sparse_moe.", f"{layer}self_attn."
    index_rows = selection.integer("sparse_num_index_heads", high=MAX_HEADS) * index_width
    index: tuple[tuple[str, int, Role], ...] = (("q", index_rows, "indexer_q"), ("k", index_width, "indexer_k"))
    tensors = [
        embedding(f"{prefix}model.embed_tokens.weight", vocab, hidden, dtype),
        *attention.tensors(own, dtype, every),
        *(attention.qk_norms(own, dtype, every) if config.flag("use_qk_norm", True) else ()),
        *(TensorGroup(f"{own}index_{part}_proj.weight", (rows, hidden), role, "attention", dtype, selecting)
          for part, rows, role in index),
        *(norm(f"{own}index_{part}_norm.weight", index_width, dtype, selecting) for part in "qk"),
        *decoder_norms(layer, hidden, dtype, every),
        *(swiglu(f"{layer}mlp.", hidden, dense_ffn, dtype, dense) if dense else ()),
        router(f"{block}gate.weight", experts, hidden, "f32", sparse),
        *([router_bias(f"{block}e_score_correction_bias", experts, sparse)]
          if config.flag("use_routing_bias", False) else ()),
        *(swiglu(f"{block}shared_experts.", hidden, shared_ffn, dtype, sparse, shared=True) if shared else ()),
        *routed_experts(
            f"{block}experts.{{expert}}.", experts, hidden, expert_ffn, dtype, sparse,
            ("w1.weight", "w3.weight", "w2.weight"),
        ),
        norm(f"{prefix}model.norm.weight", hidden, dtype),
    ]  # fmt: skip
    tied = config.flag("tie_word_embeddings", False)
    if not tied:
        tensors.append(lm_head(f"{prefix}lm_head.weight", vocab, hidden, dtype))
    return ModelSpec(
        id="",
        name="",
        family=config.text("model_type", ""),
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
        moe=Moe(experts, top_k, expert_ffn, shared, sparse),
        kv_groups=_caches(attention, without(layers, selecting), selecting, index_width),
        tensors=tuple(tensors),
        native_quantization=dtype,
        tied_embeddings=tied,
        notes=(_NO_MTP,) if config.integer("num_mtp_modules", 0, low=0) else (),
    )


def _caches(attention: GroupedQueries, full: Layers, selecting: Layers, index_width: int) -> tuple[KvGroup, ...]:
    """Keys and values, and in selecting layers a bf16 key that all index heads share."""
    groups = (
        attention.cache(full),
        attention.cache(selecting)._replace(index_key_bytes=2 * index_width),
    )
    return tuple(group for group in groups if group.layers)


def _marked(config: Fields, key: str, layers: int) -> Layers:
    """Layers that a list of zeros and ones marks; at least one."""
    marks = config.integers(key, high=1, length=layers)
    marked = tuple(layer for layer, mark in enumerate(marks) if mark)
    if not marked:
        raise BadConfig(f"{config.name(key)} marks no layer")
    return marked


def _selecting(config: Fields, layers: int) -> Layers:
    """Layers with sparse attention, whose index has keys but, in every one of them, no values."""
    if not config.flag("use_sparse_attention", True):
        raise BadConfig(f"{config.name('use_sparse_attention')} must be true")
    selecting = _marked(config, "sparse_attention_freq", layers)
    if config.has("sparse_disable_index_value"):
        without_values = _marked(config, "sparse_disable_index_value", layers)
        if not set(selecting) <= set(without_values):
            raise BadConfig(f"{config.name('sparse_disable_index_value')} must be 1 in every layer that selects")
    return selecting


def _vision(config: Fields, text_hidden: int, dtype: str) -> tuple[Vision, list[TensorGroup]]:
    """The tower, the projector behind it and the network that merges neighbouring patches; patches are cut in F32."""
    tower = config.section("vision_config")
    hidden, ffn = tower.integer("hidden_size"), tower.integer("intermediate_size")
    patch = tower.integer("patch_size", high=1024)
    compression = tower.section("img_token_compression_config")
    merge = compression.integer("spatial_merge_size", high=64)
    frames = compression.integer("temporal_patch_size", high=64)
    projected = config.integer("projector_hidden_size", text_hidden)
    vision = Vision(
        layers=layer_count(tower),
        hidden=hidden,
        heads=tower.integer("num_attention_heads", high=MAX_HEADS),
        ffn=ffn,
        patch=patch,
        merge=merge,
    )
    root, blocks = "vision_tower.vision_model.", vision.layers
    block = f"{root}encoder.layers.{{block}}."

    def part(name: str, shape: tuple[int, ...], role: Role = "vision_other", count: int = 1) -> TensorGroup:
        return TensorGroup(name, shape, role, "vision", dtype, per_layer=count)

    def both(name: str, count: int = 1) -> list[TensorGroup]:
        return [part(f"{name}.{kind}", (hidden,), count=count) for kind in ("weight", "bias")]

    def linear(name: str, out: int, width: int, role: Role, count: int = 1) -> list[TensorGroup]:
        bias_role: Role = "vision_other" if role == "vision_row" else role
        return [part(f"{name}.weight", (out, width), role, count), part(f"{name}.bias", (out,), bias_role, count)]

    cut = (hidden, tower.integer("num_channels", 3, high=64), frames, patch, patch)
    tensors = [
        part(f"{root}embeddings.patch_embedding.weight", cut)._replace(format="f32"),
        *both(f"{root}pre_layrnorm"),
        *both(f"{block}layer_norm1", blocks),
        *both(f"{block}layer_norm2", blocks),
        *linear(f"{block}mlp.fc1", ffn, hidden, "vision_column", blocks),
        *linear(f"{block}mlp.fc2", hidden, ffn, "vision_row", blocks),
        *linear(f"{block}self_attn.out_proj", hidden, hidden, "vision_row", blocks),
        *linear("multi_modal_projector.linear_1", projected, hidden, "projector"),
        *linear("multi_modal_projector.linear_2", text_hidden, projected, "projector"),
        *linear("patch_merge_mlp.linear_1", projected, text_hidden * merge**2, "projector"),
        *linear("patch_merge_mlp.linear_2", text_hidden, projected, "projector"),
    ]
    for name in "qkv":
        tensors += linear(f"{block}self_attn.{name}_proj", hidden, hidden, "vision_column", blocks)
    return vision, tensors
