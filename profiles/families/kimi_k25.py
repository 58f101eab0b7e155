"""Kimi K2.5, K2.6 and K2.7: the DeepSeek architecture with a MoonViT vision tower.

Names and shapes follow the published checkpoint, whose 1,026,879,376,368 parameters and 595,148,192,736 bytes (INT4
release) this list gives exactly. Sources: moonshotai/Kimi-K2.5 ``config.json`` and safetensors index; transformers
5.23 ``kimi_k25``.
"""

from __future__ import annotations

from dataclasses import replace

from profiles.families.blocks import dtype_of
from profiles.families.deepseek import read_text
from profiles.families.fields import MAX_HEADS, MAX_LAYERS, BadConfig, Fields, divisible
from profiles.model import ModelSpec, Role, TensorGroup, Vision


def read(config: Fields) -> ModelSpec:
    """The text model under ``language_model.``, the vision tower and the projector between them."""
    text = read_text(config.section("text_config"), "language_model.")
    vision, tensors = _moonvit(config.section("vision_config"), text.hidden, dtype_of(config))
    return replace(text, family=config.text("model_type"), vision=vision, tensors=(*text.tensors, *tensors))


def _moonvit(config: Fields, text_hidden: int, dtype: str) -> tuple[Vision, list[TensorGroup]]:
    hidden, ffn = config.integer("vt_hidden_size"), config.integer("vt_intermediate_size")
    vision = Vision(
        layers=config.integer("vt_num_hidden_layers", high=MAX_LAYERS),
        hidden=hidden,
        heads=config.integer("vt_num_attention_heads", high=MAX_HEADS),
        ffn=ffn,
        patch=config.integer("patch_size", high=1024),
        merge=_square(config, "merge_kernel_size"),
    )
    divisible(config, "vt_hidden_size", hidden, vision.heads, "vt_num_attention_heads")
    config.choice("mm_projector_type", ("patchmerger",), "patchmerger")
    if config.integer("mm_hidden_size", hidden) != hidden:
        raise BadConfig(f"{config.name('mm_hidden_size')} must equal vt_hidden_size {hidden}")
    grid = (config.integer("init_pos_emb_height", high=4096), config.integer("init_pos_emb_width", high=4096))
    merged = hidden * vision.merge**2

    def part(name: str, shape: tuple[int, ...], role: Role = "vision_other", count: int = 1) -> TensorGroup:
        return TensorGroup(name, shape, role, "vision", dtype, per_layer=count)

    def both(name: str, width: int, count: int = 1) -> list[TensorGroup]:
        return [part(f"{name}.{kind}", (width,), count=count) for kind in ("weight", "bias")]

    block, blocks = "vision_tower.encoder.blocks.{block}.", vision.layers
    return vision, [
        part("vision_tower.patch_embed.proj.weight", (hidden, 3, vision.patch, vision.patch)),
        part("vision_tower.patch_embed.proj.bias", (hidden,)),
        part("vision_tower.patch_embed.pos_emb.weight", (*grid, hidden)),
        *both(f"{block}norm0", hidden, blocks),
        *both(f"{block}norm1", hidden, blocks),
        part(f"{block}wqkv.weight", (3 * hidden, hidden), "vision_column", blocks),
        part(f"{block}wqkv.bias", (3 * hidden,), "vision_column", blocks),
        part(f"{block}wo.weight", (hidden, hidden), "vision_row", blocks),
        part(f"{block}wo.bias", (hidden,), count=blocks),
        part(f"{block}mlp.fc0.weight", (ffn, hidden), "vision_column", blocks),
        part(f"{block}mlp.fc0.bias", (ffn,), "vision_column", blocks),
        part(f"{block}mlp.fc1.weight", (hidden, ffn), "vision_row", blocks),
        part(f"{block}mlp.fc1.bias", (hidden,), count=blocks),
        *both("vision_tower.encoder.final_layernorm", hidden),
        *both("mm_projector.pre_norm", hidden),
        part("mm_projector.proj.0.weight", (merged, merged), "projector"),
        part("mm_projector.proj.0.bias", (merged,), "projector"),
        part("mm_projector.proj.2.weight", (text_hidden, merged), "projector"),
        part("mm_projector.proj.2.bias", (text_hidden,), "projector"),
    ]


def _square(config: Fields, key: str) -> int:
    height, width = config.integers(key, low=1, high=64, length=2)
    if height != width:
        raise BadConfig(f"{config.name(key)} must have two equal sides, not {height} and {width}")
    return height
