"""What a quantization configuration declares: one reader for each exporter's method.

Read are ``quantization_config`` in ``config.json`` and modelopt's ``hf_quant_config.json``: compressed-tensors,
DeepSeek-style block FP8 and per-tensor FP8, MXFP8, modelopt with one algorithm or one per layer, MXFP4, AWQ, GPTQ and
bitsandbytes. A declaration that leaves the number of bytes open is refused by name.

Sources: compressed-tensors 0.8 to 0.17 ``quantization_config`` and ``compressors``; transformers 5.19 ``quantizers``;
vLLM 0.33.0 ``quantization``; AutoAWQ 0.2.9, AutoGPTQ 0.7.1, GPTQModel 7.7.0, bitsandbytes 0.50.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from profiles.families.fields import BadConfig, Fields, UnknownQuantization, shown
from profiles.families.modules import (
    NO_MODULES,
    ListedModules,
    Modules,
    autoawq,
    compressed_tensors,
    gptqmodel,
    modelopt,
    transformers,
)
from profiles.model import Role

EXPERT_MATRICES: Final[frozenset[Role]] = frozenset(("expert_gate", "expert_up", "expert_down"))
VISION_ROLES: Final[frozenset[Role]] = frozenset(("vision_column", "vision_row", "vision_other", "projector"))
LINEAR_ROLES: Final[frozenset[Role]] = EXPERT_MATRICES | frozenset(
    (
        "q_a", "q_b", "kv_a", "kv_b", "q", "k", "v", "o", "o_a", "attention_gate",
        "indexer_q", "indexer_k", "indexer_weights", "compressor", "linear_in", "linear_out", "linear_gate_a",
        "dense_gate", "dense_up", "dense_down", "shared_gate", "shared_up", "shared_down",
        "mtp_projection", "lm_head", "vision_column", "vision_row", "projector",
    )
)  # fmt: skip
"""What a quantizer takes for a linear layer. Their biases, vectors of the same role, are not."""
FP8_ROLES: Final[frozenset[Role]] = LINEAR_ROLES - {
    "lm_head", "mtp_projection", "indexer_weights", "compressor", "linear_gate_a",
}  # fmt: skip
"""What block FP8 quantizes when the configuration lists no exception, as DeepSeek's checkpoints have it."""
BODY_ROLES: Final[frozenset[Role]] = FP8_ROLES - VISION_ROLES
"""Matrices of the decoder layers, without routers."""
_WITH_HEAD: Final[frozenset[Role]] = BODY_ROLES | {"lm_head"}

_BF16_SCALES: Final = frozenset(("qwen3", "qwen3_moe", "qwen3_5_moe"))
"""Families whose FP8 checkpoints keep block scales in bf16; DeepSeek, Kimi, GLM and MiniMax use F32."""
_FP4_EXPERTS: Final = frozenset(("deepseek_v4",))
"""Families whose block FP8 leaves the experts to ``expert_dtype``, FP4 unless it says otherwise."""
_PACKED_ZERO_POINTS: Final = (0, 9, 4)
"""The oldest compressed-tensors that was seen to pack zero points into words."""


class Scheme(NamedTuple):
    """How one set of linear layers is stored.

    ``storage`` is a storage format for the matrices of ``roles`` in modules that ``targets`` has (None: all)
    and ``ignored`` has not. Module names are matched without ``prefix``, which must stand before them: a
    configuration nested in ``text_config`` knows only the text model.
    """

    storage: str
    roles: frozenset[Role] = LINEAR_ROLES
    ignored: Modules = NO_MODULES
    targets: Modules | None = None
    prefix: str = ""


class _Model(NamedTuple):
    """What a reader must know of the model: its family, dtype and configuration, and whether it has routed experts."""

    config: Fields
    family: str
    dtype: str
    has_experts: bool


def declared_schemes(
    config: Fields, family: str, dtype: str, prefix: str, quant_config: Fields | None, *, has_experts: bool
) -> tuple[Scheme, ...]:
    """The schemes that a configuration declares, none when it is not quantized.

    ``dtype`` is the storage format of what is not quantized; ``prefix`` stands before the names of a nested text model;
    ``quant_config`` is an ``hf_quant_config.json`` beside the file, used when the file itself declares nothing. Raises
    ``BadConfig`` or ``UnknownQuantization``.
    """
    text = config.section("text_config") if config.has("text_config") else None
    model = _Model(text or config, family, dtype, has_experts)
    if config.has("quantization_config"):
        return _schemes(config.section("quantization_config"), model)
    if text is not None and text.has("quantization_config"):
        nested = _schemes(text.section("quantization_config"), model)
        return tuple([scheme._replace(prefix=prefix) for scheme in nested])
    return _modelopt(quant_config, model) if quant_config is not None else ()


