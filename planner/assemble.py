"""From what the search found to the ``Plan`` that every view shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from formulas.units import GIB
from planner import plan as out
from planner.cases import kernel_cases
from planner.cost import rent_cost
from planner.engines.base import Config, Priced, placed_gpus
from planner.hardware import summary_text
from planner.kv import layout_name
from planner.launch import launch_of
from planner.ledger import Device, shortest
from planner.pareto import pareto_points
from planner.references import parallel_ref, quantization_ref
from planner.remedy import remedy
from planner.request import Request
from planner.search import SQUEEZED_UTILIZATION, Found, Missed, Outcome, score
from planner.shown_speed import kernel_ref, performance_of, simulation_of
from profiles.library import quality_of
from profiles.model import Release, active_parameters

SHOWN_REJECTIONS = 40


def make_plan(request: Request, outcome: Outcome, inventory: dict[str, Any], generated_by: str) -> out.Plan:
    """The plan of an outcome; candidates beyond ``request.top`` are counted, not shown."""
    ranked = distinct(sorted(outcome.found, key=lambda found: score(request, found)))
    shown = ranked[: request.top]
    model, demand, machine = request.model, request.demand, request.machine
    fitting = sum([verdict_of(request, found) == "fits" for found in outcome.found])
    return out.Plan(
        schema=out.PLAN_SCHEMA,
        generated_by=generated_by,
        model=out.ModelRef(
            id=model.id,
            name=model.name,
            family=model.family,
            repository=model.repository,
            parameters=model.parameters,
            active_parameters=active_parameters(model, with_embedding=True),
            max_context=model.max_context,
        ),
        workload=out.WorkloadRef(
            name=demand.name,
            context=demand.context,
            concurrency=demand.concurrency,
            input_tokens=demand.input_tokens,
            output_tokens=demand.output_tokens,
            images=demand.images,
            prefix_cache_hit_rate=demand.prefix_cache_hit_rate,
            routing=demand.routing,
            required_kv_tokens=demand.required_tokens(),
            ttft_s=request.bounds.ttft_s,
            tpot_s=request.bounds.tpot_s,
            min_throughput=request.bounds.min_throughput,
        ),
        hardware=out.HardwareSummary(
            description=summary_text(machine),
            source=machine.source,
            gpus=tuple([gpu.key for gpu in machine.nodes[0].gpus]),
            nodes=len(machine.nodes),
            host_memory_bytes=machine.nodes[0].host.ram,
            notes=machine.notes,
        ),
        inventory=inventory,
        objective=request.objective,
        candidates=tuple([candidate(request, found, rank) for rank, found in enumerate(shown, 1)]),
        pareto=pareto_points(request, ranked, shown),
        rejected=rejections(request, outcome.missed, bool(outcome.found)),
        search=out.SearchSummary(
            evaluated=outcome.evaluated,
            fitting=fitting,
            tight=len(outcome.found) - fitting,
            rejected=len(outcome.missed),
        ),
        notes=(*model.notes, *machine.notes),
    )


def distinct(ranked: Sequence[Found]) -> list[Found]:
    """The same candidates with variety ahead: the best layout of each engine and release first, its variants after.

    What fits stays before what is tight.
    """
    first: list[Found] = []
    later: list[Found] = []
    seen: set[tuple[str, int]] = set()
    for found in ranked:
        key = (found.engine.name, id(found.release))
        (later if key in seen else first).append(found)
        seen.add(key)
    return sorted(first + later, key=lambda found: found.priced.verdict != "fits")


def candidate(request: Request, found: Found, rank: int) -> out.Candidate:
    """One shown configuration in full."""
    priced, release, speed = found.priced, found.release, found.speed
    config = priced.config
    launch = found.engine.launch(request, release, config)
    warnings = list(priced.warnings)
    verdict = verdict_of(request, found)
    if priced.verdict == "tight":
        warnings.append(starting_settings(request, found))
    elif verdict == "tight":
        held, wanted = held_and_wanted_tokens(request, priced)
        warnings.append(
            f"the KV cache holds {held:,} of the {wanted:,} tokens of {request.demand.concurrency} requests: about "
            f"{speed.effective_concurrency:.0f} run at a time, the others wait"
        )
    if config.squeezed:
        warnings.append(
            f"starts with --gpu-memory-utilization {config.utilization:g}, {config.sequences} sequences and "
            f"{config.batched_tokens} batched tokens; the engine's defaults do not fit"
        )
    if request.model.trust_remote_code and "--trust-remote-code" in launch.argv:
        warnings.append("--trust-remote-code runs Python of the model's repository: pin a revision that you have read")
    host = request.machine.nodes[config.group.nodes[0] if config.group else 0].host
    if priced.cpu_expert_bytes and host.bandwidth is None:
        warnings.append("the RAM bandwidth is not known: give --cpu or --ram-bandwidth for a narrower speed range")
    return out.Candidate(
        rank=rank,
        engine=out.EngineRef(name=config.engine, version=config.version),
        quantization=quantization_ref(release),
        parallel=parallel_ref(config),
        offload=out.Offload(
            cpu_expert_layers=config.cpu_expert_layers,
            gpu_experts_per_layer=config.gpu_experts_per_layer,
            disk=bool(config.disk_bytes),
            disk_bytes=config.disk_bytes,
        ),
        verdict=verdict,
        fits=verdict == "fits",
        memory=memory_of(request, priced),
        kv_cache=kv_cache_of(request, priced),
        performance=performance_of(speed),
        simulation=simulation_of(request, release, priced),
        kernels=tuple([kernel_ref(case) for case in kernel_cases(request, release, priced)]),
        quality=quality_of_release(request, release.release),
        cost=rent_cost(used_gpus(request, config), speed),
        launch=launch_of(request, release, config, launch),
        settings=settings_of(config),
        warnings=tuple(warnings),
        why=why(request, found),
    )


def held_and_wanted_tokens(request: Request, priced: Priced) -> tuple[int, int]:
    """KV tokens of all replicas, and those of all requests at the same time."""
    demand = request.demand
    return (
        priced.pool.tokens * priced.config.replicas,
        demand.concurrency * (demand.input_tokens + demand.output_tokens),
    )


def verdict_of(request: Request, found: Found) -> out.Verdict:
    """The verdict as shown: what starts but makes some of the requests wait is tight."""
    priced = found.priced
    held, wanted = held_and_wanted_tokens(request, priced)
    waits = not request.workload_given and priced.pool.bytes_per_token and held < wanted
    return "tight" if waits and priced.verdict == "fits" else priced.verdict


def starting_settings(request: Request, found: Found) -> str:
    """What a tight candidate needs: by how much it may miss, and the mildest settings that leave no doubt."""
    worst = shortest(found.priced.devices)
    doubt = (
        f"may be short by up to {-worst.free_low / GIB:.1f} GiB on the tightest device"
        if worst.free >= 0
        else f"expected to be short by {-worst.free / GIB:.1f} GiB on the tightest device, if the estimates hold"
    )
    config = found.priced.config
    if config.engine != "vllm":
        return f"{doubt}: shorten --context or lower --concurrency"
    tried = config._replace(utilization=max(config.utilization, SQUEEZED_UTILIZATION))
    flags = {"--gpu-memory-utilization": f" {tried.utilization:g}"}
    sequences, batched = min(config.sequences, 64), min(config.batched_tokens, 4096)
    for stricter, flag, value in (
        (tried._replace(sequences=sequences), "--max-num-seqs", f" {sequences}"),
        (tried._replace(sequences=sequences, batched_tokens=batched), "--max-num-batched-tokens", f" {batched}"),
        (tried._replace(sequences=sequences, batched_tokens=batched, text_only=True), "--text-only", ""),
        (
            tried._replace(sequences=sequences, batched_tokens=min(batched, 2048), text_only=True),
            "--max-num-batched-tokens",
            f" {min(batched, 2048)}",
        ),
    ):
        flags[flag] = value
        settings = " ".join(f"{name}{text}" for name, text in flags.items())
        if found.engine.price(request, found.release, stricter).verdict == "fits":
            return f"{doubt}; starts for certain with {settings}"
    return f"{doubt}; to start, try {settings} and a shorter --context"


def used_gpus(request: Request, config: Config) -> list[str]:
    """Hardware keys of the GPUs a configuration occupies."""
    if config.group is None:
        return []
    if config.placement:
        return [gpu.key for gpu in placed_gpus(request.machine.nodes[config.group.nodes[0]], config)]
    return [config.group.gpu.key] * config.world


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that make the numbers true."""
    settings: dict[str, Any] = {
        "context": config.context,
        "max_num_seqs": config.sequences,
        "max_num_batched_tokens": config.batched_tokens,
        "text_only": config.text_only,
    }
    if config.engine in ("vllm", "sglang", "ktransformers"):
        settings["memory_utilization"] = round(config.utilization, 4)
    if config.attention_dp:
        settings["attention_data_parallel"] = True
    if config.placement:
        settings["layers_per_gpu"] = list(config.placement)
    if config.gpu_order:
        settings["gpu_order"] = list(config.gpu_order)
    return settings


