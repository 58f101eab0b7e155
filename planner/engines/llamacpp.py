"""llama.cpp: GGUF files, layers placed one by one on any GPUs of one machine, experts of some in RAM or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from planner.budget import fact
from planner.engines.base import Config, LaunchSpec, Pool, Priced, Refusal, placed_gpus, refused_ranks
from planner.engines.llamacpp_cache import cell_bytes, refused_cache, token_bytes
from planner.engines.llamacpp_launch import launch_spec
from planner.engines.llamacpp_ledger import ASSUMED_HIGH, ASSUMED_LOW, ROUTED, gpu_devices, host_devices
from planner.engines.llamacpp_placement import (
    Placement,
    Reads,
    Space,
    Sums,
    balanced,
    fewest_in_ram,
    placement_in,
    space_with,
    spread,
    sums_of,
)
from planner.engines.llamacpp_work import PIPELINE_VENDORS, Work, gpu_rooms, share_of, work_of
from planner.ledger import Device, verdict
from planner.machine import Gpu, GpuGroup
from planner.request import PricedRelease, Request
from planner.routing import distinct_experts
from profiles.engines import EngineFacts, load_engine

__all__ = ["ENGINE", "LlamaCpp", "balanced", "cell_bytes", "has_back_end", "shortage"]

LARGE_UBATCH: Final = 4096
ROOM_FOR_WEIGHTS: Final = 0.85
"""Share of the GPUs beyond which a model's experts may have to leave them."""
NO_OFFLOAD: Final = ("op_offload", "off")


