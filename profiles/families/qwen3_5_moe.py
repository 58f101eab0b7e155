"""Qwen3.5 MoE: gated delta net in three of four layers, gated attention in the fourth, routed and shared
experts.

The checkpoint fuses the decoder's experts into one tensor a layer (the multi-token-prediction layer's are
apart); here each expert's gate, up and down are listed, which takes the same bytes. ``A_log`` and the norm
inside the delta net are F32. Sources: Qwen/Qwen3.5-397B-A17B, whose 94 headers hold 403,397,928,944
parameters in 806,795,875,168 bytes (text 396,346,350,336, vision 456,010,480, prediction layer
6,595,568,128); transformers 5.23 ``qwen3_5_moe``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from profiles.families.blocks import (
    GroupedQueries,
    Layers,
    as_mtp,
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
)
from profiles.families.fields import MAX_HEADS, MAX_LAYERS, BadConfig, Fields, divisible
from profiles.model import KvGroup, ModelSpec, Moe, Role, TensorGroup, Vision


class _DeltaNet(NamedTuple):
    """Geometry of the gated delta net."""

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    state_element_bytes: int

    @classmethod
    def read(cls, config: Fields, hidden: int) -> _DeltaNet:
        state = config.choice("mamba_ssm_dtype", ("float32", "bfloat16", "float16"), "float32")
        geometry = cls(
            hidden,
            config.integer("linear_num_key_heads", high=MAX_HEADS),
            config.integer("linear_num_value_heads", high=MAX_HEADS),
            config.integer("linear_key_head_dim"),
            config.integer("linear_value_head_dim"),
            config.integer("linear_conv_kernel_dim", high=1024),
            4 if state == "float32" else 2,
        )
        divisible(config, "linear_num_value_heads", geometry.value_heads, geometry.key_heads, "linear_num_key_heads")
        return geometry

    @property
    def channels(self) -> int:
        """Width of queries, keys and values together, which the convolution mixes over time."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def tensors(self, prefix: str, dtype: str, layers: Layers) -> list[TensorGroup]:
        """Projections, convolution, state vectors and norm."""
        values = self.value_heads * self.value_dim
        parts: tuple[tuple[str, tuple[int, ...], Role, str], ...] = (
            ("in_proj_qkv.weight", (self.channels, self.hidden), "linear_in", dtype),
            ("in_proj_z.weight", (values, self.hidden), "linear_in", dtype),
            ("in_proj_a.weight", (self.value_heads, self.hidden), "linear_in", dtype),
            ("in_proj_b.weight", (self.value_heads, self.hidden), "linear_in", dtype),
            ("conv1d.weight", (self.channels, 1, self.kernel), "linear_conv", dtype),
            ("A_log", (self.value_heads,), "linear_state", "f32"),
            ("dt_bias", (self.value_heads,), "linear_state", dtype),
            ("out_proj.weight", (self.hidden, values), "linear_out", dtype),
        )
        groups = [
            TensorGroup(f"{prefix}{name}", shape, role, "attention", kind, layers) for name, shape, role, kind in parts
        ]
        return [*groups, norm(f"{prefix}norm.weight", self.value_dim, "f32", layers)]

    def cache(self, layers: Layers) -> KvGroup:
        """A state per value head, and the convolution's last inputs in the model's 2-byte type."""
        state = self.value_heads * self.value_dim * self.key_dim * self.state_element_bytes
        return KvGroup("linear", layers, state_bytes=state + self.channels * (self.kernel - 1) * 2)


