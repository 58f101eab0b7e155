"""One small GGUF model of every architecture that is read, with the tensors that llama.cpp asks for.

Shapes are in ggml order (columns first). Source: ``src/models`` of ggml-org/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.support.gguf_writer import Field, Tensor

VOCAB, HIDDEN, LAYERS, HEADS, HEAD, KV_HEADS, FFN = 320, 256, 4, 4, 64, 2, 512
EXPERTS, TOP_K, EXPERT_FFN = 8, 2, 256
Q_RANK, KV_RANK, NOPE, ROPE, VALUE = 128, 128, 64, 32, 64
INDEX_HEADS, INDEX_WIDTH = 4, 64
STATE, STATE_HEADS, STATE_GROUPS, KERNEL = 64, 8, 4, 4

Value = int | float | bool | str | list[int]
Values = Mapping[str, Value | None]


@dataclass(frozen=True)
class Gguf:
    """What ``write_gguf`` writes."""

    metadata: Mapping[str, Value]
    listed: tuple[Tensor, ...]

    def fields(self) -> tuple[Field, ...]:
        kinds = {bool: "bool", int: "u32", float: "f32", str: "str", list: "i32"}
        return tuple(Field(key, kinds[type(value)], value) for key, value in self.metadata.items())

    def tensors(self) -> tuple[Tensor, ...]:
        return self.listed

    @property
    def allocated_bytes(self) -> int:
        """What llama.cpp allocates for the tensors: each aligned to 32 bytes."""
        return sum(-(-tensor.size_bytes // 32) * 32 for tensor in self.listed)

    def without(self, *keys: str) -> Gguf:
        """The same without some metadata."""
        return Gguf({key: value for key, value in self.metadata.items() if key not in keys}, self.listed)

    def with_metadata(self, **values: Value) -> Gguf:
        """The same with other metadata; in a key ``__`` stands for a dot."""
        return Gguf({**self.metadata, **{key.replace("__", "."): value for key, value in values.items()}}, self.listed)


def t(name: str, *shape: int) -> Tensor:
    """A tensor in F32."""
    return Tensor(name, shape, "f32")


def build(architecture: str, tensors: list[Tensor], values: Values = {}, layers: int = LAYERS) -> Gguf:  # noqa: B006
    """A file with the metadata that every architecture has; ``values`` replaces it, None removes."""
    common: dict[str, Value | None] = {
        "context_length": 4096,
        "embedding_length": HIDDEN,
        "block_count": layers,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "rope.dimension_count": HEAD,
        "feed_forward_length": FFN,
        "vocab_size": VOCAB,
        **values,
    }
    specific = {f"{architecture}.{key}": value for key, value in common.items() if value is not None}
    head: dict[str, Value] = {"general.architecture": architecture, "tokenizer.ggml.model": "none"}
    return Gguf({**head, **specific}, tuple(tensors))


def ends(*, tied: bool = False) -> list[Tensor]:
    """Embedding, final norm and head."""
    outer = [t("token_embd.weight", HIDDEN, VOCAB), t("output_norm.weight", HIDDEN)]
    return outer if tied else [*outer, t("output.weight", HIDDEN, VOCAB)]


def heads(
    layer: int, norms: str = "", *, bias: bool = False, post: str = "ffn_norm", kv_heads: int = KV_HEADS, gated: int = 1
) -> list[Tensor]:
    """Grouped-query attention and the norms around it; ``norms`` of queries and keys are per ``head`` or ``layer``."""
    block = f"blk.{layer}."
    widths = {"q": HEADS * HEAD * gated, "k": kv_heads * HEAD, "v": kv_heads * HEAD}
    tensors = [t(f"{block}attn_norm.weight", HIDDEN), t(f"{block}{post}.weight", HIDDEN)]
    tensors += [t(f"{block}attn_{part}.weight", HIDDEN, width) for part, width in widths.items()]
    tensors.append(t(f"{block}attn_output.weight", HEADS * HEAD, HIDDEN))
    if bias:
        tensors += [t(f"{block}attn_{part}.bias", width) for part, width in widths.items()]
    if norms:
        for part in "qk":
            tensors.append(t(f"{block}attn_{part}_norm.weight", HEAD if norms == "head" else widths[part]))
    return tensors


def latent(layer: int, *, split: bool = True, q_rank: bool = True) -> list[Tensor]:
    """Multi-head latent attention, with ``kv_b`` in two tensors or, as once, in one."""
    block = f"blk.{layer}."
    queries = HEADS * (NOPE + ROPE)
    tensors = [
        t(f"{block}attn_norm.weight", HIDDEN),
        t(f"{block}attn_kv_a_mqa.weight", HIDDEN, KV_RANK + ROPE),
        t(f"{block}attn_kv_a_norm.weight", KV_RANK),
        t(f"{block}attn_output.weight", HEADS * VALUE, HIDDEN),
        t(f"{block}ffn_norm.weight", HIDDEN),
    ]
    if q_rank:
        tensors += [
            t(f"{block}attn_q_a.weight", HIDDEN, Q_RANK),
            t(f"{block}attn_q_a_norm.weight", Q_RANK),
            t(f"{block}attn_q_b.weight", Q_RANK, queries),
        ]
    else:
        tensors.append(t(f"{block}attn_q.weight", HIDDEN, queries))
    if not split:
        return [*tensors, t(f"{block}attn_kv_b.weight", KV_RANK, HEADS * (NOPE + VALUE))]
    return [
        *tensors,
        t(f"{block}attn_k_b.weight", NOPE, KV_RANK, HEADS),
        t(f"{block}attn_v_b.weight", KV_RANK, VALUE, HEADS),
    ]


def indexer(layer: int) -> list[Tensor]:
    """The indexer of sparse attention."""
    block = f"blk.{layer}.indexer."
    return [
        t(f"{block}k_norm.weight", INDEX_WIDTH),
        t(f"{block}k_norm.bias", INDEX_WIDTH),
        t(f"{block}proj.weight", HIDDEN, INDEX_HEADS),
        t(f"{block}attn_k.weight", HIDDEN, INDEX_WIDTH),
        t(f"{block}attn_q_b.weight", Q_RANK, INDEX_HEADS * INDEX_WIDTH),
    ]


def ffn(layer: int, width: int = FFN, suffix: str = "") -> list[Tensor]:
    """A dense FFN, or the shared expert with the suffix ``_shexp``."""
    block = f"blk.{layer}.ffn_"
    return [
        t(f"{block}gate{suffix}.weight", HIDDEN, width),
        t(f"{block}up{suffix}.weight", HIDDEN, width),
        t(f"{block}down{suffix}.weight", width, HIDDEN),
    ]


def experts(layer: int, width: int = EXPERT_FFN) -> list[Tensor]:
    """Router and routed experts."""
    block = f"blk.{layer}.ffn_"
    return [
        t(f"{block}gate_inp.weight", HIDDEN, EXPERTS),
        t(f"{block}gate_exps.weight", HIDDEN, width, EXPERTS),
        t(f"{block}up_exps.weight", HIDDEN, width, EXPERTS),
        t(f"{block}down_exps.weight", width, HIDDEN, EXPERTS),
    ]


def score_bias(layer: int) -> list[Tensor]:
    """The score correction of the router."""
    return [t(f"blk.{layer}.exp_probs_b.bias", EXPERTS)]


def deepseek_ffn(layer: int, *, bias: bool = True) -> list[Tensor]:
    """A dense first layer, then routed experts beside a shared one."""
    if layer == 0:
        return ffn(layer)
    return [*experts(layer), *ffn(layer, EXPERT_FFN, "_shexp"), *(score_bias(layer) if bias else [])]


def next_token(layer: int) -> list[Tensor]:
    """What a multi-token-prediction layer has besides."""
    block = f"blk.{layer}.nextn."
    return [
        t(f"{block}eh_proj.weight", 2 * HIDDEN, HIDDEN),
        *(t(f"{block}{name}.weight", HIDDEN) for name in ("enorm", "hnorm", "shared_head_norm")),
    ]


def gated_ffn(layer: int) -> list[Tensor]:
    """Routed experts beside a shared one with a gate of its own."""
    return [*experts(layer), *ffn(layer, EXPERT_FFN, "_shexp"), t(f"blk.{layer}.ffn_gate_inp_shexp.weight", HIDDEN)]


def kimi_delta(layer: int) -> list[Tensor]:
    """Kimi delta attention."""
    block, width = f"blk.{layer}.", HEAD * HEADS
    return [
        t(f"{block}attn_norm.weight", HIDDEN),
        t(f"{block}ffn_norm.weight", HIDDEN),
        *(t(f"{block}ssm_conv1d_{part}.weight", KERNEL, 1, width) for part in "qkv"),
        *(t(f"{block}attn_{part}.weight", HIDDEN, width) for part in "qkv"),
        *(t(f"{block}ssm_{part}_a.weight", HIDDEN, HEAD) for part in "fg"),
        *(t(f"{block}ssm_{part}_b.weight", HEAD, width) for part in "fg"),
        t(f"{block}ssm_beta.weight", HIDDEN, HEADS),
        t(f"{block}ssm_a", 1, HEADS),
        t(f"{block}ssm_dt.bias", width),
        t(f"{block}ssm_norm.weight", HEAD),
        t(f"{block}attn_output.weight", width, HIDDEN),
    ]


def gated_delta(layer: int, *, joined: bool = False) -> list[Tensor]:
    """The gated delta net; ``joined`` as Qwen3-Next has it."""
    block, keys, values = f"blk.{layer}.", STATE * STATE_GROUPS, STATE * STATE_HEADS
    scores = {"ba": 2 * STATE_HEADS} if joined else {"beta": STATE_HEADS, "alpha": STATE_HEADS}
    return [
        t(f"{block}attn_norm.weight", HIDDEN),
        t(f"{block}post_attention_norm.weight", HIDDEN),
        t(f"{block}attn_qkv.weight", HIDDEN, 2 * keys + values),
        t(f"{block}attn_gate.weight", HIDDEN, values),
        t(f"{block}ssm_conv1d.weight", KERNEL, 2 * keys + values),
        t(f"{block}ssm_dt.bias", STATE_HEADS),
        t(f"{block}ssm_a", STATE_HEADS),
        t(f"{block}ssm_norm.weight", STATE),
        t(f"{block}ssm_out.weight", values, HIDDEN),
        *(t(f"{block}ssm_{part}.weight", HIDDEN, width) for part, width in scores.items()),
    ]


def gpt_oss_layer(layer: int) -> list[Tensor]:
    """Attention with sinks, experts, and a bias on everything."""
    block = f"blk.{layer}."
    return [
        *heads(layer, bias=True, post="post_attention_norm"),
        *experts(layer),
        t(f"{block}attn_output.bias", HIDDEN),
        t(f"{block}attn_sinks.weight", HEADS),
        t(f"{block}ffn_gate_inp.bias", EXPERTS),
        t(f"{block}ffn_gate_exps.bias", EXPERT_FFN, EXPERTS),
        t(f"{block}ffn_up_exps.bias", EXPERT_FFN, EXPERTS),
        t(f"{block}ffn_down_exps.bias", HIDDEN, EXPERTS),
    ]


def repeated(layer: Callable[[int], list[Tensor]], layers: int = LAYERS) -> list[Tensor]:
    """The tensors of all layers, and what stands before and after them."""
    return [*ends(), *(tensor for number in range(layers) for tensor in layer(number))]


MOE: Final[Values] = {
    "expert_count": EXPERTS,
    "expert_used_count": TOP_K,
    "expert_feed_forward_length": EXPERT_FFN,
}
SHARED_MOE: Final[Values] = {
    **MOE,
    "leading_dense_block_count": 1,
    "expert_shared_count": 1,
    "expert_shared_feed_forward_length": EXPERT_FFN,
    "expert_weights_scale": 2.5,
    "expert_weights_norm": True,
    "expert_gating_func": 2,
}
OLD_LATENT: Final[Values] = {
    "attention.head_count_kv": HEADS,
    "attention.key_length": NOPE + ROPE,
    "attention.value_length": VALUE,
    "attention.q_lora_rank": Q_RANK,
    "attention.kv_lora_rank": KV_RANK,
    "rope.dimension_count": ROPE,
}
LATENT: Final[Values] = {
    **OLD_LATENT,
    "attention.head_count_kv": 1,
    "attention.key_length": KV_RANK + ROPE,
    "attention.value_length": KV_RANK,
    "attention.key_length_mla": NOPE + ROPE,
    "attention.value_length_mla": VALUE,
}
INDEXER: Final[Values] = {
    "attention.indexer.head_count": INDEX_HEADS,
    "attention.indexer.key_length": INDEX_WIDTH,
    "attention.indexer.top_k": 256,
}
GATED_DELTA: Final[Values] = {
    **MOE,
    "ssm.conv_kernel": KERNEL,
    "ssm.inner_size": STATE * STATE_HEADS,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": STATE_HEADS,
    "ssm.group_count": STATE_GROUPS,
    "full_attention_interval": 4,
    "expert_shared_feed_forward_length": EXPERT_FFN,
}
SECTIONS: Final[Values] = {"rope.dimension_sections": [11, 11, 10, 0]}
ONE_MTP: Final[Values] = {"nextn_predict_layers": 1}


def _full(layer: int) -> list[Tensor]:
    return heads(layer, "head", post="post_attention_norm", gated=2)


def _qwen35(layer: int, *, joined: bool = False) -> list[Tensor]:
    return _full(layer) if layer >= 3 else gated_delta(layer, joined=joined)


def _mtp(layer: Callable[[int], list[Tensor]]) -> list[Tensor]:
    """Four decoder layers and one for multi-token prediction."""
    return [*repeated(layer, LAYERS + 1), *next_token(LAYERS)]


MODELS: Final[dict[str, Gguf]] = {
    "llama": build("llama", repeated(lambda i: [*heads(i), *ffn(i)])),
    "llama tied": build(
        "llama", repeated(lambda i: [*heads(i), *ffn(i)])[:2] + repeated(lambda i: [*heads(i), *ffn(i)])[3:]
    ),
    "llama moe": build(
        "llama", repeated(lambda i: [*heads(i), *experts(i, FFN)]), {**MOE, "expert_feed_forward_length": None}
    ),
    "llama4": build(
        "llama4",
        repeated(lambda i: [*heads(i), *([*experts(i), *ffn(i, EXPERT_FFN, "_shexp")] if i % 2 else ffn(i))]),
        {**MOE, "interleave_moe_layer_step": 2},
    ),
    "mistral3": build("mistral3", repeated(lambda i: [*heads(i), *ffn(i)])),
    "qwen2": build("qwen2", repeated(lambda i: [*heads(i, bias=True), *ffn(i)])),
    "qwen2moe": build(
        "qwen2moe",
        repeated(lambda i: [*heads(i, bias=True), *gated_ffn(i)]),
        {**MOE, "expert_shared_feed_forward_length": EXPERT_FFN},
    ),
    "qwen3": build("qwen3", repeated(lambda i: [*heads(i, "head"), *ffn(i)])),
    "qwen3moe": build("qwen3moe", repeated(lambda i: [*heads(i, "head"), *experts(i)]), MOE),
    "qwen3vl": build(
        "qwen3vl", repeated(lambda i: [*heads(i, "head"), *ffn(i)]), {**SECTIONS, "n_deepstack_layers": 3}
    ),
    "qwen3vlmoe": build(
        "qwen3vlmoe",
        repeated(lambda i: [*heads(i, "head"), *experts(i)]),
        {**MOE, **SECTIONS, "n_deepstack_layers": 3},
    ),
    "qwen3next": build("qwen3next", repeated(lambda i: [*_qwen35(i, joined=True), *gated_ffn(i)]), GATED_DELTA),
    "qwen35": build(
        "qwen35", repeated(lambda i: [*_qwen35(i), *ffn(i)]), {**GATED_DELTA, **SECTIONS, **dict.fromkeys(MOE)}
    ),
    "qwen35moe": build("qwen35moe", repeated(lambda i: [*_qwen35(i), *gated_ffn(i)]), {**GATED_DELTA, **SECTIONS}),
    "qwen35moe mtp": build(
        "qwen35moe", _mtp(lambda i: [*_qwen35(i), *gated_ffn(i)]), {**GATED_DELTA, **SECTIONS, **ONE_MTP}, LAYERS + 1
    ),
    "minimax-m2": build(
        "minimax-m2",
        repeated(lambda i: [*heads(i, "layer"), *experts(i), *score_bias(i)]),
        {**MOE, "feed_forward_length": EXPERT_FFN, "expert_gating_func": 2, "rope.dimension_count": 32},
    ),
    "gpt-oss": build("gpt-oss", repeated(gpt_oss_layer), {**MOE, "attention.sliding_window": 128}),
    "dots1": build(
        "dots1",
        repeated(lambda i: [*heads(i, "head", kv_heads=HEADS), *deepseek_ffn(i)]),
        {**SHARED_MOE, "attention.head_count_kv": HEADS},
    ),
    "ernie4_5-moe": build(
        "ernie4_5-moe",
        repeated(lambda i: [*heads(i), *deepseek_ffn(i)]),
        {**SHARED_MOE, "interleave_moe_layer_step": 1},
    ),
    "glm4moe mtp": build(
        "glm4moe",
        _mtp(lambda i: [*heads(i, "head", bias=True, post="post_attention_norm"), *deepseek_ffn(i)]),
        {**SHARED_MOE, **ONE_MTP},
        LAYERS + 1,
    ),
    "deepseek": build("deepseek", repeated(lambda i: [*heads(i), *deepseek_ffn(i, bias=False)]), SHARED_MOE),
    "deepseek2": build("deepseek2", repeated(lambda i: [*latent(i), *deepseek_ffn(i)]), {**LATENT, **SHARED_MOE}),
    "deepseek2 old": build(
        "deepseek2", repeated(lambda i: [*latent(i, split=False), *deepseek_ffn(i)]), {**OLD_LATENT, **SHARED_MOE}
    ),
    "deepseek2 lite": build(
        "deepseek2",
        # llama.cpp tells the lite models, without a rank of queries, by their number of layers.
        repeated(lambda i: [*latent(i, q_rank=False), *deepseek_ffn(i)], 27),
        {**LATENT, **SHARED_MOE, "attention.q_lora_rank": None},
        27,
    ),
    "deepseek32": build(
        "deepseek32",
        repeated(lambda i: [*latent(i), *indexer(i), *deepseek_ffn(i)]),
        {**LATENT, **SHARED_MOE, **INDEXER},
    ),
    "glm-dsa mtp": build(
        "glm-dsa",
        _mtp(lambda i: [*latent(i), *indexer(i), *deepseek_ffn(i)]),
        {**LATENT, **SHARED_MOE, **INDEXER, **ONE_MTP},
        LAYERS + 1,
    ),
    "glm-dsa shared": build(
        "glm-dsa",
        repeated(lambda i: [*latent(i), *(indexer(i) if i in (0, 2) else []), *deepseek_ffn(i)]),
        {**LATENT, **SHARED_MOE, **INDEXER, "attention.indexer.types": [1, 0, 1, 0]},
    ),
    "kimi-linear": build(
        "kimi-linear",
        repeated(lambda i: [*(latent(i, q_rank=False) if i == 3 else kimi_delta(i)), *deepseek_ffn(i)]),
        {
            **LATENT,
            **SHARED_MOE,
            "attention.q_lora_rank": None,
            "attention.head_count_kv": [0, 0, 0, 1],
            "ssm.conv_kernel": KERNEL,
            "kda.head_dim": HEAD,
        },
    ),
}
"""By what is special about each; the architecture comes first."""
