"""Speed of a priced configuration at the demand: step time, prefill, and what they make of latency and throughput.

A decode step is the fixed time of its layers plus the bytes it moves over the bandwidth its kernels reach; the prompts
of the other requests interrupt it. One stream is the fixed time, a large batch approaches the roofline.
"""

from __future__ import annotations

from typing import NamedTuple

from formulas.kv_cache import cached_tokens
from formulas.moe import expected_busiest_share, expected_distinct_experts
from formulas.roofline import all_reduce_s, all_to_all_s, attention_flops, mla_decode_flops
from planner.engines.base import Config, Priced
from planner.engines.tensor_parallel import ranks_of
from planner.kv import group_bytes_per_token
from planner.machine import Gpu, Host
from planner.request import PricedRelease, Request
from profiles.engines import EngineFacts, Fact, load_engine


class Speed(NamedTuple):
    """Speed of one configuration; low, expected, high. Rates are tokens per second over the whole machine."""

    tpot_s: tuple[float, float, float]
    ttft_s: tuple[float, float, float]
    decode_per_request: tuple[float, float, float]
    decode_total: tuple[float, float, float]
    prefill: tuple[float, float, float]
    effective_concurrency: float
    bound_by: str


class Step(NamedTuple):
    """Seconds of one decode step by cause."""

    fixed: float
    weights: float
    kv_cache: float
    links: float
    cpu: float
    disk: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.fixed + self.weights + self.kv_cache + self.links + self.cpu + self.disk

    @property
    def largest(self) -> str:
        """What takes most of the step."""
        names = {
            "latency": self.fixed,
            "HBM": self.weights + self.kv_cache,
            "link": self.links,
            "RAM": self.cpu,
            "disk": self.disk,
        }
        return max(names, key=lambda name: names[name])


class _Work(NamedTuple):
    """Sums over the layers of a release that every configuration of it shares."""

    always_parameters: float
    routed_parameters: float
    moe_layers: int
    dense_layers: int
    mla_layers: int
    gqa_layers: int
    linear_layers: int
    indexer_layers: int


def speed_of(request: Request, release: PricedRelease, priced: Priced) -> Speed:
    """Latency and throughput at the demand, as ranges."""
    facts = load_engine("speed")
    demand, config = request.demand, priced.config
    output = max(demand.output_tokens, 1)
    held = priced.pool.tokens * config.replicas if priced.pool.bytes_per_token else None
    each = demand.input_tokens + output
    admitted = float(demand.concurrency)
    if held is not None:
        admitted = max(1.0, min(admitted, held / each))
    cached = demand.input_tokens + output / 2
    fresh = max(demand.input_tokens * (1 - demand.prefix_cache_hit_rate), 1.0)
    offloaded = config.engine in ("llama.cpp", "ktransformers")
    if offloaded:
        step = _offload_step(request, release, priced, facts, admitted, cached)
        prefill_s = _offload_prefill_s(request, release, priced, facts, fresh)
        lanes = 1.0
    else:
        step = _gpu_step(request, release, priced, facts, admitted, cached)
        prefill_s = _gpu_prefill_s(request, release, priced, facts, fresh)
        lanes = float(config.dp)
    per_lane = admitted / lanes
    interference = max(per_lane - 1.0, 0.0) * prefill_s / output
    pipeline = facts.at("pipeline_factor", "1").value if config.pp > 1 else 1.0
    tpot = step.total * pipeline + interference
    busy = min(per_lane * prefill_s / output / tpot, 0.9)
    ttft = prefill_s * (1 + 0.5 * busy / (1 - busy)) + step.total
    if admitted < demand.concurrency:
        ttft += (demand.concurrency / admitted - 1) * output * tpot
    spread = facts.at("offload_range" if offloaded else "gpu_range", "1")
    low, high = _spread(request, priced, facts, spread, step, tpot)
    bound = (
        "admission"
        if admitted < 0.98 * demand.concurrency
        else "prefill"
        if interference > step.total
        else step.largest
    )
    return Speed(
        (tpot * low, tpot, tpot * high),
        (ttft * low, ttft, ttft * high),
        (1 / (tpot * high), 1 / tpot, 1 / (tpot * low)),
        (admitted / (tpot * high), admitted / tpot, admitted / (tpot * low)),
        (lanes * fresh / (prefill_s * high), lanes * fresh / prefill_s, lanes * fresh / (prefill_s * low)),
        admitted,
        bound,
    )


