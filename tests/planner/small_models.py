"""Models small and whole, each twice: the planner's, read from a ``config.json``, and llama.cpp's, a GGUF to write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from profiles.config_reader import read_config
from profiles.library import load_model
from profiles.mixtures import ReleaseTensors
from profiles.model import ModelSpec
from tests.support.gguf_models import (
    DeepSeek2Spec,
    GqaSpec,
    LlamaSpec,
    Mixture,
    Qwen3MoeSpec,
    Shape,
    kimi_k25_spec,
)
from tests.support.gguf_models import ModelSpec as GgufSpec
from tests.support.gguf_writer import Tensor


class Case(NamedTuple):
    """A model for the planner, and the file that llama.cpp gets in the types of a release of it."""

    model: ModelSpec
    file: Callable[[Mixture], GgufSpec]


@dataclass(frozen=True, kw_only=True)
class GptOssSpec(GqaSpec):
    """Experts with biases, attention with sinks, windowed in every other layer from the first on: gpt-oss."""

    experts: int
    experts_used: int
    expert_ffn: int
    window: int

    @property
    def architecture(self) -> str:
        return "gpt-oss"

    def hyperparameters(self) -> Iterable[tuple[str, str, int | float | bool]]:
        return (
            *super().hyperparameters(),
            ("expert_count", "u32", self.experts),
            ("expert_used_count", "u32", self.experts_used),
            ("expert_feed_forward_length", "u32", self.expert_ffn),
            ("attention.sliding_window", "u32", self.window),
        )

    def layer_shapes(self, layer: int) -> Iterable[Shape]:
        yield "attn_norm.weight", (self.hidden,)
        for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
            yield f"attn_{name}.weight", (self.hidden, heads * self.head)
            yield f"attn_{name}.bias", (heads * self.head,)
        yield "attn_sinks.weight", (self.heads,)
        yield "attn_output.weight", (self.heads * self.head, self.hidden)
        yield "attn_output.bias", (self.hidden,)
        yield "post_attention_norm.weight", (self.hidden,)
        yield from self._routed_expert_shapes(self.experts, self.expert_ffn)
        yield "ffn_gate_inp.bias", (self.experts,)
        yield "ffn_gate_exps.bias", (self.expert_ffn, self.experts)
        yield "ffn_up_exps.bias", (self.expert_ffn, self.experts)
        yield "ffn_down_exps.bias", (self.hidden, self.experts)

    def _kind(self, name: str, shape: tuple[int, ...]) -> str:
        return "f32" if name.endswith(".bias") else super()._kind(name, shape)


@dataclass(frozen=True, kw_only=True)
class TiedLlamaSpec(LlamaSpec):
    """Without a head of its own: llama.cpp reads the embedding twice."""

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple([tensor for tensor in super().tensors() if tensor.name != "output.weight"])

    def _kind(self, name: str, shape: tuple[int, ...]) -> str:
        return "f16" if name == "output.weight" else super()._kind(name, shape)


_COMMON: Mapping[str, Any] = {
    "vocab_size": 32000, "hidden_size": 2048, "num_hidden_layers": 6, "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
_LATENT: Mapping[str, Any] = {
    "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "num_attention_heads": 16,
    "num_key_value_heads": 16, "intermediate_size": 4096, "first_k_dense_replace": 1, "n_routed_experts": 32,
    "num_experts_per_tok": 4, "moe_intermediate_size": 768, "n_shared_experts": 1, "q_lora_rank": 512,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "moe_layer_freq": 1,
    "num_nextn_predict_layers": 0, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_GROUPED: Mapping[str, Any] = {
    "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 4, "intermediate_size": 4096, "num_experts": 32, "num_experts_per_tok": 4,
    "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": [], "attention_bias": False,
}  # fmt: skip
_DENSE: Mapping[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_attention_heads": 16, "num_key_value_heads": 4,
    "intermediate_size": 8192, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip
_WINDOWED: Mapping[str, Any] = {
    "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "hidden_size": 2880, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "num_local_experts": 32,
    "num_experts_per_tok": 4, "sliding_window": 128, "attention_bias": True,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
}  # fmt: skip


def _read(name: str, config: Mapping[str, Any], **other: object) -> ModelSpec:
    return read_config({**_COMMON, **config, **other}, id=name)


def _latent(mixture: Mixture) -> GgufSpec:
    return DeepSeek2Spec(
        name="latent", vocabulary=32000, hidden=2048, layers=6, heads=16, context=131072, mixture=mixture,
        dense_layers=1, dense_ffn=4096, experts=32, experts_used=4, expert_ffn=768, shared_experts=1, q_lora=512,
        kv_lora=512, nope_head=128, rope_head=64, value_head=128,
    )  # fmt: skip


def _grouped(mixture: Mixture) -> GgufSpec:
    return Qwen3MoeSpec(
        name="grouped", vocabulary=32000, hidden=2048, layers=6, heads=32, context=131072, mixture=mixture,
        kv_heads=4, head=128, ffn=4096, experts=32, experts_used=4, expert_ffn=768,
    )  # fmt: skip


def _dense(mixture: Mixture) -> GgufSpec:
    return LlamaSpec(
        name="dense", vocabulary=32000, hidden=2048, layers=6, heads=16, context=131072, mixture=mixture,
        kv_heads=4, head=128, ffn=8192,
    )  # fmt: skip


def _tied(mixture: Mixture) -> GgufSpec:
    return TiedLlamaSpec(
        name="tied", vocabulary=32000, hidden=2048, layers=6, heads=16, context=131072, mixture=mixture,
        kv_heads=4, head=128, ffn=8192,
    )  # fmt: skip


def _windowed(mixture: Mixture) -> GgufSpec:
    return GptOssSpec(
        name="windowed", vocabulary=32000, hidden=2880, layers=6, heads=64, context=131072, mixture=mixture,
        kv_heads=8, head=64, ffn=2880, experts=32, experts_used=4, expert_ffn=2880, window=128,
    )  # fmt: skip


def cases() -> dict[str, Case]:
    """Every model, by its name."""
    return {
        "latent": Case(_read("latent", _LATENT), _latent),
        "grouped": Case(_read("grouped", _GROUPED), _grouped),
        "dense": Case(_read("dense", _DENSE), _dense),
        "tied": Case(_read("tied", _DENSE, tie_word_embeddings=True), _tied),
        "windowed": Case(_read("windowed", _WINDOWED), _windowed),
        "kimi-k2.5": Case(load_model("kimi-k2.5"), kimi_k25_spec),
    }


def types_by_name(tensors: ReleaseTensors) -> dict[str, str]:
    """The ggml type of every tensor of a release, by its name in the file."""
    types = {}
    for group in tensors.groups:
        for layer in group.layers or (0,):
            types[group.name.format(layer=layer)] = group.format.lower()
    return types
