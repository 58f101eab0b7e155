"""KTransformers (sglang-kt with kt-kernel): attention and shared experts on GPUs, routed experts in RAM on the CPU.

Whether experts that also sit on a GPU still occupy RAM is contested by the sources; the RAM entry carries both bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from planner.engines import data_center
from planner.engines.base import (
    Config,
    LaunchSpec,
    Priced,
    Refusal,
    gpu_environment,
    listening,
    powers_of_two,
    refused_ranks,
)
from planner.engines.constraints import refused_layout, unsupported_gpu
from planner.engines.llamacpp import ENGINE as LLAMA_CPP
from planner.engines.sglang import kv_cache_dtype, vision_stays
from planner.engines.tensor_parallel import CHECKPOINT, absorbed_mla_bytes, fit, pool_and_devices, shards_of
from planner.ledger import Device, Entry, exact, ranged
from planner.request import PricedRelease, Request
from profiles.engines import EngineFacts, load_engine

CPU_METHODS: Final = {
    "int4_g32": ("RAWINT4", ("avx512f", "avx2")),
    "fp8_block128": ("FP8", ("avx512f", "avx2")),
    "bf16": ("BF16", ("avx512f", "avx2")),
}
"""kt-kernel method and the CPU flags that can run it, best first, by the experts' storage format.

