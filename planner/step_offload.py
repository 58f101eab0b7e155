"""Steps of llama.cpp and KTransformers: layers one by one, routed experts on GPUs, in RAM or on disk.

Decode reads each part where it lies: GPUs and CPU work in turn, since a layer needs the one before it. The CPU takes
the longer of moving its experts and computing with them. A prompt goes through the CPU, or its experts are copied to
a GPU once a pass, whichever is faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from formulas.kv_cache import cached_tokens
from formulas.roofline import attention_flops, mla_decode_flops
from planner.budget import Budget, Term, fact, merged, spread_of
from planner.engines.base import Priced, placed_gpus
from planner.evidence import measured_rate
from planner.kv import group_bytes_per_state
from planner.machine import Gpu, Host, Node
from planner.measured_cpu import step_terms
from planner.request import PricedRelease, Request
from planner.routing import distinct_experts
from planner.step_gpu import gpu_prefill
from profiles.model import KvGroup, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hwdetect.bench.measured import MeasuredSeries


MEASURED_SPREAD: Final = 1.1
"""How far a rate that was measured in a benchmark is from what an engine reaches, a factor either way."""


class Parts(NamedTuple):
    """Bytes of a release by where a step reads them; ``experts_*`` are whole, of all experts there."""

    always: float
    experts_gpu: float
    experts_ram: float
    experts_disk: float
    expert_layers_ram: int


class Rate(NamedTuple):
    """Bytes per second with its spread and its source."""

    bytes_per_s: float
    spread: float
    source: str


def placement_of(priced: Priced) -> tuple[object, ...]:
    """What the steps of a placement depend on, besides batch and context."""
    config, group = priced.config, priced.config.group
    place = (group.gpu.key, group.nodes[0]) if group is not None else None
    return (
        config.engine, config.version, place, config.tp, config.kv_dtype, config.placement, config.gpu_order,
        config.cpu_expert_layers, config.gpu_experts_per_layer, config.disk_bytes, config.batched_tokens,
        priced.cpu_expert_bytes,
    )  # fmt: skip


def parts_of(request: Request, priced: Priced) -> Parts:
    """Where the bytes of a placement lie."""
    config, shards = priced.config, priced.shards
    always = float(shards.always + shards.lm_head)
    whole = float(shards.experts)
    if config.engine == "ktransformers":
        whole *= config.tp
    moe_layers = len(request.model.moe.layers) if request.model.moe is not None else 0
    if config.group is None:
        return Parts(always, 0.0, whole, float(config.disk_bytes), moe_layers)
    if config.group.gpu.unified:
        return Parts(always, whole, 0.0, float(config.disk_bytes), 0)
    in_ram = float(priced.cpu_expert_bytes)
    layers = moe_layers if config.engine == "ktransformers" else min(config.cpu_expert_layers, moe_layers)
    return Parts(always, max(whole - in_ram, 0.0), in_ram, float(config.disk_bytes), layers if in_ram else 0)


def node_of(request: Request, priced: Priced) -> Node:
    """The machine that runs the placement."""
    group = priced.config.group
    return request.machine.nodes[group.nodes[0] if group is not None else 0]


class Bandwidths(NamedTuple):
    """Bytes per second of memory that GPUs read one after another: of what every token uses, of routed experts on
    GPUs, and of the cache.
    """

    always: float
    experts: float
    cache: float


def gpu_bandwidths(request: Request, priced: Priced, gpu: Gpu) -> Bandwidths:
    """The bandwidths of a placement: harmonic means over the GPUs, by the bytes that lie on each."""
    config, shards = priced.config, priced.shards
    if len({one.bandwidth for one in placed_gpus(node_of(request, priced), config)}) < 2:
        return Bandwidths(gpu.bandwidth, gpu.bandwidth, gpu.bandwidth)
    moved, seconds = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    start, last = 0, len(config.placement) - 1
    for place, one in enumerate(placed_gpus(node_of(request, priced), config)):
        layers = range(start, start + config.placement[place])
        parts = (
            sum([shards.layers[layer].always for layer in layers]) + (shards.lm_head if place == last else 0),
            sum([
                shards.layers[layer].expert * shards.layers[layer].experts
                for layer in layers
                if layer >= config.cpu_expert_layers
            ]),
            len(layers),
        )  # fmt: skip
        for kind, size in enumerate(parts):
            moved[kind] += size
            seconds[kind] += size / one.bandwidth
        start = layers.stop
    return Bandwidths(*[size / time if time else gpu.bandwidth for size, time in zip(moved, seconds, strict=True)])


def ram_rate(host: Host, kernels: Iterable[MeasuredSeries] = ()) -> Rate:
    """What threads reach of the RAM's bandwidth, over all sockets."""
    here = measured_rate(kernels, "memory_read")
    if here is not None:
        share = fact("ram_measured_fraction")
        return Rate(here[0] * share.value, spread_of(share), here[1])
    several = fact("second_socket_share")
    sockets = (1 + several.value) / 2 if host.sockets > 1 else 1.0
    if host.bandwidth is None:
        assumed, share = fact("assumed_ram_bytes_per_s"), fact("ram_nominal_fraction")
        return Rate(assumed.value * share.value * sockets, spread_of(assumed), assumed.source)
    share = fact("ram_measured_fraction" if host.bandwidth_source == "measured" else "ram_nominal_fraction")
    return Rate(host.bandwidth * share.value * sockets, spread_of(share), share.source)


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
    if name.startswith(("Q4", "INT4", "IQ4", "MXFP4", "NVFP4", "AWQ", "GPTQ")):
        return "4bit"
    return "low_bit"


