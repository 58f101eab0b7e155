"""What a model is to the planner: a list of tensor groups, the geometry of its KV cache, and its releases.

Weights, per-rank shards, offload and active bytes are all sums over the tensor list under a storage format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Literal, NamedTuple

from formulas.storage import storage_format, tensor_bytes

TensorClass = Literal[
    "routed_experts",
    "shared_experts",
    "attention",
    "dense_ffn",
    "router",
    "embedding",
    "lm_head",
    "norms",
    "vision",
    "mtp",
]
TENSOR_CLASSES: tuple[TensorClass, ...] = (
    "routed_experts",
    "shared_experts",
    "attention",
    "dense_ffn",
    "router",
    "embedding",
    "lm_head",
    "norms",
    "vision",
    "mtp",
)

Role = Literal[
    "embedding",
    "lm_head",
    "norm",
    "router",
    "router_bias",
    "token_table",
    "kv_scale",
    "hyper_connection",
    "q_a",
    "q_b",
    "kv_a",
    "kv_b",
    "k_b",
    "v_b",
    "q",
    "k",
    "v",
    "o",
    "o_a",
    "attention_bias",
    "attention_gate",
    "attention_sink",
    "indexer_q",
    "indexer_k",
    "indexer_weights",
    "compressor",
    "linear_in",
    "linear_conv",
    "linear_state",
    "linear_out",
    "linear_gate_a",
    "ffn_bias",
    "dense_gate",
    "dense_up",
    "dense_down",
    "shared_gate",
    "shared_up",
    "shared_down",
    "shared_router",
    "latent_down",
    "latent_up",
    "expert_gate",
    "expert_up",
    "expert_down",
    "expert_bias",
    "mtp_projection",
    "vision_column",
    "vision_row",
    "vision_other",
    "projector",
]
"""What a tensor does in its layer. An engine's file says for each role how it is sharded.

