"""DeepSeek V4: one shared key per token in windows and compressed states, hyper-connections, FP4 experts.

Every layer attends to a window of its own tokens. By its compression ratio it also attends to states that pool 4 tokens
each, of which an indexer selects some, or 128 tokens each, or to none. The residual runs in ``hc_mult`` parallel
streams, and the first layers route by a table of token ids. Names are those of the publisher's inference code, as in
the checkpoints. Sources: deepseek-ai/DeepSeek-V4-Flash and -V4-Pro, whose indexes state 159,609,485,896 bytes in 69,187
tensors and 864,704,792,696 bytes in 145,116, and with a DSpark drafter -V4-Flash-0731 (166,878,536,440 bytes) and
-V4-Pro-0813 (892,727,580,904 in 149,782); transformers 5.19 ``deepseek_v4``; vLLM 0.33.0 ``models/deepseek_v4``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from formulas.kv_cache import compressor_state_bytes, packed_state_bytes
from profiles.families.blocks import (
    Layers,
    as_mtp,
    dtype_of,
    embedding,
    expert_counts,
    layer_count,
    lm_head,
    norm,
    routed_experts,
    router,
    router_bias,
)
from profiles.families.fields import MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, BadConfig, Fields, divisible
from profiles.model import KvGroup, ModelSpec, Moe, Role, TensorClass, TensorGroup

_SELECTED: Final = 4
"""Tokens in a compressed state that an indexer selects; such states overlap, so that two windows are pooled."""
_RATIOS: Final = (0, _SELECTED, 128)
_DSPARK_STAGES: Final = 3
"""Layers of a DSpark drafter; ``num_nextn_predict_layers`` does not count them."""


class _Attention(NamedTuple):
    """Geometry of the attention, which is the same in every layer but for its compressor."""

    hidden: int
    heads: int
    head_dim: int
    rope: int
    q_lora_rank: int
    groups: int
    o_lora_rank: int
    window: int
    index_heads: int
    index_head_dim: int

    @classmethod
    def read(cls, config: Fields, hidden: int) -> _Attention:
        """The geometry that the configuration states."""
        if config.integer("num_key_value_heads", 1) != 1:
            raise BadConfig(f"{config.name('num_key_value_heads')} must be 1: one key serves all heads")
        geometry = cls(
            hidden,
            config.integer("num_attention_heads", high=MAX_HEADS),
            config.integer("head_dim"),
            config.integer("qk_rope_head_dim"),
            config.integer("q_lora_rank"),
            config.integer("o_groups", high=MAX_HEADS),
            config.integer("o_lora_rank"),
            config.integer("sliding_window"),
            config.integer("index_n_heads", high=MAX_HEADS),
            config.integer("index_head_dim"),
        )
        divisible(config, "num_attention_heads", geometry.heads, geometry.groups, "o_groups")
        if geometry.rope >= geometry.head_dim:
            raise BadConfig(f"{config.name('qk_rope_head_dim')} must be less than head_dim {geometry.head_dim}")
        return geometry

    def tensors(self, layer: str, dtype: str, layers: Layers) -> list[TensorGroup]:
        """Low-rank queries, the shared key, sinks, and the grouped low-rank output of ``layers``."""
        prefix, width = f"{layer}attn.", self.heads * self.head_dim
        joined = self.groups * self.o_lora_rank
        parts: tuple[tuple[str, tuple[int, int], Role], ...] = (
            ("wq_a", (self.q_lora_rank, self.hidden), "q_a"),
            ("wq_b", (width, self.q_lora_rank), "q_b"),
            ("wkv", (self.head_dim, self.hidden), "kv_a"),
            ("wo_a", (joined, width // self.groups), "o_a"),
            ("wo_b", (self.hidden, joined), "o"),
        )
        return [
            *(TensorGroup(f"{prefix}{name}.weight", shape, role, "attention", dtype, layers)
              for name, shape, role in parts),
            TensorGroup(f"{prefix}attn_sink", (self.heads,), "attention_sink", "attention", "f32", layers),
            norm(f"{prefix}q_norm.weight", self.q_lora_rank, dtype, layers),
            norm(f"{prefix}kv_norm.weight", self.head_dim, dtype, layers),
        ]  # fmt: skip

    def compressors(self, layer: str, dtype: str, ratio: int, layers: Layers) -> list[TensorGroup]:
        """The compressor of ``layers`` with this ratio, and where states are selected the indexer with its own."""
        prefix = f"{layer}attn."
        groups = _compressor(f"{prefix}compressor.", self.hidden, self.head_dim, ratio, dtype, layers)
        if ratio != _SELECTED:
            return groups
        indexer, rows = f"{prefix}indexer.", self.index_heads * self.index_head_dim
        queries, weights = (rows, self.q_lora_rank), (self.index_heads, self.hidden)
        return [
            *groups,
            TensorGroup(f"{indexer}wq_b.weight", queries, "indexer_q", "attention", dtype, layers),
            TensorGroup(f"{indexer}weights_proj.weight", weights, "indexer_weights", "attention", dtype, layers),
            *_compressor(f"{indexer}compressor.", self.hidden, self.index_head_dim, ratio, dtype, layers),
        ]

    def caches(self, by_ratio: dict[int, Layers], layers: Layers) -> tuple[KvGroup, ...]:
        """A window in every layer, and beside it the compressed states with what their compressor still pools."""
        nope = self.head_dim - self.rope
        shared = KvGroup(
            "mla", layers, kv_lora_rank=nope, rope_dim=self.rope, packed_bytes=packed_state_bytes(nope, self.rope)
        )
        groups = [shared._replace(window=self.window)]
        for ratio, members in by_ratio.items():
            if not ratio:
                continue
            selected = ratio == _SELECTED
            state = compressor_state_bytes(ratio, self.head_dim, overlapping=selected)
            if selected:
                state += compressor_state_bytes(ratio, self.index_head_dim, overlapping=True)
            groups.append(
                shared._replace(
                    layers=members,
                    tokens_per_state=ratio,
                    index_head_dim=self.index_head_dim if selected else 0,
                    state_bytes=state,
                )
            )
        return tuple(groups)


def _compressor(prefix: str, hidden: int, width: int, ratio: int, dtype: str, layers: Layers) -> list[TensorGroup]:
    """Values, scores and positions of the tokens that are pooled; overlapping states have two sets of them."""
    pooled = (2 if ratio == _SELECTED else 1) * width
    parts: tuple[tuple[str, tuple[int, int], str], ...] = (
        ("ape", (ratio, pooled), "f32"),
        ("wkv.weight", (pooled, hidden), dtype),
        ("wgate.weight", (pooled, hidden), dtype),
    )
    return [
        *(TensorGroup(f"{prefix}{name}", shape, "compressor", "attention", kind, layers)
          for name, shape, kind in parts),
        norm(f"{prefix}norm.weight", width, dtype, layers),
    ]  # fmt: skip


class _Experts(NamedTuple):
    """The mixture of experts that every layer has; the first ``hashed`` layers route by token id."""

    total: int
    top_k: int
    ffn: int
    shared: int
    hashed: int
    vocab: int

    def tensors(self, layer: str, hidden: int, dtype: str, layers: Layers) -> list[TensorGroup]:
        """Router with its table or its score correction, shared expert and routed experts."""
        prefix = f"{layer}ffn."
        by_table = tuple(index for index in layers if index < self.hashed)
        learned = tuple(index for index in layers if index >= self.hashed)
        table = TensorGroup(
            f"{prefix}gate.tid2eid", (self.vocab, self.top_k), "token_table", "router", "int64", by_table
        )
        names = ("w1.weight", "w3.weight", "w2.weight")
        return [
            router(f"{prefix}gate.weight", self.total, hidden, dtype, layers),
            *([table] if by_table else ()),
            *([router_bias(f"{prefix}gate.bias", self.total, learned)] if learned else ()),
            *(self._shared(f"{prefix}shared_experts.", hidden, dtype, layers) if self.shared else ()),
            *routed_experts(f"{prefix}experts.{{expert}}.", self.total, hidden, self.ffn, dtype, layers, names),
        ]

    def _shared(self, prefix: str, hidden: int, dtype: str, layers: Layers) -> list[TensorGroup]:
        ffn = self.ffn * self.shared
        parts: tuple[tuple[str, tuple[int, int], Role], ...] = (
            ("w1", (ffn, hidden), "shared_gate"),
            ("w3", (ffn, hidden), "shared_up"),
            ("w2", (hidden, ffn), "shared_down"),
        )
        return [
            TensorGroup(f"{prefix}{name}.weight", shape, role, "shared_experts", dtype, layers)
            for name, shape, role in parts
        ]


def read(config: Fields) -> ModelSpec:
    """The tensors and geometry of the text model."""
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    layers, dtype = layer_count(config), dtype_of(config)
    drafted = config.has("dspark_block_size")
    mtp_layers = (
        config.integer("n_mtp_layers", _DSPARK_STAGES, high=64)
        if drafted
        else config.integer("num_nextn_predict_layers", 0, low=0, high=64)
    )
    attention, streams = _Attention.read(config, hidden), config.integer("hc_mult", high=64)
    experts = _Experts(
        *expert_counts(config, "n_routed_experts", "num_experts_per_tok"),
        config.integer("moe_intermediate_size"),
        config.integer("n_shared_experts", 0, low=0, high=MAX_EXPERTS),
        config.integer("num_hash_layers", 0, low=0, high=MAX_LAYERS),
        vocab,
    )
    ratios = _ratios(config, layers + mtp_layers)
    every = tuple(range(layers))
    of_decoder = _by_ratio(ratios, every)
    tied = config.flag("tie_word_embeddings", False)

    def block(layer: str, members: Layers) -> list[TensorGroup]:
        groups = attention.tensors(layer, dtype, members)
        for ratio, own in _by_ratio(ratios, members).items():
            groups += attention.compressors(layer, dtype, ratio, own) if ratio else ()
        groups += [norm(f"{layer}{part}_norm.weight", hidden, dtype, members) for part in ("attn", "ffn")]
        for part in ("attn", "ffn"):
            groups += _hyper_connection(f"{layer}hc_{part}", (2 + streams) * streams, 3, streams * hidden, members)
        return groups + experts.tensors(layer, hidden, dtype, members)

    tensors = [
        embedding("embed.weight", vocab, hidden, dtype),
        *block("layers.{layer}.", every),
        norm("norm.weight", hidden, dtype),
        *_hyper_connection("hc_head", streams, 1, streams * hidden, ()),
    ]
    if not tied:
        tensors.append(lm_head("head.weight", vocab, hidden, dtype))
    if mtp_layers:
        after, layer = tuple(range(layers, layers + mtp_layers)), "mtp.{mtp_layer}."
        ends = _dspark(config, hidden, vocab, dtype, after) if drafted else _predictor(layer, hidden, dtype, after)
        streams_of = after[-1:] if drafted else after
        head = _hyper_connection(f"{layer}hc_head", streams, 1, streams * hidden, streams_of)
        tensors += as_mtp([*ends, *block(layer, after), *head])
    return ModelSpec(
        id="",
        name="",
        family=config.text("model_type"),
        repository="",
        hidden=hidden,
        vocab=vocab,
        layers=layers,
        max_context=config.integer("max_position_embeddings"),
        heads=attention.heads,
        q_head_dim=attention.head_dim,
        v_head_dim=attention.head_dim,
        nope_dim=0,
        dense_ffn=0,
        moe=Moe(experts.total, experts.top_k, experts.ffn, experts.shared, every),
        kv_groups=attention.caches(of_decoder, every),
        tensors=tuple(tensors),
        native_quantization=dtype,
        mtp_layers=mtp_layers,
        tied_embeddings=tied,
    )


def _predictor(layer: str, hidden: int, dtype: str, layers: Layers) -> list[TensorGroup]:
    """What joins the token and the state in a layer that predicts one further token."""
    return [
        *(TensorGroup(f"{layer}{part}_proj.weight", (hidden, hidden), "mtp_projection", "mtp", dtype, layers)
          for part in "eh"),
        *(norm(f"{layer}{part}.weight", hidden, dtype, layers) for part in ("enorm", "hnorm", "norm")),
    ]  # fmt: skip


def _dspark(config: Fields, hidden: int, vocab: int, dtype: str, layers: Layers) -> list[TensorGroup]:
    """What the stages of a DSpark drafter have beside their blocks: states of the model go in, two heads come out."""
    layer, rank = "mtp.{mtp_layer}.", config.integer("dspark_markov_rank")
    states = hidden * len(config.integers("dspark_target_layer_ids", low=0, high=MAX_LAYERS))
    first, last = layers[:1], layers[-1:]
    heads = [(f"markov_head.markov_{part}", (vocab, rank)) for part in ("w1", "w2")]
    if config.flag("enable_confidence_head", True):
        heads.append(("confidence_head.proj", (1, hidden + rank)))
    return [
        TensorGroup(f"{layer}main_proj.weight", (hidden, states), "mtp_projection", "mtp", dtype, first),
        norm(f"{layer}main_norm.weight", hidden, dtype, first),
        norm(f"{layer}norm.weight", hidden, dtype, last),
        *(TensorGroup(f"{layer}{name}.weight", shape, "lm_head", "mtp", dtype, last) for name, shape in heads),
    ]


def _ratios(config: Fields, layers: int) -> tuple[int, ...]:
    """The compression ratio of each layer, those that predict further tokens last."""
    ratios = config.integers("compress_ratios", high=MAX_LAYERS, length=layers)
    if bad := next((ratio for ratio in ratios if ratio not in _RATIOS), None):
        raise BadConfig(f"{config.name('compress_ratios')} has {bad}, allowed: {', '.join(map(str, _RATIOS))}")
    return ratios


def _by_ratio(ratios: tuple[int, ...], layers: Layers) -> dict[int, Layers]:
    found = {ratio: tuple(layer for layer in layers if ratios[layer] == ratio) for ratio in _RATIOS}
    return {ratio: members for ratio, members in found.items() if members}


def _hyper_connection(name: str, mixes: int, scales: int, width: int, layers: Layers) -> list[TensorGroup]:
    """Matrix, offsets and scales that mix the residual streams, all F32."""
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = (("fn", (mixes, width)), ("base", (mixes,)), ("scale", (scales,)))
    kind: TensorClass = "norms"
    return [TensorGroup(f"{name}_{part}", shape, "hyper_connection", kind, "f32", layers) for part, shape in shapes]
