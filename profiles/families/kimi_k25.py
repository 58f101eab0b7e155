"""Kimi K2.5, K2.6 and K2.7: the DeepSeek architecture with a MoonViT vision tower.

Names and shapes follow the published checkpoint, whose 1,026,879,376,368 parameters and 595,148,192,736 bytes
(INT4 release) this list gives exactly. Sources: moonshotai/Kimi-K2.5 ``config.json`` and safetensors index.
"""

from __future__ import annotations

from dataclasses import replace

from profiles.families.blocks import dtype_of
from profiles.families.deepseek import read_text
from profiles.families.fields import Fields
from profiles.families.moonvit import moonvit
from profiles.model import ModelSpec


def read(config: Fields) -> ModelSpec:
    """The text model under ``language_model.``, the vision tower and the projector between them."""
    text = read_text(config.section("text_config"), "language_model.")
    vision, tensors = moonvit(config.section("vision_config"), text.hidden, dtype_of(config))
    return replace(text, family=config.text("model_type"), vision=vision, tensors=(*text.tensors, *tensors))
