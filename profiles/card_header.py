"""The tensor list and geometry that headers of weight files held, kept beside a card as JSON.

A GGUF has no ``config.json`` that a card could be read from again, and a checkpoint may hold what its own does not say.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from formulas.storage import storage_format
from profiles.model import ModelSpec

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def card_header(spec: ModelSpec) -> bytes:
    """``spec`` as JSON, without what the card itself says: names, releases and sources."""
    kept = replace(spec, id="", name="", repository="", releases=(), sources=())
    return _adapter().dump_json(kept, exclude_defaults=True)


def read_card_header(text: bytes) -> ModelSpec:
    """What ``card_header`` wrote. Raises ``ValueError`` in one line for anything else."""
    from pydantic import ValidationError

    try:
        spec = _adapter().validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    for group in spec.tensors:
        storage_format(group.format)
        if group.per_layer < 1 or not group.shape or min(*group.shape, *group.layers, 1) < 0 or 0 in group.shape:
            raise ValueError(f"{group.name}: a shape of positive numbers, in layers from 0, is needed")
    return spec


@cache
def _adapter() -> TypeAdapter[ModelSpec]:
    from pydantic import TypeAdapter

    return TypeAdapter(ModelSpec)