class _Experts(NamedTuple):
    total: int
    top_k: int
    ffn: int
    shared_ffn: int

    def tensors(self, prefix: str, hidden: int, dtype: str, layers: Layers, *, fused: bool) -> list[TensorGroup]:
        """Router, shared expert with its gate, and routed experts."""
        expert = f"{prefix}experts." if fused else f"{prefix}experts.{{expert}}."
        names = (
            ("gate_up_proj", "gate_up_proj", "down_proj")
            if fused
            else ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
        )
        gate = f"{prefix}shared_expert_gate.weight"
        return [
            router(f"{prefix}gate.weight", self.total, hidden, dtype, layers),
            TensorGroup(gate, (1, hidden), "shared_router", "shared_experts", dtype, layers),
            *swiglu(f"{prefix}shared_expert.", hidden, self.shared_ffn, dtype, layers, shared=True),
            *routed_experts(expert, self.total, hidden, self.ffn, dtype, layers, names),
        ]


def read(config: Fields) -> ModelSpec:
    """The text model under ``model.language_model.``, the prediction layer and the vision tower."""
    text = _text(config.section("text_config"))
    tied = config.flag("tie_word_embeddings", False)
    head = () if tied else (lm_head("lm_head.weight", text.vocab, text.hidden, text.native_quantization),)
    vision, tensors = _vision(config.section("vision_config"), text.hidden, text.native_quantization)
    return replace(
        text,
        family=config.text("model_type"),
        tensors=(*text.tensors, *head, *tensors),
        vision=vision,
        tied_embeddings=tied,
    )


def _text(config: Fields) -> ModelSpec:
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    layers, dtype = layer_count(config), dtype_of(config)
    attention, delta = GroupedQueries(config, hidden), _DeltaNet.read(config, hidden)
    experts = _Experts(
        *expert_counts(config, "num_experts", "num_experts_per_tok"),
        config.integer("moe_intermediate_size"),
        config.integer("shared_expert_intermediate_size"),
    )
    if config.raw("mlp_only_layers"):
        raise BadConfig(f"{config.name('mlp_only_layers')} must be empty")
    mtp_layers = config.integer("mtp_num_hidden_layers", 0, low=0, high=64)
    if mtp_layers and config.flag("mtp_use_dedicated_embeddings", False):
        raise BadConfig(f"{config.name('mtp_use_dedicated_embeddings')} must be false")
    full, linear = _attention_layers(config, layers)
    every, layer = tuple(range(layers)), "model.language_model.layers.{layer}."
    bias = config.flag("attention_bias", False)
    after = tuple(range(layers, layers + mtp_layers))
    tensors = [
        embedding("model.language_model.embed_tokens.weight", vocab, hidden, dtype),
        *delta.tensors(f"{layer}linear_attn.", dtype, linear),
        *attention.tensors(f"{layer}self_attn.", dtype, full, bias=bias, gated=True),
        *attention.qk_norms(f"{layer}self_attn.", dtype, full),
        *decoder_norms(layer, hidden, dtype, every),
        *experts.tensors(f"{layer}mlp.", hidden, dtype, every, fused=True),
        norm("model.language_model.norm.weight", hidden, dtype),
        *(_mtp(after, attention, experts, hidden, dtype, bias) if mtp_layers else ()),
    ]
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
        moe=Moe(experts.total, experts.top_k, experts.ffn, 1, every),
        kv_groups=(attention.cache(full), delta.cache(linear)),
        tensors=tuple(tensors),
        native_quantization=dtype,
        mtp_layers=mtp_layers,
    )


def _attention_layers(config: Fields, layers: int) -> tuple[Layers, Layers]:
    """Layers with full and with linear attention."""
    if config.has("layer_types"):
        kinds = config.texts("layer_types", ("full_attention", "linear_attention"), layers)
    else:
        every = config.integer("full_attention_interval", 4, high=MAX_LAYERS)
        kinds = tuple("linear_attention" if (layer + 1) % every else "full_attention" for layer in range(layers))
    full = tuple(layer for layer, kind in enumerate(kinds) if kind == "full_attention")
    if not full or len(full) == layers:
        raise BadConfig(f"{config.name('layer_types')} must have both full_attention and linear_attention layers")
    return full, tuple(layer for layer, kind in enumerate(kinds) if kind != "full_attention")