def _schemes(config: Fields, model: _Model) -> tuple[Scheme, ...]:
    method = config.text("quant_method", "modelopt" if config.has("quant_algo") else None)
    reader = _READERS.get(method)
    if reader is None:
        known = ", ".join(_READERS)
        raise UnknownQuantization(f"{config.name('quant_method')} {shown(method)} has no exact reader; known: {known}")
    return reader(config, model)


def _strings(config: Fields, *keys: str) -> tuple[tuple[str, ...], str]:
    """The list under the first of ``keys`` that is there, and its name."""
    key = next((key for key in keys if config.has(key)), keys[0])
    return config.texts(key) if config.has(key) else (), config.name(key)


def _fp8(config: Fields, model: _Model) -> tuple[Scheme, ...]:
    ignored = transformers(*_strings(config, "modules_to_not_convert", "ignored_layers"))
    static = config.choice("activation_scheme", ("dynamic", "static"), "dynamic") == "static"
    if not config.has("weight_block_size"):
        return (Scheme("fp8_static" if static else "fp8", FP8_ROLES, ignored),)
    rows, columns = config.integers("weight_block_size", low=1, length=2)
    if static:
        raise UnknownQuantization(f"{config.name('activation_scheme')} static with blocks has no exact reader")
    block = f"fp8_block{rows}" if rows == columns else f"fp8_block{rows}x{columns}"
    if model.family not in _FP4_EXPERTS:
        return (Scheme(f"{block}_bf16" if model.family in _BF16_SCALES else block, FP8_ROLES, ignored),)
    experts = model.config.choice("expert_dtype", ("fp4", "fp8"), "fp4")
    if config.has("moe_quant_algo"):
        raise UnknownQuantization(f"{config.name('moe_quant_algo')} has no exact reader: what it leaves is not listed")
    roles: frozenset[Role] = FP8_ROLES | {"mtp_projection"}
    if experts == "fp8":
        return (Scheme(block, roles, ignored),)
    return (Scheme("mxfp4", EXPERT_MATRICES, ignored), Scheme(f"{block}_e8m0", roles - EXPERT_MATRICES, ignored))


def _mxfp8(config: Fields, model: _Model) -> tuple[Scheme, ...]:
    del model
    if config.has("weight_block_size") and config.integers("weight_block_size", low=1, length=2) != (1, 32):
        raise BadConfig(f"{config.name('weight_block_size')} must be [1, 32] for MXFP8")
    return (Scheme("mxfp8", FP8_ROLES, transformers(*_strings(config, "ignored_layers", "modules_to_not_convert"))),)


def _mxfp4(config: Fields, model: _Model) -> tuple[Scheme, ...]:
    del model
    return (Scheme("mxfp4", EXPERT_MATRICES, transformers(*_strings(config, "modules_to_not_convert"))),)


_MODELOPT_FORMATS: Final = {
    "NVFP4": "nvfp4",
    "W4A16_NVFP4": "nvfp4_a16",
    "FP8": "fp8_static",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8_channel",
    "FP8_PB_WO": "fp8_block128",
    "MXFP8": "mxfp8",
}
"""Storage by modelopt's name. Its AWQ variants keep a scale per input that some layers fold away, and have none."""


def _modelopt(config: Fields, model: _Model) -> tuple[Scheme, ...]:
    del model
    if config.has("quantization"):
        config = config.section("quantization")
    ignored = modelopt(*_strings(config, "exclude_modules", "ignore"))
    if config.text("quant_algo").upper() != "MIXED_PRECISION":
        return (Scheme(_modelopt_format(config), LINEAR_ROLES, ignored),)
    return _modelopt_mixed(config.section("quantized_layers"), ignored)


def _modelopt_mixed(layers: Fields, ignored: Modules) -> tuple[Scheme, ...]:
    """One scheme for each algorithm of a list of modules; the experts of a layer must all have the same."""
    by_module: dict[str, str] = {}
    for name in layers:
        module = re.sub(r"\.experts\.\d+(?=\.|$)", ".experts.0", name, flags=re.ASCII)
        storage = _modelopt_format(layers.section(name))
        if by_module.setdefault(module, storage) != storage:
            raise UnknownQuantization(f"{layers.name(module)}: experts of different formats have no exact reader")
    if not by_module:
        raise BadConfig(f"{layers.path} must list at least one module")
    return tuple(
        Scheme(storage, LINEAR_ROLES, ignored, ListedModules(name for name, own in by_module.items() if own == storage))
        for storage in dict.fromkeys(by_module.values())
    )