Source: kt-kernel 0.7.2 ``kt_kernel/utils/amx.py``: each has an AVX-512 or AMX kernel, and one for AVX2.
"""
GPU_EXPERT_STEPS: Final = (0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 180, 256)


class KTransformers:
    """The engine as the search sees it."""

    name = "ktransformers"

    @property
    def facts(self) -> EngineFacts:
        """Constants with their sources."""
        return load_engine("ktransformers")

    def accepts(self, release: PricedRelease) -> str:
        """kt-kernel runs the checkpoint's own INT4, FP8 or bf16 experts."""
        if release.release.container != "safetensors":
            return "KTransformers is planned with the checkpoint's own experts (kt-kernel), not with this container"
        if release.expert_format not in CPU_METHODS:
            return f"kt-kernel has no CPU kernel here for experts stored as {release.expert_format}"
        return ""

    def configurations(self, request: Request, release: PricedRelease) -> Iterator[Config | Refusal]:
        """GPU experts per layer from none to all that fit, on one node."""
        moe, version = request.model.moe, request.narrow.engine_version or self.facts.default_version
        if moe is None:
            yield Refusal(None, "KTransformers is for mixtures of experts", "use another engine")
            return
        kv_dtype = "bf16" if request.narrow.kv_dtype in (None, "f16") else request.narrow.kv_dtype
        unknown = data_center.unknown_kv(self.name, (kv_dtype,), ())
        narrow, groups = request.narrow, request.machine.groups()
        other_ranks = refused_ranks(
            "KTransformers shards by tp only, it has no",
            (("pp", narrow.pp), ("dp", narrow.dp), ("ep", narrow.ep), ("dcp", narrow.dcp)),
        )
        refused = unknown or other_ranks or vision_stays(request)
        if refused or not groups:
            yield refused or Refusal(None, "KTransformers needs an NVIDIA GPU", "use llama.cpp")
            return
        for group in groups:
            if group.gpu.vendor != "nvidia":
                yield Refusal(None, "KTransformers needs an NVIDIA GPU", "use llama.cpp")
                continue
            problem = unsupported_gpu(group.gpu, release)
            if problem:
                yield Refusal(None, problem, "use llama.cpp")
                continue
            flags = request.machine.nodes[group.nodes[0]].host.flags
            method, needed = CPU_METHODS[release.expert_format]
            if flags and not flags & set(needed):
                yield Refusal(None, f"{method} needs a CPU with {' or '.join(needed)}", "use llama.cpp")
                continue
            chunk = int(self.facts.at("chunked_prefill", version).value)
            tps = (narrow.tp,) if narrow.tp else (group.per_node,) if request.exact else powers_of_two(group.per_node)
            for tp in tps:
                base = Config(
                    self.name, version, group._replace(nodes=group.nodes[:1]), tp=tp,
                    kv_dtype=kv_dtype,
                    utilization=request.settings.utilization or self.facts.at("mem_fraction_static", version).value,
                    context=request.demand.context,
                    batched_tokens=request.settings.max_num_batched_tokens or chunk,
                    sequences=request.settings.max_num_seqs or request.demand.concurrency,
                    cpu_expert_layers=len(moe.layers),
                )  # fmt: skip
                layout = refused_layout(request, release, base, self.facts)
                if layout:
                    yield Refusal(base, *layout)
                    continue
                for on_gpu in GPU_EXPERT_STEPS:
                    if on_gpu < moe.experts and (on_gpu or not request.exact):
                        yield base._replace(gpu_experts_per_layer=on_gpu)
                        if request.exact:
                            break

    def price(self, request: Request, release: PricedRelease, config: Config) -> Priced:
        """GPU: everything but routed experts, the chosen GPU experts, KV. RAM: the experts."""
        assert config.group is not None and request.model.moe is not None
        group, gpu, facts, model = config.group, config.group.gpu, self.facts, request.model
        moe = request.model.moe
        shards = shards_of(request, release, config, vision_sharded=False)
        whole = routed_expert_bytes(release)
        expert_layer = sum([shard.expert for shard in shards.layers])
        on_gpu = expert_layer * config.gpu_experts_per_layer
        always = shards.always + shards.embedding + shards.lm_head + shards.norms
        always += 0 if config.text_only else shards.vision
        overhead, prefill = (
            facts.at("gpu_overhead_bytes", config.version),
            facts.at("layerwise_prefill_layers", config.version),
        )
        layer = max([shard.expert for shard in shards.layers]) * moe.experts
        absorbed = absorbed_mla_bytes(model, config.tp, 0, model.layers)
        entries: list[Entry] = [
            exact(
                "weights",
                "everything but routed experts",
                always,
                f"sum of shards, tp {config.tp}",
                CHECKPOINT,
            ),
            exact(
                "weights",
                "routed experts on the GPU",
                on_gpu,
                f"{config.gpu_experts_per_layer} per layer",
                CHECKPOINT,
            ),
            exact(
                "weights",
                "absorbed MLA projections",
                absorbed,
                "2 x layers x heads / tp x (nope + v) x rank",
                CHECKPOINT,
            ),
            ranged(
                "compute",
                "layer-wise prefill buffer",
                prefill.value * layer,
                prefill.low * layer,
                prefill.high * layer,
                "routed experts of one layer / tp",
                prefill.source,
            ),
            ranged(
                "overhead",
                "activation and CUDA context",
                overhead.value,
                overhead.low,
                overhead.high,
                "constant",
                overhead.source,
            ),
        ]
        visible = (gpu.visible, gpu.visible_low, gpu.visible_high)
        pool, devices = pool_and_devices(request, release, config, shards, [(entries, *visible)], 1)
        host = request.machine.nodes[group.nodes[0]].host
        copies = host.sockets if facts.at("copies_per_numa_node", config.version).value else 1
        whole *= copies
        in_ram = whole - whole * config.gpu_experts_per_layer // moe.experts
        ram = host.ram or 0
        extra = facts.at("host_overhead_bytes", config.version)
        reserve = LLAMA_CPP.facts.at("os_reserve_bytes", "0")
        host_entries = [
            ranged(
                "weights",
                "routed experts in RAM",
                in_ram,
                in_ram,
                whole,
                "all experts; those on a GPU may or may not be freed" + (f"; {copies} copies" if copies > 1 else ""),
                "kvcache-ai/ktransformers issue 1816 and guides conflict",
            ),
            ranged(
                "overhead",
                "engine in RAM",
                extra.value,
                extra.low,
                extra.high,
                "constant",
                extra.source,
                "measured",
            ),
        ]
        if host.ram_source == "flags":
            host_entries.append(
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
        ram_device = Device(0, "host", 0, 1, host.name, ram, ram, ram, ram, ram, tuple(host_entries))
        everything = (*devices, ram_device)
        priced = fit(request, config, shards, pool, everything, cpu_warnings(release, host.flags))
        if priced.verdict == "no" and min(everything, key=lambda device: device.free_high).kind == "host":
            known = "the routed experts do not fit in RAM" if host.ram else "the size of RAM is not known (--ram)"
            priced = priced._replace(reason=known)
        return priced._replace(cpu_expert_bytes=in_ram)

    def launch(self, request: Request, release: PricedRelease, config: Config) -> LaunchSpec:
        """sglang-kt's server with kt-kernel arguments."""
        model, facts, version = request.model, self.facts, config.version
        host = request.machine.nodes[config.group.nodes[0] if config.group else 0].host
        method = CPU_METHODS[release.expert_format][0]
        name = release.release.release or model.repository
        arguments = ["python3", "-m", "sglang.launch_server"]

        def add(key: str, *values: str) -> None:
            arguments.extend((facts.flag(key, version), *values))

        add("model", name)
        add("cpu_weights", name)
        add("cpu_method", method)
        add("cpu_threads", str(host.cores or 1))
        add("cpu_pools", str(host.sockets))
        add("gpu_experts", str(config.gpu_experts_per_layer))
        add("tp", str(config.tp))
        add("utilization", f"{config.utilization:g}")
        add("batched_tokens", str(config.batched_tokens))
        add("context", str(config.context))
        add("sequences", str(config.sequences))
        add("shared_experts_apart")
        kv_dtype = kv_cache_dtype(request, config)
        if kv_dtype:
            add("kv_dtype", kv_dtype)
        if request.settings.enforce_eager:
            add("eager")
        for kind, card in (("tool", model.tool_call_parser), ("reasoning", model.reasoning_parser)):
            parser = facts.parser(kind, card, version) if card else None
            if parser:
                add(f"{kind}_parser", parser)
        if model.trust_remote_code:
            add("trust_remote_code")
        add("served_name", model.id)
        arguments += listening(facts, version, self.name)
        return LaunchSpec(tuple(arguments), gpu_environment(request, config))


def cpu_warnings(release: PricedRelease, flags: frozenset[str]) -> list[str]:
    """What is not certain of the CPU: instruction sets that are not known, or only the slower one."""
    method, needed = CPU_METHODS[release.expert_format]
    if not flags:
        return [f"{method} needs a CPU with {' or '.join(needed)}: the CPU of this machine is not known (--cpu)"]
    if needed[0] not in flags:
        return [f"{method} falls back to {needed[-1]} on this CPU: the kernels for {needed[0]} are faster"]
    return []


def routed_expert_bytes(release: PricedRelease) -> int:
    """Bytes of all routed experts of a release, whole."""
    return sum([group.bytes for group in release.tensors.groups if group.tensor_class == "routed_experts"])


ENGINE = KTransformers()
