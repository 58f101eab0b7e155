"""The kernels of vLLM and SGLang on equal GPUs, timed: a decode step of a batch, a pass over a prompt.

The step of a rank is a sum over its kernels (``planner.cases``), each ``floor + max(bytes / bandwidth, operations /
peak) / efficiency`` (``planner.evidence``), over small kernels that no case names, collectives, and the host. A step is
compiled once for each division of a release over ranks and is then arithmetic over (batch, context).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from formulas.kv_cache import vector_bytes
from formulas.moe import expected_busiest_share, expected_distinct_experts
from formulas.roofline import all_reduce_s, all_to_all_s, mla_decode_flops
from formulas.storage import storage_format, tensor_bytes
from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.measured import MeasuredSeries
from planner.cases import Use, is_attention, uses_of
from planner.engines.base import Config
from planner.engines.tensor_parallel import Ranks, ranks_of
from planner.budget import Bound, Budget, Term, fact, merged, spread_of
from planner.evidence import Curve, Evidence, peak_flops
from planner.machine import Gpu
from planner.request import PricedRelease, Request
from profiles.engines import version_tuple
from profiles.model import ModelSpec

class Kernel(NamedTuple):
    """A use compiled to coefficients: bytes and operations are linear in its rows, experts in those that are hit."""

    use: Use
    curve: Curve
    peak: float
    fixed_bytes: float
    row_bytes: float
    row_flops: float
    cached_bytes: float = 0.0
    cached_flops: float = 0.0
    expert_bytes: float = 0.0


class Compiled(NamedTuple):
    """All kernels of a step of one division of a release; ``small`` are launches that no case names."""

    decode: tuple[Kernel, ...]
    prefill: tuple[Kernel, ...]
    small: float
    eager: float


FUSED_REDUCTION: Final = (9, 10)
"""Compute capabilities on which the engines fuse a norm into the all-reduce before it (vLLM 0.33.0 config/vllm.py
``enable_allreduce_rms_fusion``, SGLang 0.5.23 ``_flashinfer_allreduce_fusion_auto_enable``)."""
SPEED: Final = "speed"
VERSION: Final = "1"


def division(config: Config) -> tuple[object, ...]:
    """What the step of a configuration depends on, besides its batch and context."""
    assert config.group is not None
    per_node = config.group.per_node
    return (
        config.engine, config.version, ranks_of(config), config.kv_dtype, config.dcp, config.pp, config.expert_group,
        config.group.gpu.key, config.group.gpu.link, per_node, config.own_experts,
    )  # fmt: skip


def compiled(request: Request, release: PricedRelease, config: Config) -> Compiled:
    """The kernels of a configuration with their curves, kept for configurations that divide alike."""
    key = ("compiled", division(config))
    found: Compiled | None = release.memo.get(key)
    if found is None:
        assert config.group is not None
        gpu = config.group.gpu
        evidence = evidence_of(gpu, config.engine, config.version, request.kernels)
        uses = [use for use in uses_of(request, release, config) if use.case.kernel not in ("all_reduce", "all_to_all")]
        kernels = [_kernel(use, evidence, gpu, request.model) for use in uses]
        small, eager = launches(request.model, uses)
        fused = gpu.cuda is not None and int(gpu.cuda) in FUSED_REDUCTION
        if fused and ranks_of(config).tp > 1 and fuses_norms(config):
            small -= 2 * request.model.layers
        found = release.memo[key] = Compiled(
            tuple([kernel for kernel in kernels if kernel.use.phase != "prefill"]),
            tuple([kernel for kernel in kernels if kernel.use.phase != "decode"]),
            small, eager,
        )  # fmt: skip
    return found


def fuses_norms(config: Config) -> bool:
    """Whether this version of the engine fuses norms into all-reduces by itself."""
    since = {"vllm": (0, 14), "sglang": (0, 5, 7)}.get(config.engine)
    return since is not None and version_tuple(config.version) >= since


_EVIDENCE: dict[tuple[object, ...], Evidence] = {}


def evidence_of(gpu: Gpu, engine: str, version: str, measured: tuple[MeasuredSeries, ...]) -> Evidence:
    """The curves of a kind of GPU; without a calibration they are kept for the next request."""
    name = engine if engine in ("vllm", "sglang") else "sglang"
    if measured:
        return Evidence(gpu, name, version, measured)
    key = (gpu.key, gpu.link, gpu.bandwidth, name, version)
    found = _EVIDENCE.get(key)
    if found is None:
        found = _EVIDENCE[key] = Evidence(gpu, name, version)
    return found


def _kernel(use: Use, evidence: Evidence, gpu: Gpu, model: ModelSpec) -> Kernel:
    case = use.case
    curve = evidence.curve(case)
    peak = peak_flops(gpu, case.quantization) or 0.0
    dims = dict(case.dims)
    if case.kernel == "grouped_moe":
        fmt = storage_format(case.quantization)
        hidden, inter = dims["hidden"], dims["inter"]
        expert = 2 * tensor_bytes(fmt, (inter, hidden)) + tensor_bytes(fmt, (hidden, inter))
        return Kernel(use, curve, peak, 0.0, 4.0 * hidden, 6.0 * hidden * inter, expert_bytes=expert * use.scale)
    if case.kernel == "mla_decode":
        heads, width = dims["heads"], dims["kv_lora"] + dims["rope"]
        moved = vector_bytes(width, case.quantization) * use.scale
        return Kernel(
            use, curve, peak, 0.0, 2.0 * heads * (width + dims["kv_lora"]), 0.0, moved,
            mla_decode_flops(heads, dims["kv_lora"], dims["rope"], 1.0),
        )  # fmt: skip
    if case.kernel == "gqa_decode":
        heads, wide = dims["heads"], dims["head"] + dims["v"]
        moved = dims["kv_heads"] * (
            vector_bytes(dims["head"], case.quantization) + vector_bytes(dims["v"], case.quantization)
        )
        return Kernel(use, curve, peak, 0.0, 2.0 * heads * wide, 0.0, moved * use.scale, 2.0 * heads * wide)
    if case.kernel in ("mla_prefill", "gqa_prefill"):
        # Operations per pair of a new token and one that it sees; rows are read and written once.
        key_width = dims["nope"] + dims["rope"] if case.kernel == "mla_prefill" else dims["head"]
        wide = 2.0 * dims["heads"] * (key_width + dims["v"])
        return Kernel(use, curve, peak, 0.0, 2 * wide, 0.0, wide, wide)
    out = dims["experts"] if case.kernel == "router" else dims["out"]
    columns = dims["hidden"] if case.kernel == "router" else dims["in"]
    weights = tensor_bytes(storage_format(case.quantization), (out, columns)) * use.scale
    return Kernel(use, curve, peak, weights, 2.0 * (out + columns), 2.0 * out * columns)


def launches(model: ModelSpec, uses: list[Use]) -> tuple[float, float]:
    """Small kernels of a step (norms, rotations, cache writes, activations, quantizations), and all of its launches."""
    moe_layers = len(model.moe.layers) if model.moe is not None else 0
    shared = model.moe is not None and model.moe.shared_experts > 0
    small = moe_layers * fact("small_kernels_moe").value + (model.layers - moe_layers) * fact("small_kernels_ffn").value
    small += moe_layers * fact("small_kernels_shared").value * shared
    for group in model.kv_groups:
        kind = {"mla": "mla", "linear": "linear"}.get(group.layout, "gqa")
        small += len(group.layers) * fact(f"small_kernels_{kind}").value
        small += len(group.layers) * fact("small_kernels_indexer").value * (group.index_head_dim > 0)
    named = 0.0
    for use in uses:
        if use.phase == "prefill":
            continue
        quantized = use.case.kernel == "dense" and use.case.quantization.startswith(("fp8", "nvfp4", "mxfp8", "int8"))
        small += use.times * quantized
        named += use.times * (fact("launches_grouped_moe").value if use.case.kernel == "grouped_moe" else 1.0)
    return small, small + named


def gpu_decode(
    request: Request, release: PricedRelease, config: Config, batch: float, context: float, width: float = 1.0
) -> Budget:
    """One decode step of ``batch`` sequences on a replica, each with ``width`` tokens to compute (drafts to verify).

    Requests that run together stay together: under pipeline parallelism the stages pass one batch after another.
    """
    assert config.group is not None
    gpu, model, ranks = config.group.gpu, request.model, ranks_of(config)
    steps = compiled(request, release, config)
    micro = max(batch, 1.0) * width
    routed = micro * config.expert_group
    terms = []
    for kernel in steps.decode:
        rows = routed if kernel.use.case.kernel == "grouped_moe" else micro
        terms.append(_term(kernel, gpu, ranks, rows, context / width, config, decode=True))
    factor = platform_factor(gpu)
    small = fact("small_kernel_s")
    terms.append(
        Term("small kernels", steps.small * small.value * factor, "latency", spread_of(small), small.source)
    )
    terms += collectives(request, config, ranks, micro, model)
    host = fact("host_step_s")
    terms.append(Term("scheduling and sampling", host.value, "latency", spread_of(host), host.source))
    rows = merged(terms)
    return Budget(overlapped(rows) if micro <= fact("shared_stream_tokens").value else rows)


def gpu_prefill(request: Request, release: PricedRelease, config: Config, tokens: float, cached: float) -> Budget:
    """One forward pass over ``tokens`` new tokens of a sequence that has ``cached`` ones before them."""
    assert config.group is not None
    gpu, model, ranks = config.group.gpu, request.model, ranks_of(config)
    steps = compiled(request, release, config)
    terms = []
    for kernel in steps.prefill:
        rows = tokens
        if kernel.use.rows == "sequences":
            rows = 1.0
        elif kernel.use.case.kernel == "grouped_moe":
            rows = tokens * config.expert_group
        terms.append(_term(kernel, gpu, ranks, rows, cached, config, decode=False))
    terms += collectives(request, config, ranks, tokens, model)
    small = fact("small_kernel_s")
    # Small kernels move the hidden state a few times: as long as that takes, where it is longer than a launch.
    moved = steps.small * tokens * model.hidden * 4.0 / (gpu.bandwidth * fact("small_kernel_bandwidth").value)
    seconds = max(steps.small * small.value, moved)
    bound: Bound = "HBM" if moved >= seconds else "latency"
    terms.append(Term("small kernels", seconds * platform_factor(gpu), bound, spread_of(small), small.source))
    # Prompts are launched kernel by kernel, which the GPU waits for where it is faster than the host.
    launched = fact(f"eager_launch_s_{config.engine}" if config.engine in ("vllm", "sglang") else "eager_launch_s_sglang")
    waiting = steps.eager * launched.value * platform_factor(gpu) - sum([term.seconds for term in terms])
    if waiting > 0:
        terms.append(Term("waiting for launches", waiting, "latency", spread_of(launched), launched.source))
    return Budget(merged(terms))


def platform_factor(gpu: Gpu) -> float:
    """How much slower than on the tables' GPUs launches are."""
    if gpu.vendor == "amd":
        return fact("amd_latency_factor").value
    return 1.0


