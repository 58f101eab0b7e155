"""DeepSeek's architecture: multi-head latent attention (MLA), shared and routed experts, multi-token
prediction.

DeepSeek V2, V3, R1 and V3.2, Kimi K2 and GLM-5 are read here: they differ by their sparse-attention indexer
and by which parts their configuration asks for. Names and shapes follow the published checkpoints: one
``gate_proj``, ``up_proj`` and ``down_proj`` per expert; the router's score correction in F32; the
multi-token-prediction layers stored after the last decoder layer, each with its own copy of embedding and
head (not in GLM-5). Sources: the published checkpoints' ``config.json`` and parameter totals; transformers
5.23 ``deepseek_v3``, ``deepseek_v32`` and ``glm_moe_dsa``.
"""

from __future__ import annotations

from itertools import groupby
from typing import Final, NamedTuple

from profiles.families.blocks import (
    Layers,
    as_mtp,
    decoder_norms,
    dtype_of,
    embedding,
    expert_counts,
    layer_count,
    lm_head,
    norm,
    routed_experts,
    router,
    router_bias,
    swiglu,
    without,
)
from profiles.families.fields import MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, BadConfig, Fields
from profiles.model import KvGroup, ModelSpec, Moe, Role, TensorGroup

_SPARSE_ATTENTION: Final = ("deepseek_v32", "glm_moe_dsa")
"""Architectures whose layers have an indexer."""
_F32_KEY_NORM: Final = ("deepseek_v32",)
"""Architectures whose checkpoints keep the norm of the indexer's keys in F32; GLM-5's are in bf16 (index
total_size of GLM-5.1: 1,507,728,316,928; of GLM-5.2: 1,506,659,919,872, and 755,617,140,416 in FP8)."""
_MTP_WITHOUT_COPIES: Final = ("glm_moe_dsa",)
"""Architectures whose multi-token-prediction layers use the model's own embedding and head."""


class Mla(NamedTuple):
    """Geometry of multi-head latent attention; ``q_lora_rank`` 0: queries are projected directly."""

    hidden: int
    heads: int
    q_lora_rank: int
    kv_lora_rank: int
    nope: int
    rope: int
    v_head: int
    bias: bool

    @classmethod
    def read(cls, config: Fields, hidden: int) -> Mla:
        """The geometry that the configuration states."""
        return cls(
            hidden,
            config.integer("num_attention_heads", high=MAX_HEADS),
            config.integer("q_lora_rank", 0, low=0),
            config.integer("kv_lora_rank"),
            config.integer("qk_nope_head_dim"),
            config.integer("qk_rope_head_dim"),
            config.integer("v_head_dim"),
            config.flag("attention_bias", False),
        )

    @property
    def q_head(self) -> int:
        """Width of one query head."""
        return self.nope + self.rope

    def tensors(self, prefix: str, dtype: str, layers: Layers) -> list[TensorGroup]:
        """Projections and norms of the attention of ``layers``."""
        latent = self.kv_lora_rank + self.rope
        expanded = self.heads * (self.nope + self.v_head)
        groups = self._queries(prefix, dtype, layers)
        groups += [
            TensorGroup(
                f"{prefix}kv_a_proj_with_mqa.weight",
                (latent, self.hidden),
                "kv_a",
                "attention",
                dtype,
                layers,
            ),
            TensorGroup(f"{prefix}kv_b_proj.weight", (expanded, self.kv_lora_rank), "kv_b", "attention", dtype, layers),
            TensorGroup(
                f"{prefix}o_proj.weight",
                (self.hidden, self.heads * self.v_head),
                "o",
                "attention",
                dtype,
                layers,
            ),
            norm(f"{prefix}kv_a_layernorm.weight", self.kv_lora_rank, dtype, layers),
        ]
        if self.bias:
            biases = {"kv_a_proj_with_mqa": latent, "o_proj": self.hidden}
            if self.q_lora_rank:
                biases["q_a_proj"] = self.q_lora_rank
            groups += [
                TensorGroup(f"{prefix}{part}.bias", (width,), "attention_bias", "attention", dtype, layers)
                for part, width in biases.items()
            ]
        return groups

    def _queries(self, prefix: str, dtype: str, layers: Layers) -> list[TensorGroup]:
        rows = self.heads * self.q_head
        if not self.q_lora_rank:
            return [TensorGroup(f"{prefix}q_proj.weight", (rows, self.hidden), "q", "attention", dtype, layers)]
        rank = self.q_lora_rank
        return [
            TensorGroup(f"{prefix}q_a_proj.weight", (rank, self.hidden), "q_a", "attention", dtype, layers),
            TensorGroup(f"{prefix}q_b_proj.weight", (rows, rank), "q_b", "attention", dtype, layers),
            norm(f"{prefix}q_a_layernorm.weight", rank, dtype, layers),
        ]

    def cache(self, layers: Layers, index_head_dim: int = 0) -> KvGroup:
        """One latent and one rope key per token, and the indexer's key where the layer has one."""
        return KvGroup("mla", layers, kv_lora_rank=self.kv_lora_rank, rope_dim=self.rope, index_head_dim=index_head_dim)


