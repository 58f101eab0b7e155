"""Layouts of vLLM and SGLang over equal GPUs, and the constraints their own code checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from formulas.units import GIB
from planner.engines.base import Config, Refusal, divisors, powers_of_two
from planner.engines.constraints import refused_layout, too_old, unsupported_gpu, unsupported_kv
from planner.machine import Gpu, GpuGroup
from planner.request import PricedRelease, Request
from profiles.engines import EngineFacts

SMALL_GPU_BYTES: Final = 35 * GIB
"""Below this size a step of 4,096 tokens leaves little, so that the search asks for smaller ones."""


class PoolEngine(Protocol):
    """What ``layouts`` asks of an engine."""

    name: str
    replicas_share_experts: bool

    @property
    def facts(self) -> EngineFacts: ...

    def kv_dtypes(self, request: Request, version: str) -> tuple[str, ...]: ...

    def default_step(self, gpu: Gpu, version: str, tp: int) -> tuple[int, int]: ...

    def refused_nodes(self, config: Config) -> tuple[str, str] | None: ...

    def most_usable(self, request: Request, config: Config) -> int: ...


def layouts(
    engine: PoolEngine, request: Request, release: PricedRelease, *, attention_dp: bool
) -> Iterator[Config | Refusal]:
    """Every layout of ``release`` on every group of equal GPUs of the machine, and the refused ones."""
    version = request.narrow.engine_version or engine.facts.default_version
    kv_dtypes = _kv_dtypes(engine, request, version)
    unknown = unknown_kv(engine.name, kv_dtypes, engine.kv_dtypes(request, version))
    unknown = unknown or too_old(engine.name, request.model, engine.facts, version)
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
            refused = _refused(engine, request, release, base)
            if refused and request.exact and request.narrow.ep is None:
                # Where divided experts are refused, whole ones are what such ranks are started with.
                whole = base._replace(ep=base.tp if base.attention_dp or base.own_experts else base.tp * base.dp)
                if _refused(engine, request, release, whole) is None:
                    base, refused = whole, None
            if refused:
                yield Refusal(base, *refused)
                continue
            for kv_dtype in kv_dtypes or (_readable_kv(engine, request, group.gpu, version),):
                problem = unsupported_kv(group.gpu, kv_dtype, request.model, engine.facts, version)
                if problem:
                    yield Refusal(base._replace(kv_dtype=kv_dtype), *problem)
                else:
                    yield base._replace(kv_dtype=kv_dtype)


def _refused(engine: PoolEngine, request: Request, release: PricedRelease, config: Config) -> tuple[str, str] | None:
    """Reason and remedy where the engine refuses these ranks."""
    refused = refused_layout(request, release, config, engine.facts)
    return refused or _missing_flag(engine, config) or engine.refused_nodes(config)


def _kv_dtypes(engine: PoolEngine, request: Request, version: str) -> tuple[str, ...]:
    """What is asked for, or worth trying; empty where one configuration leaves it open."""
    wanted = request.narrow.kv_dtype
    if wanted:
        return ("bf16" if wanted == "f16" else wanted,)
    return () if request.exact else engine.kv_dtypes(request, version)


def _readable_kv(engine: PoolEngine, request: Request, gpu: Gpu, version: str) -> str:
    """The dtype where none is asked for: bf16, unless this GPU reads others only."""
    known = engine.kv_dtypes(request, version)
    readable = (dtype for dtype in known if not unsupported_kv(gpu, dtype, request.model, engine.facts, version))
    return next(readable, known[0])


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
        if not request.exact and group.gpu.capacity < SMALL_GPU_BYTES:
            batched = min(batched, 2048)
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
        draft_tokens=settings.draft_tokens if request.drafter is not None else 0,
        cpu_offload=settings.cpu_offload_bytes,
    )