def _term(
    kernel: Kernel, gpu: Gpu, ranks: Ranks, rows: float, context: float, config: Config, *, decode: bool
) -> Term:
    use, case = kernel.use, kernel.use.case
    moved = kernel.fixed_bytes + kernel.row_bytes * rows
    flops = kernel.row_flops * rows
    x = rows
    if case.kernel == "grouped_moe":
        total, top_k = case.dim("experts_total"), case.dim("top_k")
        here = case.dim("experts") / total
        share = expected_busiest_share(rows, top_k, total, ranks.expert_ranks)
        hit = min(expected_distinct_experts(total, top_k, rows) * here * share, case.dim("experts"), rows * top_k)
        x = rows * top_k / total
        copies = rows * top_k * here * share
        moved += hit * kernel.expert_bytes
        flops = kernel.row_flops * copies
    elif is_attention(case):
        if decode:
            seen = min(context, use.window or context) / config.dcp
            cached = rows * max(seen, 1.0)
            moved += kernel.cached_bytes * cached
            flops += kernel.cached_flops * cached
            x = cached
        else:
            before = min(context, use.window or context)
            pairs = rows * (before + min(rows, use.window or rows) / 2)
            flops = kernel.cached_flops * pairs
            moved += kernel.cached_bytes * before
    by_bytes, by_flops = moved / gpu.bandwidth, flops / kernel.peak if kernel.peak else 0.0
    roofline = max(by_bytes, by_flops)
    floor = kernel.curve.floor_s * platform_factor(gpu)
    working = roofline / kernel.curve.efficiency(x)
    if not kernel.curve.measured and case.kernel == "dense" and use.what == "MLA expansion" and decode:
        floor *= 2  # the two absorbed halves are two batched products
    bound: Bound = "latency" if floor > working else "compute" if by_flops > by_bytes else "HBM"
    return Term(
        use.what, use.times * (floor + working), bound, kernel.curve.spread, kernel.curve.source,
        kernel.curve.measured, use.times * floor,
    )  # fmt: skip