def core_rate(fmt: str, kernels: tuple[MeasuredSeries, ...]) -> Rate:
    """Bytes of weights one core computes with: measured here for experts of this format, else by its bits."""
    for series in kernels:
        if series.series.startswith(f"cpu_moe/{fmt}/") and series.threads:
            rates = [point.bytes / point.median_s / series.threads for point in series.counted if point.batch == 1]
            if rates:
                return Rate(max(rates), MEASURED_SPREAD, series.said)
    known = fact(f"core_bytes_per_s_{bits_class(fmt)}")
    return Rate(known.value, spread_of(known), known.source)


def _cpu(request: Request, release: PricedRelease, host: Host, moved: float, computed: float) -> tuple[float, Term]:
    """Seconds of the CPU to move ``moved`` bytes and compute with ``computed``, and the term without its seconds."""
    ram = ram_rate(host, request.kernels)
    by_bytes = moved / ram.bytes_per_s
    slow = Term("experts in RAM", by_bytes, "RAM", ram.spread, ram.source)
    if host.cores:
        core = core_rate(release.expert_format, request.kernels)
        by_cores = computed / (host.cores * core.bytes_per_s)
        if by_cores > by_bytes:
            slow = Term("experts in RAM", by_cores, "CPU", core.spread, core.source, core.source.startswith("measured"))
    return slow.seconds, slow


def offload_decode(request: Request, release: PricedRelease, priced: Priced, batch: float, context: float) -> Budget:
    """One decode step of ``batch`` tokens of as many sequences."""
    config, model, node = priced.config, request.model, node_of(request, priced)
    parts = parts_of(request, priced)
    read, used = _shares(request, batch)
    terms: list[Term] = []
    measured = step_terms(request, release, priced, batch, context)
    if config.group is None and measured is not None:
        nodes, each = _nodes(model), fact("cpu_node_s")
        terms += [*measured, Term("graph nodes", nodes * each.value, "latency", spread_of(each), each.source)]
    elif config.group is None:
        cache = batch * _cache_bytes(model, config.kv_dtype, 1, context)
        amortised = fact("core_batch_amortisation").value if batch > 4 else 1.0
        _, term = _cpu(
            request, release, node.host,
            parts.always + parts.experts_ram * read + cache, parts.always + parts.experts_ram * used / amortised,
        )  # fmt: skip
        terms.append(term._replace(what="weights and cache in RAM"))
        core = fact("core_attention_flops_per_s")
        if node.host.cores:
            seconds = _attention_flops(model, context) * batch / (node.host.cores * core.value)
            terms.append(Term("attention", seconds, "CPU", spread_of(core), core.source))
        nodes, each = _nodes(model), fact("cpu_node_s")
        terms.append(Term("graph nodes", nodes * each.value, "latency", spread_of(each), each.source))
    else:
        gpu = config.group.gpu
        share = fact(
            "kt_gpu_bandwidth_fraction" if config.engine == "ktransformers" else "llama_gpu_bandwidth_fraction"
        )
        rates = gpu_bandwidths(request, priced, gpu)
        always_s = parts.always / (rates.always * share.value)
        terms.append(Term("weights on GPUs", always_s, "HBM", spread_of(share), share.source))
        if parts.experts_gpu:
            each_rank = parts.experts_gpu / (config.tp if config.engine == "ktransformers" else 1)
            seconds = each_rank * read / (rates.experts * share.value)
            terms.append(Term("routed experts", seconds, "HBM", spread_of(share), share.source))
        terms.append(_attention(request, priced, gpu, rates.cache, batch, context))
        each = fact("kt_node_s" if config.engine == "ktransformers" else "llama_node_s")
        terms.append(Term("graph nodes", _nodes(model) * each.value, "latency", spread_of(each), each.source))
        if parts.experts_ram:
            amortised = fact("core_batch_amortisation").value if batch > 4 else 1.0
            _, term = _cpu(request, release, node.host, parts.experts_ram * read, parts.experts_ram * used / amortised)
            terms += measured or [term]
            turn = fact("cpu_turn_s")
            terms.append(
                Term(
                    "GPU and CPU in turn", parts.expert_layers_ram * turn.value, "latency", spread_of(turn), turn.source
                )
            )
    if parts.experts_disk:
        terms.append(_disk(request, node, parts.experts_disk * read))
    return Budget(merged(terms))