class LlamaCpp:
    """The engine as the search sees it."""

    name = "llama.cpp"

    @property
    def facts(self) -> EngineFacts:
        """Constants and flags with their sources."""
        return load_engine("llama.cpp")

    def accepts(self, release: PricedRelease) -> str:
        """llama.cpp reads GGUF."""
        return "" if release.release.container == "gguf" else "llama.cpp reads GGUF files only"

    def configurations(self, request: Request, release: PricedRelease) -> Iterator[Config | Refusal]:
        """One placement per KV dtype on the node with the most memory."""
        version = request.narrow.engine_version or self.facts.default_version
        dtypes = self._kv_dtypes(request)
        sequences = request.settings.sequences or (1 if request.exact else request.demand.concurrency)
        refused = self._refused(request, dtypes[0], version)
        if refused:
            yield refused
            return
        node_index = _largest_node(request)
        node = request.machine.nodes[node_index]
        gpus = node.gpus if all(has_back_end(gpu) for gpu in node.gpus) else ()
        group = GpuGroup(gpus[0], len(gpus), (node_index,)) if gpus else None
        settings = request.settings
        for dtype in dtypes:
            refused = refused_cache(
                request.model, dtype, settings.cache_type_v, flash=settings.flash_attention is not False
            )
            if refused:
                yield refused
                continue
            base = Config(
                self.name,
                version,
                group,
                kv_dtype=dtype,
                context=request.demand.context,
                batched_tokens=settings.ubatch or int(self.facts.at("ubatch", version).value),
                sequences=min(sequences, int(self.facts.at("max_sequences", version).value)),
                text_only=True,
                placement=(0,) * len(gpus),
            )
            yield base
            offloads = release.tensors.bytes > ROOM_FOR_WEIGHTS * sum([gpu.visible for gpu in gpus])
            if settings.ubatch is None and not request.exact and gpus and offloads:
                # Prompts stream the experts in RAM over PCIe once per micro-batch.
                yield base._replace(batched_tokens=LARGE_UBATCH)

    def _kv_dtypes(self, request: Request) -> tuple[str, ...]:
        wanted = request.settings.cache_type_k or request.narrow.kv_dtype
        if wanted:
            return ("f16" if wanted == "bf16" and request.settings.cache_type_k is None else wanted,)
        return ("f16",) if request.exact else ("f16", "q8_0")

    def _refused(self, request: Request, dtype: str, version: str) -> Refusal | None:
        """Refusal of what llama.cpp does not have at all."""
        narrow, settings = request.narrow, request.settings
        ranks = (("tp", narrow.tp), ("pp", narrow.pp), ("dp", narrow.dp), ("ep", narrow.ep), ("dcp", narrow.dcp))
        refused = refused_ranks("llama.cpp places layers, it has no", ranks)
        most = int(self.facts.at("max_sequences", version).value)
        if not refused and (settings.sequences or 1) > most:
            refused = Refusal(None, f"llama.cpp serves at most {most} sequences", f"use --sequences {most}")
        flash = settings.flash_attention is not False
        return refused or refused_cache(request.model, dtype, settings.cache_type_v, flash=flash)

    def price(self, request: Request, release: PricedRelease, config: Config) -> Priced:
        """Place the layers, then write the ledger of every GPU, of RAM and of the disk."""
        node = request.machine.nodes[config.group.nodes[0] if config.group else _largest_node(request)]
        gpus = node.gpus[: len(config.placement)]
        work = work_of(request, release, config, self.facts)
        devices: list[Device] = []
        if gpus:
            config = self._placed(request, release, config, work, gpus)
            devices = gpu_devices(request, release, config, work, placed_gpus(node, config), self.facts)
        else:
            config = config._replace(cpu_expert_layers=len(work.weights.layers), options=())
        if not gpus or not gpus[0].unified:
            host, config = host_devices(request, release, config, work, node, self.facts)
            devices += host
        return self._priced(request, config, devices, work)

    def _placed(
        self, request: Request, release: PricedRelease, config: Config, work: Work, gpus: tuple[Gpu, ...]
    ) -> Config:
        """The configuration with its layers on the GPUs and as few experts in RAM as it takes, for certain if possible.

        Where the only GPU has no room for the copies of experts that prompts take, it does without. Of several choices
        of unequal GPUs the one with the fewest experts in RAM is taken, of these the quickest.
        """
        orders = [(order, tuple([gpus[place] for place in order])) for order in orders_of(gpus)]
        for pessimistic in (True, False):
            for options in ((), (NO_OFFLOAD,)) if len(gpus) == 1 and not gpus[0].unified else ((),):
                tried = config._replace(options=options)
                found = []
                for order, ordered in orders:
                    space = self._space(request, release, tried, work, ordered, pessimistic)
                    if space is not None:
                        found.append((space, order, ordered))
                if found:
                    placed, order = _quickest(request, tried, work, found)
                    return _ordered(tried, gpus, order)._replace(
                        placement=placed.layers, cpu_expert_layers=placed.on_cpu
                    )
        layers, wanted = len(work.weights.layers), request.settings.n_cpu_moe
        on_cpu = 0 if gpus[0].unified else layers
        return config._replace(
            gpu_order=(),
            placement=spread(layers, len(gpus)),
            cpu_expert_layers=on_cpu if wanted is None else min(wanted, layers),
        )

    def _space(
        self,
        request: Request,
        release: PricedRelease,
        config: Config,
        work: Work,
        gpus: tuple[Gpu, ...],
        pessimistic: bool,
    ) -> Space | None:
        """Where ledgers have room when everything uncertain goes badly, or well."""
        # What the ledger may count is what has to fit, so weights of an assumed mixture are placed at that size.
        factor = 1.0 if release.tensors.evidence == "exact" else ASSUMED_HIGH if pessimistic else ASSUMED_LOW
        weights, wanted = work.weights, request.settings.n_cpu_moe
        layers, head = len(weights.layers), weights.head * factor
        sums = _sums(work, factor)
        if gpus[0].unified:
            # RAM is the same memory: nothing is gained by keeping experts there.
            return Space(sums, min(wanted or 0, layers), (), head)
        if wanted is not None:
            on_cpu = min(wanted, layers)
            return space_with(sums, on_cpu, self._caps(config, work, gpus, on_cpu, pessimistic), head)
        if NO_OFFLOAD not in config.options:
            space = space_with(sums, 0, self._caps(config, work, gpus, 0, pessimistic), head)
            if space is not None:
                return space
        caps = self._caps(config, work, gpus, layers, pessimistic)
        return fewest_in_ram(sums, weights.first_routed, caps, head)

    def _caps(self, config: Config, work: Work, gpus: tuple[Gpu, ...], on_cpu: int, pessimistic: bool) -> list[float]:
        """Bytes that each GPU has for weights and KV cache when the first ``on_cpu`` layers keep experts in RAM."""
        context = self.facts.at("gpu_context_bytes", config.version)
        taken = self._taken(config, work, gpus, on_cpu, pessimistic)
        if pessimistic:
            return [gpu.visible_low - context.high - size for gpu, size in zip(gpus, taken, strict=True)]
        return [gpu.visible_high - context.low - size for gpu, size in zip(gpus, taken, strict=True)]

    def _taken(self, config: Config, work: Work, gpus: tuple[Gpu, ...], on_cpu: int, pessimistic: bool) -> list[float]:
        """Bytes of the buffers on each GPU, whichever of equal makers it is."""
        key = ("taken", len(gpus), gpus[0].vendor, gpus[0].unified, on_cpu, config.options, pessimistic)
        found: list[float] | None = work.kept.get(key)
        if found is not None:
            return found
        last, layers = len(gpus) - 1, range(len(work.weights.layers))
        # The GPUs between the first and the last compute alike.
        taken = []
        for index in sorted({0, min(1, last), last}):
            share = share_of(work, gpus, index, layers, on_cpu, self.facts, config)
            compute, pool = gpu_rooms(work, share, self.facts, config.version)
            rooms = (compute, pool) if gpus[0].vendor in PIPELINE_VENDORS else (compute,)
            taken.append(sum([room.high if pessimistic else room.low for room in rooms]))
        found = work.kept[key] = [taken[0], *taken[1:2] * (last - 1), *taken[-1:]][: last + 1]
        return found

    def _priced(self, request: Request, config: Config, devices: list[Device], work: Work) -> Priced:
        result, demand = verdict(devices), request.demand
        total_kv, cells = sum(work.kv), work.cells.total
        per_token = token_bytes(request.model, config.kv_dtype, request.settings.cache_type_v)
        # Windows and recurrent states take the same whatever the length, for every sequence.
        constant = (total_kv - per_token * cells) // config.sequences
        each = demand.input_tokens + demand.output_tokens
        pool = Pool(
            float(per_token), total_kv, total_kv, total_kv, cells, cells, demand.required_tokens(), total_kv,
            constant + per_token * demand.context, constant + per_token * each,
        )  # fmt: skip
        reason = shortage(min(devices, key=lambda device: device.free_high), config) if result == "no" else ""
        in_ram = sum(work.weights.experts[: config.cpu_expert_layers])
        return Priced(
            config,
            tuple(devices),
            pool,
            work.weights.shards,
            result,
            reason,
            warnings_of(request, config, devices, work),
            in_ram,
        )

    def launch(self, request: Request, release: PricedRelease, config: Config) -> LaunchSpec:
        """``llama-server`` with the placement written out."""
        return launch_spec(request, release, config, self.facts)


