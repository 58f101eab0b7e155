"""Ledgers of a placed llama.cpp configuration: every GPU, RAM, and the disk that RAM pages from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from planner.engines.base import Config
from planner.engines.llamacpp_cache import is_exact_cache
from planner.engines.llamacpp_graph import Share, compute_bytes, host_bytes, without_repeats
from planner.engines.llamacpp_work import (
    PIPELINE_VENDORS,
    Room,
    Work,
    gpu_rooms,
    margin_of,
    offloads,
    share_of,
)
from planner.kv import layout_name
from planner.ledger import Device, Entry, exact, ranged
from planner.machine import Gpu, Node
from planner.request import PricedRelease, Request
from profiles.engines import EngineFacts, Fact
from profiles.model import ModelSpec

ROUTED: Final = "routed experts"
GGUF_TENSORS: Final = "tensor list of the GGUF release"
KV_SOURCE: Final = "llama.cpp KV cells, verified to the byte"
POOL_FORMULA: Final = "tokens x max(chosen experts x hidden, dense width) x 9/8"
GRAPH_SOURCE: Final = "llama.cpp's graph placed as ggml's allocator places it"
ASSUMED_LOW: Final = 0.97
ASSUMED_HIGH: Final = 1.03
"""Range of weights whose tensor types are not exactly known."""
HYBRID_LOW: Final = 0.95
HYBRID_HIGH: Final = 1.1
"""Range of caches with recurrent states or an indexer, which were not compared with llama.cpp's."""


def gpu_devices(
    request: Request, release: PricedRelease, config: Config, work: Work, gpus: Sequence[Gpu], facts: EngineFacts
) -> list[Device]:
    """Every GPU that holds layers, and the last one, which holds the head."""
    devices = []
    weights, on_cpu, version = work.weights, config.cpu_expert_layers, config.version
    context = _constant("driver context", facts.at("gpu_context_bytes", version))
    pool_source = facts.at("cuda_pool_bytes_per_element", version).source
    head = "head and final norm" if weights.shards.lm_head else "head, a copy of the embedding, and final norm"
    start, last = 0, len(gpus) - 1
    for index, (gpu, count) in enumerate(zip(gpus, config.placement, strict=True)):
        stop = start + count
        if not count and index < last:
            continue
        share = share_of(work, gpus, index, range(start, stop), on_cpu, facts, config)
        routed = sum(weights.experts[max(start, min(on_cpu, stop)) : stop])
        entries = []
        if count:
            name = f"layers {start}-{stop - 1} without routed experts"
            entries.append(_weights(release, name, sum(weights.always[start:stop])))
        if routed:
            entries.append(_weights(release, ROUTED, routed))
        if index == last:
            entries.append(_weights(release, head, weights.head))
        entries.append(_kv(request.model, config, sum(work.kv[start:stop])))
        compute, pool = gpu_rooms(work, share, facts, version)
        entries.append(_compute("compute buffer", compute))
        if gpu.vendor in PIPELINE_VENDORS:
            entries.append(ranged("overhead", "CUDA pool", *pool, POOL_FORMULA, pool_source))
        if gpu.unified:
            entries += _host_share_of_unified(release, config, work, facts)
        entries.append(context)
        devices.append(_device("unified" if gpu.unified else "gpu", index, gpu, entries))
        start = stop
    return devices


def host_devices(
    request: Request, release: PricedRelease, config: Config, work: Work, node: Node, facts: EngineFacts
) -> tuple[list[Device], Config]:
    """RAM and, when the weights exceed it and a disk is known, the disk they are paged from; the configuration with it.

    Without the size of RAM there is no such device, unless something has to be there.
    """
    host, weights, on_gpus = node.host, work.weights, bool(config.placement)
    experts = sum(weights.experts[: config.cpu_expert_layers])
    if host.ram is None and on_gpus and not experts:
        return [], config
    ram = host.ram or 0
    entries = [] if on_gpus else [_kv(request.model, config, sum(work.kv))]
    entries += [_compute("host compute buffer", host_compute_room(work, config, facts)), _outputs(work, config)]
    if host.ram_source == "flags":
        entries.append(_constant("operating system", facts.at("os_reserve_bytes", config.version)))
    resident = experts + weights.shards.embedding
    if not on_gpus:
        resident += sum(weights.always) + weights.shards.lm_head + weights.shards.norms
    room = ram - sum([entry.high for entry in entries])
    in_ram = _weights(release, "weights in RAM (mapped file)", resident)
    if not on_gpus:
        # Pages of the file behind a repacked copy are clean, and the kernel drops them when memory is short.
        in_ram = in_ram._replace(formula=f"{in_ram.formula}; a copy repacked for the CPU takes the place of its pages")
    paged = 0
    if resident > room > resident - experts and experts and node.disk.free is not None:
        # What is paged fills the room there is, however large the file turns out to be.
        paged = resident - max(room, 0)
        in_ram = exact("weights", in_ram.what, resident - paged, "what the rest of RAM leaves", GGUF_TENSORS)
    prompts = facts.at("prompt_cache_bytes", config.version)
    if in_ram.high + prompts.high <= room:
        entries.append(_constant("prompt cache", prompts))
    else:
        config = config._replace(options=(*config.options, ("prompt_cache", "off")))
    devices = [Device(0, "host", 0, 1, host.name, ram, ram, ram, ram, ram, (in_ram, *entries))]
    if paged:
        free = node.disk.free or 0
        whole = exact(
            "weights", "model file, paged through RAM", release.tensors.bytes, "bytes of the release", GGUF_TENSORS
        )
        devices.append(Device(0, "disk", 0, 1, "disk", free, free, free, free, free, (whole,)))
    return devices, config._replace(disk_bytes=paged)


