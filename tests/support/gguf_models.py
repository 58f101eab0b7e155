"""Models to write as GGUF: an architecture's tensors and metadata as llama.cpp expects them, of any size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tests.support.gguf_writer import GGML_TYPES, Field, Tensor

NARROW_FALLBACK: Mapping[str, str] = {
    **dict.fromkeys(("q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}
"""What llama-quantize stores instead where the columns are not a multiple of the 256 of a block."""

Mixture = Callable[[str], str] | Mapping[str, str]
"""Tensor name -> ggml type name, before the F32 exceptions and the fallback for narrow tensors."""


Shape = tuple[str, tuple[int, ...]]


def uniform(kind: str) -> Mixture:
    """Every tensor in one type."""
    return lambda _: kind


def routed_experts(kind: str, rest: str) -> Mixture:
    """The routed experts in one type and everything else in another."""
    return lambda name: kind if "_exps." in name else rest


@dataclass(frozen=True, kw_only=True)
class ModelSpec(ABC):
    """What every architecture states: dimensions in elements, `mixture` the storage type of each tensor.

    `tokenizer` is `none` (the header says only how many token ids there are) or `gpt2`, a byte-level
    vocabulary with which llama.cpp turns any text into tokens (needs `vocabulary` >= 257).
    """

    name: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    context: int
    mixture: Mixture
    tokenizer: Literal["none", "gpt2"] = "none"

    @property
    @abstractmethod
    def architecture(self) -> str:
        """The value of `general.architecture`."""

    @abstractmethod
    def hyperparameters(self) -> Iterable[tuple[str, str, int | float | bool]]:
        """`(key without the architecture prefix, kind, value)` beyond those that every architecture has."""

    @abstractmethod
    def layer_shapes(self, layer: int) -> Iterable[Shape]:
        """Names (without `blk.N.`) and shapes of one layer's tensors."""

    def fields(self) -> tuple[Field, ...]:
        """All metadata entries, the tokenizer last."""
        specific = (
            ("vocab_size", "u32", self.vocabulary),
            ("context_length", "u32", self.context),
            ("embedding_length", "u32", self.hidden),
            ("block_count", "u32", self.layers),
            ("attention.head_count", "u32", self.heads),
            ("attention.layer_norm_rms_epsilon", "f32", 1e-6),
            *self.hyperparameters(),
        )
        return (
            Field("general.architecture", "str", self.architecture),
            Field("general.name", "str", self.name),
            Field("general.quantization_version", "u32", 2),
            *(Field(f"{self.architecture}.{key}", kind, value) for key, kind, value in specific),
            *_tokenizer_fields(self.tokenizer, self.vocabulary),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in file order. Raises `KeyError` for a type that is not in `GGML_TYPES`."""
        shapes: list[Shape] = [("token_embd.weight", (self.hidden, self.vocabulary))]
        for layer in range(self.layers):
            shapes += ((f"blk.{layer}.{name}", shape) for name, shape in self.layer_shapes(layer))
        shapes += [("output_norm.weight", (self.hidden,)), ("output.weight", (self.hidden, self.vocabulary))]
        return tuple(Tensor(name, shape, self._kind(name, shape)) for name, shape in shapes)

    def _kind(self, name: str, shape: tuple[int, ...]) -> str:
        if len(shape) == 1 or "ffn_gate_inp" in name:
            return "f32"
        kind = self.mixture[name] if isinstance(self.mixture, Mapping) else self.mixture(name)
        if shape[0] % GGML_TYPES[kind].block_elements:
            kind = NARROW_FALLBACK.get(kind, "f16")
        return "f16" if shape[0] % GGML_TYPES[kind].block_elements else kind

    def _routed_expert_shapes(self, experts: int, expert_ffn: int) -> Iterable[Shape]:
        yield "ffn_gate_inp.weight", (self.hidden, experts)
        yield "ffn_gate_exps.weight", (self.hidden, expert_ffn, experts)
        yield "ffn_up_exps.weight", (self.hidden, expert_ffn, experts)
        yield "ffn_down_exps.weight", (expert_ffn, self.hidden, experts)

    def _feed_forward_shapes(self, ffn: int, suffix: str = "") -> Iterable[Shape]:
        yield f"ffn_gate{suffix}.weight", (self.hidden, ffn)
        yield f"ffn_up{suffix}.weight", (self.hidden, ffn)
        yield f"ffn_down{suffix}.weight", (ffn, self.hidden)


@dataclass(frozen=True, kw_only=True)
class DeepSeek2Spec(ModelSpec):
    """Multi-head latent attention with a mixture of experts: DeepSeek V3, Kimi K2 and K2.5."""

    dense_layers: int
    dense_ffn: int
    experts: int
    experts_used: int
    expert_ffn: int
    shared_experts: int
    q_lora: int
    kv_lora: int
    nope_head: int
    rope_head: int
    value_head: int

    @property
    def architecture(self) -> str:
        return "deepseek2"

    def hyperparameters(self) -> Iterable[tuple[str, str, int | float | bool]]:
        return (
            # llama.cpp sees latent attention as multi-query attention over one compressed head.
            ("attention.head_count_kv", "u32", 1),
            ("attention.key_length", "u32", self.kv_lora + self.rope_head),
            ("attention.value_length", "u32", self.kv_lora),
            ("attention.key_length_mla", "u32", self.nope_head + self.rope_head),
            ("attention.value_length_mla", "u32", self.value_head),
            ("attention.q_lora_rank", "u32", self.q_lora),
            ("attention.kv_lora_rank", "u32", self.kv_lora),
            ("rope.dimension_count", "u32", self.rope_head),
            ("rope.freq_base", "f32", 50000.0),
            ("leading_dense_block_count", "u32", self.dense_layers),
            ("feed_forward_length", "u32", self.dense_ffn),
            ("expert_count", "u32", self.experts),
            ("expert_used_count", "u32", self.experts_used),
            ("expert_feed_forward_length", "u32", self.expert_ffn),
            ("expert_shared_count", "u32", self.shared_experts),
            ("expert_weights_scale", "f32", 2.827),
            ("expert_weights_norm", "bool", True),
            ("expert_gating_func", "u32", 2),  # sigmoid
        )

    def layer_shapes(self, layer: int) -> Iterable[Shape]:
        yield "attn_norm.weight", (self.hidden,)
        yield "attn_q_a.weight", (self.hidden, self.q_lora)
        yield "attn_q_a_norm.weight", (self.q_lora,)
        yield "attn_q_b.weight", (self.q_lora, self.heads * (self.nope_head + self.rope_head))
        yield "attn_kv_a_mqa.weight", (self.hidden, self.kv_lora + self.rope_head)
        yield "attn_kv_a_norm.weight", (self.kv_lora,)
        yield "attn_k_b.weight", (self.nope_head, self.kv_lora, self.heads)
        yield "attn_v_b.weight", (self.kv_lora, self.value_head, self.heads)
        yield "attn_output.weight", (self.heads * self.value_head, self.hidden)
        yield "ffn_norm.weight", (self.hidden,)
        if layer < self.dense_layers:
            yield from self._feed_forward_shapes(self.dense_ffn)
            return
        yield "exp_probs_b.bias", (self.experts,)
        yield from self._routed_expert_shapes(self.experts, self.expert_ffn)
        yield from self._feed_forward_shapes(self.expert_ffn * self.shared_experts, "_shexp")


@dataclass(frozen=True, kw_only=True)
class GqaSpec(ModelSpec, ABC):
    """Grouped-query attention."""

    kv_heads: int
    head: int
    ffn: int

    def hyperparameters(self) -> Iterable[tuple[str, str, int | float | bool]]:
        return (
            ("attention.head_count_kv", "u32", self.kv_heads),
            ("attention.key_length", "u32", self.head),
            ("attention.value_length", "u32", self.head),
            ("rope.dimension_count", "u32", self.head),
            ("rope.freq_base", "f32", 1_000_000.0),
            ("feed_forward_length", "u32", self.ffn),
        )

    def _attention_shapes(self) -> Iterable[Shape]:
        yield "attn_norm.weight", (self.hidden,)
        yield "attn_q.weight", (self.hidden, self.heads * self.head)
        yield "attn_k.weight", (self.hidden, self.kv_heads * self.head)
        yield "attn_v.weight", (self.hidden, self.kv_heads * self.head)
        yield "attn_output.weight", (self.heads * self.head, self.hidden)
        yield "ffn_norm.weight", (self.hidden,)


@dataclass(frozen=True, kw_only=True)
class LlamaSpec(GqaSpec):
    """Dense layers with grouped-query attention: Llama 3."""

    @property
    def architecture(self) -> str:
        return "llama"

    def layer_shapes(self, layer: int) -> Iterable[Shape]:
        yield from self._attention_shapes()
        yield from self._feed_forward_shapes(self.ffn)


@dataclass(frozen=True, kw_only=True)
class Qwen3MoeSpec(GqaSpec):
    """Experts in every layer, grouped-query attention with normalised queries and keys: Qwen3-235B-A22B."""

    experts: int
    experts_used: int
    expert_ffn: int

    @property
    def architecture(self) -> str:
        return "qwen3moe"

    def hyperparameters(self) -> Iterable[tuple[str, str, int | float | bool]]:
        return (
            *super().hyperparameters(),
            ("expert_count", "u32", self.experts),
            ("expert_used_count", "u32", self.experts_used),
            ("expert_feed_forward_length", "u32", self.expert_ffn),
        )

    def layer_shapes(self, layer: int) -> Iterable[Shape]:
        yield from self._attention_shapes()
        yield "attn_q_norm.weight", (self.head,)
        yield "attn_k_norm.weight", (self.head,)
        yield from self._routed_expert_shapes(self.experts, self.expert_ffn)


def kimi_k25_spec(mixture: Mixture) -> DeepSeek2Spec:
    """The text model of Kimi K2.5: 1,096 tensors, 1,026,408,232,448 parameters.

    Source: https://huggingface.co/moonshotai/Kimi-K2.5/blob/main/config.json (`text_config`).
    """
    return DeepSeek2Spec(
        name="Kimi-K2.5",
        vocabulary=163840,
        hidden=7168,
        layers=61,
        heads=64,
        context=262144,
        mixture=mixture,
        dense_layers=1,
        dense_ffn=18432,
        experts=384,
        experts_used=8,
        expert_ffn=2048,
        shared_experts=1,
        q_lora=1536,
        kv_lora=512,
        nope_head=128,
        rope_head=64,
        value_head=128,
    )


def _tokenizer_fields(tokenizer: Literal["none", "gpt2"], vocabulary: int) -> tuple[Field, ...]:
    if tokenizer == "none":
        return (Field("tokenizer.ggml.model", "str", "none"),)
    if vocabulary < 257:
        raise ValueError(f"a gpt2 tokenizer needs a vocabulary of at least 257, not {vocabulary}")
    unused = [f"<unused{number}>" for number in range(vocabulary - 257)]
    # The unused ones are normal too: llama.cpp shows no text for unused ones, which random weights draw half the time.
    normal_type, control_type = 1, 3
    token_types = [normal_type] * 256 + [control_type] + [normal_type] * len(unused)
    return (
        Field("tokenizer.ggml.model", "str", "gpt2"),
        Field("tokenizer.ggml.pre", "str", "default"),
        Field("tokenizer.ggml.tokens", "str", [*_byte_alphabet(), "<eos>", *unused]),
        Field("tokenizer.ggml.token_type", "i32", token_types),
        Field("tokenizer.ggml.merges", "str", []),
        Field("tokenizer.ggml.bos_token_id", "u32", 256),
        Field("tokenizer.ggml.eos_token_id", "u32", 256),
        Field("tokenizer.ggml.add_bos_token", "bool", False),
    )


def _byte_alphabet() -> list[str]:
    """The printable character with which GPT-2's byte-level encoding writes each of the 256 bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(shifted)) for byte in range(256)]