def _sums(work: Work, factor: float) -> Sums:
    """Bytes of the first layers, weights times ``factor``."""
    found: Sums | None = work.kept.get(("sums", factor))
    if found is None:
        always = [size * factor + kv for size, kv in zip(work.weights.always, work.kv, strict=True)]
        found = work.kept["sums", factor] = sums_of(always, [size * factor for size in work.weights.experts])
    return found


def _quickest(
    request: Request, config: Config, work: Work, found: list[tuple[Space, tuple[int, ...], tuple[Gpu, ...]]]
) -> tuple[Placement, tuple[int, ...]]:
    """Of the orders with the fewest experts in RAM the one whose quickest placement is the quickest."""
    if len(found) == 1 and len({gpu.bandwidth for gpu in found[0][2]}) == 1:
        return placement_in(found[0][0]), found[0][1]
    fewest = min([space.on_cpu for space, _, _ in found])
    timed = [
        (placement_in(space, _reads(request, config, work, gpus)), order)
        for space, order, gpus in found
        if space.on_cpu == fewest
    ]
    return min(timed, key=lambda one: one[0].seconds)


def orders_of(gpus: tuple[Gpu, ...]) -> list[tuple[int, ...]]:
    """GPUs in an order, by their places: all as listed; of unequal ones also the slowest first, and the fastest first
    with all slower ones or only some, since a token may be quicker without those.
    """
    listed = tuple(range(len(gpus)))
    vendors = {gpu.vendor for gpu in gpus}
    if len({gpu.bandwidth for gpu in gpus}) < 2 or len(vendors) > 1 or not vendors <= set(PIPELINE_VENDORS):
        return [listed]
    rising = sorted(listed, key=lambda place: gpus[place].bandwidth)
    falling = sorted(listed, key=lambda place: -gpus[place].bandwidth)
    rates = sorted({gpu.bandwidth for gpu in gpus})
    fast = [tuple([place for place in falling if gpus[place].bandwidth >= rate]) for rate in rates]
    return list(dict.fromkeys((listed, tuple(rising), *fast)))