def _mtp(
    layers: Layers, attention: GroupedQueries, experts: _Experts, hidden: int, dtype: str, bias: bool
) -> list[TensorGroup]:
    """Layers with full attention that predict the token after next, with the model's embedding and head."""
    layer = "mtp.layers.{mtp_layer}."
    first = layers[:1]
    return as_mtp(
        [
            TensorGroup("mtp.fc.weight", (hidden, 2 * hidden), "mtp_projection", "mtp", dtype, first),
            norm("mtp.pre_fc_norm_embedding.weight", hidden, dtype, first),
            norm("mtp.pre_fc_norm_hidden.weight", hidden, dtype, first),
            norm("mtp.norm.weight", hidden, dtype, first),
            *attention.tensors(f"{layer}self_attn.", dtype, layers, bias=bias, gated=True),
            *attention.qk_norms(f"{layer}self_attn.", dtype, layers),
            *decoder_norms(layer, hidden, dtype, layers),
            *experts.tensors(f"{layer}mlp.", hidden, dtype, layers, fused=False),
        ]
    )


def _vision(config: Fields, text_hidden: int, dtype: str) -> tuple[Vision, list[TensorGroup]]:
    hidden, ffn = config.integer("hidden_size"), config.integer("intermediate_size")
    patch, merge = config.integer("patch_size", high=1024), config.integer("spatial_merge_size", high=64)
    vision = Vision(
        layers=config.integer("depth", high=MAX_LAYERS),
        hidden=hidden,
        heads=config.integer("num_heads", high=MAX_HEADS),
        ffn=ffn,
        patch=patch,
        merge=merge,
    )
    if config.raw("deepstack_visual_indexes"):
        raise BadConfig(f"{config.name('deepstack_visual_indexes')} must be empty")
    if config.integer("out_hidden_size") != text_hidden:
        raise BadConfig(f"{config.name('out_hidden_size')} must equal the text model's hidden_size {text_hidden}")
    kernel = (
        config.integer("in_channels", 3, high=64),
        config.integer("temporal_patch_size", high=64),
        patch,
        patch,
    )
    merged, blocks, block = hidden * merge**2, vision.layers, "model.visual.blocks.{block}."

    def part(name: str, shape: tuple[int, ...], role: Role = "vision_other", count: int = 1) -> TensorGroup:
        return TensorGroup(name, shape, role, "vision", dtype, per_layer=count)

    def linear(name: str, out: int, width: int, role: Role, count: int = 1) -> list[TensorGroup]:
        bias_role: Role = "vision_other" if role == "vision_row" else role
        return [
            part(f"{name}.weight", (out, width), role, count),
            part(f"{name}.bias", (out,), bias_role, count),
        ]

    def both(name: str, width: int, count: int = 1) -> list[TensorGroup]:
        return [part(f"{name}.{kind}", (width,), count=count) for kind in ("weight", "bias")]

    return vision, [
        part("model.visual.patch_embed.proj.weight", (hidden, *kernel)),
        part("model.visual.patch_embed.proj.bias", (hidden,)),
        part("model.visual.pos_embed.weight", (config.integer("num_position_embeddings"), hidden)),
        *both(f"{block}norm1", hidden, blocks),
        *both(f"{block}norm2", hidden, blocks),
        *linear(f"{block}attn.qkv", 3 * hidden, hidden, "vision_column", blocks),
        *linear(f"{block}attn.proj", hidden, hidden, "vision_row", blocks),
        *linear(f"{block}mlp.linear_fc1", ffn, hidden, "vision_column", blocks),
        *linear(f"{block}mlp.linear_fc2", hidden, ffn, "vision_row", blocks),
        *both("model.visual.merger.norm", hidden),
        *linear("model.visual.merger.linear_fc1", merged, merged, "projector"),
        *linear("model.visual.merger.linear_fc2", text_hidden, merged, "projector"),
    ]
