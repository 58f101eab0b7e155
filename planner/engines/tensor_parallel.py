"""What vLLM and SGLang share: Megatron-style sharding over equal GPUs, and a KV pool per rank."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from planner.engines.base import Config, Pool, Priced
from planner.kv import bytes_per_token, layout_name, sequence_bytes
from planner.ledger import Device, DeviceKind, Entry, exact, ranged, verdict
from planner.machine import Gpu
from planner.request import PricedRelease, Request
from planner.sharding import ExpertPadding, ShardTable, build_shards, padded_vocabulary, stage_layers
from profiles.drafters import MTP
from profiles.engines import load_engine
from profiles.model import ModelSpec

CHECKPOINT = "tensor list of the release"
GGUF_REASON = "GGUF files are for llama.cpp and KTransformers"
ASSUMED_LOW = 0.98
ASSUMED_HIGH = 1.02
"""Range of weights whose tensor types are not exactly known."""


class Ranks(NamedTuple):
    """How tensors are divided: attention and dense layers by ``tp``, experts by ``expert_tp`` or ``expert_ranks``."""

    tp: int
    expert_tp: int
    expert_ranks: int


def ranks_of(config: Config) -> Ranks:
    """Ranks of a configuration: data-parallel ranks share the experts, whole (EP) or within each matrix."""
    return _ranks(config.tp, config.dp, config.ep, config.attention_dp, config.own_experts)


@lru_cache(maxsize=4096)
def _ranks(tp: int, dp: int, ep: int, attention_dp: bool, own_experts: bool) -> Ranks:
    attention_tp = tp // dp if attention_dp else tp
    if ep > 1:
        return Ranks(attention_tp, 1, ep)
    return Ranks(attention_tp, tp if attention_dp or own_experts else tp * dp, 1)


def shards_of(
    request: Request,
    release: PricedRelease,
    config: Config,
    *,
    vision_sharded: bool,
    padding: ExpertPadding | None = None,
) -> ShardTable:
    """The shard table of a configuration, kept for the next one that divides alike."""
    ranks = ranks_of(config)
    key = ("shards", ranks, vision_sharded, padding)
    found: ShardTable | None = release.kept.get(key)
    if found is None:
        made = build_shards(
            request.model,
            release.tensors.groups,
            tp=ranks.tp,
            expert_tp=ranks.expert_tp,
            expert_ranks=ranks.expert_ranks,
            vision_sharded=vision_sharded,
            scale=release.tensors.scale,
            padding=padding,
        )
        # The first one made stays, whichever thread made it: entries of its weights are found by it.
        found = release.kept.setdefault(key, made)
    return found


def absorbed_mla_bytes(model: ModelSpec, tp: int, first: int, stop: int) -> int:
    """Bytes of the bf16 copies of kv_b that decode uses: W_UK and W_UV per layer and rank.

    Engines keep them beside the stored projection: 2 * heads / tp * (nope + v) * kv_lora_rank per layer. Attention
    over the cached state itself, which has no part without rope to expand, has none.
    """
    if not model.nope_dim:
        return 0
    total = 0
    for group in model.kv_groups:
        if group.layout == "mla":
            layers = sum([first <= layer < stop for layer in group.layers])
            heads = -(-model.heads // tp)
            total += 2 * layers * heads * (model.nope_dim + model.v_head_dim) * group.kv_lora_rank
    return total


def stages_of(model: ModelSpec, config: Config) -> tuple[tuple[int, int], ...]:
    """First and stop layer of every pipeline stage, as this engine divides them."""
    rest_last = load_engine(config.engine).has_fact("pipeline_rest_last", config.version)
    return stage_layers(model.layers, config.pp, rest_last=rest_last)


def rotary_table_bytes(model: ModelSpec) -> int:
    """Bytes of the table of cosines and sines that every rank keeps, bf16: positions x rotary width.

    Start-ups of vLLM 0.19.0 load exactly this much more than the checkpoint's shard (0.031 GiB for Llama-3.1-8B).
    """
    widths = [group.rope_dim or group.head_dim for group in model.kv_groups if group.layout != "linear"]
    return 2 * model.max_context * max(widths, default=0)


def weight_entries(
    request: Request,
    release: PricedRelease,
    config: Config,
    shards: ShardTable,
    stage: int,
    *,
    copies_projection: bool,
) -> list[Entry]:
    """Weights of one pipeline stage on its fullest rank, and what loading derives from them.

    ``copies_projection``: the engine keeps the absorbed MLA projections beside the stored one.
    """
    model = request.model
    first, stop = stages_of(model, config)[stage]
    key = ("weights", ranks_of(config), config.pp, first, stop, config.text_only, id(shards), copies_projection)
    found = release.kept.get(key)
    if found is not None:
        return list(found)
    experts = sum([shard.expert * shard.experts for shard in shards.layers[first:stop]])
    rest = shards.stage_bytes(first, stop) - experts
    evidence = release.tensors.evidence
    sharding = f"tp {ranks_of(config).tp}, layers {first}-{stop - 1}"
    entries: list[Entry] = []

    def add(what: str, size: int, formula: str) -> None:
        if not size:
            return
        if evidence == "exact":
            entries.append(exact("weights", what, size, formula, CHECKPOINT))
        else:
            entries.append(
                ranged("weights", what, size, size * ASSUMED_LOW, size * ASSUMED_HIGH, formula, CHECKPOINT, "assumed")
            )

    where = (
        f"{shards.experts_on_rank} whole experts per layer" if config.ep > 1 else "each expert divided over the ranks"
    )
    add("routed experts", experts, f"sum over layers {first}-{stop - 1}, {where}")
    add(
        "attention, shared and dense layers, router, norms",
        rest,
        f"sum of shards, {sharding}; q_a, kv_a, router and norms whole",
    )
    if stage == 0:
        add("embedding", shards.embedding, "vocabulary / tp x hidden")
        if not config.text_only:
            sharded = shards.vision < shards.vision_whole
            add("vision tower", shards.vision, "its matrices divided by tp" if sharded else "whole on every rank")
    if stage == config.pp - 1:
        add(
            "head and final norm",
            (shards.embedding if model.tied_embeddings and config.pp > 1 else 0) + shards.lm_head + shards.norms,
            "vocabulary / tp x hidden",
        )
    add("rotary table", rotary_table_bytes(model), "positions x rotary width x 2")
    absorbed = absorbed_mla_bytes(model, ranks_of(config).tp, first, stop) if copies_projection else 0
    if absorbed:
        entries.append(
            exact(
                "weights", "absorbed MLA projections", absorbed,
                "2 x layers x heads / tp x (nope + v) x kv_lora_rank", "kv_b kept in the form decode uses, bf16",
            )
        )  # fmt: skip
    release.kept[key] = tuple(entries)
    return entries


def kv_figures(
    request: Request, release: PricedRelease, config: Config, tp: int, first: int, stop: int, block: int
) -> tuple[float, int, int, int]:
    """Per rank of one stage: bytes per further token, of one whole context, that the demand needs, of one request."""
    demand = request.demand
    key = ("kv", config.kv_dtype, tp, config.dcp, config.dp, first, stop, config.context, block, config.draft_tokens)
    found = release.memo.get(key)
    if found is None:
        model = request.model
        per_token = bytes_per_token(model, config.kv_dtype, tp, first, stop) / config.dcp
        batched = config.batched_tokens
        context = -(-config.context // block) * block
        each = min(demand.input_tokens + demand.output_tokens, config.context)
        each = -(-each // block) * block
        whole = -(-sequence_bytes(model, config.kv_dtype, tp, first, stop, context, batched) // config.dcp)
        one = -(-sequence_bytes(model, config.kv_dtype, tp, first, stop, each, batched) // config.dcp)
        if config.draft_tokens and stop == model.layers:
            drafted = drafter_kv_bytes(request, config.kv_dtype, tp)
            per_token, whole, one = per_token + drafted, whole + int(drafted * context), one + int(drafted * each)
        per_replica = -(-demand.concurrency // config.replicas)
        found = release.memo[key] = (per_token, whole, max(whole, per_replica * one), one)
    return found


def drafter_kv_bytes(request: Request, kv_dtype: str, tp: int) -> float:
    """Bytes per token and rank that the drafter adds to the KV cache; an MTP layer caches as the model's last one."""
    drafter, model = request.drafter, request.model
    assert drafter is not None
    if drafter.method == MTP:
        return bytes_per_token(model, kv_dtype, tp, model.layers - 1, model.layers)
    return drafter.kv_bytes_per_token(tp, 1 if kv_dtype.startswith("fp8") else 2)


