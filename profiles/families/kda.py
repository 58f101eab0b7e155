"""Kimi delta attention (KDA) of Kimi-Linear and Kimi K3: a state per head that decays by channel.

The two differ in more than their sizes: K3 gates the output by a full-rank matrix where Kimi-Linear has a low-rank one,
and its checkpoint keeps convolutions and the inner norm in F32, and ``A_log`` with one entry per channel of a head
where the model code declares one per head. Sources: the published headers of moonshotai/Kimi-Linear-48B-A3B-Instruct
(revision e1df551) and moonshotai/Kimi-K3 (revision 9f62e4e); vLLM 0.33.0 ``mamba_utils.py`` ``kda_state_shape``.
"""

from __future__ import annotations

from typing import NamedTuple

from profiles.families.blocks import Layers, norm
from profiles.families.fields import MAX_HEADS, MAX_LAYERS, BadConfig, Fields
from profiles.model import KvGroup, Role, TensorGroup


class Kda(NamedTuple):
    """Geometry of Kimi delta attention."""

    hidden: int
    heads: int
    head_dim: int
    kernel: int
    full_rank_gate: bool

    @classmethod
    def read(cls, config: Fields, hidden: int) -> Kda:
        """The geometry that ``linear_attn_config`` states."""
        return cls(
            hidden,
            config.integer("num_heads", high=MAX_HEADS),
            config.integer("head_dim"),
            config.integer("short_conv_kernel_size", high=1024),
            config.flag("use_full_rank_gate", False),
        )

    @property
    def width(self) -> int:
        """Width of queries, of keys and of values."""
        return self.heads * self.head_dim

    def tensors(self, prefix: str, dtype: str, layers: Layers) -> list[TensorGroup]:
        """Projections, convolutions, low-rank decay gate, output gate and the state's vectors."""
        inner = "f32" if self.full_rank_gate else dtype
        parts: list[tuple[str, tuple[int, ...], Role, str]] = []
        for name in ("q", "k", "v"):
            parts.append((f"{name}_proj.weight", (self.width, self.hidden), "linear_in", dtype))
            parts.append((f"{name}_conv1d.weight", (self.width, 1, self.kernel), "linear_conv", inner))
        parts += [
            ("f_a_proj.weight", (self.head_dim, self.hidden), "linear_gate_a", dtype),
            ("f_b_proj.weight", (self.width, self.head_dim), "linear_in", dtype),
            ("b_proj.weight", (self.heads, self.hidden), "linear_in", dtype),
        ]
        if self.full_rank_gate:
            parts.append(("g_proj.weight", (self.width, self.hidden), "attention_gate", dtype))
        else:
            parts.append(("g_a_proj.weight", (self.head_dim, self.hidden), "linear_gate_a", dtype))
            parts.append(("g_b_proj.weight", (self.width, self.head_dim), "linear_in", dtype))
        parts += [
            ("A_log", (self.head_dim,) if self.full_rank_gate else (1, 1, self.heads, 1), "linear_state", "f32"),
            ("dt_bias", (self.width,), "linear_state", "f32"),
            ("o_proj.weight", (self.hidden, self.width), "linear_out", dtype),
        ]
        groups = [
            TensorGroup(f"{prefix}{name}", shape, role, "attention", kind, layers) for name, shape, role, kind in parts
        ]
        return [*groups, norm(f"{prefix}o_norm.weight", self.head_dim, inner, layers)]

    def cache(self, layers: Layers) -> KvGroup:
        """An F32 state per head, and the last inputs of the three convolutions in 2 bytes each."""
        state = self.heads * self.head_dim**2 * 4
        return KvGroup("linear", layers, state_bytes=state + 3 * self.width * (self.kernel - 1) * 2)


def attention_layers(config: Fields, layers: int) -> tuple[Layers, Layers]:
    """Layers with latent and with delta attention; the configuration counts layers from one."""
    full, delta = (
        tuple(sorted(layer - 1 for layer in config.integers(key, low=1, high=MAX_LAYERS)))
        for key in ("full_attn_layers", "kda_layers")
    )
    if not full or not delta or tuple(sorted((*full, *delta))) != tuple(range(layers)):
        raise BadConfig(
            f"{config.path}: full_attn_layers and kda_layers must name each of {layers} layers exactly once"
        )
    return full, delta