class _Indexer(NamedTuple):
    """Sparse attention: the layers that select their own tokens; the others reuse the last selection."""

    heads: int
    head_dim: int
    layers: Layers
    norm_dtype: str

    def tensors(self, mla: Mla, prefix: str, dtype: str, layers: Layers) -> list[TensorGroup]:
        """The indexer's projections and its key norm."""
        if not mla.q_lora_rank:
            raise BadConfig("q_lora_rank must be at least 1: the indexer reads the latent queries")
        parts: tuple[tuple[str, tuple[int, int], Role], ...] = (
            ("wq_b", (self.heads * self.head_dim, mla.q_lora_rank), "indexer_q"),
            ("wk", (self.head_dim, mla.hidden), "indexer_k"),
            ("weights_proj", (self.heads, mla.hidden), "indexer_weights"),
        )
        return [
            *(
                TensorGroup(f"{prefix}indexer.{name}.weight", shape, role, "attention", dtype, layers)
                for name, shape, role in parts
            ),
            norm(f"{prefix}indexer.k_norm.weight", self.head_dim, self.norm_dtype, layers),
            norm(f"{prefix}indexer.k_norm.bias", self.head_dim, self.norm_dtype, layers),
        ]


class _Experts(NamedTuple):
    """The mixture of experts, and which layers have a dense FFN instead."""

    total: int
    top_k: int
    ffn: int
    shared: int
    bias: bool
    layers: Layers

    def tensors(self, prefix: str, hidden: int, dtype: str, layers: Layers) -> list[TensorGroup]:
        """Router, shared and routed experts of ``layers``."""
        groups = [router(f"{prefix}gate.weight", self.total, hidden, dtype, layers)]
        if self.bias:
            groups.append(router_bias(f"{prefix}gate.e_score_correction_bias", self.total, layers))
        if self.shared:
            ffn = self.ffn * self.shared
            groups += swiglu(f"{prefix}shared_experts.", hidden, ffn, dtype, layers, shared=True)
        return groups + routed_experts(f"{prefix}experts.{{expert}}.", self.total, hidden, self.ffn, dtype, layers)


def read(config: Fields) -> ModelSpec:
    """The tensors and geometry of a text model whose names start at ``model.``."""
    return read_text(config, "")


def read_text(config: Fields, prefix: str) -> ModelSpec:
    """The same for a model nested in another; ``prefix`` stands before every name."""
    family = config.text("model_type")
    hidden, vocab = config.integer("hidden_size"), config.integer("vocab_size")
    layers, dtype = layer_count(config), dtype_of(config)
    mla = Mla.read(config, hidden)
    dense_ffn = config.integer("intermediate_size")
    experts = _experts(config, layers)
    mtp_layers = config.integer("num_nextn_predict_layers", 0, low=0, high=64)
    indexer = _indexer(config, layers, mtp_layers) if family in _SPARSE_ATTENTION else None
    tied = config.flag("tie_word_embeddings", False)

    every = tuple(range(layers))
    sparse = experts.layers if experts else ()
    layer = f"{prefix}model.layers.{{layer}}."
    tensors = [embedding(f"{prefix}model.embed_tokens.weight", vocab, hidden, dtype)]
    tensors += mla.tensors(f"{layer}self_attn.", dtype, every)
    if indexer:
        own = tuple(index for index in indexer.layers if index < layers)
        tensors += indexer.tensors(mla, f"{layer}self_attn.", dtype, own)
    tensors += decoder_norms(layer, hidden, dtype, every)
    dense = without(layers, sparse)
    if dense:
        tensors += swiglu(f"{layer}mlp.", hidden, dense_ffn, dtype, dense)
    if experts:
        tensors += experts.tensors(f"{layer}mlp.", hidden, dtype, sparse)
    tensors.append(norm(f"{prefix}model.norm.weight", hidden, dtype))
    if not tied:
        tensors.append(lm_head(f"{prefix}lm_head.weight", vocab, hidden, dtype))
    if mtp_layers:
        after = tuple(range(layers, layers + mtp_layers))
        tensors += _mtp_projection(layer, after, hidden, dtype)
        if family not in _MTP_WITHOUT_COPIES:
            tensors += _mtp_copies(layer, after, vocab, hidden, dtype)
        tensors += as_mtp(mla.tensors(f"{layer}self_attn.", dtype, after))
        tensors += as_mtp(indexer.tensors(mla, f"{layer}self_attn.", dtype, after) if indexer else ())
        tensors += as_mtp(decoder_norms(layer, hidden, dtype, after))
        tensors += as_mtp(
            experts.tensors(f"{layer}mlp.", hidden, dtype, after)
            if experts
            else swiglu(f"{layer}mlp.", hidden, dense_ffn, dtype, after)
        )

    return ModelSpec(
        id="",
        name="",
        family=family,
        repository="",
        hidden=hidden,
        vocab=vocab,
        layers=layers,
        max_context=config.integer("max_position_embeddings"),
        heads=mla.heads,
        q_head_dim=mla.q_head,
        v_head_dim=mla.v_head,
        nope_dim=mla.nope,
        dense_ffn=dense_ffn if dense else 0,
        moe=Moe(experts.total, experts.top_k, experts.ffn, experts.shared, sparse) if experts else None,
        kv_groups=_caches(mla, indexer, every),
        tensors=tuple(tensors),
        native_quantization=dtype,
        mtp_layers=mtp_layers,
        tied_embeddings=tied,
    )


