"""What would make a configuration fit, from its ledger."""

from __future__ import annotations

from math import ceil
from typing import Final, cast

from formulas.units import GB, GIB
from planner.engines import load_engine_model
from planner.engines.base import Config, Priced, powers_of_two
from planner.engines.constraints import refused_layout
from planner.engines.data_center import PoolEngine
from planner.engines.tensor_parallel import ASSUMED_LOW, kv_figures, ranks_of, shards_of, stages_of
from planner.ledger import Device
from planner.request import PricedRelease, Request
from planner.search import Missed

ROUNDED_BYTES: Final = 8
"""More than a ledger loses by rounding the entries of a stage's layers down."""


def remedy(request: Request, miss: Missed) -> str:
    """One line for a configuration that is short of memory; empty for one that was never priced."""
    priced = miss.priced
    if priced is None:
        return ""
    worst = min(priced.devices, key=lambda device: device.free_high)
    config = priced.config
    if worst.kind == "host":
        return _more_ram(request, config, worst)
    if worst.kind == "disk":
        return f"{ceil(_needed(worst) / GB):,} GB of disk are needed (--disk); use a smaller quantization"
    if worst.kind == "unified":
        # A GPU may use only part of the memory that it shares.
        need = ceil(_needed(worst) * worst.capacity / worst.usable_low / GIB)
        return f"{need:,} GiB of unified memory are needed; use a smaller quantization or a shorter --context"
    if config.engine == "llama.cpp":
        experts = ", a higher --n-cpu-moe" if request.settings.n_cpu_moe is not None else ""
        return f"use a larger GPU, a shorter --context or a smaller --ubatch{experts}"
    fixed = worst.total("weights") + worst.total("compute") + worst.total("overhead")
    if fixed <= worst.usable and priced.pool.bytes_per_token:
        kv = "" if config.kv_dtype != "bf16" else ", or --kv-dtype fp8"
        held, wanted = priced.pool.tokens, priced.pool.required_tokens
        return f"the KV cache holds {held:,} of {wanted:,} tokens: shorten --context or lower --concurrency{kv}"
    if config.engine == "ktransformers":
        return "use a larger GPU, a higher --tp or a shorter --context"
    return _more_gpus(request, miss.release, config, worst)


def _needed(device: Device) -> int:
    """Bytes that a device needs when everything uncertain goes badly."""
    return sum([entry.high for entry in device.entries])


def _more_ram(request: Request, config: Config, host: Device) -> str:
    need = ceil(_needed(host) / GIB)
    more = f" ({ceil(need - host.capacity / GIB):,} GiB more)" if host.capacity else " (--ram)"
    node = request.machine.nodes[config.group.nodes[0] if config.group else 0]
    pages = config.engine == "llama.cpp" and node.disk.free is None
    disk = ", or a disk to page from (--disk)" if pages else ""
    return f"{need:,} GiB of RAM are needed{more}; use a smaller quantization{disk}"


def _more_gpus(request: Request, release: PricedRelease, config: Config, worst: Device) -> str:
    """How many GPUs the weights take: by capacity, as the engine may use it, and in a layout that starts."""
    size = release.tensors.bytes
    usable = max(worst.usable, 1)
    text = (
        f"the weights ({size / 1e9:,.0f} GB) take {ceil(size / worst.capacity):,} of these GPUs by capacity, "
        f"{ceil(size / usable):,} at utilisation {config.utilization:.3g}"
    )
    layout = fewest_stages(request, release, config)
    if layout is not None:
        ranks = layout.config
        doubt = " (tight)" if layout.verdict == "tight" else ""
        text += f", {ranks.world} as tp {ranks.tp} x pp {ranks.pp}{doubt}"
    return f"{text}; or use a smaller quantization"


def fewest_stages(request: Request, release: PricedRelease, config: Config) -> Priced | None:
    """The layout with the fewest pipeline stages over nodes like these that may start; None when none does.

    Each stage is as many GPUs of a node as tensor parallelism can use.
    """
    assert config.group is not None
    engine = load_engine_model(config.engine)
    pools = cast(PoolEngine, engine)
    per_node = config.group.per_node
    tp = request.narrow.tp or max([ways for ways in powers_of_two(per_node) if request.model.heads % ways == 0])
    # The engine's own default depends on the number of ranks.
    utilization = config.utilization if config.squeezed else request.settings.utilization or 0.0
    alone = config._replace(
        dp=1, ep=1, dcp=1, attention_dp=False, own_experts=False, utilization=utilization
    )  # fmt: skip
    for pp in range(1, request.model.layers + 1):
        nodes = tuple(range(-(-tp * pp // per_node)))
        group = config.group._replace(nodes=nodes)
        wider = alone._replace(group=group, tp=tp, pp=pp)
        if not config.cpu_offload and _fullest_stage(request, release, wider) > pools.most_usable(request, wider):
            continue
        if refused_layout(request, release, wider, engine.facts) is not None:
            continue
        priced = engine.price(request, release, wider)
        if priced.verdict != "no":
            return priced
    return None


def _fullest_stage(request: Request, release: PricedRelease, config: Config) -> float:
    """Bytes that the stage with the most weights takes at least on a GPU: a quick bound on what may start."""
    shards = shards_of(request, release, config, vision_sharded=False)
    first, stop = max(stages_of(request.model, config), key=lambda stage: shards.stage_bytes(*stage))
    weights: float = shards.stage_bytes(first, stop)
    if release.tensors.evidence != "exact":
        weights = weights * ASSUMED_LOW - ROUNDED_BYTES
    _, whole, needed, _ = kv_figures(request, release, config, ranks_of(config).tp, first, stop, 1)
    return weights + (needed if request.workload_given else whole)