def drafter_entries(request: Request, config: Config, shards: ShardTable, tp: int) -> list[Entry]:
    """Weights of the drafter on a rank of the last stage; more where embedding and head are not shared."""
    drafter, model = request.drafter, request.model
    if drafter is None or not config.draft_tokens:
        return []
    if drafter.method == MTP:
        copies = 2 * 2 * padded_vocabulary(model.vocab, tp) * model.hidden
        size, low, high = shards.mtp - copies, shards.mtp - copies, shards.mtp
    else:
        each = (drafter.matrix_bytes + drafter.vocabulary_bytes) // tp
        shared = drafter.shareable_bytes // tp
        size, low, high = each - shared, each - shared, each
    what = f"drafter ({drafter.method})"
    return [ranged("weights", what, size, low, high, "layers and head / tp, embedding shared", drafter.source)]


def pool_and_devices(
    request: Request,
    release: PricedRelease,
    config: Config,
    shards: ShardTable,
    stages: Iterable[tuple[list[Entry], int, int, int]],
    block: int,
    outside: tuple[int, int] = (0, 0),
) -> tuple[Pool, tuple[Device, ...]]:
    """Ledgers of every stage and the KV pool they leave.

    ``stages`` yields per stage the entries without KV, and usable bytes (expected, low, high). ``outside`` are bytes
    (expected, high) that must fit in what the engine leaves unused.
    """
    assert config.group is not None
    gpu: Gpu = config.group.gpu
    model = request.model
    tp = ranks_of(config).tp
    demand = request.demand
    devices: list[Device] = []
    budget = budget_low = budget_high = tokens = tokens_low = None
    per_token_worst, context_bytes, required_bytes, sequence = 0.0, 0, 0, 0
    layers = stages_of(model, config)
    name = f"KV cache, {layout_name(model)} {config.kv_dtype}"
    kind: DeviceKind = "unified" if gpu.unified else "gpu"
    world = config.tp if config.attention_dp else config.tp * config.dp
    for stage, (entries, usable, usable_low, usable_high) in enumerate(stages):
        first, stop = layers[stage]
        per_token, whole, needed, one = kv_figures(request, release, config, tp, first, stop, block)
        low = usable_low - sum([entry.high for entry in entries])
        high = usable_high - sum([entry.low for entry in entries])
        expected = usable - sum([entry.bytes for entry in entries])
        if budget is None or expected < budget:
            budget, budget_low, budget_high = expected, low, high
        stage_tokens = int(max(expected, 0) // per_token) if per_token else demand.required_tokens()
        stage_low = int(max(low, 0) // per_token) if per_token else demand.required_tokens()
        tokens = stage_tokens if tokens is None else min(tokens, stage_tokens)
        tokens_low = stage_low if tokens_low is None else min(tokens_low, stage_low)
        per_token_worst = max(per_token_worst, per_token)
        context_bytes = max(context_bytes, whole)
        sequence = max(sequence, one)
        wanted = needed if request.workload_given else whole
        required_bytes = max(required_bytes, wanted)
        entries.append(exact("kv_cache", name, wanted, "bytes per token and rank x tokens", "KV geometry of the model"))
        devices.append(
            Device(
                0,
                kind,
                stage * world,
                world,
                gpu.name,
                gpu.capacity,
                gpu.visible,
                usable,
                usable_low,
                usable_high,
                tuple(entries),
            )
        )
    pool = Pool(
        per_token_worst, budget or 0, budget_low or 0, budget_high or 0, tokens or 0, tokens_low or 0,
        demand.required_tokens(config.replicas, block), required_bytes, context_bytes, sequence,
    )  # fmt: skip
    return pool, tuple(devices)


def fit(
    request: Request,
    config: Config,
    shards: ShardTable,
    pool: Pool,
    devices: tuple[Device, ...],
    warnings: list[str],
) -> Priced:
    """The verdict of a configuration from its ledgers."""
    result = verdict(devices)
    reason = ""
    if result == "no":
        worst = min(devices, key=lambda device: device.free_high)
        weights = worst.total("weights")
        if worst.usable - weights - worst.total("compute") - worst.total("overhead") < 0:
            reason = "weights and buffers alone exceed the usable memory of a GPU"
        elif pool.budget < pool.context_bytes:
            reason = "the KV cache cannot hold one sequence of the full context"
        else:
            reason = "the KV cache cannot hold the requested concurrency"
    return Priced(config, devices, pool, shards, result, reason, tuple(warnings))