def _ordered(config: Config, gpus: tuple[Gpu, ...], order: tuple[int, ...]) -> Config:
    """The configuration with its GPUs in that order: prompts take experts to the first of them."""
    assert config.group is not None
    listed = order == tuple(range(len(gpus)))
    return config._replace(gpu_order=() if listed else order, group=config.group._replace(gpu=gpus[order[0]]))


def _reads(request: Request, config: Config, work: Work, gpus: tuple[Gpu, ...]) -> Reads:
    """What a token of the demand reads of every layer, and how fast each GPU does."""
    demand, moe = request.demand, request.model.moe
    batch = min(demand.concurrency, config.sequences)
    share = distinct_experts(demand.routing, moe.experts, moe.top_k, batch) / moe.experts if moe is not None else 1.0
    held = min(batch * (demand.input_tokens + demand.output_tokens / 2) / max(work.cells.total, 1), 1.0)
    slower = fact("llama_gpu_bandwidth_fraction").value / fact("llama_attention_bandwidth_fraction").value
    always = [size + kv * held * slower for size, kv in zip(work.weights.always, work.kv, strict=True)]
    read = sums_of(always, [size * share for size in work.weights.experts])
    return Reads(read.always, read.experts, work.weights.head, [gpu.bandwidth for gpu in gpus])


def warnings_of(request: Request, config: Config, devices: list[Device], work: Work) -> tuple[str, ...]:
    """What the user should know of a configuration beside its ledgers."""
    warnings = []
    if all(device.kind == "gpu" for device in devices):
        embedding = work.weights.shards.embedding / 2**30
        warnings.append(f"the size of RAM is not known; {embedding:.1f} GiB of it hold the embedding")
    if config.disk_bytes:
        warnings.append("experts are paged from disk: a token waits for the disk; --no-repack is required")
    if NO_OFFLOAD in config.options:
        copied = work.weights.largest_expert_tensor[config.cpu_expert_layers] / 2**30
        warnings.append(f"prompts are left to the CPU: the GPU has no room for {copied:.1f} GiB of experts at a time")
    if not request.exact and request.demand.concurrency > config.sequences:
        warnings.append(f"llama-server answers {config.sequences} requests at a time, the others wait")
    return tuple(warnings)


def has_back_end(gpu: Gpu) -> bool:
    """Whether llama.cpp computes on this accelerator (CUDA, HIP, Metal, SYCL); Gaudi is not a SYCL device."""
    return gpu.vendor in ("nvidia", "amd", "apple", "intel") and not gpu.compute_capability.startswith("gaudi")


def shortage(worst: Device, config: Config) -> str:
    """Why a configuration does not fit, from its shortest device."""
    if worst.kind == "disk":
        return "the disk cannot hold the model file"
    if worst.kind == "unified":
        return "the model does not fit in the unified memory"
    if worst.kind == "gpu":
        experts = any(entry.what == ROUTED for entry in worst.entries)
        return f"{'layers' if experts else 'attention, KV cache'} and compute buffers exceed a GPU"
    if not config.placement:
        return "the model does not fit in RAM" if worst.capacity else "the size of RAM is not known (--ram)"
    if not worst.capacity:
        return "experts must leave the GPUs and the size of RAM is not known (--ram)"
    return "the experts kept in RAM exceed it"


def _largest_node(request: Request) -> int:
    nodes = request.machine.nodes
    return max(
        range(len(nodes)),
        key=lambda i: sum([gpu.visible for gpu in nodes[i].gpus]) + (nodes[i].host.ram or 0),
    )


ENGINE = LlamaCpp()