def _modelopt_format(config: Fields) -> str:
    algorithm = config.text("quant_algo").upper()
    if algorithm not in _MODELOPT_FORMATS:
        known = ", ".join((*_MODELOPT_FORMATS, "MIXED_PRECISION"))
        raise UnknownQuantization(f"{config.name('quant_algo')} {shown(algorithm)} has no exact reader; known: {known}")
    sizes = {"NVFP4": 16, "W4A16_NVFP4": 16, "FP8_PB_WO": 128, "MXFP8": 32}
    if algorithm in sizes and config.integer("group_size", sizes[algorithm]) != sizes[algorithm]:
        raise BadConfig(f"{config.name('group_size')} must be {sizes[algorithm]} for {algorithm}")
    return _MODELOPT_FORMATS[algorithm]


def _awq(config: Fields, model: _Model) -> tuple[Scheme, ...]:
    del model
    if config.integer("bits") != 4 or not config.flag("zero_point", True):
        raise UnknownQuantization(f"{config.name('bits')}: only 4-bit AWQ with zero points has an exact reader")
    # The other kernels of AutoAWQ pad their zero points, each in its own way.
    version = config.text("version", "gemm").lower()
    if version != "gemm":
        raise UnknownQuantization(f"{config.name('version')} {shown(version)} has no exact reader; known: gemm")
    ignored = autoawq(*_strings(config, "modules_to_not_convert"))
    return (Scheme(f"awq_{_group(config)}", BODY_ROLES, ignored),)


def _gptq(config: Fields, model: _Model) -> tuple[Scheme, ...]:
    """Zero points and group indices are stored whether the quantization uses them or not (``sym``, ``desc_act``)."""
    del model
    roles = _WITH_HEAD if config.flag("lm_head", False) else BODY_ROLES
    form = config.text("checkpoint_format", "gptq").lower()
    if form not in ("gptq", "gptq_v2") or config.text("pack_dtype", "int32") != "int32":
        raise UnknownQuantization(f"{config.name('checkpoint_format')} {shown(form)} has no exact reader; known: gptq")
    schemes = []
    ignored: Modules = NO_MODULES
    if config.has("dynamic"):
        dynamic = config.section("dynamic")
        ignored = gptqmodel([key[2:] for key in dynamic if key.startswith("-:")], dynamic.path)
        for key in dynamic:
            if not key.startswith("-:"):
                override = dynamic.section(key)
                storage = f"{_gptq_kind(override, config)}_{_group(override, config)}"
                targets = gptqmodel([key.removeprefix("+:")], dynamic.path)
                schemes.append(Scheme(storage, roles, ignored, targets))
    return (*schemes, Scheme(f"{_gptq_kind(config, config)}_{_group(config)}", roles, ignored))


def _gptq_kind(config: Fields, default: Fields) -> str:
    source = config if config.has("bits") else default
    bits = source.integer("bits")
    if bits not in (2, 3, 4, 8):
        raise UnknownQuantization(f"{source.name('bits')} {bits} has no exact reader; known: 2, 3, 4, 8")
    return "gptq" if bits == 4 else f"gptq{bits}"


def _group(config: Fields, default: Fields | None = None) -> str:
    """The group of a storage format's name; -1 is one group for all inputs."""
    source = config if default is None or config.has("group_size") else default
    size = source.integer("group_size", low=-1)
    if size == 0:
        raise BadConfig(f"{source.name('group_size')} must be -1 or at least 1, not 0")
    return "channel" if size == -1 else f"g{size}"


def _bitsandbytes(config: Fields, model: _Model) -> tuple[Scheme, ...]:
    """4 bits without nested statistics, or LLM.int8. What is kept out: the head, or the modules that are listed."""
    if model.has_experts:
        raise UnknownQuantization(
            f"{config.name('quant_method')} 'bitsandbytes' has no exact reader for a mixture of experts: whether "
            "experts and routers are quantized depends on the version that wrote it"
        )
    skipped, where = _strings(config, "llm_int8_skip_modules")
    roles = _WITH_HEAD if skipped else BODY_ROLES
    ignored = transformers(skipped, where)
    if config.flag("load_in_8bit", False):
        return (Scheme("bnb_int8", roles, ignored),)
    if not config.flag("load_in_4bit", False):
        raise BadConfig(f"{config.name('load_in_4bit')} or load_in_8bit must be true")
    if config.flag("bnb_4bit_use_double_quant", False):
        raise UnknownQuantization(
            f"{config.name('bnb_4bit_use_double_quant')} has no exact reader: each matrix has a note whose length "
            "depends on the weights"
        )
    kind = config.choice("bnb_4bit_quant_type", ("nf4", "fp4"), "fp4")
    if model.dtype not in ("bf16", "f16"):
        raise UnknownQuantization(f"{config.name('quant_method')} 'bitsandbytes' of {model.dtype} has no exact reader")
    return (Scheme(kind if model.dtype == "bf16" else f"{kind}_f16", roles, ignored),)


