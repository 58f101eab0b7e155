"""Models from their weight files: exact bytes out of the headers, or an honest refusal."""

from __future__ import annotations

from profiles.weights.gguf import gguf_in, model_from_gguf
from profiles.weights.safetensors import holds_safetensors, model_from_safetensors

__all__ = ["gguf_in", "holds_safetensors", "model_from_gguf", "model_from_safetensors"]
