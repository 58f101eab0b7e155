"""From a ``config.json`` to a model: the family lists the tensors, the quantization says how each is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from profiles.families import family_reader
from profiles.families.fields import BadConfig, Fields, UnknownFamily, UnknownQuantization
from profiles.kv_scales import kv_scales
from profiles.model import ModelSpec
from profiles.quantization import apply_schemes, native_name
from profiles.quantization_declared import declared_schemes

__all__ = ["BadConfig", "UnknownFamily", "UnknownQuantization", "read_config"]

_NO_DTYPE = "config.json states no dtype; what is not quantized is taken for bfloat16, as this family is published"


def read_config(
    config: Mapping[str, object],
    *,
    id: str,
    name: str | None = None,
    repository: str = "",
    quant_config: Mapping[str, object] | None = None,
    quantized: bool = True,
) -> ModelSpec:
    """The model that a configuration describes, in the formats that it declares.

    ``quant_config`` is the ``hf_quant_config.json`` beside it, used when the configuration declares no
    quantization itself; with ``quantized`` false nothing declared is read, and every tensor is in the model's own
    dtype. Raises ``BadConfig`` (one line: the key and what is allowed) and ``UnknownFamily`` (no exact reader).
    """
    fields = Fields(config)
    family = fields.text("model_type")
    architectures = fields.raw("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else family
    spec = family_reader(family, named)(fields)
    nested = Fields(quant_config, "hf_quant_config.json") if quant_config is not None else None
    tensors, notes = spec.tensors, spec.notes
    if quantized:
        schemes = declared_schemes(
            fields, spec.family, spec.native_quantization, _text_prefix(spec), nested, has_experts=spec.moe is not None
        )
        scales, told = kv_scales(fields, spec, nested)
        tensors = (*apply_schemes(tensors, schemes), *scales)
        notes = (*notes, told) if told else notes
    return replace(
        spec,
        id=id,
        name=name or repository or id,
        repository=repository,
        tensors=tensors,
        native_quantization=native_name(tensors, spec.native_quantization),
        trust_remote_code=fields.has("auto_map"),
        notes=notes if _states_dtype(fields) else (*notes, _NO_DTYPE),
    )


def _text_prefix(spec: ModelSpec) -> str:
    """What stands before the names of a nested text model, taken from its embedding."""
    name = next((group.name for group in spec.tensors if group.role == "embedding"), "")
    return name[: name.find("model.embed_tokens")] if "model.embed_tokens" in name else ""


def _states_dtype(config: Fields) -> bool:
    texts = (config, config.section("text_config")) if config.has("text_config") else (config,)
    return any(text.has(key) for text in texts for key in ("dtype", "torch_dtype"))