def _compressed_tensors(config: Fields, model: _Model) -> tuple[Scheme, ...]:
    del model
    ignored = compressed_tensors(*_strings(config, "ignore"))
    groups = config.section("config_groups")
    names = tuple(groups)
    if not 1 <= len(names) <= 64:
        raise BadConfig(f"{groups.path} must have 1 to 64 groups, not {len(names)}")
    schemes = []
    for index, name in enumerate(names):
        group = Fields(groups.raw(name), f"{groups.path}[{index}]")
        targets = group.texts("targets")
        storage = _packed_format(group, config)
        matcher = None if "Linear" in targets else compressed_tensors(targets, group.name("targets"))
        schemes.append(Scheme(storage, LINEAR_ROLES, ignored, matcher))
    # A group with named targets is more specific than one for every linear layer.
    return tuple(sorted(schemes, key=lambda scheme: scheme.targets is None))


def _packed_format(group: Fields, config: Fields) -> str:
    """The storage format of one compressed-tensors group; scales have the model's own dtype, bf16."""
    weights = group.section("weights")
    kind, bits = weights.choice("type", ("int", "float"), "int"), weights.integer("num_bits", high=16)
    size = weights.integer("group_size", 0, low=-1)
    strategy = weights.text("strategy", "group" if size > 0 else "tensor")
    packing = group.text("format", config.text("format", ""))
    inputs = group.section("input_activations") if group.has("input_activations") else None
    static = inputs is not None and inputs.raw("dynamic") is False
    symmetric = weights.flag("symmetric", True)
    case = (kind, bits, strategy)
    if kind == "int" and packing in ("", "pack-quantized") and not static and (packing or bits < 8):
        found = _pack_quantized(weights, config, strategy, size, symmetric=symmetric)
        if found:
            return found
    if not symmetric or weights.has("actorder"):
        case = ("asymmetric", bits, strategy)
    if case == ("int", 8, "channel") and packing in ("", "int-quantized"):
        zero_point = inputs is not None and static and inputs.raw("symmetric") is False
        if not zero_point:
            return "int8_channel_static_bf16" if static else "int8_channel_bf16"
    if case == ("int", 8, "tensor") and packing in ("", "int-quantized"):
        return "int8_static_bf16" if static else "int8_tensor_bf16"
    if case == ("float", 4, "group") and size == 32 and packing == "mxfp4-pack-quantized":
        return "mxfp4"
    if case == ("float", 8, "group") and size == 32 and packing == "mxfp8-quantized":
        return "mxfp8"
    if case in (("float", 4, "group"), ("float", 4, "tensor_group")) and size == 16:
        return "nvfp4" if inputs is not None else "nvfp4_a16"
    if case == ("float", 8, "channel") and not static:
        return "fp8_channel_bf16"
    if case == ("float", 8, "tensor"):
        return "fp8_static_bf16" if static else "fp8_tensor_bf16"
    if case == ("float", 8, "block") and weights.has("block_structure"):
        rows, columns = weights.integers("block_structure", low=1, length=2)
        return f"fp8_block{rows}_bf16" if rows == columns else f"fp8_block{rows}x{columns}_bf16"
    described = f"{bits}-bit {kind}, strategy {shown(strategy)}, format {shown(packing)}"
    raise UnknownQuantization(f"{weights.path}: {described} has no exact reader")


def _pack_quantized(weights: Fields, config: Fields, strategy: str, size: int, *, symmetric: bool) -> str | None:
    """INT packed into words. The library stores the shape of a matrix as two I64 and states its version, which Moonshot
    AI's own packer, with two I32, does not."""
    bits = weights.integer("num_bits")
    groups = {"group": f"g{size}" if size > 0 else None, "channel": "channel"}.get(strategy)
    if groups is None or not 2 <= bits <= 8:
        return None
    version = config.text("version", "")
    order = weights.raw("actorder")
    if order not in (None, False, "weight", "static", "group", "dynamic", True):
        raise BadConfig(f"{weights.name('actorder')} is {shown(order)}, allowed: weight, static, group, dynamic")
    if not symmetric and _version(version) < _PACKED_ZERO_POINTS:
        least = ".".join(map(str, _PACKED_ZERO_POINTS))
        raise UnknownQuantization(f"{weights.name('symmetric')} false has no exact reader before version {least}")
    index = "_gidx" if order in ("group", "dynamic", True) and strategy == "group" else ""
    return f"int{bits}_{groups}{'' if symmetric else '_zp'}{index}{'_i64' if version else ''}"


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", text, flags=re.ASCII)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


_READERS: Final[Mapping[str, Callable[[Fields, _Model], tuple[Scheme, ...]]]] = {
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "mxfp8": _mxfp8,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_mixed": _modelopt,
    "mxfp4": _mxfp4,
    "awq": _awq,
    "gptq": _gptq,
    "bitsandbytes": _bitsandbytes,
}
