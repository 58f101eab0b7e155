"""What the tensors of a GGUF file do, by llama.cpp's names for them, and the groups they form.

Source: ``llama-arch.cpp`` of ggml-org/llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from profiles.families.fields import BadConfig
from profiles.headers.errors import quoted
from profiles.headers.tensorinfo import TensorInfo
from profiles.model import Role, TensorClass, TensorGroup

_BLOCK: Final = re.compile(r"blk\.(0|[1-9][0-9]{0,8})\.(.+)", re.DOTALL)
_SCALES: Final = (".scale", ".input_scale")
"""Scales of NVFP4 tensors, which go with the weight of the same name."""


class _Part(NamedTuple):
    role: Role
    tensor_class: TensorClass


_OUTSIDE: Final[dict[str, _Part]] = {
    "token_embd.weight": _Part("embedding", "embedding"),
    "output.weight": _Part("lm_head", "lm_head"),
    **{
        f"{name}.weight": _Part("norm", "norms")
        for name in ("output_norm", "token_embd_norm", "rope_freqs", "rope_factors_long", "rope_factors_short")
    },
}


def _layer_parts() -> dict[str, _Part]:
    attention: dict[str, Role] = {
        "attn_q": "q",
        "attn_k": "k",
        "attn_v": "v",
        "attn_qkv": "q",
        "attn_output": "o",
        "attn_q_a": "q_a",
        "attn_q_b": "q_b",
        "attn_kv_a_mqa": "kv_a",
        "attn_kv_b": "kv_b",
        "attn_k_b": "k_b",
        "attn_v_b": "v_b",
        "attn_gate": "attention_gate",
        "attn_sinks": "attention_sink",
        "indexer.attn_q_b": "indexer_q",
        "indexer.attn_k": "indexer_k",
        "indexer.proj": "indexer_weights",
        "ssm_in": "linear_in",
        "ssm_ba": "linear_in",
        "ssm_alpha": "linear_in",
        "ssm_beta": "linear_in",
        "ssm_f_a": "linear_gate_a",
        "ssm_f_b": "linear_in",
        "ssm_g_a": "linear_gate_a",
        "ssm_g_b": "linear_in",
        "ssm_conv1d": "linear_conv",
        "ssm_conv1d_q": "linear_conv",
        "ssm_conv1d_k": "linear_conv",
        "ssm_conv1d_v": "linear_conv",
        "ssm_out": "linear_out",
    }
    norms = (
        *("attn_norm", "attn_q_norm", "attn_k_norm", "attn_q_a_norm", "attn_kv_a_norm", "post_attention_norm"),
        *("ffn_norm", "post_ffw_norm", "ssm_norm", "indexer.k_norm", "rope_freqs"),
        *("nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm"),
    )
    parts = {f"{name}.weight": _Part(role, "attention") for name, role in attention.items()}
    parts |= {f"{name}.bias": _Part("attention_bias", "attention") for name in attention}
    parts |= {f"{name}.{kind}": _Part("norm", "norms") for name in norms for kind in ("weight", "bias")}
    parts |= {name: _Part("linear_state", "attention") for name in ("ssm_a", "ssm_dt.bias")}
    matrices: dict[str, tuple[Role, Role, Role]] = {
        "ffn_gate": ("dense_gate", "shared_gate", "expert_gate"),
        "ffn_up": ("dense_up", "shared_up", "expert_up"),
        "ffn_down": ("dense_down", "shared_down", "expert_down"),
    }
    for name, (dense, shared, expert) in matrices.items():
        parts[f"{name}.weight"] = _Part(dense, "dense_ffn")
        parts[f"{name}.bias"] = _Part("ffn_bias", "dense_ffn")
        parts[f"{name}_shexp.weight"] = _Part(shared, "shared_experts")
        parts[f"{name}_shexp.bias"] = _Part("ffn_bias", "shared_experts")
        parts[f"{name}_exps.weight"] = _Part(expert, "routed_experts")
        parts[f"{name}_exps.bias"] = _Part("expert_bias", "routed_experts")
    parts |= {
        "ffn_gate_up_exps.weight": _Part("expert_gate", "routed_experts"),
        "ffn_gate_up_exps.bias": _Part("expert_bias", "routed_experts"),
        "ffn_gate_inp.weight": _Part("router", "router"),
        "ffn_gate_inp.bias": _Part("router_bias", "router"),
        "exp_probs_b.bias": _Part("router_bias", "router"),
        "exp_probs_b": _Part("router_bias", "router"),
        "ffn_gate_inp_shexp.weight": _Part("shared_router", "shared_experts"),
        "nextn.eh_proj.weight": _Part("mtp_projection", "mtp"),
        "nextn.embed_tokens.weight": _Part("embedding", "mtp"),
        "nextn.shared_head_head.weight": _Part("lm_head", "mtp"),
    }
    return parts


_IN_LAYER: Final = _layer_parts()

_LINEAR: Final[dict[Role, Role]] = {
    "q": "linear_in",
    "k": "linear_in",
    "v": "linear_in",
    "attention_gate": "linear_in",
    "o": "linear_out",
}
"""Projections of linear attention that share their names with those of attention."""


class GroupedTensors(NamedTuple):
    """The tensors of a file in groups; ``unknown`` are the names that no rule here knows."""

    groups: tuple[TensorGroup, ...]
    unknown: tuple[str, ...]

    def layers_of(self, *roles: Role) -> tuple[int, ...]:
        """The decoder layers that have a tensor of one of ``roles``."""
        found = {
            layer
            for group in self.groups
            if group.role in roles and group.tensor_class != "mtp"
            for layer in group.layers
        }
        return tuple(sorted(found))

    def matrices(self, role: Role) -> list[TensorGroup]:
        """The groups of ``role`` outside multi-token prediction, biases not among them."""
        return [
            group
            for group in self.groups
            if group.role == role and group.tensor_class != "mtp" and not group.name.endswith((".bias", *_SCALES))
        ]


def group_tensors(
    tensors: Iterable[TensorInfo], layers: int, mtp_layers: int, linear: frozenset[int]
) -> GroupedTensors:
    """Groups of equal name pattern, shape and type. ``layers`` counts without ``mtp_layers``, which come after them.

    ``linear`` are the layers of linear attention. Raises ``BadConfig`` for a tensor of a layer beyond the last and for
    one without elements.
    """
    members: dict[tuple[str, tuple[int, ...], str, _Part], list[int]] = {}
    unknown: list[str] = []
    for tensor in tensors:
        layer, name, part = _place(tensor.name, layers + mtp_layers)
        if part is None:
            unknown.append(tensor.name)
            part = _Part("norm", "norms")
        if not tensor.nbytes:
            raise BadConfig(f"tensor {quoted(tensor.name)} has no elements; at least one is needed")
        if layer is not None and layer in linear:
            part = part._replace(role=_LINEAR.get(part.role, part.role))
        if layer is not None and layer >= layers:
            part = part._replace(tensor_class="mtp")
        found = members.setdefault((name, tensor.shape or (1,), tensor.type_name, part), [])
        if layer is not None:
            found.append(layer)
    groups = [
        TensorGroup(name, shape, part.role, part.tensor_class, type_name, tuple(sorted(found)))
        for (name, shape, type_name, part), found in members.items()
    ]
    return GroupedTensors(tuple(groups), tuple(unknown))


def _place(name: str, layers: int) -> tuple[int | None, str, _Part | None]:
    """The layer of a tensor, its name with ``{layer}``, and what it does."""
    found = _BLOCK.fullmatch(name)
    if found is None:
        return None, name, _OUTSIDE.get(name)
    layer, rest = int(found[1]), found[2]
    if layer >= layers:
        raise BadConfig(f"tensor {quoted(name)} is of layer {layer}, but block_count is {layers}")
    part = _IN_LAYER.get(rest)
    weight = next((f"{rest.removesuffix(end)}.weight" for end in _SCALES if rest.endswith(end)), None)
    if part is None and weight in _IN_LAYER:
        whole = _IN_LAYER[weight]
        part = whole._replace(role="expert_bias" if whole.tensor_class == "routed_experts" else "norm")
    return layer, f"blk.{{layer}}.{rest}", part