``linear_gate_a`` is the first factor of a low-rank gate of linear attention, ``latent_down`` and ``latent_up`` lead
into and out of the latent space of routed experts; ``shared_router`` gates the shared expert. ``o_a`` is the first
factor of a grouped output projection, ``compressor`` pools neighbouring tokens into one cached state,
``hyper_connection`` mixes parallel residual streams, ``token_table`` routes by a table of token ids, not learned, and
``kv_scale`` is a scale of a quantized KV cache.
"""

Evidence = Literal["exact", "measured", "modelled", "assumed"]


class TensorGroup(NamedTuple):
    """Tensors of one name pattern and shape: ``per_layer`` of them in each of ``layers`` (one set when empty).

    ``shape`` is row-major (out, in) as in a checkpoint: columns, the input dimension, come last.
    ``{layer}`` and ``{expert}`` in ``name`` stand for the indices. ``format`` names a storage format. Vision blocks
    are no decoder layers: they are counted in ``per_layer``, with ``{block}`` in ``name`` and no ``layers``. Matrices
    that a checkpoint fuses (all experts of a layer, gate and up) are listed apart, under the fused tensor's name.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    tensor_class: TensorClass
    format: str
    layers: tuple[int, ...] = ()
    per_layer: int = 1

    @property
    def instances(self) -> int:
        """Number of tensors of this group in the whole model."""
        return max(len(self.layers), 1) * self.per_layer

    @property
    def parameters(self) -> int:
        """Elements of all tensors of the group, scales not counted; a table of indices has none."""
        return 0 if self.role in ("token_table", "kv_scale") else prod(self.shape) * self.instances

    @property
    def bytes_each(self) -> int:
        """Bytes of one tensor, its scales included."""
        return tensor_bytes(storage_format(self.format), self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors of the group."""
        return self.bytes_each * self.instances


class KvGroup(NamedTuple):
    """Layers that cache their keys and values alike.

    ``mla`` uses ``kv_lora_rank`` and ``rope_dim``; the head layouts use ``n_kv_heads``, ``head_dim``, ``v_head_dim``.
    ``window`` caps the cached tokens of a sequence; ``index_head_dim`` is the indexer key of sparse attention;
    ``state_bytes`` is constant per sequence and layer (linear attention), whatever the context. ``tokens_per_state``
    tokens are pooled into one cached state; ``packed_bytes`` is such a state in ``fp8_ds_mla`` where it is not the
    one of DeepSeek V3.2; ``index_key_bytes`` is a key that selects blocks, in the model's own dtype whatever the
    cache's, and whole on every rank. A layer may be in several groups, which add up.
    """

    layout: Literal["mla", "mha", "gqa", "mqa", "linear"]
    layers: tuple[int, ...]
    n_kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    kv_lora_rank: int = 0
    rope_dim: int = 0
    index_head_dim: int = 0
    window: int | None = None
    state_bytes: int = 0
    tokens_per_state: int = 1
    packed_bytes: int = 0
    index_key_bytes: int = 0


class Moe(NamedTuple):
    """Geometry of the routed experts: ``layers`` are the indices of the layers that have them (MTP not counted)."""

    experts: int
    top_k: int
    expert_ffn: int
    shared_experts: int
    layers: tuple[int, ...]


class Vision(NamedTuple):
    """The vision tower: what decides its sharding and its activation."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    patch: int
    merge: int


class QualityLoss(NamedTuple):
    """A measured quality of one quantization. Values of different suites are never compared."""

    suite: str
    metric: str
    value: float
    baseline: float | None
    source: str
    note: str = ""


class ChatDefaults(NamedTuple):
    """Sampling that the model's publisher advises for one mode of answering.

    ``template_kwargs`` is what a request hands the chat template to choose the mode; empty for the model's default.
    """

    mode: str
    temperature: float
    top_p: float | None
    source: str
    template_kwargs: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """A set of weight files somebody published (or, hypothetical, nobody did).

    ``mixture`` says which storage format every tensor has: ``native`` as the configuration declares, ``header`` as
    the weight file's own header does, ``format:NAME`` every matrix in one format, ``experts:A,rest:B``, or
    ``gguf:TYPE`` llama.cpp's own rules.
    ``published_bytes`` is the size of the tensor data where it is known; ``size_evidence`` says how: ``exact`` to the
    byte, ``stated`` rounded by the publisher, ``computed`` from the mixture. When the tensor types are not known
    (``mixture_known`` false), the list under ``mixture`` is scaled to the published size and is ``assumed``.
    ``by_maker`` says that these are the weights as the model's maker published them; where that is not known it is
    false.
    """

    quantization: str
    publisher: str
    release: str
    container: Literal["safetensors", "gguf", "mlx"]
    mixture: str
    mixture_known: bool = True
    status: Literal["published", "hypothetical"] = "published"
    published_bytes: int | None = None
    size_evidence: Literal["exact", "stated", "computed"] = "computed"
    includes_vision: bool = True
    quality: tuple[QualityLoss, ...] = ()
    source: str = ""
    note: str = ""
    by_maker: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything the planner knows of a model.

    ``hidden``, ``vocab``, ``layers``, ``max_context`` and head dimensions are counts of elements; ``heads`` are query
    heads; ``q_head_dim`` is the width of a query head (for MLA nope + rope). ``mtp_layers`` are multi-token-prediction
    layers stored beyond ``layers``. ``tensors`` are in the formats that the configuration declares.
    """

    id: str
    name: str
    family: str
    repository: str
    hidden: int
    vocab: int
    layers: int
    max_context: int
    heads: int
    q_head_dim: int
    v_head_dim: int
    nope_dim: int
    dense_ffn: int
    moe: Moe | None
    kv_groups: tuple[KvGroup, ...]
    tensors: tuple[TensorGroup, ...]
    native_quantization: str
    vision: Vision | None = None
    mtp_layers: int = 0
    tied_embeddings: bool = False
    trust_remote_code: bool = False
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    chat: tuple[ChatDefaults, ...] = ()
    releases: tuple[Release, ...] = ()
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def parameters(self) -> int:
        """Parameters of the checkpoint, scales not counted."""
        return sum(group.parameters for group in self.tensors)

    @property
    def uses_mla(self) -> bool:
        """Whether any layer caches an MLA latent."""
        return any(group.layout == "mla" for group in self.kv_groups)


def bytes_by_class(tensors: tuple[TensorGroup, ...]) -> dict[TensorClass, int]:
    """Bytes of each tensor class; classes that the model lacks are absent."""
    total: dict[TensorClass, int] = {}
    for group in tensors:
        total[group.tensor_class] = total.get(group.tensor_class, 0) + group.bytes
    return total


def active_parameters(model: ModelSpec, *, with_embedding: bool) -> int:
    """Parameters one text token uses: everything but vision and MTP, and top_k of the routed experts.

    The embedding is a lookup of one row; it is counted whole or not at all.
    """
    total = 0
    for group in model.tensors:
        if group.tensor_class in ("vision", "mtp") or (group.role == "embedding" and not with_embedding):
            continue
        if group.tensor_class == "routed_experts" and model.moe is not None:
            total += group.parameters * model.moe.top_k // model.moe.experts
        else:
            total += group.parameters
    return total
