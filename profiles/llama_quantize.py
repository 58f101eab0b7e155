"""llama.cpp's own rules: the tensors a checkpoint becomes in a GGUF file, and the type each of them gets.

Read from ggml-org/llama.cpp at commit 007dbbf (``src/llama-quant.cpp`` and ``conversion/``). The
converter stacks the experts of a layer into one tensor, splits ``kv_b`` of multi-head latent attention
into ``k_b`` (transposed) and ``v_b``, leaves out the vision tower (a file of its own) and keeps norms,
biases and routers in F32. The quantizer chooses a type per tensor from the file type, what the tensor
does, its layer and the model's geometry. An importance matrix is taken to be present: publishers use one,
and the types below three bits require it.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import Literal, NamedTuple

from formulas.storage import FORMATS, storage_format, stored_format
from profiles.model import ModelSpec, Role, TensorGroup

Category = Literal[
    "output",
    "embedding",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_output",
    "gate_up",
    "down",
    "other",
]

DEFAULT_TYPE: dict[str, str] = {
    **{name: name for name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q6_K", "Q2_K")},
    **{name: name for name in ("TQ1_0", "TQ2_0", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ3_S")},
    **{name: name for name in ("IQ4_NL", "IQ4_XS", "NVFP4", "Q1_0")},
    **{f"Q3_K_{size}": "Q3_K" for size in "SML"},
    **{f"Q4_K_{size}": "Q4_K" for size in "SM"},
    **{f"Q5_K_{size}": "Q5_K" for size in "SM"},
    "Q2_K_S": "Q2_K",
    "IQ2_S": "IQ2_XS",
    "IQ2_M": "IQ2_S",
    "IQ3_XS": "IQ3_S",
    "IQ3_M": "IQ3_S",
    "MXFP4_MOE": "MXFP4",
}
"""The file types of ``llama-quantize`` and the type each gives a tensor that no rule mentions."""

_NAMES: dict[Role, tuple[str, Category]] = {
    "embedding": ("token_embd.weight", "embedding"),
    "lm_head": ("output.weight", "output"),
    "q_a": ("blk.{layer}.attn_q_a.weight", "other"),
    "q_b": ("blk.{layer}.attn_q_b.weight", "other"),
    "kv_a": ("blk.{layer}.attn_kv_a_mqa.weight", "other"),
    "k_b": ("blk.{layer}.attn_k_b.weight", "other"),
    "v_b": ("blk.{layer}.attn_v_b.weight", "other"),
    "q": ("blk.{layer}.attn_q.weight", "attn_q"),
    "k": ("blk.{layer}.attn_k.weight", "attn_k"),
    "v": ("blk.{layer}.attn_v.weight", "attn_v"),
    "o": ("blk.{layer}.attn_output.weight", "attn_output"),
    "attention_gate": ("blk.{layer}.attn_gate.weight", "other"),
    "o_a": ("blk.{layer}.attn_output_a.weight", "other"),
    "compressor": ("blk.{layer}.attn_compressor.weight", "other"),
    "indexer_q": ("blk.{layer}.indexer.attn_q_b.weight", "other"),
    "indexer_k": ("blk.{layer}.indexer.attn_k.weight", "attn_k"),
    "indexer_weights": ("blk.{layer}.indexer.proj.weight", "other"),
    "linear_in": ("blk.{layer}.attn_qkv.weight", "attn_qkv"),
    "linear_out": ("blk.{layer}.ssm_out.weight", "other"),
    "dense_gate": ("blk.{layer}.ffn_gate.weight", "gate_up"),
    "dense_up": ("blk.{layer}.ffn_up.weight", "gate_up"),
    "dense_down": ("blk.{layer}.ffn_down.weight", "down"),
    "shared_gate": ("blk.{layer}.ffn_gate_shexp.weight", "gate_up"),
    "shared_up": ("blk.{layer}.ffn_up_shexp.weight", "gate_up"),
    "shared_down": ("blk.{layer}.ffn_down_shexp.weight", "down"),
    "expert_gate": ("blk.{layer}.ffn_gate_exps.weight", "gate_up"),
    "expert_up": ("blk.{layer}.ffn_up_exps.weight", "gate_up"),
    "expert_down": ("blk.{layer}.ffn_down_exps.weight", "down"),
    "mtp_projection": ("blk.{layer}.nextn.eh_proj.weight", "other"),
}
"""Name and category of the tensors that may be quantized. A role that is not here stays F32."""

_LOW_BIT = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
_VISION_ROLES: tuple[Role, ...] = ("vision_column", "vision_row", "vision_other", "projector")


class _Geometry(NamedTuple):
    layers: int
    experts: int
    query_heads_per_kv_head: int
    is_70b: bool
    tied_embeddings: bool


@lru_cache(maxsize=4)
def gguf_groups(model: ModelSpec) -> tuple[TensorGroup, ...]:
    """The tensors of the model's GGUF file: quantizable ones in ``F16``, the others in the type they keep.

    That is ``F32``, or ``MXFP4`` for experts that are published in it. The deepseek2 architecture (latent
    attention without an indexer) leaves multi-token-prediction layers out; the others carry them.
    ``rope_freqs`` of Llama 3 (256 bytes) is not listed: no checkpoint has it.
    """
    drops_mtp = model.uses_mla and not any(group.index_head_dim for group in model.kv_groups)
    converted: list[TensorGroup] = []
    for group in model.tensors:
        if group.role in _VISION_ROLES or group.role == "kv_scale" or group.tensor_class == "vision":
            continue
        if group.tensor_class == "mtp" and drops_mtp:
            continue
        converted.extend(_converted(model, group))
    return tuple(converted)


def _converted(model: ModelSpec, group: TensorGroup) -> tuple[TensorGroup, ...]:
    if group.role == "kv_b":
        latent = group.shape[-1]
        k_b = group._replace(shape=(model.heads, latent, model.nope_dim), role="k_b")
        v_b = group._replace(shape=(model.heads, model.v_head_dim, latent), role="v_b")
        return tuple(part._replace(name=_NAMES[part.role][0], format="F16") for part in (k_b, v_b))
    if group.role == "expert_bias" and len(group.shape) == 1:
        # Stacked like the matrices, so that both count a layer's experts as one tensor.
        return (group._replace(shape=(group.per_layer, *group.shape), per_layer=1, format="F32"),)
    if group.role not in _NAMES or len(group.shape) < 2:
        return (group._replace(format="F32"),)
    name = _NAMES[group.role][0]
    if group.role.startswith("expert_") and len(group.shape) == 2:
        group = group._replace(shape=(group.per_layer, *group.shape), per_layer=1)
    return (group._replace(name=name, format="MXFP4" if group.format == "mxfp4" else "F16"),)


@lru_cache(maxsize=128)
def quantize(model: ModelSpec, file_type: str) -> tuple[TensorGroup, ...]:
    """The GGUF tensors of ``llama-quantize FILE_TYPE``, each in the type really written.

    A group whose layers get different types is split. Raises ``KeyError`` for a type not in ``DEFAULT_TYPE``.
    """
    default = DEFAULT_TYPE[file_type]
    groups = gguf_groups(model)
    geometry = _geometry(model, groups)
    order = _order_of_down(groups)
    result: list[TensorGroup] = []
    for group in groups:
        if group.format != "F16":
            result.append(group)
        elif default in ("F32", "F16", "BF16"):
            result.append(group._replace(format=default))
        else:
            result.extend(_typed(group, file_type, geometry, order))
    return tuple(result)


def in_format(group: TensorGroup, format_name: str) -> TensorGroup:
    """The group in a ggml type, or in the type's fallback where its columns do not divide."""
    written = stored_format(storage_format(format_name), group.shape[-1])
    return group._replace(format=written.name)


