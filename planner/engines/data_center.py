"""Layouts of vLLM and SGLang over equal GPUs, and the constraints their own code checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from planner.engines.base import Config, Refusal, divisors, powers_of_two
from planner.machine import Gpu, GpuGroup
from planner.request import PricedRelease, Request
from profiles.engines import EngineFacts

HOPPER_AND_DATA_CENTER_BLACKWELL = (9, 10)


class PoolEngine(Protocol):
    """What ``layouts`` asks of an engine."""

    name: str
    replicas_share_experts: bool

    @property
    def facts(self) -> EngineFacts: ...

    def kv_dtypes(self, request: Request, version: str) -> tuple[str, ...]: ...

    def default_step(self, gpu: Gpu, version: str, tp: int) -> tuple[int, int]: ...


def layouts(
    engine: PoolEngine, request: Request, release: PricedRelease, *, attention_dp: bool
) -> Iterator[Config | Refusal]:
    """Every layout of ``release`` on every group of equal GPUs of the machine, and the refused ones."""
    version = request.narrow.engine_version or engine.facts.default_version
    kv_dtypes = _kv_dtypes(engine, request, version)
    unknown = unknown_kv(engine.name, kv_dtypes, engine.kv_dtypes(request, version))
    groups = request.machine.groups()
    if unknown or not groups:
        yield unknown or Refusal(None, f"{engine.name} needs a GPU", "use llama.cpp")
        return
    if request.exact:
        # One configuration was asked for: the equal GPUs with the most memory carry it.
        groups = (max(groups, key=lambda group: group.size * group.gpu.visible),)
    for group in groups:
        refusal = unsupported_gpu(group.gpu, release)
        if refusal:
            yield Refusal(None, refusal, "use another engine or release on this GPU")
            continue
        for base in _shapes(engine, request, group, version, attention_dp=attention_dp):
            refused = refused_layout(request, release, base) or _missing_flag(engine, base)
            if refused:
                yield Refusal(base, *refused)
                continue
            for kv_dtype in kv_dtypes:
                problem = unsupported_kv(group.gpu, kv_dtype, mla=request.model.uses_mla)
                if problem:
                    yield Refusal(base._replace(kv_dtype=kv_dtype), problem, "use --kv-dtype bf16")
                else:
                    yield base._replace(kv_dtype=kv_dtype)


def _kv_dtypes(engine: PoolEngine, request: Request, version: str) -> tuple[str, ...]:
    wanted = request.narrow.kv_dtype
    if wanted:
        return ("bf16" if wanted == "f16" else wanted,)
    return ("bf16",) if request.exact else engine.kv_dtypes(request, version)


def unknown_kv(engine: str, wanted: Iterable[str], known: Iterable[str]) -> Refusal | None:
    """Refusal of a KV dtype that the engine does not have at all."""
    allowed = tuple(dict.fromkeys(("bf16", "fp8", *known)))
    for dtype in wanted:
        if dtype not in allowed:
            return Refusal(None, f"{engine} has no {dtype} KV cache here", f"use --kv-dtype {' or '.join(allowed)}")
    return None


def _missing_flag(engine: PoolEngine, config: Config) -> tuple[str, str] | None:
    """Reason and remedy when this version cannot be told to start the layout."""
    for key, needed, what in (
        ("dcp", config.dcp > 1, "decode context parallelism"),
        ("nodes", config.nodes_used > 1, "several nodes"),
    ):
        if needed and not engine.facts.has_flag(key, config.version):
            return f"{engine.name} {config.version} has no flag for {what}", "use a newer --engine-version"
    return None


def _shapes(
    engine: PoolEngine, request: Request, group: GpuGroup, version: str, *, attention_dp: bool
) -> Iterator[Config]:
    """Ranks and settings before the KV dtype is chosen."""
    narrow, moe = request.narrow, request.model.moe is not None
    has_dcp = engine.facts.has_flag("dcp", version) and request.model.uses_mla
    for tp, pp, dp, sharing in _ranks(request, group, attention_dp=attention_dp):
        world_experts = tp if sharing or not engine.replicas_share_experts else tp * dp
        if narrow.ep is not None:
            eps: tuple[int, ...] = (narrow.ep,)
        elif request.exact or not moe or world_experts == 1:
            eps = (1,)
        else:
            eps = (world_experts,) if sharing else (1, world_experts)
        if narrow.dcp is not None:
            dcps: tuple[int, ...] = (narrow.dcp,)
        elif request.exact or not has_dcp or tp == 1 or sharing:
            dcps = (1,)
        else:
            dcps = (1, tp)
        for ep in eps:
            for dcp in dcps:
                yield _with_settings(engine, request, group, version, tp, pp, dp, ep, dcp, sharing)


def _ranks(request: Request, group: GpuGroup, *, attention_dp: bool) -> Iterator[tuple[int, int, int, bool]]:
    """(tp, pp, dp, attention data parallel) over the group."""
    narrow, count = request.narrow, group.size
    if request.exact:
        given = narrow.tp is not None or narrow.pp is not None or narrow.dp is not None
        tp = narrow.tp or (1 if given else group.per_node)
        pp = narrow.pp or (1 if given else len(group.nodes))
        dp = narrow.dp or 1
        sharing = attention_dp and dp > 1 and tp * pp * dp > count
        yield tp, pp, dp, sharing
        return

    def fills_nodes(world: int) -> bool:
        # A tensor-parallel group that half fills a node would talk over the network.
        return world <= count and (world <= group.per_node or world % group.per_node == 0)

    tps = (narrow.tp,) if narrow.tp else powers_of_two(group.per_node)
    found = False
    for tp in tps:
        pps = (narrow.pp,) if narrow.pp else divisors(max(count // tp, 1))
        for pp in pps:
            if tp * pp > count:
                continue
            dps = (narrow.dp,) if narrow.dp else powers_of_two(count // (tp * pp))
            for dp in dps:
                if fills_nodes(tp * pp * dp):
                    found = True
                    yield tp, pp, dp, False
            shares = attention_dp and request.model.moe is not None and narrow.dp in (None, tp) and tp > 1
            if shares and fills_nodes(tp * pp):
                found = True
                yield tp, pp, tp, True
    if not found:
        # Ranks that were asked for and that the GPUs do not have are refused with the reason.
        yield narrow.tp or 1, narrow.pp or 1, narrow.dp or 1, False


def _with_settings(
    engine: PoolEngine,
    request: Request,
    group: GpuGroup,
    version: str,
    tp: int,
    pp: int,
    dp: int,
    ep: int,
    dcp: int,
    sharing: bool,
) -> Config:
    settings = request.settings
    default_sequences, default_batched = engine.default_step(group.gpu, version, tp)
    sequences = settings.max_num_seqs
    if sequences is None:
        sequences = default_sequences
        if not request.exact:
            needed = -(-request.demand.concurrency // dp)
            sequences = min(sequences, max(64, 1 << (needed - 1).bit_length()))
    batched = settings.max_num_batched_tokens
    if batched is None:
        batched = default_batched
    return Config(
        engine.name,
        version,
        group,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        dcp=dcp,
        utilization=settings.utilization or 0.0,
        context=request.demand.context,
        batched_tokens=batched,
        sequences=sequences,
        text_only=settings.text_only,
        attention_dp=sharing,
        own_experts=dp > 1 and not sharing and not engine.replicas_share_experts,
        vision_sharded=settings.vision_sharded,
        lora=(settings.max_loras, settings.max_lora_rank),
        draft_tokens=settings.draft_tokens or request.drafter.tokens if request.drafter is not None else 0,
        cpu_offload=settings.cpu_offload_bytes,
    )


def unsupported_gpu(gpu: Gpu, release: PricedRelease) -> str:
    """Why these kernels do not run on this GPU; empty when they do.

    Minimum capabilities from vLLM 0.33.0: bf16 8.0, compressed-tensors INT4 7.5, FP8 weight-only 7.5, NVFP4 7.5
    (weight-only below 10.0).
    """
    if gpu.vendor not in ("nvidia", "amd"):
        return f"vLLM and SGLang have no production back end for {gpu.name}"
    if gpu.vendor == "amd":
        return "NVFP4 weights need an NVIDIA GPU" if release.expert_format == "nvfp4" else ""
    capability = gpu.cuda
    if capability is None:
        return f"the compute capability of {gpu.name} is not known"
    if capability < 7.5:
        return f"{gpu.name} has compute capability {capability}; the quantized kernels need 7.5"
    if capability < 8.0:
        return f"{gpu.name} has compute capability {capability}; bfloat16 needs 8.0"
    return ""


def unsupported_kv(gpu: Gpu, kv_dtype: str, *, mla: bool) -> str:
    """Why this KV dtype has no attention kernel on this GPU; empty when it has."""
    if kv_dtype == "bf16" or gpu.vendor != "nvidia":
        return ""
    capability = gpu.cuda or 0.0
    if mla and int(capability) not in HOPPER_AND_DATA_CENTER_BLACKWELL:
        return f"MLA with {kv_dtype} KV has kernels for compute capability 9.x and 10.x only, not {capability}"
    if capability < 8.9:
        return f"{kv_dtype} KV needs compute capability 8.9, not {capability}"
    return ""


def refused_layout(request: Request, release: PricedRelease, config: Config) -> tuple[str, str] | None:
    """Reason and remedy when the engine's code refuses this layout."""
    model, group = request.model, config.group
    assert group is not None
    if config.world > group.size:
        return (
            f"tp {config.tp} x pp {config.pp} x dp {config.dp} needs {config.world} GPUs, there are {group.size}",
            f"use at most {group.size} ranks",
        )
    if config.world % config.nodes_used:
        return (
            f"{config.world} ranks do not divide over {config.nodes_used} nodes",
            f"use a multiple of {config.nodes_used} ranks",
        )
    if config.own_experts and config.nodes_used > 1:
        return (
            f"{config.engine} runs data-parallel replicas on one node, or inside tp",
            f"use tp {config.tp * config.dp} with dp {config.dp}, or start one server per node",
        )
    if config.attention_dp and config.tp % config.dp:
        return (
            f"attention data parallelism divides tp {config.tp} by dp {config.dp}",
            "use a dp that divides tp",
        )
    if model.heads % config.tp:
        allowed = ", ".join(str(d) for d in divisors(model.heads) if d <= group.size)
        return f"{model.heads} attention heads are not divisible by tp {config.tp}", f"use tp {allowed}"
    kv_heads = max((kv.n_kv_heads for kv in model.kv_groups if kv.layout != "mla"), default=0)
    attention_tp = config.tp // config.dp if config.attention_dp else config.tp
    if kv_heads and kv_heads % attention_tp and attention_tp % kv_heads:
        allowed = ", ".join(str(d) for d in divisors(model.heads) if d <= group.size and not kv_heads % d)
        return f"{kv_heads} KV heads are neither divided nor replicated by tp {attention_tp}", f"use tp {allowed}"
    if config.pp > model.layers:
        return (
            f"{model.layers} layers cannot make {config.pp} pipeline stages",
            f"use pp up to {model.layers}",
        )
    if config.tp % config.dcp:
        return f"tp {config.tp} is not divisible by dcp {config.dcp}", "use a dcp that divides tp"
    if config.dcp > 1 and not model.uses_mla:
        return "decode context parallelism is planned for MLA models only", "use dcp 1"
    ranks = config.tp if config.attention_dp else config.tp * config.expert_group
    if config.ep not in (1, ranks):
        product = "tp" if config.attention_dp or config.own_experts else "tp x dp"
        return f"the expert-parallel size is {product} = {ranks}, not {config.ep}", f"use ep {ranks}"
    if model.moe is None:
        return ("a dense model has no experts to distribute", "use ep 1") if config.ep > 1 else None
    expert_format = release.expert_format
    if config.ep == 1 and "_g" in expert_format:
        size = int(expert_format.rpartition("_g")[2])
        share, rest = divmod(model.moe.expert_ffn, ranks)
        if rest or share % size:
            return (
                f"an expert of width {model.moe.expert_ffn} cannot be divided by {ranks} in groups of {size}",
                "use expert parallelism",
            )
    return None
