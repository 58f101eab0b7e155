"""The storage format of every tensor, from the quantization that a configuration declares.

Read are ``quantization_config`` in ``config.json`` and modelopt's ``hf_quant_config.json``:
compressed-tensors, DeepSeek-style block FP8, per-tensor FP8, modelopt FP8 and NVFP4, MXFP4, AWQ and GPTQ.
What none of them quantizes, listed or not: embeddings, norms, biases, routers, convolutions and the small
vectors of linear attention.

Here too are the formats a release could have that nobody published (``uniform``).

Sources: compressed-tensors ``quantization_config``; transformers 5.23 ``quantizers``; vLLM 0.33.0
``quantization``; the published checkpoints of DeepSeek-V3, Kimi K2.5, Qwen3 and GLM-5, whose totals this
reproduces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from formulas.storage import storage_format
from profiles.families.fields import BadConfig, Fields, UnknownQuantization, shown
from profiles.families.modules import (
    MAX_WORK,
    NO_MODULES,
    ModuleFilter,
    autoawq,
    compressed_tensors,
    modelopt,
    transformers,
)
from profiles.model import ModelSpec, Role, TensorGroup

EXPERT_MATRICES: Final[frozenset[Role]] = frozenset(("expert_gate", "expert_up", "expert_down"))
VISION_ROLES: Final[frozenset[Role]] = frozenset(("vision_column", "vision_row", "vision_other", "projector"))
LINEAR_ROLES: Final[frozenset[Role]] = EXPERT_MATRICES | frozenset(
    (
        "q_a", "q_b", "kv_a", "kv_b", "q", "k", "v", "o", "attention_gate",
        "indexer_q", "indexer_k", "indexer_weights", "linear_in", "linear_out",
        "dense_gate", "dense_up", "dense_down", "shared_gate", "shared_up", "shared_down",
        "mtp_projection", "lm_head", "vision_column", "vision_row", "projector",
    )
)  # fmt: skip
"""What a quantizer takes for a linear layer. Their biases, vectors of the same role, are not."""
FP8_ROLES: Final[frozenset[Role]] = LINEAR_ROLES - {"lm_head", "mtp_projection", "indexer_weights"}
"""What block FP8 quantizes when the configuration lists no exception, as DeepSeek's checkpoints have it."""
BODY_ROLES: Final[frozenset[Role]] = FP8_ROLES - VISION_ROLES
"""Matrices of the decoder layers, without routers."""

_BF16_SCALES: Final = frozenset(("qwen3", "qwen3_moe", "qwen3_5_moe"))
"""Families whose FP8 checkpoints keep block scales in bf16; DeepSeek, Kimi, GLM and MiniMax use F32."""
_NATIVE: Final = ("int4", "int8", "nvfp4", "mxfp4", "fp8", "awq", "gptq")


class Scheme(NamedTuple):
    """How one set of linear layers is stored.

    ``storage`` is a storage format for the matrices of ``roles`` in modules that ``targets`` has (None: all)
    and ``ignored`` has not. Module names are matched without ``prefix``, which must stand before them: a
    configuration nested in ``text_config`` knows only the text model.
    """

    storage: str
    roles: frozenset[Role] = LINEAR_ROLES
    ignored: ModuleFilter = NO_MODULES
    targets: ModuleFilter | None = None
    prefix: str = ""


def declared_schemes(config: Fields, family: str, prefix: str, quant_config: Fields | None) -> tuple[Scheme, ...]:
    """The schemes that a configuration declares, none when it is not quantized.

    ``prefix`` stands before the names of a nested text model; ``quant_config`` is an ``hf_quant_config.json``
    beside the file, used when the file itself declares nothing. Raises ``BadConfig`` or
    ``UnknownQuantization``.
    """
    if config.has("quantization_config"):
        return _schemes(config.section("quantization_config"), family, "")
    if config.has("text_config"):
        text = config.section("text_config")
        if text.has("quantization_config"):
            return _schemes(text.section("quantization_config"), family, prefix)
    if quant_config is not None:
        return (_modelopt(quant_config),)
    return ()


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
    """The model's tensors, each in the storage format that ``format_of`` names. Raises ``UnknownFormat``."""
    return tuple(group._replace(format=storage_format(format_of(group)).name) for group in model.tensors)


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


def _schemes(config: Fields, family: str, prefix: str) -> tuple[Scheme, ...]:
    method = config.text("quant_method", "modelopt" if config.has("quant_algo") else None)
    if method == "compressed-tensors":
        return _compressed_tensors(config, prefix)
    readers: dict[str, Callable[[], Scheme]] = {
        "fp8": lambda: _fp8(config, family),
        "modelopt": lambda: _modelopt(config),
        "modelopt_fp4": lambda: _modelopt(config),
        "mxfp4": lambda: Scheme("mxfp4", EXPERT_MATRICES),
        "awq": lambda: _awq(config),
        "gptq": lambda: _gptq(config),
    }
    if method not in readers:
        known = ", ".join(("compressed-tensors", *readers))
        raise UnknownQuantization(f"{config.name('quant_method')} {shown(method)} has no exact reader; known: {known}")
    return (readers[method]()._replace(prefix=prefix),)


def _strings(config: Fields, key: str) -> tuple[str, ...]:
    return config.texts(key) if config.has(key) else ()