def collectives(request: Request, config: Config, ranks: Ranks, tokens: float, model: ModelSpec) -> list[Term]:
    """Messages between ranks in one pass over the layers: by size and link, and between pipeline stages."""
    assert config.group is not None
    gpu, per_node = config.group.gpu, config.group.per_node
    moe_layers = len(model.moe.layers) if model.moe is not None else 0
    message = 2.0 * tokens * model.hidden
    terms = []
    if ranks.tp > 1:
        shared = config.expert_group > 1
        rounds = 2 * model.layers - (moe_layers if shared else 0) + (2 * model.layers if config.dcp > 1 else 0)
        terms.append(_reduced(request, config, gpu, ranks.tp, message, rounds))
    if config.expert_group > 1 and moe_layers and model.moe is not None:
        group = max(ranks.expert_ranks, ranks.expert_tp)
        copies = min(model.moe.top_k, group) if ranks.expert_ranks > 1 else config.dp
        known = fact("all_to_all_network_s" if group > per_node else "all_to_all_s")
        rate = network_rate(request) / per_node if group > per_node else gpu.link_bytes_per_s
        rate *= fact("all_to_all_efficiency").value
        seconds = 2 * moe_layers * all_to_all_s(message * copies, group, rate, known.value)
        terms.append(Term("all-to-all", seconds, "link", max(spread_of(known), 1.2), known.source))
    if config.pp > 1:
        hop = fact("network_hop_s")
        across = (config.pp - 1) * (hop.value + message / network_rate(request))
        terms.append(Term("pipeline hops", across, "link", spread_of(hop), hop.source))
    return terms