def _shares(request: Request, batch: float) -> tuple[float, float]:
    """Shares of the experts that a step reads, and computes with (each token with its own)."""
    moe = request.model.moe
    if moe is None:
        return 1.0, batch
    read = distinct_experts(request.demand.routing, moe.experts, moe.top_k, batch) / moe.experts
    return read, batch * moe.top_k / moe.experts


def _nodes(model: ModelSpec) -> float:
    """Nodes of the graph of one token, each a launch."""
    total = 0.0
    for group in model.kv_groups:
        kind = {"mla": "mla", "linear": "linear"}.get(group.layout, "gqa")
        total += len(group.layers) * fact(f"graph_nodes_{kind}").value
    moe_layers = len(model.moe.layers) if model.moe is not None else 0
    return (
        total + moe_layers * fact("graph_nodes_moe").value + (model.layers - moe_layers) * fact("graph_nodes_ffn").value
    )


def _states(group: KvGroup, context: float) -> float:
    """Cached states of one layer that a token sees."""
    return cached_tokens(int(context), group.window, 1) / group.tokens_per_state


def _cache_bytes(model: ModelSpec, dtype: str, tp: int, context: float) -> float:
    """Bytes of the cache that a token reads on one rank."""
    return sum([
        group_bytes_per_state(group, dtype, tp) * len(group.layers) * _states(group, context)
        for group in model.kv_groups
    ])  # fmt: skip


def _attention_flops(model: ModelSpec, context: float) -> float:
    """Operations of one token's attention over all layers, absorbed where it is MLA."""
    flops = 0.0
    for group in model.kv_groups:
        kept = _states(group, context)
        if group.layout == "mla":
            flops += len(group.layers) * mla_decode_flops(model.heads, group.kv_lora_rank, group.rope_dim, kept)
        elif group.layout != "linear":
            flops += len(group.layers) * attention_flops(model.heads, group.head_dim, group.v_head_dim, kept)
    return flops


def _attention(request: Request, priced: Priced, gpu: Gpu, bandwidth: float, batch: float, context: float) -> Term:
    """Reading the cache on the GPU, or computing over it if that is slower."""
    model, tp = request.model, max(priced.config.tp, 1)
    share = fact("llama_attention_bandwidth_fraction")
    moved = batch * _cache_bytes(model, priced.config.kv_dtype, tp, context)
    seconds = moved / (bandwidth * share.value)
    peak = gpu.flops.get("bf16")
    computing = (
        batch * _attention_flops(model, context) / tp / (peak * fact("llama_attention_fraction").value) if peak else 0
    )
    if computing > seconds:
        return Term("attention", computing, "compute", spread_of(share), share.source)
    return Term("attention", seconds, "HBM", spread_of(share), share.source)


def _disk(request: Request, node: Node, moved: float) -> Term:
    here = measured_rate(request.kernels, "disk_read")
    if here is not None:
        return Term("paging from disk", moved / here[0], "disk", MEASURED_SPREAD, here[1], measured=True)
    if node.disk.read_bytes_per_s:
        known = fact("disk_fraction")
        rate = node.disk.read_bytes_per_s * known.value
        return Term("paging from disk", moved / rate, "disk", spread_of(known), known.source)
    known = fact("assumed_disk_bytes_per_s")
    return Term("paging from disk", moved / known.value, "disk", spread_of(known), known.source)


