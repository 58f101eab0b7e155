"""Decode step and prefill of llama.cpp and KTransformers: layers one by one, routed experts in RAM or on disk."""

from __future__ import annotations

from formulas.moe import expected_distinct_experts
from planner.engines.base import Priced
from planner.kv import group_bytes_per_token
from planner.machine import Host
from planner.request import PricedRelease, Request
from planner.speed_terms import Step, attention_prefill_flops, kv_read_s, work_of
from profiles.engines import EngineFacts


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


def offload_step(
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
        kv = kv_read_s(request, config, gpu, facts, batch, cached, config.tp)
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


def offload_prefill_s(
    request: Request, release: PricedRelease, priced: Priced, facts: EngineFacts, tokens: float
) -> float:
    config, work = priced.config, work_of(request, release)
    node = request.machine.nodes[config.group.nodes[0] if config.group else 0]
    active = 2 * (work.always_parameters + work.routed_parameters) * tokens
    in_ram = float(priced.cpu_expert_bytes)
    if config.group is None:
        step = offload_step(request, release, priced, facts, min(tokens, 16.0), tokens / 2)
        return step.total * tokens / min(tokens, 16.0)
    gpu = config.group.gpu
    rate = (gpu.flops.get("bf16") or 50e12) * facts.at("llama_prefill_fraction", "1").value
    ways = config.tp if config.engine == "ktransformers" else 1
    compute = (active + attention_prefill_flops(request, tokens)) / (rate * ways)
    if not in_ram or gpu.unified:
        return compute
    chunk = config.batched_tokens if config.engine == "llama.cpp" else max(config.batched_tokens, 1)
    passes = -(-tokens // chunk)
    streamed = passes * in_ram / ways / (gpu.pcie_bytes_per_s * facts.at("pcie_fraction", "1").value)
    small = min(tokens, 32.0)
    on_cpu = offload_step(request, release, priced, facts, small, tokens / 2).total * tokens / small
    disk = 0.0
    if config.disk_bytes:
        disk = (
            passes * config.disk_bytes / (node.disk.read_bytes_per_s or facts.at("assumed_disk_bytes_per_s", "1").value)
        )
    return min(compute + streamed, on_cpu) + disk