def _spread(
    request: Request, priced: Priced, facts: EngineFacts, spread: Fact, step: Step, tpot: float
) -> tuple[float, float]:
    """Low and high factors of the step; an unknown RAM or disk rate widens its own share."""
    low, high = spread.low, spread.high
    node = request.machine.nodes[priced.config.group.nodes[0] if priced.config.group else 0]
    if step.cpu and node.host.bandwidth is None:
        rate = facts.at("assumed_ram_bytes_per_s", "1")
        share = step.cpu / tpot
        low *= 1 - share * (1 - rate.value / rate.high)
        high *= 1 + share * (rate.value / rate.low - 1)
    if step.disk and node.disk.read_bytes_per_s is None:
        rate = facts.at("assumed_disk_bytes_per_s", "1")
        share = step.disk / tpot
        low *= 1 - share * (1 - rate.value / rate.high)
        high *= 1 + share * (rate.value / rate.low - 1)
    return low, high


def _work(request: Request, release: PricedRelease) -> _Work:
    found = release.memo.get("work")
    if found is not None:
        return found  # type: ignore[no-any-return]
    model = request.model
    always = routed = 0
    for group in release.tensors.groups:
        if group.tensor_class in ("vision", "mtp", "embedding"):
            continue
        if group.tensor_class == "routed_experts":
            routed += group.parameters
        else:
            always += group.parameters
    share = model.moe.top_k / model.moe.experts if model.moe is not None else 0.0
    moe_layers = len(model.moe.layers) if model.moe is not None else 0
    count = {"mla": 0, "linear": 0, "heads": 0, "indexer": 0}
    for kv in model.kv_groups:
        kind = kv.layout if kv.layout in ("mla", "linear") else "heads"
        count[kind] += len(kv.layers)
        count["indexer"] += len(kv.layers) if kv.index_head_dim else 0
    work = _Work(
        always, routed * share, moe_layers, model.layers - moe_layers,
        count["mla"], count["heads"], count["linear"], count["indexer"],
    )  # fmt: skip
    release.memo["work"] = work
    return work


def layer_floor_s(request: Request, release: PricedRelease, facts: EngineFacts, config: Config, gpu: Gpu) -> float:
    """Fixed time of one decode step over all layers, collectives' latency included."""
    ranks = ranks_of(config)
    key = ("floor", ranks, config.pp, gpu.key, gpu.link, config.dp, config.dcp > 1)
    found = release.memo.get(key)
    if found is None:
        work = _work(request, release)
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
        if config.dp > 1 and work.moe_layers:
            # Tokens of all data-parallel ranks meet at the experts and return.
            shared = max(ranks.expert_ranks, ranks.expert_tp)
            collectives += 2 * work.moe_layers * (across if shared > per_node else inside)
        hops = (config.pp - 1) * facts.at("network_hop_s", "1").value
        found = release.memo[key] = kernels + collectives + hops + facts.at("host_step_s", "1").value
    return float(found)