def host_compute_room(work: Work, config: Config, facts: EngineFacts) -> Room:
    """The compute buffer in RAM: of the whole model without GPUs, else of the inputs and of experts left to the CPU."""
    margin = margin_of(work.weights, facts, config.version)
    shape, batch = work.weights.shape, work.cpu_batch
    if not config.placement:
        size = compute_bytes(shape, batch, Share(without_repeats(work.weights.layers), alone=True))
        return Room(size, size * margin.low, size * margin.high)
    on_cpu = config.cpu_expert_layers
    pipelined = len(config.placement) > 1 and not on_cpu and _vendor(config) in PIPELINE_VENDORS
    copies = int(facts.at("pipeline_copies", config.version).value) if pipelined else 1
    inputs = host_bytes(shape, batch, copies)
    if not on_cpu or offloads(work, config):
        least = host_bytes(shape, batch)
        return Room(inputs, least * margin.low, inputs * margin.high)
    size = host_bytes(shape, batch, 1, True)
    # With windowed layers, or several GPUs, inputs may be needed until after the first experts.
    return Room(size, size * margin.low, max(size * margin.high, (size + inputs) if batch.window_cells else 0))


def _vendor(config: Config) -> str:
    return config.group.gpu.vendor if config.group else ""


def _host_share_of_unified(release: PricedRelease, config: Config, work: Work, facts: EngineFacts) -> list[Entry]:
    experts = sum(work.weights.experts[: config.cpu_expert_layers])
    size = work.weights.shards.embedding + experts
    return [
        _weights(release, "embedding and experts in the same memory", size),
        _compute("host compute buffer", host_compute_room(work, config, facts)),
        _outputs(work, config),
    ]


def _weights(release: PricedRelease, what: str, size: int) -> Entry:
    if release.tensors.evidence == "exact":
        return exact("weights", what, size, "sum of tensor bytes", GGUF_TENSORS)
    low, high = size * ASSUMED_LOW, size * ASSUMED_HIGH
    formula = "sum of tensor bytes, scaled to the published size"
    return ranged("weights", what, size, low, high, formula, GGUF_TENSORS, "assumed")


def _kv(model: ModelSpec, config: Config, size: int) -> Entry:
    name, formula = f"KV cache, {layout_name(model)} {config.kv_dtype}", "layers x cells x bytes per cell"
    if is_exact_cache(model):
        return exact("kv_cache", name, size, formula, KV_SOURCE)
    return ranged("kv_cache", name, size, size * HYBRID_LOW, size * HYBRID_HIGH, formula, "layers of the model")


def _compute(what: str, room: Room) -> Entry:
    return ranged("compute", what, *room, "peak of the graph of one micro-batch", GRAPH_SOURCE)


def _outputs(work: Work, config: Config) -> Entry:
    size = 4 * work.weights.shape.vocab * config.sequences
    return exact(
        "compute", "output buffer", size, "4 x vocabulary x sequences", "llama.cpp output buffer, as it logs it"
    )


def _constant(what: str, fact: Fact) -> Entry:
    return ranged("overhead", what, fact.value, fact.low, fact.high, "constant", fact.source, "assumed")


def _device(kind: Literal["gpu", "unified"], index: int, gpu: Gpu, entries: list[Entry]) -> Device:
    return Device(
        0, kind, index, 1, gpu.name, gpu.capacity, gpu.visible, gpu.visible, gpu.visible_low, gpu.visible_high,
        tuple(entries),
    )  # fmt: skip
