"""One reader per architecture family: from a ``config.json`` to every tensor of its checkpoint.

A reader returns the unquantized list: every tensor in the dtype of the configuration, except those that the
checkpoint keeps in F32. ``profiles.quantization`` then gives each its storage format.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final, cast

from profiles.families.fields import Fields, UnknownFamily, shown
from profiles.model import ModelSpec

FamilyReader = Callable[[Fields], ModelSpec]

_MODULES: Final[dict[str, str]] = {
    "deepseek_v2": "deepseek",
    "deepseek_v3": "deepseek",
    "deepseek_v32": "deepseek",
    "deepseek_v4": "deepseek_v4",
    "glm_moe_dsa": "deepseek",
    "gpt_oss": "gpt_oss",
    "kimi_k2": "deepseek",
    "kimi_k25": "kimi_k25",
    "kimi_k3": "kimi_k3",
    "kimi_linear": "kimi_linear",
    "llama": "dense",
    "llama4": "llama4",
    "llama4_text": "llama4",
    "minimax_m2": "sparse",
    "minimax_m3": "minimax_m3",
    "minimax_m3_vl": "minimax_m3",
    "mixtral": "sparse",
    "qwen3": "dense",
    "qwen3_5_moe": "qwen3_5_moe",
    "qwen3_moe": "sparse",
}

KNOWN_FAMILIES: Final = tuple(sorted(_MODULES))
"""Every ``model_type`` that has a reader."""


def family_reader(model_type: str, architecture: object) -> FamilyReader:
    """The reader of a ``model_type``, its module imported on first use.

    ``architecture`` is what ``config.json`` calls the model class, for the error line. Raises ``UnknownFamily``.
    """
    named = f"{shown(architecture)} (model_type {shown(model_type)})"
    module = _MODULES.get(model_type)
    if module is None:
        raise UnknownFamily(f"no reader for the architecture {named}; known: {', '.join(KNOWN_FAMILIES)}")
    return cast(FamilyReader, import_module(f"profiles.families.{module}").read)
