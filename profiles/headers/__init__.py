"""Readers of model file headers, never of weights: GGUF, safetensors, and the JSON beside them.

The files are untrusted: whatever they hold, a reader returns or raises `BadModelFile`, in about a second
and under 200 MB of memory for any one file.
"""

from __future__ import annotations

from profiles.headers.errors import BadModelFile
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