def offload_prefill(request: Request, release: PricedRelease, priced: Priced, tokens: float, cached: float) -> Budget:
    """A prompt of ``tokens`` after ``cached`` ones."""
    config, node = priced.config, node_of(request, priced)
    if config.group is None:
        return _scaled(offload_decode(request, release, priced, min(tokens, 16.0), cached + tokens / 2), tokens, 16.0)
    parts, gpu = parts_of(request, priced), config.group.gpu
    transformers = config.engine == "ktransformers"
    ways = config.tp if transformers else 1
    if transformers:
        terms = _sglang_kernels(request, release, priced, tokens, cached)
    else:
        terms = _llama_kernels(request, release, priced, tokens, cached)
    if parts.experts_ram:
        chunk = min(max(config.batched_tokens, 1), tokens)
        passes = -(-tokens // max(chunk, 1))
        known, here = fact("pcie_fraction"), measured_rate(request.kernels, "host_to_device")
        rate = here[0] if here is not None else gpu.pcie_bytes_per_s * known.value
        copied = Term(
            "experts over PCIe", passes * parts.experts_ram / ways / rate, "link", spread_of(known), known.source
        )
        copies = [copied if here is None else copied._replace(spread=MEASURED_SPREAD, source=here[1], measured=True)]
        if transformers and node.host.bandwidth:
            staged = fact("kt_staging_fraction")
            seconds = passes * parts.experts_ram / (node.host.bandwidth * staged.value)
            copies.append(Term("staging of experts", seconds, "RAM", spread_of(staged), staged.source))
        on_cpu = _scaled(offload_decode(request, release, priced, min(tokens, 32.0), cached + tokens / 2), tokens, 32.0)
        streamed = Budget(merged([*terms, *copies]))
        chosen = streamed if streamed.total <= on_cpu.total else on_cpu
        terms = list(chosen.terms)
        if parts.experts_disk:
            terms.append(_disk(request, node, passes * parts.experts_disk))
    return Budget(merged(terms))


def _sglang_kernels(
    request: Request, release: PricedRelease, priced: Priced, tokens: float, cached: float
) -> list[Term]:
    """A prompt whose experts have been copied to the GPUs, through the kernels that SGLang has there.

    Collectives are left out: KTransformers overlaps them with the copies, which take longer.
    """
    config = priced.config._replace(engine="sglang", cpu_expert_layers=0, gpu_experts_per_layer=0)
    budget = gpu_prefill(request, release, config, tokens, cached)
    return [term for term in budget.terms if term.bound in ("HBM", "compute")]


def _llama_kernels(
    request: Request, release: PricedRelease, priced: Priced, tokens: float, cached: float
) -> list[Term]:
    """A prompt in llama.cpp: one GPU at a time, each its layers at a share of its peak."""
    share = fact("llama_prefill_fraction")
    gpus, layers = placed_gpus(node_of(request, priced), priced.config), priced.config.placement
    peaks = [gpu.flops.get("bf16") or fact("assumed_gpu_flops_per_s").value for gpu in gpus]
    rate = sum(layers) / sum([count / peak for count, peak in zip(layers, peaks, strict=True)]) * share.value
    always, routed = _active_parameters(request.model, release)
    attention = _attention_prefill(request.model, tokens, cached) / rate
    return [
        Term("matrices", 2 * (always + routed) * tokens / rate, "compute", spread_of(share), share.source),
        Term("attention", attention, "compute", spread_of(share), share.source),
    ]


def _scaled(budget: Budget, tokens: float, at_once: float) -> Budget:
    """A prompt computed in steps of ``at_once`` tokens."""
    factor = max(tokens / at_once, 1.0)
    return Budget(tuple([
        term._replace(seconds=term.seconds * factor, floor_s=term.floor_s * factor) for term in budget.terms
    ]))  # fmt: skip


def _active_parameters(model: ModelSpec, release: PricedRelease) -> tuple[float, float]:
    """Parameters each token is multiplied with: always, and of routed experts."""
    found: tuple[float, float] | None = release.kept.get("active")
    if found is None:
        always = routed = 0
        for group in release.tensors.groups:
            if group.tensor_class in ("vision", "mtp", "embedding"):
                continue
            if group.tensor_class == "routed_experts":
                routed += group.parameters
            else:
                always += group.parameters
        share = model.moe.top_k / model.moe.experts if model.moe is not None else 0.0
        found = release.kept["active"] = (float(always), routed * share)
    return found


def _attention_prefill(model: ModelSpec, tokens: float, cached: float) -> float:
    """Operations of attention over all layers, expanded where it is MLA."""
    total = 0.0
    for group in model.kv_groups:
        if group.layout == "linear":
            continue
        width = (model.q_head_dim, model.v_head_dim) if group.layout == "mla" else (group.head_dim, group.v_head_dim)
        seen = _states(group, cached) + _states(group, tokens) / 2
        total += len(group.layers) * attention_flops(model.heads, width[0], width[1], tokens * seen)
    return total