def memory_of(request: Request, priced: Priced) -> out.Memory:
    """Every device with its own row: ranks that carry the same ledger are written out."""
    config = priced.config
    rows = []
    for device in priced.devices:
        for offset in range(device.copies):
            node, index = _place(request, config, device, offset)
            rows.append(_device_row(device, node, index))
    return out.Memory(devices=tuple(rows))


def _place(request: Request, config: Config, device: Device, offset: int) -> tuple[int, int]:
    group = config.group
    if group is None or device.kind in ("host", "disk"):
        return (group.nodes[0] if group else device.node), 0
    position = device.first_index + offset
    if config.placement:
        return group.nodes[0], placed_gpus(request.machine.nodes[group.nodes[0]], config)[position].driver_index
    node, index = divmod(position, config.world // config.nodes_used)
    return group.nodes[node], group.indices[index]


def _device_row(device: Device, node: int, index: int) -> out.DeviceMemory:
    return out.DeviceMemory(
        node=node,
        kind=device.kind,
        index=index,
        name=device.name,
        capacity_bytes=device.capacity,
        engine_visible_bytes=device.visible,
        usable_bytes=device.usable,
        weights_bytes=device.total("weights"),
        kv_cache_bytes=device.total("kv_cache"),
        compute_bytes=device.total("compute"),
        overhead_bytes=device.total("overhead"),
        free_bytes=device.free,
        free_low_bytes=device.free_low,
        free_high_bytes=device.free_high,
        ledger=tuple(
            [
                out.LedgerEntry(
                    kind=entry.kind,
                    what=entry.what,
                    bytes=entry.bytes,
                    low_bytes=entry.low,
                    high_bytes=entry.high,
                    formula=entry.formula,
                    source=entry.source,
                    evidence=entry.evidence,
                )
                for entry in device.entries
            ]
        ),
    )


def kv_cache_of(request: Request, priced: Priced) -> out.KvCache:
    """The KV pool as shown; budgets below zero are shown as they are."""
    pool, config = priced.pool, priced.config
    whole = pool.context_bytes
    return out.KvCache(
        dtype=config.kv_dtype,
        layout=layout_name(request.model),
        bytes_per_token_per_rank=pool.bytes_per_token,
        budget_bytes_per_rank=pool.budget,
        budget_low_bytes_per_rank=pool.budget_low,
        budget_high_bytes_per_rank=pool.budget_high,
        tokens=pool.tokens,
        required_tokens=pool.required_tokens,
        max_sequences_at_context=max(pool.budget, 0) // whole * config.replicas if whole else 0,
    )


def quality_of_release(request: Request, release: Release) -> out.Quality:
    """What is known of the quality of a release."""
    native = release.by_maker
    facts = tuple(
        [
            out.QualityFact(
                suite=loss.suite,
                metric=loss.metric,
                value=loss.value,
                baseline=loss.baseline,
                source=loss.source,
                measured_on="release" if loss in release.quality else "type",
            )
            for loss in quality_of(request.model.id, release)
        ]
    )
    note = (
        "weights as the model's maker published them"
        if native
        else ""
        if facts
        else "not measured by anyone we know of"
    )
    return out.Quality(native=native, facts=facts, note=note)


def quality_told(quality: out.Quality) -> str:
    """What is known of a quantization's loss in a few words: of the release itself where that was measured."""
    own = [one for one in quality.facts if one.measured_on == "release"]
    facts = own or list(quality.facts)
    if quality.native or not facts:
        return quality.note
    fact = next((one for one in facts if one.metric == "kld"), facts[0])
    return f"{fact.metric} {fact.value:g} ({fact.suite}{'' if own else ', of its main type throughout'})"


def why(request: Request, found: Found) -> str:
    """One sentence: what makes this candidate stand where it stands."""
    priced, speed = found.priced, found.speed
    config = priced.config
    gpus = [device for device in priced.devices if device.kind in ("gpu", "unified")] or list(priced.devices)
    tightest = min(gpus, key=lambda device: device.free_low)
    room = f"{tightest.free / GIB:.1f} GiB free on the tightest device ({tightest.free_low / GIB:.1f} at worst)"
    slow, _, fast = speed.decode_per_request
    pace = f"{slow:.0f}-{fast:.0f} tokens/s per request, bound by {speed.bound_by}"
    if config.disk_bytes:
        return f"runs with {config.disk_bytes / GIB:.0f} GiB of experts paged from disk; {pace}"
    if config.engine == "llama.cpp" and config.cpu_expert_layers and config.placement:
        return f"experts of {config.cpu_expert_layers} layers stay in RAM; {room}; {pace}"
    return f"{room}; {pace}"


def rejections(request: Request, missed: Sequence[Missed], something_fits: bool) -> tuple[out.Rejection, ...]:
    """Rejections grouped by engine, release and reason; the nearest miss of each group stands for it."""
    groups: dict[tuple[str, str, str, str], list[Missed]] = {}
    for miss in missed:
        key = (miss.engine, miss.release.release.publisher, miss.release.release.quantization, miss.reason)
        groups.setdefault(key, []).append(miss)
    rows = []
    for members in groups.values():
        nearest = min(members, key=lambda miss: (miss.priced is None, miss.short_by))
        rows.append((nearest, len(members)))
    rows.sort(key=lambda row: (row[0].priced is None, row[0].short_by))
    limit = len(rows) if request.exact else SHOWN_REJECTIONS
    return tuple([rejection(request, miss, count) for miss, count in rows[:limit]])


def rejection(request: Request, miss: Missed, count: int) -> out.Rejection:
    """One rejection with its remedy."""
    priced = miss.priced
    worst = min(priced.devices, key=lambda device: device.free_high) if priced is not None and miss.short_by else None
    release = miss.release.release
    return out.Rejection(
        engine=miss.engine,
        quantization=f"{release.publisher}/{release.quantization}",
        parallel=parallel_ref(miss.config) if miss.config else None,
        reason=miss.reason,
        device=(worst.name if worst.kind == "host" else f"{worst.kind} {worst.name}") if worst else None,
        short_by_bytes=miss.short_by or None,
        remedy=miss.remedy or remedy(request, miss),
        memory=memory_of(request, priced) if priced is not None and request.exact else None,
        kv_cache=kv_cache_of(request, priced) if priced is not None and request.exact else None,
        count=count,
    )