def _experts(config: Fields, layers: int) -> _Experts | None:
    if not config.has("n_routed_experts"):
        return None
    total, top_k = expert_counts(config, "n_routed_experts", "num_experts_per_tok")
    first = config.integer("first_k_dense_replace", 0, low=0, high=MAX_LAYERS)
    every = config.integer("moe_layer_freq", 1, high=MAX_LAYERS)
    methods = ("noaux_tc", "greedy", "group_limited_greedy")
    sparse = tuple(layer for layer in range(first, layers) if layer % every == 0)
    if config.has("mlp_layer_types"):
        kinds = config.texts("mlp_layer_types", ("dense", "sparse"), layers)
        sparse = tuple(layer for layer, kind in enumerate(kinds) if kind == "sparse")
    if not sparse:
        raise BadConfig(f"{config.name('first_k_dense_replace')} {first} leaves no layer for the routed experts")
    return _Experts(
        total,
        top_k,
        config.integer("moe_intermediate_size"),
        config.integer("n_shared_experts", 0, low=0, high=MAX_EXPERTS),
        config.choice("topk_method", methods, "noaux_tc") == "noaux_tc",
        sparse,
    )


def _indexer(config: Fields, layers: int, mtp_layers: int) -> _Indexer:
    """The indexer's layers: all, unless ``indexer_types`` says which share an earlier selection."""
    own = tuple(range(layers))
    if config.has("indexer_types"):
        kinds = config.texts("indexer_types", ("full", "shared"), layers)
        own = tuple(layer for layer, kind in enumerate(kinds) if kind == "full")
        if not own or own[0] != 0:
            raise BadConfig(f"{config.name('indexer_types')}[0] must be full: there is no earlier selection to share")
    elif config.has("index_topk_pattern") or config.integer("index_topk_freq", 1) > 1:
        raise BadConfig(f"{config.name('indexer_types')} is missing: index_topk_freq alone does not name the layers")
    return _Indexer(
        config.integer("index_n_heads", high=MAX_HEADS),
        config.integer("index_head_dim"),
        own + tuple(range(layers, layers + mtp_layers)),
        "f32" if config.text("model_type") in _F32_KEY_NORM else dtype_of(config),
    )


def _caches(mla: Mla, indexer: _Indexer | None, layers: Layers) -> tuple[KvGroup, ...]:
    if indexer is None:
        return (mla.cache(layers),)
    own = frozenset(indexer.layers)
    by_kind = groupby(sorted(layers, key=lambda layer: layer not in own), key=lambda layer: layer in own)
    return tuple(mla.cache(tuple(members), indexer.head_dim if has else 0) for has, members in by_kind)


def _mtp_projection(layer: str, layers: Layers, hidden: int, dtype: str) -> list[TensorGroup]:
    """Norms of a prediction layer's two inputs, the matrix that joins them, the norm before the head."""
    return as_mtp(
        [
            norm(f"{layer}enorm.weight", hidden, dtype, layers),
            norm(f"{layer}hnorm.weight", hidden, dtype, layers),
            TensorGroup(f"{layer}eh_proj.weight", (hidden, 2 * hidden), "mtp_projection", "mtp", dtype, layers),
            norm(f"{layer}shared_head.norm.weight", hidden, dtype, layers),
        ]
    )


def _mtp_copies(layer: str, layers: Layers, vocab: int, hidden: int, dtype: str) -> list[TensorGroup]:
    """The prediction layer's own embedding and head."""
    shape = (vocab, hidden)
    return [
        TensorGroup(f"{layer}embed_tokens.weight", shape, "embedding", "mtp", dtype, layers),
        TensorGroup(f"{layer}shared_head.head.weight", shape, "lm_head", "mtp", dtype, layers),
    ]
