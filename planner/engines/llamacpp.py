"""llama.cpp: GGUF files, layers placed one by one on any GPUs of one machine, routed experts of some in RAM or on disk.

Buffer equations: model = sum of tensor bytes; KV cells padded to 256, an MLA cache has K only; the compute buffer is
paid on every device that holds attention layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from formulas.kv_cache import UnsupportedKvDtype, padded_cells
from planner.engines.base import Config, LaunchSpec, Pool, Priced, Refusal, refused_ranks, visible_devices
from planner.kv import group_bytes_per_token, layout_name
from planner.ledger import Device, Entry, exact, ranged, verdict
from planner.machine import Gpu, GpuGroup, Host, Node
from planner.request import PricedRelease, Request
from planner.sharding import ShardTable, build_shards
from profiles.engines import EngineFacts, load_engine
from profiles.model import ModelSpec

ROUTED: Final = "routed experts"
GGUF_TENSORS: Final = "tensor list of the GGUF release"
LARGE_UBATCH: Final = 4096
CACHE_TYPES: Final = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
"""What --cache-type-k and --cache-type-v take. Source: llama.cpp common/arg.cpp."""
PLAIN_CACHE_TYPES: Final = ("f32", "f16", "bf16")
ASSUMED_LOW, ASSUMED_HIGH = 0.97, 1.03
"""Range of weights whose tensor types are not exactly known."""
KV_SOURCE: Final = "llama.cpp KV cells, verified to the byte"


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
        node_index = _largest_node(request)
        node = request.machine.nodes[node_index]
        gpus = [gpu for gpu in node.gpus if gpu.vendor in ("nvidia", "amd", "apple", "intel")]
        narrow = request.narrow
        ranks = (("tp", narrow.tp), ("pp", narrow.pp), ("dp", narrow.dp), ("ep", narrow.ep), ("dcp", narrow.dcp))
        refused = refused_ranks("llama.cpp places layers, it has no", ranks) or self._refused_cache(request)
        if refused:
            yield refused
            return
        group = GpuGroup(gpus[0], len(gpus), (node_index,)) if gpus else None
        for dtype in self._kv_dtypes(request):
            try:
                cell_bytes(request.model, dtype, request.settings.cache_type_v)
            except UnsupportedKvDtype as error:
                yield Refusal(None, str(error), "use --kv-dtype f16")
                continue
            base = Config(
                self.name,
                request.narrow.engine_version or self.facts.default_version,
                group,
                kv_dtype=dtype,
                context=request.demand.context,
                batched_tokens=request.settings.ubatch or int(self.facts.at("ubatch", "0").value),
                sequences=request.settings.sequences or (1 if request.exact else request.demand.concurrency),
                text_only=True,
                placement=(0,) * len(gpus),
            )
            yield base
            if request.settings.ubatch is None and not request.exact and gpus:
                # Prompts stream the experts in RAM over PCIe once per micro-batch.
                yield base._replace(batched_tokens=LARGE_UBATCH)

    def _kv_dtypes(self, request: Request) -> tuple[str, ...]:
        wanted = request.settings.cache_type_k or request.narrow.kv_dtype
        if wanted:
            return ("f16" if wanted == "bf16" and request.settings.cache_type_k is None else wanted,)
        return ("f16",) if request.exact else ("f16", "q8_0")

    def _refused_cache(self, request: Request) -> Refusal | None:
        """Refusal of cache types that llama.cpp does not have, or not together."""
        settings = request.settings
        for flag, dtype in (
            ("--kv-dtype or --cache-type-k", self._kv_dtypes(request)[0]),
            ("--cache-type-v", settings.cache_type_v),
        ):
            if dtype is not None and dtype not in CACHE_TYPES:
                return Refusal(None, f"llama.cpp has no {dtype} KV cache", f"use {flag} {', '.join(CACHE_TYPES)}")
        value_type = settings.cache_type_v or self._kv_dtypes(request)[0]
        if settings.flash_attention is False and value_type not in PLAIN_CACHE_TYPES:
            return Refusal(None, f"llama.cpp needs flash attention for a V cache in {value_type}", "leave it on")
        return None

    def price(self, request: Request, release: PricedRelease, config: Config) -> Priced:
        """Place the layers, then write the ledger of every GPU, of RAM and of the disk."""
        node = request.machine.nodes[config.group.nodes[0] if config.group else _largest_node(request)]
        model = request.model
        shards = _shards(request, release)
        cells = self.cells(request, config)
        per_layer_kv = cells * cell_bytes(model, config.kv_dtype, request.settings.cache_type_v) if model.layers else 0
        gpus = node.gpus[: len(config.placement)]
        if not gpus:
            return self._price_host_only(request, release, config, node, shards, cells, per_layer_kv)
        placed, cpu_layers = self._place(request, release, config, node, shards, per_layer_kv, cells)
        config = config._replace(placement=placed, cpu_expert_layers=cpu_layers)
        return self._ledger(request, release, config, node, shards, cells, per_layer_kv)

    def cells(self, request: Request, config: Config) -> int:
        """KV cells over all sequences: the context in exact mode, else what the demand needs, unified."""
        if request.exact:
            unified = request.settings.kv_unified
            return padded_cells(config.context, config.sequences, unified is not False or config.sequences == 1)
        needed = request.demand.required_tokens() if request.workload_given else config.context
        return padded_cells(needed)

    def _place(
        self,
        request: Request,
        release: PricedRelease,
        config: Config,
        node: Node,
        shards: ShardTable,
        kv: int,
        cells: int,
    ) -> tuple[tuple[int, ...], int]:
        """Layers per GPU and the fewest layers whose experts must leave the GPUs; the placement fills each GPU."""
        gpus = node.gpus[: len(config.placement)]
        context = self.facts.at("gpu_context_bytes", "0")
        compute = self.compute_entry(request, config, cells, on_gpu=True)
        expert_sizes = [layer.expert * layer.experts for layer in shards.layers]
        first_moe = next((i for i, size in enumerate(expert_sizes) if size), 0)
        for pessimistic in (True, False):
            # What the ledger may count is what has to fit, so weights of an assumed mixture are placed at that size.
            factor = 1.0 if release.tensors.evidence == "exact" else ASSUMED_HIGH if pessimistic else ASSUMED_LOW
            head = (shards.lm_head + shards.norms) * factor
            always = [layer.always * factor + kv for layer in shards.layers]
            experts = [size * factor for size in expert_sizes]
            caps = [
                (gpu.visible_low - context.high - compute.high) if pessimistic else (gpu.visible_high - context.low - compute.low)
                for gpu in gpus
            ]  # fmt: skip
            if request.settings.n_cpu_moe is not None:
                on_cpu = min(request.settings.n_cpu_moe, model_layers(shards))
                placed = balanced(always, experts, on_cpu, caps, head)
                if placed is not None:
                    return placed, on_cpu
                continue
            low, high = 0, len(always)
            best: tuple[tuple[int, ...], int] | None = None
            while low <= high:
                middle = (low + high) // 2
                placed = balanced(always, experts, middle, caps, head)
                if placed is None:
                    low = middle + 1
                else:
                    best, high = (placed, middle), middle - 1
            if best is not None:
                placed, on_cpu = best
                return placed, 0 if on_cpu <= first_moe else on_cpu
        layers, wanted = model_layers(shards), request.settings.n_cpu_moe
        share = -(-layers // len(gpus))
        spread = [max(0, min(share, layers - share * i)) for i in range(len(gpus))]
        return tuple(spread), layers if wanted is None else min(wanted, layers)

    def _ledger(
        self,
        request: Request,
        release: PricedRelease,
        config: Config,
        node: Node,
        shards: ShardTable,
        cells: int,
        kv: int,
    ) -> Priced:
        gpus = node.gpus[: len(config.placement)]
        devices: list[Device] = []
        unified = gpus[0].unified
        first = 0
        context = self.facts.at("gpu_context_bytes", "0")
        compute = self.compute_entry(request, config, cells, on_gpu=True)
        on_cpu = config.cpu_expert_layers
        in_ram = sum([layer.expert * layer.experts for layer in shards.layers[:on_cpu]])
        for index, (gpu, count) in enumerate(zip(gpus, config.placement, strict=True)):
            stop = first + count
            layers = shards.layers[first:stop]
            if not count and index < len(gpus) - 1:
                continue
            experts = sum([layer.expert * layer.experts for i, layer in enumerate(layers, first) if i >= on_cpu])
            entries = [
                self._weights(
                    release,
                    f"layers {first}-{stop - 1} without routed experts",
                    sum([layer.always for layer in layers]),
                ),
                self._weights(release, ROUTED, experts),
            ]
            if index == len(gpus) - 1:
                entries.append(self._weights(release, "head and final norm", shards.lm_head + shards.norms))
            if unified:
                entries.append(
                    self._weights(release, "embedding and experts in the same memory", shards.embedding + in_ram)
                )
            entries.append(self._kv_entry(request, config, kv * count))
            entries.append(compute)
            entries.append(
                ranged(
                    "overhead",
                    "driver context",
                    context.value,
                    context.low,
                    context.high,
                    "constant",
                    context.source,
                    "assumed",
                )
            )
            devices.append(_gpu_device(gpu, index, tuple([entry for entry in entries if entry.bytes or entry.high])))
            first = stop
        disk_bytes = 0
        if not unified:
            host, disk_bytes = self._host_device(request, release, config, node, shards, cells, in_ram, 0)
            devices.extend(host)
        config = config._replace(disk_bytes=disk_bytes)
        return self._priced(request, config, devices, shards, cells, kv, in_ram)

    def _price_host_only(
        self,
        request: Request,
        release: PricedRelease,
        config: Config,
        node: Node,
        shards: ShardTable,
        cells: int,
        kv: int,
    ) -> Priced:
        everything = shards.cumulative[-1] + shards.lm_head + shards.norms
        in_ram = sum([layer.expert * layer.experts for layer in shards.layers])
        config = config._replace(cpu_expert_layers=model_layers(shards))
        devices, disk_bytes = self._host_device(
            request, release, config, node, shards, cells, everything, kv * len(shards.layers)
        )
        config = config._replace(disk_bytes=disk_bytes)
        return self._priced(request, config, list(devices), shards, cells, kv, in_ram)

    def _host_device(
        self,
        request: Request,
        release: PricedRelease,
        config: Config,
        node: Node,
        shards: ShardTable,
        cells: int,
        weights: int,
        kv: int,
    ) -> tuple[tuple[Device, ...], int]:
        """RAM and, when the weights exceed it and a disk is known, the part paged from disk."""
        host: Host = node.host
        compute = self.compute_entry(request, config, cells, on_gpu=False, attention=bool(kv))
        reserve = self.facts.at("os_reserve_bytes", "0")
        others = [compute]
        if host.ram_source == "flags":
            others.append(
                ranged(
                    "overhead",
                    "operating system",
                    reserve.value,
                    reserve.low,
                    reserve.high,
                    "constant",
                    reserve.source,
                    "assumed",
                )
            )
        if kv:
            others.append(self._kv_entry(request, config, kv))
        resident = weights + shards.embedding
        experts = sum([layer.expert * layer.experts for layer in shards.layers[: config.cpu_expert_layers]])
        if host.ram is None and not experts and config.placement:
            return (), 0
        ram = host.ram or 0
        paged = 0
        room = ram - sum([entry.high for entry in others])
        if resident > room and node.disk.free is not None and experts and room > resident - experts:
            paged = resident - max(room, 0)
        mapped = "weights in RAM (mapped file)"
        entries = [
            # What is paged fills the room there is, however large the file turns out to be.
            exact("weights", mapped, resident - paged, "what the rest of RAM leaves", GGUF_TENSORS)
            if paged
            else self._weights(release, mapped, resident),
            *others,
        ]
        devices = [Device(0, "host", 0, 1, host.name, ram, ram, ram, ram, ram, tuple(entries))]
        if paged:
            free = node.disk.free or 0
            file_bytes = release.tensors.bytes
            devices.append(
                Device(0, "disk", 0, 1, "disk", free, free, free, free, free, (
                    exact("weights", "model file, paged through RAM", file_bytes, "bytes of the release", GGUF_TENSORS),
                ))
            )  # fmt: skip
        return tuple(devices), paged

    def batch(self, request: Request, config: Config) -> int:
        """The logical batch: the default, or the micro-batch where that is larger."""
        return request.settings.batch or max(int(self.facts.at("batch", "0").value), config.batched_tokens)

    def compute_entry(
        self, request: Request, config: Config, cells: int, *, on_gpu: bool, attention: bool = False
    ) -> Entry:
        """The compute buffer of one device: u (2 see + 4 (c E + max(out, moe, dense, attention)) + 28) with flash attention."""
        model, facts = request.model, self.facts
        u = min(config.batched_tokens, self.batch(request, config), cells)
        source = "llama.cpp graph buffers, measured through its own memory breakdown"
        if on_gpu or attention:
            expected = compute_buffer_bytes(
                model, u, cells, config.sequences, int(facts.at("compute_hidden_copies", config.version).value),
                flash=request.settings.flash_attention is not False,
            )  # fmt: skip
            high = expected * 1.05
            if on_gpu and model.uses_mla:
                seen = facts.at("gpu_attention_bytes_per_cell_and_head", "0").value * model.heads * cells
                high = max(high, seen + facts.at("gpu_compute_bytes_per_ubatch_token", "0").value * u)
            return ranged(
                "compute",
                "compute buffer",
                expected,
                expected * 0.95,
                high,
                "u (2 see + 4 (5 E + widest) + 28)",
                source,
            )
        mask = facts.at("host_mask_bytes_per_cell", "0")
        sizes = [u * (rate * cells + 4 * model.hidden) for rate in (mask.value, mask.low, mask.high)]
        return ranged(
            "compute",
            "host compute buffer",
            sizes[0],
            sizes[1],
            sizes[2],
            "u (4 cells + 4 hidden)",
            mask.source,
        )

    def _weights(self, release: PricedRelease, what: str, size: int) -> Entry:
        if release.tensors.evidence == "exact":
            return exact("weights", what, size, "sum of tensor bytes", GGUF_TENSORS)
        return ranged(
            "weights",
            what,
            size,
            size * ASSUMED_LOW,
            size * ASSUMED_HIGH,
            "sum of tensor bytes, scaled to the published size",
            GGUF_TENSORS,
            "assumed",
        )

    def _kv_entry(self, request: Request, config: Config, size: int) -> Entry:
        name = f"KV cache, {layout_name(request.model)} {config.kv_dtype}"
        return exact("kv_cache", name, size, "layers x cells x bytes per cell", KV_SOURCE)

    def _priced(
        self,
        request: Request,
        config: Config,
        devices: list[Device],
        shards: ShardTable,
        cells: int,
        kv: int,
        in_ram: int,
    ) -> Priced:
        result = verdict(devices)
        total_kv = kv * len(shards.layers)
        per_token = total_kv / cells
        demand = request.demand
        each = demand.input_tokens + demand.output_tokens
        pool = Pool(
            per_token, total_kv, total_kv, total_kv, cells, cells,
            demand.required_tokens(), total_kv, int(per_token * demand.context), int(per_token * each),
        )  # fmt: skip
        reason = ""
        if result == "no":
            reason = shortage(min(devices, key=lambda device: device.free_high), config)
        warnings = []
        if all(device.kind == "gpu" for device in devices):
            warnings.append(
                f"the size of RAM is not known; {shards.embedding / 2**30:.1f} GiB of it hold the embedding"
            )
        if config.disk_bytes:
            warnings.append("experts are paged from disk: a token waits for the disk; --no-repack is required")
        return Priced(config, tuple(devices), pool, shards, result, reason, tuple(warnings), in_ram)

    def launch(self, request: Request, release: PricedRelease, config: Config) -> LaunchSpec:
        """``llama-server`` with the placement written out."""
        model = request.model
        total = self.cells(request, config)
        arguments = [
            "llama-server", "--model", f"{release.release.release or release.release.quantization}.gguf",
            "--ctx-size", str(total), "--parallel", str(config.sequences),
            "--batch-size", str(self.batch(request, config)),
            "--ubatch-size", str(config.batched_tokens),
            "--flash-attn", "off" if request.settings.flash_attention is False else "on", "--cache-type-k", config.kv_dtype, "--cache-type-v", request.settings.cache_type_v or config.kv_dtype,
            "--fit", "off",
        ]  # fmt: skip
        if config.sequences > 1:
            arguments.append("--kv-unified")
        if config.placement:
            arguments += ["--n-gpu-layers", "999"]
            if len(config.placement) > 1:
                # The output layer counts as one more layer, and the plan has it on the last GPU.
                shares = (*config.placement[:-1], config.placement[-1] + 1)
                arguments += ["--tensor-split", ",".join(str(share) for share in shares)]
            if config.cpu_expert_layers:
                arguments += ["--n-cpu-moe", str(config.cpu_expert_layers)]
        else:
            arguments += ["--n-gpu-layers", "0"]
        if config.disk_bytes:
            arguments.append(self.facts.flag("no_repack", config.version))
        arguments += ["--jinja", "--alias", model.id, "--host", "127.0.0.1", "--port", "8080"]
        node = request.machine.nodes[config.group.nodes[0]] if config.group else None
        used = [gpu.driver_index for gpu in node.gpus[: len(config.placement)]] if node else []
        return LaunchSpec(tuple(arguments), visible_devices(node, used) if node else {})


def compute_buffer_bytes(
    model: ModelSpec, u: int, cells: int, outputs: int, hidden_copies: int, *, flash: bool
) -> float:
    """llama.cpp's graph buffer in bytes for a micro-batch of ``u`` tokens that see ``cells`` cells.

    Verified within 1 % on 405 of 423 MLA files against the library's own breakdown.
    """
    group = model.kv_groups[0]
    embedding = model.hidden
    out = model.vocab * min(u, outputs) / u
    moe = 0
    if model.moe is not None:
        width = model.moe.expert_ffn
        moe = model.moe.top_k * (3 * width + (embedding if embedding > 2 * width else 0))
    if group.layout == "mla":
        attention = model.heads * (2 * group.kv_lora_rank + group.rope_dim + model.q_head_dim)
    else:
        attention = model.heads * 3 * model.q_head_dim
    mask = 2 * cells
    if not flash:
        mask, attention = 4 * cells, attention + model.heads * cells
    return u * (mask + 4 * (hidden_copies * embedding + max(out, moe, 3 * model.dense_ffn, attention)) + 28)


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


def cell_bytes(model: ModelSpec, dtype: str, dtype_v: str | None = None) -> int:
    """Bytes of one KV cell averaged over layers (all layers of these models cache alike in llama.cpp)."""
    sizes = [group_bytes_per_token(group, dtype, 1, dtype_v) * len(group.layers) for group in model.kv_groups]
    total = sum(sizes)
    return total // max(sum([len(group.layers) for group in model.kv_groups]), 1)


def model_layers(shards: ShardTable) -> int:
    """Number of layers in the table."""
    return len(shards.layers)


def balanced(
    always: list[float], experts: list[float], on_cpu: int, caps: list[float], head: float
) -> tuple[int, ...] | None:
    """Contiguous layers per GPU such that each stays below its cap, filling from the first GPU; None if impossible."""
    counts = [0] * len(caps)
    gpu, used = 0, 0.0
    last = len(caps) - 1
    for layer, size in enumerate(always):
        size += experts[layer] if layer >= on_cpu else 0
        while used + size + (head if gpu == last else 0) > caps[gpu]:
            gpu, used = gpu + 1, 0.0
            if gpu > last:
                return None
        used += size
        counts[gpu] += 1
    if gpu < last and head > caps[last]:
        return None
    return tuple(counts)


def _shards(request: Request, release: PricedRelease) -> ShardTable:
    found = release.memo.get("llama.cpp shards")
    if found is None:
        found = release.memo["llama.cpp shards"] = build_shards(
            request.model, release.tensors.groups, tp=1, expert_tp=1, expert_ranks=1, vision_sharded=False,
            scale=release.tensors.scale,
        )  # fmt: skip
    return found


def _largest_node(request: Request) -> int:
    nodes = request.machine.nodes
    return max(
        range(len(nodes)),
        key=lambda i: sum([gpu.visible for gpu in nodes[i].gpus]) + (nodes[i].host.ram or 0),
    )


def _gpu_device(gpu: Gpu, index: int, entries: tuple[Entry, ...]) -> Device:
    return Device(
        0,
        "unified" if gpu.unified else "gpu",
        index,
        1,
        gpu.name,
        gpu.capacity,
        gpu.visible,
        gpu.visible,
        gpu.visible_low,
        gpu.visible_high,
        entries,
    )


ENGINE = LlamaCpp()
