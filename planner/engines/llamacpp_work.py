"""What llama.cpp computes with, before its layers are placed: weights and cache by layer, and the micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import Any, Final, NamedTuple

from planner.engines.base import Config
from planner.engines.llamacpp_cache import Cells, cells_of, kv_bytes_per_layer
from planner.engines.llamacpp_graph import REPEATED_LAYERS, Layer, Share, compute_bytes, graph_shape, is_modelled
from planner.engines.llamacpp_layers import OFFLOAD_MIN_TOKENS, Batch, Experts, GraphShape
from planner.machine import Gpu
from planner.request import PricedRelease, Request
from planner.sharding import ShardTable, build_shards
from profiles.engines import EngineFacts, Fact
from profiles.model import ModelSpec

PIPELINE_VENDORS: Final = ("nvidia", "amd")
"""Back ends with the events that pipeline parallelism needs, and which widen a quantized cache for attention."""


class Weights(NamedTuple):
    """A release by layer. ``largest_expert_tensor[n]`` is the largest one of the first n layers, in bytes.

    ``run_stops`` are where the run of equal layers ends that each layer is in. ``head`` is what the last GPU holds
    beside layers: a head tied to the embedding is a second copy of it there.
    """

    shards: ShardTable
    always: list[int]
    experts: list[int]
    largest_expert_tensor: list[int]
    head: int
    layers: tuple[Layer, ...]
    run_stops: list[int]
    shape: GraphShape
    modelled: bool

    @property
    def first_routed(self) -> int:
        """The first layer with routed experts; the number of layers when there is none."""
        return next((number for number, size in enumerate(self.experts) if size), len(self.experts))


class Room(NamedTuple):
    """Bytes of a buffer: expected, and its range."""

    expected: float
    low: float
    high: float


class Work(NamedTuple):
    """A configuration before it is placed; ``kv`` is bytes per layer. ``kept`` is what was found of it so far."""

    weights: Weights
    cells: Cells
    kv: list[int]
    gpu_batch: Batch
    cpu_batch: Batch
    kept: dict[Any, Any]


def weights_of(request: Request, release: PricedRelease) -> Weights:
    """The weights of a release by layer."""
    found = release.kept.get("llama.cpp weights")
    if found is None:
        found = release.kept["llama.cpp weights"] = _weights(request.model, release)
    return found


def _weights(model: ModelSpec, release: PricedRelease) -> Weights:
    tensors = release.tensors
    shards = build_shards(
        model, tensors.groups, tp=1, expert_tp=1, expert_ranks=1, vision_sharded=False, scale=tensors.scale
    )
    experts, largest = [0] * model.layers, [0] * model.layers
    for group in tensors.groups:
        if group.tensor_class == "routed_experts":
            # The experts of a layer are one tensor in a GGUF file.
            size = round(group.bytes_each * group.per_layer * tensors.scale)
            for layer in group.layers:
                experts[layer] += size
                largest[layer] = max(largest[layer], size)
    routed = set(model.moe.layers) if model.moe else set()
    windowed = {layer for group in model.kv_groups if group.window for layer in group.layers}
    layers = tuple([Layer("here" if n in routed else "none", n in windowed) for n in range(model.layers)])
    lengths = [len(list(run)) for _, run in groupby(layers)]
    return Weights(
        shards=shards,
        always=[layer.always for layer in shards.layers],
        experts=experts,
        largest_expert_tensor=list(accumulate(largest, max, initial=0)),
        head=(shards.lm_head or shards.embedding) + shards.norms,
        layers=layers,
        run_stops=[stop for stop, length in zip(accumulate(lengths), lengths, strict=True) for _ in range(length)],
        shape=graph_shape(model),
        modelled=is_modelled(model),
    )


def is_unified(request: Request, config: Config) -> bool:
    """Whether the sequences share one KV cache: always, unless a single configuration is asked for without it."""
    return not request.exact or bool(request.settings.kv_unified) or config.sequences == 1


def batch_size(request: Request, config: Config, facts: EngineFacts) -> int:
    """The logical batch: the default, or the micro-batch where that is larger."""
    return request.settings.batch or max(int(facts.at("batch", config.version).value), config.batched_tokens)


def micro_batch_size(request: Request, config: Config, facts: EngineFacts) -> int:
    """The micro-batch, which llama.cpp cuts to the logical batch."""
    return min(config.batched_tokens, batch_size(request, config, facts))


def cells_for(request: Request, config: Config, facts: EngineFacts) -> Cells:
    """The context in exact mode, else what the demand needs of as many requests as have a slot."""
    demand, context = request.demand, config.context
    if not request.exact and request.workload_given:
        each = demand.input_tokens + demand.output_tokens
        context = max(demand.context, min(demand.concurrency, config.sequences) * each)
    ubatch = micro_batch_size(request, config, facts)
    return cells_of(request.model, context, config.sequences, is_unified(request, config), ubatch)


def work_of(request: Request, release: PricedRelease, config: Config, facts: EngineFacts) -> Work:
    """What the configuration computes with. Raises ``UnsupportedKvDtype``."""
    cells = cells_for(request, config, facts)
    settings, version = request.settings, config.version
    flash = settings.flash_attention is not False
    vendor = config.group.gpu.vendor if config.group and config.placement else ""
    ubatch = micro_batch_size(request, config, facts)
    key = (
        "llama.cpp work", cells, config.kv_dtype, settings.cache_type_v, ubatch, config.sequences, flash, vendor,
        version,
    )  # fmt: skip
    found = release.memo.get(key)
    if found is None:
        types = (config.kv_dtype, settings.cache_type_v or config.kv_dtype)
        tokens = -(-min(ubatch, cells.total) // cells.streams) * cells.streams
        batch = Batch(
            tokens=tokens,
            outputs=min(tokens, config.sequences),
            cells=cells.seen,
            window_cells=cells.window_seen,
            streams=cells.streams,
            flash=flash,
            rotates=(_is_quantized(types[0]), _is_quantized(types[1])),
            casts=(types[0] == "f32", types[1] == "f32"),
            mixed_inputs=bool(facts.at("mixed_inputs", version).value),
        )
        widens = vendor in PIPELINE_VENDORS and flash
        gpu_batch = batch._replace(
            widens=(widens and types[0] not in _F16_CACHES, widens and types[1] not in _F16_CACHES)
        )
        kv = kv_bytes_per_layer(request.model, cells, config.sequences, *types)
        found = release.memo[key] = Work(weights_of(request, release), cells, kv, gpu_batch, batch, {})
    return found


_F16_CACHES: Final = ("f16", "f32")
"""Cache types that flash attention reads as they are, or has had cast already."""


def _is_quantized(dtype: str) -> bool:
    return dtype not in ("f32", "f16", "bf16")


def gpu_rooms(work: Work, share: Share, facts: EngineFacts, version: str) -> tuple[Room, Room]:
    """The compute buffer of a GPU, and what CUDA takes beside it for activations that it quantizes."""
    found: tuple[Room, Room] | None = work.kept.get(share)
    if found is None:
        found = work.kept[share] = (
            _compute_room(work, share, facts, version),
            _pool_room(work, share, facts, version),
        )
    return found


def _compute_room(work: Work, share: Share, facts: EngineFacts, version: str) -> Room:
    """At least it takes what it does without copies of inputs, which llama.cpp drops when they do not fit."""
    margin, shape = margin_of(work.weights, facts, version), work.weights.shape
    size = compute_bytes(shape, work.gpu_batch, share)
    least = compute_bytes(shape, work.gpu_batch, share._replace(copies=1)) if share.copies > 1 else size
    return Room(size, least * margin.low, size * margin.high)


def _pool_room(work: Work, share: Share, facts: EngineFacts, version: str) -> Room:
    shape, rate = work.weights.shape, facts.at("cuda_pool_bytes_per_element", version)
    chosen = shape.top_k if any(layer.experts in ("here", "copied") for layer in share.layers) else 1
    elements = work.gpu_batch.tokens * max(chosen * shape.hidden, shape.dense_ffn)
    return Room(elements * rate.value, elements * rate.low, elements * rate.high)


def margin_of(weights: Weights, facts: EngineFacts, version: str) -> Fact:
    """How far a compute buffer may be from its graph."""
    return facts.at("compute_margin" if weights.modelled else "compute_margin_other", version)


def share_of(
    work: Work, gpus: Sequence[Gpu], index: int, layers: range, on_cpu: int, facts: EngineFacts, config: Config
) -> Share:
    """What GPU ``index`` computes when it holds ``layers`` and the first ``on_cpu`` keep their experts in RAM."""
    elsewhere: Experts = "here"
    if on_cpu and not gpus[0].unified:
        elsewhere = "host" if not offloads(work, config) else "copied" if index == 0 else "first_gpu"
    piped = len(gpus) > 1 and not on_cpu and gpus[0].vendor in PIPELINE_VENDORS
    return Share(
        _kinds(work.weights, layers, on_cpu, elsewhere),
        index == 0,
        index == len(gpus) - 1,
        int(facts.at("pipeline_copies", config.version).value) if piped else 1,
        work.weights.largest_expert_tensor[on_cpu] if elsewhere == "copied" else 0,
    )


def _kinds(weights: Weights, layers: range, on_cpu: int, elsewhere: Experts) -> tuple[Layer, ...]:
    """The layers without their repeats, where each computes its experts."""
    kinds: list[Layer] = []
    start = layers.start
    while start < layers.stop:
        layer, stop = weights.layers[start], min(weights.run_stops[start], layers.stop)
        if start < on_cpu and layer.experts == "here":
            layer, stop = layer._replace(experts=elsewhere), min(stop, on_cpu)
        kinds += [layer] * min(stop - start, REPEATED_LAYERS)
        start = stop
    return tuple(kinds)


def offloads(work: Work, config: Config) -> bool:
    """Whether the first GPU computes the experts in RAM for prompts, from copies of them."""
    return ("op_offload", "off") not in config.options and work.gpu_batch.tokens >= OFFLOAD_MIN_TOKENS