def _gpu_step(
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
    memo_key = ("bytes", ranks, config.pp)
    sums = release.memo.get(memo_key)
    if sums is None:
        always = sum([shard.always for shard in shards.layers]) + shards.lm_head
        sums = release.memo[memo_key] = (always, sum([shard.expert for shard in shards.layers]))
    always, expert_sum = sums
    dense = always / (gpu.bandwidth * facts.at("dense_bandwidth_fraction", "1").value)
    peak = gpu.flops.get("bf16")
    work = _work(request, release)
    if peak:
        fraction = facts.at("prefill_dense_fraction", "1").value
        dense = max(dense, 2 * work.always_parameters * lane / ranks.tp / (peak * fraction))
    experts = 0.0
    if model.moe is not None:
        moe = model.moe
        distinct = expected_distinct_experts(moe.experts, moe.top_k, batch)
        on_rank = distinct / ranks.expert_ranks
        if ranks.expert_ranks > 1:
            on_rank *= expected_busiest_share(batch, moe.top_k, moe.experts, ranks.expert_ranks)
            on_rank = min(on_rank, shards.experts_on_rank, batch * moe.top_k)
        experts = on_rank * expert_sum / (gpu.bandwidth * facts.at("expert_bandwidth_fraction", "1").value)
        rate = _expert_rate(release, gpu, facts)
        if rate:
            ways = ranks.expert_ranks * ranks.expert_tp
            experts = max(experts, 2 * work.routed_parameters * batch / ways / rate)
    kv = _kv_read_s(request, config, gpu, facts, lane, cached, ranks.tp)
    message = lane * model.hidden * 2.0
    links = 0.0
    per_node = config.group.per_node
    network = request.machine.network_bytes_per_s or facts.at("assumed_network_bytes_per_s", "1").value
    if ranks.tp > 1:
        rate = network / per_node if ranks.tp > per_node else gpu.link_bytes_per_s
        links += 2 * model.layers * all_reduce_s(message, ranks.tp, rate, 0.0)
    if config.dp > 1 and model.moe is not None:
        shared = max(ranks.expert_ranks, ranks.expert_tp)
        copies = min(model.moe.top_k, shared) if ranks.expert_ranks > 1 else config.dp
        rate = network / per_node if shared > per_node else gpu.link_bytes_per_s
        links += 2 * work.moe_layers * all_to_all_s(message * copies, shared, rate, 0.0)
    return Step(layer_floor_s(request, release, facts, config, gpu), dense + experts, kv, links, 0.0, 0.0)


def _kv_read_s(
    request: Request, config: Config, gpu: Gpu, facts: EngineFacts, lane: float, cached: float, tp: int
) -> float:
    """Time to read the cached tokens of ``lane`` sequences on one rank, or to compute over them if that is slower."""
    model = request.model
    moved = flops = 0.0
    for group in model.kv_groups:
        kept = float(cached_tokens(int(cached), group.window, 1))
        layers = len(group.layers)
        moved += layers * (group_bytes_per_token(group, config.kv_dtype, tp) * kept + group.state_bytes / tp)
        heads = model.heads / tp
        if group.layout == "mla":
            flops += layers * mla_decode_flops(1, group.kv_lora_rank, group.rope_dim, kept) * heads
        elif group.layout != "linear":
            flops += layers * attention_flops(1, group.head_dim, group.v_head_dim, kept) * heads
    moved *= lane / config.dcp
    time = moved / (gpu.bandwidth * facts.at("kv_bandwidth_fraction", "1").value)
    peak = gpu.flops.get("bf16")
    return max(time, flops * lane / (0.6 * peak)) if peak else time


def _expert_rate(release: PricedRelease, gpu: Gpu, facts: EngineFacts) -> float | None:
    """Operations per second that the experts' prefill kernels reach on this GPU."""
    fmt = release.expert_format
    bf16 = gpu.flops.get("bf16")
    if fmt.startswith("fp8") and gpu.flops.get("fp8"):
        return gpu.flops["fp8"] * facts.at("prefill_fp8_fraction_of_fp8", "1").value
    if fmt in ("nvfp4", "mxfp4") and gpu.flops.get("fp4"):
        return gpu.flops["fp4"] * facts.at("prefill_nvfp4_fraction_of_fp4", "1").value
    if not bf16:
        return None
    key = "prefill_bf16_fraction" if fmt == "bf16" else "prefill_int4_fraction_of_bf16"
    return bf16 * facts.at(key, "1").value


def _attention_prefill_flops(request: Request, tokens: float) -> float:
    """Operations of causal attention over a prompt, all layers."""
    model = request.model
    total = 0.0
    for group in model.kv_groups:
        if group.layout == "linear":
            continue
        seen = min(tokens / 2, float(group.window or tokens))
        width = (model.q_head_dim, model.v_head_dim) if group.layout == "mla" else (group.head_dim, group.v_head_dim)
        total += len(group.layers) * tokens * attention_flops(model.heads, width[0], width[1], seen)
    return total


def _gpu_prefill_s(
    request: Request, release: PricedRelease, priced: Priced, facts: EngineFacts, tokens: float
) -> float:
    config = priced.config
    assert config.group is not None
    gpu = config.group.gpu
    ranks = ranks_of(config)
    work = _work(request, release)
    chunks = -(-tokens // max(config.batched_tokens, 1))
    per_chunk = work.mla_layers * facts.at("prefill_mla_layer_s", "1").value
    per_chunk += (request.model.layers - work.mla_layers) * facts.at("prefill_layer_s", "1").value
    fixed = per_chunk * chunks
    peak = gpu.flops.get("bf16")
    if not peak:
        return fixed + tokens * 1e-3
    dense_rate = peak * facts.at("prefill_dense_fraction", "1").value
    dense = 2 * work.always_parameters * tokens / ranks.tp / dense_rate
    attention = _attention_prefill_flops(request, tokens) / ranks.tp / (dense_rate * 0.7)
    rate = _expert_rate(release, gpu, facts) or dense_rate
    ways = ranks.expert_ranks * ranks.expert_tp
    experts = 2 * work.routed_parameters * tokens / ways / rate * config.dp if request.model.moe is not None else 0.0
    return fixed + dense + attention + experts


def _host_rates(host: Host, facts: EngineFacts, fmt: str, moved: float, computed: float) -> float:
    """Seconds for the CPU to move ``moved`` bytes of experts and to compute with ``computed`` bytes of them."""
    if host.bandwidth is None:
        reach = facts.at("assumed_ram_bytes_per_s", "1").value * facts.at("ram_nominal_fraction", "1").value
    elif host.bandwidth_source == "measured":
        reach = host.bandwidth * facts.at("ram_measured_fraction", "1").value
    else:
        reach = host.bandwidth * facts.at("ram_nominal_fraction", "1").value
    time = moved / reach
    if host.cores:
        time = max(time, computed / (host.cores * facts.at(f"core_bytes_per_s_{bits_class(fmt)}", "1").value))
    return time


def bits_class(fmt: str) -> str:
    """Which per-core rate a storage format has.

    >>> bits_class("Q8_0"), bits_class("int4_g32"), bits_class("IQ1_S")
    ('8bit', '4bit', 'low_bit')
    """
    name = fmt.upper()
    if name.startswith(("BF16", "F16", "F32")):
        return "bf16"
    if name.startswith(("Q8", "FP8", "INT8", "Q6", "Q5")):
        return "8bit"
    if name.startswith(("Q4", "Q3", "Q2", "INT4", "IQ4", "MXFP4", "NVFP4", "AWQ", "GPTQ")):
        return "4bit"
    return "low_bit"


def _offload_step(
    request: Request,
    release: PricedRelease,
    priced: Priced,
    facts: EngineFacts,
    admitted: float,
    cached: float,
) -> Step:
    config, model, shards = priced.config, request.model, priced.shards
    node = request.machine.nodes[config.group.nodes[0] if config.group else 0]
    batch = max(admitted, 1.0)
    always = sum([shard.always for shard in shards.layers]) + shards.lm_head
    experts_total = sum([shard.expert * shard.experts for shard in shards.layers])
    if config.engine == "ktransformers":
        assert config.group is not None
        experts_total *= config.tp
    moe = model.moe
    read_share = used_share = 1.0
    if moe is not None:
        read_share = expected_distinct_experts(moe.experts, moe.top_k, batch) / moe.experts
        used_share = batch * moe.top_k / moe.experts
    in_ram = float(priced.cpu_expert_bytes)
    host_always = 0.0
    fixed_layer = facts.at("llama_layer_s", "1").value
    if config.group is None:
        in_ram, host_always = float(experts_total), float(always)
        gpu_time = kv = 0.0
        per_cell = sum([group_bytes_per_token(group, config.kv_dtype) * len(group.layers) for group in model.kv_groups])
        host_always += per_cell * cached * batch
        fixed = model.layers * fixed_layer / 2
    else:
        gpu = config.group.gpu
        reach = gpu.bandwidth * facts.at("llama_gpu_bandwidth_fraction", "1").value
        on_gpu = max(experts_total - in_ram, 0.0)
        gpu_time = (always + on_gpu * read_share) / reach
        kv = _kv_read_s(request, config, gpu, facts, batch, cached, config.tp)
        fixed = model.layers * fixed_layer
        if gpu.unified:
            gpu_time, in_ram = (always + experts_total * read_share) / reach, 0.0
    amortised = facts.at("core_batch_amortisation", "1").value if batch > 4 else 1.0
    cpu = 0.0
    if in_ram or host_always:
        cpu = _host_rates(
            node.host, facts, release.expert_format,
            in_ram * read_share + host_always, (in_ram * used_share) / amortised + host_always,
        )  # fmt: skip
    disk = 0.0
    if config.disk_bytes:
        rate = node.disk.read_bytes_per_s or facts.at("assumed_disk_bytes_per_s", "1").value
        disk = config.disk_bytes * read_share / rate
    return Step(fixed, gpu_time, kv, 0.0, cpu, disk)


def _offload_prefill_s(
    request: Request, release: PricedRelease, priced: Priced, facts: EngineFacts, tokens: float
) -> float:
    config, work = priced.config, _work(request, release)
    node = request.machine.nodes[config.group.nodes[0] if config.group else 0]
    active = 2 * (work.always_parameters + work.routed_parameters) * tokens
    in_ram = float(priced.cpu_expert_bytes)
    if config.group is None:
        step = _offload_step(request, release, priced, facts, min(tokens, 16.0), tokens / 2)
        return step.total * tokens / min(tokens, 16.0)
    gpu = config.group.gpu
    rate = (gpu.flops.get("bf16") or 50e12) * facts.at("llama_prefill_fraction", "1").value
    ways = config.tp if config.engine == "ktransformers" else 1
    compute = (active + _attention_prefill_flops(request, tokens)) / (rate * ways)
    if not in_ram or gpu.unified:
        return compute
    chunk = config.batched_tokens if config.engine == "llama.cpp" else max(config.batched_tokens, 1)
    passes = -(-tokens // chunk)
    streamed = passes * in_ram / ways / (gpu.pcie_bytes_per_s * facts.at("pcie_fraction", "1").value)
    small = min(tokens, 32.0)
    on_cpu = _offload_step(request, release, priced, facts, small, tokens / 2).total * tokens / small
    disk = 0.0
    if config.disk_bytes:
        disk = (
            passes * config.disk_bytes / (node.disk.read_bytes_per_s or facts.at("assumed_disk_bytes_per_s", "1").value)
        )
    return min(compute + streamed, on_cpu) + disk
