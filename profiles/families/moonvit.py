"""MoonViT, the vision tower of Kimi K2.5 and K3, and the projector that joins it to the text model.

K3 drops all biases, norms by RMS, widens the attention and moves the projector's norm behind its matrices.
Sources: moonshotai/Kimi-K2.5 and Kimi-K3 checkpoints; vLLM 0.33.0 ``kimi_k25_vit.py``; transformers 5.23
``kimi_k25``.
"""

from __future__ import annotations

from profiles.families.fields import MAX_HEADS, MAX_LAYERS, BadConfig, Fields, divisible
from profiles.model import Role, TensorGroup, Vision


def moonvit(config: Fields, text_hidden: int, dtype: str) -> tuple[Vision, list[TensorGroup]]:
    """Geometry and tensors of the tower and of the projector, which leads to ``text_hidden``."""
    hidden, ffn = config.integer("vt_hidden_size"), config.integer("vt_intermediate_size")
    width = "qkv_hidden_size" if config.has("qkv_hidden_size") else "vt_hidden_size"
    attention = config.integer(width)
    vision = Vision(
        layers=config.integer("vt_num_hidden_layers", high=MAX_LAYERS),
        hidden=hidden,
        heads=config.integer("vt_num_attention_heads", high=MAX_HEADS),
        ffn=ffn,
        patch=config.integer("patch_size", high=1024),
        merge=_square(config, "merge_kernel_size"),
    )
    divisible(config, width, attention, vision.heads, "vt_num_attention_heads")
    config.choice("mlp_type", ("mlp2",), "mlp2")
    config.choice("pos_emb_type", ("divided_fixed",), "divided_fixed")
    if config.integer("mm_hidden_size", hidden) != hidden:
        raise BadConfig(f"{config.name('mm_hidden_size')} must equal vt_hidden_size {hidden}")
    norm_bias = config.choice("norm_type", ("layernorm", "rmsnorm"), "layernorm") == "layernorm"
    attention_bias, ffn_bias = config.flag("attn_bias", True), config.flag("linear_bias", True)
    grid = (config.integer("init_pos_emb_height", high=4096), config.integer("init_pos_emb_width", high=4096))

    def part(name: str, shape: tuple[int, ...], role: Role = "vision_other", count: int = 1) -> TensorGroup:
        return TensorGroup(name, shape, role, "vision", dtype, per_layer=count)

    def norm(
        name: str, width: int, count: int = 1, bias: bool = norm_bias, role: Role = "vision_other"
    ) -> list[TensorGroup]:
        kinds = ("weight", "bias") if bias else ("weight",)
        return [part(f"{name}.{kind}", (width,), role, count) for kind in kinds]

    def linear(name: str, out: int, width: int, role: Role, bias: bool, count: int = 1) -> list[TensorGroup]:
        # The bias of a row-parallel matrix is added once, after the ranks are summed: it is not divided.
        bias_role: Role = "vision_other" if role == "vision_row" else role
        biases = [part(f"{name}.bias", (out,), bias_role, count)] if bias else []
        return [part(f"{name}.weight", (out, width), role, count), *biases]

    block, blocks = "vision_tower.encoder.blocks.{block}.", vision.layers
    patch = "vision_tower.patch_embed.proj"
    patch_bias = [part(f"{patch}.bias", (hidden,))] if config.flag("patch_embed_proj_bias", True) else []
    merged = hidden * vision.merge**2
    projector = config.choice("mm_projector_type", ("patchmerger", "patchmergerv2"), "patchmerger")
    first = projector == "patchmerger"
    return vision, [
        part(f"{patch}.weight", (hidden, 3, vision.patch, vision.patch)),
        *patch_bias,
        part("vision_tower.patch_embed.pos_emb.weight", (*grid, hidden)),
        *norm(f"{block}norm0", hidden, blocks),
        *norm(f"{block}norm1", hidden, blocks),
        *linear(f"{block}wqkv", 3 * attention, hidden, "vision_column", attention_bias, blocks),
        *linear(f"{block}wo", hidden, attention, "vision_row", attention_bias, blocks),
        *linear(f"{block}mlp.fc0", ffn, hidden, "vision_column", ffn_bias, blocks),
        *linear(f"{block}mlp.fc1", hidden, ffn, "vision_row", ffn_bias, blocks),
        *norm("vision_tower.encoder.final_layernorm", hidden),
        *(norm("mm_projector.pre_norm", hidden, bias=True, role="projector") if first else ()),
        *linear("mm_projector.proj.0", merged, merged, "projector", first),
        *linear("mm_projector.proj.2", text_hidden, merged, "projector", first),
        *(() if first else norm("mm_projector.post_norm", text_hidden, bias=False, role="projector")),
    ]


def _square(config: Fields, key: str) -> int:
    height, width = config.integers(key, low=1, high=64, length=2)
    if height != width:
        raise BadConfig(f"{config.name(key)} must have two equal sides, not {height} and {width}")
    return height