def _fp8(config: Fields, family: str) -> Scheme:
    key = "modules_to_not_convert" if config.has("modules_to_not_convert") else "ignored_layers"
    ignored = transformers(_strings(config, key), config.name(key))
    static = config.choice("activation_scheme", ("dynamic", "static"), "dynamic") == "static"
    if not config.has("weight_block_size"):
        return Scheme("fp8_static" if static else "fp8", FP8_ROLES, ignored)
    block = config.integers("weight_block_size", low=1, length=2)
    if block != (128, 128) or static:
        raise UnknownQuantization(f"{config.name('weight_block_size')} {list(block)} has no exact reader")
    return Scheme("fp8_block128_bf16" if family in _BF16_SCALES else "fp8_block128", FP8_ROLES, ignored)


def _modelopt(config: Fields) -> Scheme:
    if config.has("quantization"):
        config = config.section("quantization")
    algorithm = config.text("quant_algo")
    formats = {"NVFP4": "nvfp4", "FP8": "fp8_static", "FP8_PB_WO": "fp8_block128"}
    if algorithm not in formats:
        known = ", ".join(formats)
        raise UnknownQuantization(f"{config.name('quant_algo')} {shown(algorithm)} has no exact reader; known: {known}")
    if algorithm == "NVFP4" and config.integer("group_size", 16) != 16:
        raise BadConfig(f"{config.name('group_size')} must be 16 for NVFP4")
    key = "exclude_modules" if config.has("exclude_modules") else "ignore"
    return Scheme(formats[algorithm], LINEAR_ROLES, modelopt(_strings(config, key), config.name(key)))


def _awq(config: Fields) -> Scheme:
    if config.integer("bits") != 4 or not config.flag("zero_point", True):
        raise UnknownQuantization(f"{config.name('bits')}: only 4-bit AWQ with zero points has an exact reader")
    key = "modules_to_not_convert"
    ignored = autoawq(_strings(config, key), config.name(key))
    return Scheme(f"awq_g{config.integer('group_size')}", FP8_ROLES - VISION_ROLES, ignored)


def _gptq(config: Fields) -> Scheme:
    if config.integer("bits") != 4 or config.has("dynamic"):
        raise UnknownQuantization(f"{config.name('bits')}: only uniform 4-bit GPTQ has an exact reader")
    roles = FP8_ROLES - VISION_ROLES
    if config.flag("lm_head", False):
        roles |= {"lm_head"}
    return Scheme(f"gptq_g{config.integer('group_size')}", roles)


def _compressed_tensors(config: Fields, prefix: str) -> tuple[Scheme, ...]:
    ignored = compressed_tensors(_strings(config, "ignore"), config.name("ignore"))
    groups = config.section("config_groups")
    values = list(groups.values())
    if not 1 <= len(values) <= 64:
        raise BadConfig(f"{groups.path} must have 1 to 64 groups, not {len(values)}")
    schemes = []
    for index, value in enumerate(values):
        group = Fields(value, f"{groups.path}[{index}]")
        targets = group.texts("targets")
        storage = _packed_format(group, config.text("format", ""))
        matcher = None if "Linear" in targets else compressed_tensors(targets, group.name("targets"))
        schemes.append(Scheme(storage, LINEAR_ROLES, ignored, matcher, prefix))
    # A group with named targets is more specific than one for every linear layer.
    return tuple(sorted(schemes, key=lambda scheme: scheme.targets is None))


def _packed_format(group: Fields, default_format: str) -> str:
    """The storage format of one compressed-tensors group; scales have the model's own dtype, bf16."""
    weights = group.section("weights")
    kind, bits = weights.choice("type", ("int", "float"), "int"), weights.integer("num_bits", high=16)
    size = weights.integer("group_size", 0, low=-1)
    strategy = weights.text("strategy", "group" if size > 0 else "tensor")
    packing = group.text("format", default_format)
    inputs = group.section("input_activations") if group.has("input_activations") else None
    static = inputs is not None and inputs.raw("dynamic") is False
    plain = weights.flag("symmetric", True) and not weights.has("actorder")
    case = (kind, bits, strategy)
    if case == ("int", 4, "group") and plain and packing in ("", "pack-quantized") and size > 0:
        return f"int4_g{size}"
    if case == ("int", 4, "channel") and plain and packing in ("", "pack-quantized"):
        return "int4_channel"
    if case == ("int", 8, "channel") and plain and packing in ("", "int-quantized") and not static:
        return "int8_channel_bf16"
    if case == ("float", 4, "group") and size == 32 and packing == "mxfp4-pack-quantized":
        return "mxfp4"
    if case in (("float", 4, "group"), ("float", 4, "tensor_group")) and size == 16:
        return "nvfp4" if inputs is not None else "nvfp4_a16"
    if case == ("float", 8, "channel") and not static:
        return "fp8_channel_bf16"
    if case == ("float", 8, "tensor"):
        return "fp8_static_bf16" if static else "fp8_tensor_bf16"
    if case == ("float", 8, "block") and weights.raw("block_structure") in ([128, 128], (128, 128)):
        return "fp8_block128_bf16"
    described = f"{bits}-bit {kind}, strategy {shown(strategy)}, format {shown(packing)}"
    raise UnknownQuantization(f"{weights.path}: {described} has no exact reader")
