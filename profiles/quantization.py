"""The storage format of every tensor, from the schemes that a configuration declares.

What no scheme quantizes, listed or not: embeddings, norms, biases, routers, convolutions and the small vectors of
linear attention. Here too are the formats a release could have that nobody published (``uniform``).

Sources: the published checkpoints of DeepSeek-V3 and V4, Kimi K2.5, Qwen3 and GLM-5, whose totals this reproduces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from formulas.storage import storage_format
from profiles.families.fields import BadConfig
from profiles.families.modules import MAX_WORK
from profiles.model import ModelSpec, TensorGroup
from profiles.quantization_declared import BODY_ROLES, EXPERT_MATRICES, Scheme

_NATIVE: Final = ("int4", "int8", "nvfp4", "mxfp4", "mxfp8", "fp8", "awq", "gptq", "nf4", "fp4", "bnb_int8")


def apply_schemes(groups: Iterable[TensorGroup], schemes: tuple[Scheme, ...]) -> tuple[TensorGroup, ...]:
    """The groups in the formats of the first scheme that takes them, split where layers differ."""
    groups = tuple(groups)
    if not schemes:
        return groups
    _refuse_costly(groups, schemes)
    quantized: list[TensorGroup] = []
    for group in groups:
        quantized.extend(_quantized(group, schemes))
    return tuple(quantized)


def native_name(groups: Iterable[TensorGroup], dtype: str) -> str:
    """What the quantization of a checkpoint is called: by the format that holds most of its parameters."""
    totals: dict[str, int] = {}
    for group in groups:
        totals[group.format] = totals.get(group.format, 0) + group.parameters
    largest = max(totals, key=lambda name: totals[name], default=dtype)
    return next((name for name in _NATIVE if largest.startswith(name)), largest)


def requantize(model: ModelSpec, format_of: Callable[[TensorGroup], str]) -> tuple[TensorGroup, ...]:
    """The model's tensors, each in the storage format that ``format_of`` names. Raises ``UnknownFormat``.

    Scales of a quantized KV cache belong to the quantization that is replaced.
    """
    return tuple(
        group._replace(format=storage_format(format_of(group)).name)
        for group in model.tensors
        if group.role != "kv_scale"
    )


def uniform(model: ModelSpec, quantization: str) -> tuple[TensorGroup, ...]:
    """The model's tensors as a release of ``quantization`` would store them, by the conventions of published
    ones.

    ``bf16`` (or ``f16``, ``f32``): everything, but for what the checkpoint keeps in F32. ``fp8``: the
    matrices of the decoder layers in 128 x 128 blocks. ``int4`` and ``nvfp4``: the routed experts, in groups
    of 32 and 16, or all decoder matrices of a dense model. Any other storage format: the matrices of the
    decoder layers.

    Raises ``UnknownFormat``.
    """
    storage = storage_format({"fp8": "fp8_block128", "int4": "int4_g32"}.get(quantization, quantization)).name
    plain = storage in ("bf16", "f16", "f32")
    experts_only = quantization in ("int4", "nvfp4") and model.moe is not None
    roles = EXPERT_MATRICES if experts_only else BODY_ROLES
    rest = storage if plain else "bf16"

    def format_of(group: TensorGroup) -> str:
        if group.format in ("f32", "int64"):
            return group.format
        # A drafter's experts stay as they are: what shrinks a release is its routed experts.
        takes = group.role in roles and len(group.shape) > 1 and not (experts_only and group.tensor_class == "mtp")
        return storage if takes else rest

    return requantize(model, format_of)


def _quantized(group: TensorGroup, schemes: tuple[Scheme, ...]) -> list[TensorGroup]:
    if len(group.shape) < 2 or group.format == "f32":
        return [group]
    able = [scheme for scheme in schemes if group.role in scheme.roles and group.name.startswith(scheme.prefix)]
    if not able:
        return [group]
    module = group.name.removesuffix(".weight")
    for index in ("{expert}", "{block}", "{mtp_layer}"):
        module = module.replace(index, "0")
    if all(_is_layer_free(scheme) for scheme in able) or "{layer}" not in module:
        layer = str(group.layers[0]) if group.layers else ""
        return [group._replace(format=_storage(module.replace("{layer}", layer), able, group.format))]
    by_format: dict[str, list[int]] = {}
    for layer_index in group.layers:
        name = module.replace("{layer}", str(layer_index))
        by_format.setdefault(_storage(name, able, group.format), []).append(layer_index)
    return [group._replace(format=name, layers=tuple(layers)) for name, layers in by_format.items()]


def _storage(module: str, schemes: list[Scheme], unquantized: str) -> str:
    for scheme in schemes:
        name = module.removeprefix(scheme.prefix)
        if scheme.ignored.matches(name):
            return unquantized
        if scheme.targets is None or scheme.targets.matches(name):
            return scheme.storage
    return unquantized


def _is_layer_free(scheme: Scheme) -> bool:
    return scheme.ignored.layer_free and (scheme.targets is None or scheme.targets.layer_free)


def _refuse_costly(groups: tuple[TensorGroup, ...], schemes: tuple[Scheme, ...]) -> None:
    names = sum([max(len(group.layers), 1) for group in groups if len(group.shape) > 1])
    work = names * sum([s.ignored.work_per_name + (s.targets.work_per_name if s.targets else 0) for s in schemes])
    if work > MAX_WORK:
        raise BadConfig("quantization_config has module patterns that are too costly to match against every layer")
