"""Scales of a quantized KV cache that a checkpoint holds beside its weights.

Source: checkpoints of a small Llama and a small DeepSeek-V3 that nvidia-modelopt 0.41.0 and 0.44.0 wrote with
``FP8_KV_CFG``: two F32 scalars in each attention layer, latent attention too. From 0.43 on ``fp8_cast`` declares the
same and writes none. Its script for DeepSeek checkpoints, which writes an ``hf_quant_config.json`` alone, has none in
the versions seen, but vLLM's logs tell of such checkpoints with scales.
"""

from __future__ import annotations

import re
from typing import Final

from profiles.families.fields import Fields
from profiles.model import ModelSpec, TensorGroup

_CALIBRATED: Final = (0, 42)
"""The last version of modelopt that has no constant scales."""
_SCALED: Final = ("FP8", "NVFP4")
_SCRIPTED: Final = ("deepseek_v3", "deepseek_v32", "glm_moe_dsa")
"""Families that modelopt's own script converts."""


def kv_scales(config: Fields, spec: ModelSpec, quant_config: Fields | None) -> tuple[tuple[TensorGroup, ...], str]:
    """The scales that the checkpoint holds, and a note where only its headers can tell whether it does."""
    declared = _declared(config, quant_config)
    if declared is None:
        return (), ""
    section, producer, beside = declared
    quantized = section.has("kv_cache_scheme") or section.text("kv_cache_quant_algo", "none").upper() in _SCALED
    layers = tuple(sorted({layer for group in spec.kv_groups if group.layout != "linear" for layer in group.layers}))
    prefix = _attention(spec, layers)
    if not quantized or not prefix:
        return (), ""
    version = re.match(r"(\d{1,4})\.(\d{1,4})\.", producer, re.ASCII)
    release = (int(version[1]), int(version[2])) if version else None
    if (beside and spec.family in _SCRIPTED) or release is None or release == (0, 0) or release > _CALIBRATED:
        return (), (
            f"a quantized KV cache is declared: the checkpoint may hold two F32 scales in each of {len(layers)} "
            f"layers, {8 * len(layers):,} bytes that are not counted"
        )
    return tuple(
        TensorGroup(f"{prefix}{part}_proj.{part}_scale", (1,), "kv_scale", "attention", "f32", layers) for part in "kv"
    ), ""


def _declared(config: Fields, quant_config: Fields | None) -> tuple[Fields, str, bool] | None:
    """What modelopt declares, the version that declares it, and whether it does so in a file of its own."""
    for fields in (config, config.section("text_config") if config.has("text_config") else None):
        if fields is not None and fields.has("quantization_config"):
            section = fields.section("quantization_config")
            return (section, _version(section), False) if section.has("quant_algo") else None
    if quant_config is None or not quant_config.has("quantization"):
        return None
    return quant_config.section("quantization"), _version(quant_config), True


def _version(config: Fields) -> str:
    producer = config.section("producer") if config.has("producer") else None
    return producer.text("version", "") if producer is not None else ""


def _attention(spec: ModelSpec, layers: tuple[int, ...]) -> str:
    """What stands before the projections of the attention of ``layers``; empty where that is not told."""
    held = frozenset(layers)
    names = [
        group.name.partition("self_attn.")
        for group in spec.tensors
        if group.role in ("k", "kv_a") and held.issuperset(group.layers) and group.layers
    ]
    return next((f"{before}{found}" for before, found, _ in names if found), "")
