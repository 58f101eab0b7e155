"""Readers of model file headers, never of weights: GGUF, safetensors, and the JSON beside them.

The files are untrusted: whatever they hold, a reader returns or raises `BadModelFile`, in about a second
and under 200 MB of memory for any one file. A reader is imported when it is asked for: a plan of a built-in model
needs none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from profiles.headers.errors import BadModelFile

if TYPE_CHECKING:
    from profiles.headers.gguf import ArraySummary, GgufFile, read_gguf
    from profiles.headers.safetensors import SafetensorsFiles, read_safetensors
    from profiles.headers.strictjson import JsonValue, load_json_object
    from profiles.headers.tensorinfo import TensorInfo

__all__ = [
    "ArraySummary",
    "BadModelFile",
    "GgufFile",
    "JsonValue",
    "SafetensorsFiles",
    "TensorInfo",
    "load_json_object",
    "read_gguf",
    "read_safetensors",
]

_MODULES = {
    "ArraySummary": "gguf",
    "GgufFile": "gguf",
    "JsonValue": "strictjson",
    "SafetensorsFiles": "safetensors",
    "TensorInfo": "tensorinfo",
    "load_json_object": "strictjson",
    "read_gguf": "gguf",
    "read_safetensors": "safetensors",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