def _geometry(model: ModelSpec, groups: tuple[TensorGroup, ...]) -> _Geometry:
    kv_heads = max((group.n_kv_heads for group in model.kv_groups), default=0)
    kept_mtp = any(group.tensor_class == "mtp" for group in groups)
    return _Geometry(
        layers=model.layers + (model.mtp_layers if kept_mtp else 0),
        experts=model.moe.experts if model.moe else 0,
        query_heads_per_kv_head=model.heads // kv_heads if kv_heads else 1,
        is_70b=model.moe is None and model.layers == 80 and 0 < kv_heads < model.heads,
        tied_embeddings=all(group.role != "lm_head" for group in groups),
    )


def _order_of_down(groups: tuple[TensorGroup, ...]) -> dict[tuple[int, Role], int]:
    """Position of each down projection in the file, by layer, then name: the low-bit types count tensors."""
    down = [
        (layer, group.name, group.role)
        for group in groups
        if group.format != "F32" and _NAMES[group.role][1] == "down"
        for layer in group.layers
    ]
    return {(layer, role): position for position, (layer, _, role) in enumerate(sorted(down))}


def _typed(
    group: TensorGroup, file_type: str, geometry: _Geometry, order: dict[tuple[int, Role], int]
) -> list[TensorGroup]:
    category = _NAMES[group.role][1]
    if not group.layers:
        return [in_format(group, _tensor_type(file_type, category, 0, 0, group.shape, geometry))]
    typed = [
        (
            _tensor_type(file_type, category, layer, order.get((layer, group.role), layer), group.shape, geometry),
            layer,
        )
        for layer in group.layers
    ]
    split = []
    for format_name, members in groupby(sorted(typed), key=lambda item: item[0]):
        layers = tuple(layer for _, layer in members)
        split.append(in_format(group._replace(layers=layers), format_name))
    return split