def _reduced(request: Request, config: Config, gpu: Gpu, tp: int, message: float, rounds: int) -> Term:
    assert config.group is not None
    per_node = config.group.per_node
    inside = min(tp, per_node)
    curve = evidence_of(gpu, config.engine, config.version, request.kernels).curve(
        reduce_case(request.model.hidden, inside)
    )
    roofline = 2 * (inside - 1) / inside * message / gpu.link_bytes_per_s
    seconds = curve.seconds(message, roofline) * platform_factor(gpu) if inside > 1 else 0.0
    spread, source = curve.spread, curve.source
    if tp > per_node:
        known = fact("all_reduce_network_s")
        seconds += all_reduce_s(message, tp // per_node, network_rate(request) / per_node, known.value)
        spread, source = max(spread, spread_of(known)), known.source
    return Term("all-reduce", rounds * seconds, "link", spread, source, curve.measured and tp <= per_node)


def reduce_case(hidden: int, ranks: int) -> KernelCase:
    """The all-reduce of one token's hidden state."""
    return kernel_case("all_reduce", "bf16", hidden=hidden, ranks=max(ranks, 2))


def network_rate(request: Request) -> float:
    """Bytes per second of a node's network, assumed where it is not given."""
    return request.machine.network_bytes_per_s or fact("assumed_network_bytes_per_s").value


def overlapped(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Shared experts run beside the routed ones in a stream of their own: only what they move or outlast is added.

    Source: vLLM 0.33.0 envs.py (VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD), SGLang 0.5.23 models/deepseek_v2.py.
    """
    routed = next((term for term in terms if term.what == "routed experts"), None)
    if routed is None:
        return terms
    return tuple([_beside(term, routed) if term.what == "shared experts" else term for term in terms])


def _beside(shared: Term, routed: Term) -> Term:
    working = routed.seconds - routed.floor_s + shared.seconds - shared.floor_s
    added = max(shared.seconds, routed.seconds, working) - routed.seconds
    return shared._replace(seconds=added, floor_s=min(shared.floor_s, added))
