"""The kernels of vLLM and SGLang on equal GPUs, timed: a decode step of a batch, a pass over a prompt.

The step of a rank is a sum over its kernels (``planner.cases``), each ``floor + max(bytes / bandwidth, operations /
peak) / efficiency`` (``planner.evidence``), over small kernels that no case names, collectives, and the host. A step is
compiled once for each division of a release over ranks and is then arithmetic over (batch, context).
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from formulas.kv_cache import vector_bytes
from formulas.roofline import all_reduce_s, all_to_all_s, mla_decode_flops
from formulas.storage import storage_format, tensor_bytes
from hwdetect.bench.case import KernelCase, kernel_case
from planner.budget import Bound, Budget, Term, fact, spread_of
from planner.cases import Use, uses_of
from planner.engines.base import Config
from planner.engines.tensor_parallel import Ranks, ranks_of
from planner.evidence import Curve, Evidence, peak_flops
from planner.kept import scene_of
from planner.machine import Gpu
from planner.request import PricedRelease, Request
from planner.routing import Routing, busiest_share, distinct_experts
from profiles.engines import load_engine
from profiles.model import ModelSpec

if TYPE_CHECKING:
    from hwdetect.bench.measured import MeasuredSeries

LATENCY_RATIO: Final = 3.0
"""A kernel that takes longer than this many times its roofline is bound by neither bandwidth nor arithmetic."""


Kind = Literal["moe", "decode", "prefill", "plain"]
"""What the work of a kernel grows with: experts hit, cached tokens, pairs of tokens, or its rows alone."""


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
    experts: int = 0
    experts_total: int = 1
    top_k: int = 1
    kind: Kind = "plain"
    log_spread: float = 0.0


class Compiled(NamedTuple):
    """All kernels of a step of one division of a release, by row of the budget; ``small`` are launches that no case
    names, ``eager`` all of them.
    """

    decode: tuple[tuple[Kernel, ...], ...]
    prefill: tuple[tuple[Kernel, ...], ...]
    small: float
    eager: float


NEWEST_FUSED_REDUCTION: Final = 10
"""Compute capability up to which the engines fuse a norm into the all-reduce before it; the least is a fact of each."""
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
    assert config.group is not None
    gpu, ranks = config.group.gpu, ranks_of(config)
    fused = ranks.tp > 1 and fuses_norms(config, gpu, request.model.family)
    key = (
        "compiled", scene_of(request), config.engine, config.version, ranks, config.kv_dtype, config.dcp, gpu.key,
        gpu.link, fused,
    )  # fmt: skip
    found: Compiled | None = release.kept.get(key)
    if found is None:
        evidence = evidence_of(gpu, config.engine, config.version, request.kernels)
        uses = [use for use in uses_of(request, release, config) if use.case.kernel not in ("all_reduce", "all_to_all")]
        known: dict[tuple[Use, Evidence], Kernel] = release.memo.setdefault("kernels", {})
        kernels = []
        for use in uses:
            kernel = known.get((use, evidence))
            if kernel is None:
                kernel = known[use, evidence] = _with_kind(_kernel(use, evidence, gpu))
            kernels.append(kernel)
        small, eager = launches(request.model, uses)
        if fused:
            small -= 2.0 * request.model.layers
        found = release.kept[key] = Compiled(
            _by_row([kernel for kernel in kernels if kernel.use.phase != "prefill"]),
            _by_row([kernel for kernel in kernels if kernel.use.phase != "decode"]),
            small, eager,
        )  # fmt: skip
    return found


def _by_row(kernels: list[Kernel]) -> tuple[tuple[Kernel, ...], ...]:
    rows: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        rows.setdefault(kernel.use.what, []).append(kernel)
    return tuple([tuple(row) for row in rows.values()])


def fuses_norms(config: Config, gpu: Gpu, family: str) -> bool:
    """Whether this version of the engine fuses norms into all-reduces by itself: this family, GPU and layout."""
    facts, version = load_engine(config.engine), config.version
    key = f"norm_fusion_capability {family}"
    if not facts.has_fact(key, version):
        key = "norm_fusion_capability"
    if gpu.cuda is None or not facts.has_fact(key, version):
        return False
    if not facts.at(key, version).value <= int(gpu.cuda) <= NEWEST_FUSED_REDUCTION:
        return False
    one_replica = config.pp == 1 and config.dp == 1
    one_node = config.nodes_used == 1 and not config.attention_dp
    return (one_replica or not facts.at("norm_fusion_of_one_replica", version).value) and (
        one_node or not facts.at("norm_fusion_on_one_node", version).value
    )


MOST_EVIDENCE: Final = 256
_EVIDENCE: dict[tuple[object, ...], Evidence] = {}
"""By GPU, engine and calibration. An entry holds its calibration, so that no other object has the id in its key."""


def evidence_of(gpu: Gpu, engine: str, version: str, measured: tuple[MeasuredSeries, ...]) -> Evidence:
    """The curves of a kind of GPU, kept for the next request; ``measured`` is a calibration of it."""
    name = engine if engine in ("vllm", "sglang") else "sglang"
    key = (gpu.key, gpu.link, gpu.bandwidth, name, version, id(measured) if measured else 0)
    found = _EVIDENCE.get(key)
    if found is None:
        if len(_EVIDENCE) >= MOST_EVIDENCE:
            # Screens read a calibration anew for every plan.
            _EVIDENCE.clear()
        found = _EVIDENCE[key] = Evidence(gpu, name, version, measured)
    return found


def read_dtype(curve: Curve, dtype: str) -> str:
    """The KV dtype whose bytes count: without a kernel of its own, an FP8 cache is taken to be read no faster."""
    return "bf16" if curve.format == "bf16" else dtype


def _kernel(use: Use, evidence: Evidence, gpu: Gpu) -> Kernel:
    case = use.case
    curve = evidence.curve(case)
    peak = peak_flops(gpu, case.quantization) or 0.0
    dims = dict(case.dims)
    if case.kernel == "grouped_moe":
        fmt = storage_format(case.quantization)
        hidden, inter = dims["hidden"], dims["inter"]
        expert = 2 * tensor_bytes(fmt, (inter, hidden)) + tensor_bytes(fmt, (hidden, inter))
        return Kernel(
            use, curve, peak, 0.0, 4.0 * hidden, 6.0 * hidden * inter, expert_bytes=expert * use.scale,
            experts=dims["experts"], experts_total=dims["experts_total"], top_k=dims["top_k"],
        )  # fmt: skip
    if case.kernel == "mla_decode":
        heads, width = dims["heads"], dims["kv_lora"] + dims["rope"]
        moved = vector_bytes(width, read_dtype(curve, case.quantization)) * use.scale
        return Kernel(
            use, curve, peak, 0.0, 2.0 * heads * (width + dims["kv_lora"]), 0.0, moved,
            mla_decode_flops(heads, dims["kv_lora"], dims["rope"], 1.0),
        )  # fmt: skip
    if case.kernel == "gqa_decode":
        heads, wide = dims["heads"], dims["head"] + dims["v"]
        each = dims["kv_heads"] * (
            vector_bytes(dims["head"], read_dtype(curve, case.quantization))
            + vector_bytes(dims["v"], read_dtype(curve, case.quantization))
        )
        return Kernel(use, curve, peak, 0.0, 2.0 * heads * wide, 0.0, each * use.scale, 2.0 * heads * wide)
    if case.kernel in ("mla_prefill", "gqa_prefill"):
        # Operations per pair of a new token and one that it sees; rows are read and written once.
        key_width = dims["nope"] + dims["rope"] if case.kernel == "mla_prefill" else dims["head"]
        paired = 2.0 * dims["heads"] * (key_width + dims["v"])
        return Kernel(use, curve, peak, 0.0, 2 * paired, 0.0, paired, paired)
    out = dims["experts"] if case.kernel == "router" else dims["out"]
    columns = dims["hidden"] if case.kernel == "router" else dims["in"]
    weights = tensor_bytes(storage_format(case.quantization), (out, columns)) * use.scale
    return Kernel(use, curve, peak, weights, 2.0 * (out + columns), 2.0 * out * columns)


def _with_kind(kernel: Kernel) -> Kernel:
    name = kernel.use.case.kernel
    kind: Kind = "plain"
    if name == "grouped_moe":
        kind = "moe"
    elif name.endswith("_decode"):
        kind = "decode"
    elif name.endswith("_prefill"):
        kind = "prefill"
    return kernel._replace(kind=kind, log_spread=kernel.curve.log_spread)


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
    at = Place(gpu, ranks, config.dcp, platform_factor(gpu), request.demand.routing)
    terms = [_row_term(row, at, micro, routed, context / width, decode=True) for row in steps.decode]
    factor = platform_factor(gpu)
    small = fact("small_kernel_s")
    terms.append(Term("small kernels", steps.small * small.value * factor, "latency", spread_of(small), small.source))
    terms += collectives(request, config, ranks, micro, model)
    if config.pp > 1:
        known = fact("pipeline_factor")
        waiting = (known.value - 1) * sum([term.seconds for term in terms])
        terms.append(Term("pipeline waits", waiting, "latency", 1.0, known.source))
    host = fact("host_step_s")
    terms.append(Term("scheduling and sampling", host.value, "latency", spread_of(host), host.source))
    summed = tuple(terms)
    return Budget(overlapped(summed) if micro <= fact("shared_stream_tokens").value else summed)


def gpu_prefill(request: Request, release: PricedRelease, config: Config, tokens: float, cached: float) -> Budget:
    """One forward pass over ``tokens`` new tokens of a sequence that has ``cached`` ones before them."""
    assert config.group is not None
    gpu, model, ranks = config.group.gpu, request.model, ranks_of(config)
    steps = compiled(request, release, config)
    at = Place(gpu, ranks, 1, platform_factor(gpu), request.demand.routing)
    terms = [_row_term(row, at, tokens, tokens * config.expert_group, cached, decode=False) for row in steps.prefill]
    terms += collectives(request, config, ranks, tokens, model)
    small = fact("small_kernel_s")
    # Small kernels move the hidden state a few times: as long as that takes, where it is longer than a launch.
    moved = steps.small * tokens * model.hidden * 4.0 / (gpu.bandwidth * fact("small_kernel_bandwidth").value)
    seconds = max(steps.small * small.value, moved)
    bound: Bound = "HBM" if moved >= seconds else "latency"
    terms.append(Term("small kernels", seconds * platform_factor(gpu), bound, spread_of(small), small.source))
    # Prompts are launched kernel by kernel, which the GPU waits for where it is faster than the host.
    launched = fact(
        f"eager_launch_s_{config.engine}" if config.engine in ("vllm", "sglang") else "eager_launch_s_sglang"
    )
    waiting = steps.eager * launched.value * platform_factor(gpu) - sum([term.seconds for term in terms])
    if waiting > 0:
        terms.append(Term("waiting for launches", waiting, "latency", spread_of(launched), launched.source))
    return Budget(tuple(terms))


def platform_factor(gpu: Gpu) -> float:
    """How much slower than on the tables' GPUs launches are."""
    if gpu.vendor == "amd":
        return fact("amd_latency_factor").value
    return 1.0