def _tensor_type(
    file_type: str, category: Category, layer: int, position: int, shape: tuple[int, ...], geometry: _Geometry
) -> str:
    """Type of one tensor. ``position`` is its place among the down projections of the file."""
    default = DEFAULT_TYPE[file_type]
    if category == "output" or (category == "embedding" and geometry.tied_embeddings):
        return _output_type(file_type, shape[-1])
    if file_type == "MXFP4_MOE":
        return "MXFP4" if len(shape) > 2 else "Q8_0"
    if category == "embedding":
        return _EMBEDDING.get(file_type, default)
    if file_type in _LOW_BIT:
        return _low_bit_type(file_type, category, position, geometry) or default
    eight_experts = geometry.experts == 8
    if category in ("attn_v", "attn_qkv"):
        return "Q8_0" if eight_experts else _value_type(file_type, layer, geometry) or default
    if category == "attn_k" and eight_experts:
        return "Q8_0"
    if category in ("attn_q", "attn_k"):
        return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(file_type, default)
    if category == "down":
        return _down_type(file_type, layer, geometry) or default
    if category == "attn_output":
        if eight_experts:
            return "Q5_K" if file_type in _EIGHT_EXPERT_OUTPUT else default
        return _ATTENTION_OUTPUT.get(file_type, default)
    if category == "gate_up" and file_type == "IQ3_XS":
        eighth = geometry.layers // 8
        return "IQ3_XXS" if eighth <= layer < 7 * geometry.layers // 8 else default
    return default


_EMBEDDING = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"), "Q2_K"),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "IQ3_S"),
    **dict.fromkeys(("TQ1_0", "TQ2_0"), "Q4_K"),
}
_ATTENTION_OUTPUT = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
_EIGHT_EXPERT_OUTPUT = (
    "Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS",
)  # fmt: skip


def _output_type(file_type: str, columns: int) -> str:
    default = DEFAULT_TYPE[file_type]
    if file_type == "MXFP4_MOE" or columns % FORMATS[default].block:
        return "Q8_0"
    if file_type in (*_LOW_BIT, "IQ3_XXS"):
        return "Q5_K"
    return default if default == "Q8_0" else "Q6_K"


def _low_bit_type(file_type: str, category: Category, position: int, geometry: _Geometry) -> str | None:
    finer = "IQ3_S" if file_type in ("IQ2_S", "IQ2_M") else "Q2_K"
    if category in ("attn_v", "attn_qkv"):
        return "Q4_K" if geometry.query_heads_per_kv_head >= 4 or geometry.experts >= 4 else finer
    if category == "attn_k" and geometry.experts == 8:
        return "Q4_K"
    if category == "down":
        return finer if position < geometry.layers // 8 else None
    if category == "attn_output":
        if geometry.experts == 8:
            return "Q5_K"
        return {"IQ1_S": "IQ2_XXS", "IQ1_M": "IQ2_XXS", "IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S"}.get(file_type)
    return None


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _value_type(file_type: str, layer: int, geometry: _Geometry) -> str | None:
    """``attn_v``: small under grouped queries, so it gets more bits."""
    grouped = geometry.query_heads_per_kv_head >= 4
    chosen: str | None = None
    if file_type == "Q2_K":
        chosen = "Q4_K" if grouped else "Q3_K"
    elif file_type == "IQ3_M" or (file_type in ("Q2_K_S", "IQ3_XXS", "IQ3_XS", "IQ3_S") and grouped):
        chosen = "Q4_K"
    elif file_type == "Q3_K_M":
        chosen = "Q5_K" if layer < 2 else "Q4_K"
    elif file_type == "Q3_K_L" or (file_type in ("IQ4_NL", "IQ4_XS") and grouped):
        chosen = "Q5_K"
    elif file_type in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, geometry.layers):
        chosen = "Q6_K"
    elif file_type == "Q4_K_S" and layer < 4:
        chosen = "Q5_K"
    if geometry.is_70b and (chosen or DEFAULT_TYPE[file_type]) in ("Q3_K", "Q4_K"):
        return "Q5_K"
    return chosen


def _down_type(file_type: str, layer: int, geometry: _Geometry) -> str | None:
    if file_type == "Q3_K_M":
        return "Q5_K" if layer < geometry.layers // 16 else "Q4_K"
    more_bits = _more_bits(layer, geometry.layers)
    if file_type in ("Q4_K_M", "Q5_K_M") and more_bits:
        return "Q6_K"
    if file_type == "IQ3_M" and geometry.experts == 8 and more_bits:
        return "Q4_K"
    if layer < geometry.layers // 8 and file_type in _EARLY_DOWN:
        return _EARLY_DOWN[file_type]
    return {"Q2_K": "Q3_K", "Q3_K_L": "Q5_K"}.get(file_type)


_EARLY_DOWN = {"Q2_K_S": "Q4_K", "IQ3_M": "Q4_K", "Q4_K_S": "Q5_K", "Q4_0": "Q4_1", "Q5_0": "Q5_1"}
