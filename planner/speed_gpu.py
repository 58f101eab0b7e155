"""Decode step and prefill of vLLM and SGLang on equal GPUs."""

from __future__ import annotations

from formulas.moe import expected_busiest_share, expected_distinct_experts
from formulas.roofline import all_reduce_s, all_to_all_s
from planner.engines.base import Config, Priced
from planner.engines.tensor_parallel import ranks_of
from planner.machine import Gpu
from planner.request import PricedRelease, Request
from planner.speed_terms import Step, attention_prefill_flops, expert_rate, kv_read_s, work_of
from profiles.engines import EngineFacts


def layer_floor_s(request: Request, release: PricedRelease, facts: EngineFacts, config: Config, gpu: Gpu) -> float:
    """Fixed time of one decode step over all layers, collectives' latency included."""
    ranks = ranks_of(config)
    key = ("floor", ranks, config.pp, gpu.key, gpu.link, config.dp, config.dcp > 1)
    found = release.memo.get(key)
    if found is None:
        work = work_of(request, release)
        kernels = (
            work.mla_layers * facts.at("mla_layer_s", "1").value
            + work.gqa_layers * facts.at("gqa_layer_s", "1").value
            + work.linear_layers * facts.at("linear_layer_s", "1").value
            + work.indexer_layers * facts.at("indexer_layer_s", "1").value
            + work.moe_layers * facts.at("moe_layer_s", "1").value
            + work.dense_layers * facts.at("dense_ffn_layer_s", "1").value
        )
        if gpu.vendor == "amd":
            kernels *= facts.at("amd_latency_factor", "1").value
        elif (gpu.cuda or 9.0) < 8.9:
            kernels *= facts.at("ampere_latency_factor", "1").value
        inside = facts.at(f"all_reduce_{gpu.link}_s", "1").value
        across = facts.at("all_reduce_network_s", "1").value
        per_node = config.group.per_node if config.group else 1
        rounds = 2 + (2 if config.dcp > 1 else 0)
        collectives = (
            rounds * request.model.layers * (across if ranks.tp > per_node else inside) if ranks.tp > 1 else 0.0
        )
        if config.expert_group > 1 and work.moe_layers:
            # Tokens of all data-parallel ranks meet at the experts and return.
            shared = max(ranks.expert_ranks, ranks.expert_tp)
            collectives += 2 * work.moe_layers * (across if shared > per_node else inside)
        hops = (config.pp - 1) * facts.at("network_hop_s", "1").value
        found = release.memo[key] = kernels + collectives + hops + facts.at("host_step_s", "1").value
    return float(found)


def gpu_step(
    request: Request,
    release: PricedRelease,
    priced: Priced,
    facts: EngineFacts,
    admitted: float,
    cached: float,
) -> Step:
    config, model, shards = priced.config, request.model, priced.shards
    assert config.group is not None
    gpu = config.group.gpu
    ranks = ranks_of(config)
    batch = max(admitted / config.pp, 1.0)
    lane = max(batch / config.dp, 1.0)
    # Whole engines side by side route only their own tokens to their experts.
    routed = lane if config.own_experts else batch
    memo_key = ("bytes", ranks, config.pp)
    sums = release.memo.get(memo_key)
    if sums is None:
        always = sum([shard.always for shard in shards.layers]) + shards.lm_head
        sums = release.memo[memo_key] = (always, sum([shard.expert for shard in shards.layers]))
    always, expert_sum = sums
    dense = always / (gpu.bandwidth * facts.at("dense_bandwidth_fraction", "1").value)
    peak = gpu.flops.get("bf16")
    work = work_of(request, release)
    if peak:
        fraction = facts.at("prefill_dense_fraction", "1").value
        dense = max(dense, 2 * work.always_parameters * lane / ranks.tp / (peak * fraction))
    experts = 0.0
    if model.moe is not None:
        moe = model.moe
        distinct = expected_distinct_experts(moe.experts, moe.top_k, routed)
        on_rank = distinct / ranks.expert_ranks
        if ranks.expert_ranks > 1:
            on_rank *= expected_busiest_share(routed, moe.top_k, moe.experts, ranks.expert_ranks)
            on_rank = min(on_rank, shards.experts_on_rank, routed * moe.top_k)
        experts = on_rank * expert_sum / (gpu.bandwidth * facts.at("expert_bandwidth_fraction", "1").value)
        rate = expert_rate(release, gpu, facts)
        if rate:
            ways = ranks.expert_ranks * ranks.expert_tp
            experts = max(experts, 2 * work.routed_parameters * routed / ways / rate)
    kv = kv_read_s(request, config, gpu, facts, lane, cached, ranks.tp)
    message = lane * model.hidden * 2.0
    links = 0.0
    per_node = config.group.per_node
    network = request.machine.network_bytes_per_s or facts.at("assumed_network_bytes_per_s", "1").value
    if ranks.tp > 1:
        rate = network / per_node if ranks.tp > per_node else gpu.link_bytes_per_s
        links += 2 * model.layers * all_reduce_s(message, ranks.tp, rate, 0.0)
    if config.expert_group > 1 and model.moe is not None:
        shared = max(ranks.expert_ranks, ranks.expert_tp)
        copies = min(model.moe.top_k, shared) if ranks.expert_ranks > 1 else config.dp
        rate = network / per_node if shared > per_node else gpu.link_bytes_per_s
        links += 2 * work.moe_layers * all_to_all_s(message * copies, shared, rate, 0.0)
    return Step(layer_floor_s(request, release, facts, config, gpu), dense + experts, kv, links, 0.0, 0.0)


def gpu_prefill_s(request: Request, release: PricedRelease, priced: Priced, facts: EngineFacts, tokens: float) -> float:
    config = priced.config
    assert config.group is not None
    gpu = config.group.gpu
    ranks = ranks_of(config)
    work = work_of(request, release)
    chunks = -(-tokens // max(config.batched_tokens, 1))
    per_chunk = work.mla_layers * facts.at("prefill_mla_layer_s", "1").value
    per_chunk += (request.model.layers - work.mla_layers) * facts.at("prefill_layer_s", "1").value
    fixed = per_chunk * chunks
    peak = gpu.flops.get("bf16")
    if not peak:
        return fixed + tokens * 1e-3
    dense_rate = peak * facts.at("prefill_dense_fraction", "1").value
    dense = 2 * work.always_parameters * tokens / ranks.tp / dense_rate
    attention = attention_prefill_flops(request, tokens) / ranks.tp / (dense_rate * 0.7)
    rate = expert_rate(release, gpu, facts) or dense_rate
    ways = ranks.expert_ranks * ranks.expert_tp
    together = tokens * config.expert_group
    experts = 2 * work.routed_parameters * together / ways / rate if request.model.moe is not None else 0.0
    return fixed + dense + attention + experts