class Place(NamedTuple):
    """Where a step runs."""

    gpu: Gpu
    ranks: Ranks
    dcp: int
    latency_factor: float
    routing: Routing


def _row_term(
    row: tuple[Kernel, ...], at: Place, tokens: float, routed: float, context: float, *, decode: bool
) -> Term:
    """The kernels of one row of the budget together; the longest says what bounds them and where that is from."""
    total = floors = weighed = longest = 0.0
    bound: Bound = "HBM"
    first = row[0]
    for kernel in row:
        use = kernel.use
        rows = routed if kernel.kind == "moe" else tokens
        if use.rows == "sequences" and not decode:
            rows = 1.0
        seconds, floor, bounded = _timed(kernel, at, rows, context, decode=decode)
        each = use.times * seconds
        total += each
        floors += use.times * floor
        weighed += each * kernel.log_spread
        if each > longest:
            longest, bound, first = each, bounded, kernel
    curve = first.curve
    return Term(first.use.what, total, bound, exp(weighed / total), curve.source, curve.measured, floors)


def _timed(kernel: Kernel, at: Place, rows: float, context: float, *, decode: bool) -> tuple[float, float, Bound]:
    """Seconds of a kernel once, those of them that pass whatever it does, and what bounds it."""
    use, kind = kernel.use, kernel.kind
    moved = kernel.fixed_bytes + kernel.row_bytes * rows
    flops = kernel.row_flops * rows
    x = rows
    if kind == "moe":
        total, top_k, here = kernel.experts_total, kernel.top_k, kernel.experts
        share = load = here / total
        ranks = at.ranks.expert_ranks
        if ranks > 1:
            # The rank with the most tokens has not that many more of the experts.
            share *= busiest_share("uniform", total, top_k, rows, ranks)
            load *= busiest_share(at.routing, total, top_k, rows, ranks)
        hit = min(distinct_experts(at.routing, total, top_k, rows) * share, here, rows * top_k)
        x = rows * top_k / total
        moved += hit * kernel.expert_bytes
        flops *= top_k * load
    elif kind == "decode":
        cached = rows * max(use.states(context) / at.dcp, 1.0)
        moved += kernel.cached_bytes * cached
        flops += kernel.cached_flops * cached
        x = cached
    elif kind == "prefill":
        before = use.states(context)
        flops = kernel.cached_flops * rows * (before + use.states(rows) / 2)
        moved += kernel.cached_bytes * before
    by_bytes, by_flops = moved / at.gpu.bandwidth, flops / kernel.peak if kernel.peak else 0.0
    roofline = by_bytes if by_bytes > by_flops else by_flops
    floor = kernel.curve.floor_s * at.latency_factor
    if decode and use.what == "MLA expansion" and not kernel.curve.measured:
        floor *= 2  # the two absorbed halves are two batched products
    seconds = floor + roofline / kernel.curve.efficiency(x)
    if decode and seconds > LATENCY_RATIO * roofline:
        return seconds, floor, "latency"
    return seconds, floor, "compute" if by_flops > by_bytes else "HBM"


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
