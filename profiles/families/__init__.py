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
    "glm_moe_dsa": "deepseek",
    "gpt_oss": "gpt_oss",
    "kimi_k2": "deepseek",
    "kimi_k25": "kimi_k25",
    "kimi_k3": "kimi_k3",
    "llama": "dense",
    "llama4": "llama4",
    "llama4_text": "llama4",
    "minimax_m2": "sparse",
    "mixtral": "sparse",
    "qwen3": "dense",
    "qwen3_5_moe": "qwen3_5_moe",
    "qwen3_moe": "sparse",
}

_REFUSED: Final[dict[str, str]] = {
    "deepseek_v4": "its KV cache holds one state per compress_ratios tokens, which has no description here yet",
    "kimi_linear": "the dtypes of its convolutions and state vectors are not published; kimi_k3 is read",
    "minimax_m3": "its checkpoint is minimax_m3_vl, whose vision tower and index cache have no description here yet",
    "minimax_m3_vl": "its vision tower and the index cache of its attention have no description here yet",
}
"""Architectures that are known and cannot be read exactly, with the reason."""

KNOWN_FAMILIES: Final = tuple(sorted(_MODULES))
"""Every ``model_type`` that has a reader."""


def family_reader(model_type: str, architecture: object) -> FamilyReader:
    """The reader of a ``model_type``, its module imported on first use.

    ``architecture`` is what ``config.json`` calls the model class, for the error line. Raises ``UnknownFamily``.
    """
    named = f"{shown(architecture)} (model_type {shown(model_type)})"
    if model_type in _REFUSED:
        raise UnknownFamily(f"the architecture {named} is not read: {_REFUSED[model_type]}")
    module = _MODULES.get(model_type)
    if module is None:
        raise UnknownFamily(f"no reader for the architecture {named}; known: {', '.join(KNOWN_FAMILIES)}")
    return cast(FamilyReader, import_module(f"profiles.families.{module}").read)
