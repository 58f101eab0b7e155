"""vLLM: equal GPUs, tensor / pipeline / data / expert parallel, a KV pool inside ``gpu_memory_utilization``.

Memory per GPU = utilisation x visible; minus weights, peak activation (measured by vLLM in a profile run), memory
outside PyTorch (collective buffers) and, since 0.20, CUDA graphs; the rest is KV cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, Literal

from formulas.units import GIB
from planner.engines import data_center
from planner.engines.base import Config, LaunchSpec, Priced, Refusal, gpu_environment, listening
from planner.engines.constraints import advice, kv_kernel, kv_kernels
from planner.engines.tensor_parallel import (
    GGUF_REASON,
    drafter_entries,
    fit,
    pool_and_devices,
    ranks_of,
    shards_of,
    weight_entries,
)
from planner.engines.vllm_loading import (
    DATA_CENTER_BLACKWELL,
    copies_projection,
    expert_padding,
    lora_entries,
    offload_devices,
    offload_entry,
    rocm_entries,
)
from planner.engines.vllm_memory import activation, vision_is_sharded
from planner.ledger import Entry, ranged
from planner.machine import Gpu
from planner.request import PricedRelease, Request
from planner.sharding import ShardTable
from profiles.engines import EngineFacts, load_engine

LARGE_GPU_BYTES: Final = 70 * GIB
HUGE_GPU_BYTES: Final = 160 * GIB
"""From these sizes on vLLM chooses larger defaults (``engine/arg_utils.py``)."""
GB10_CAPABILITY: Final = 12.1


def capture_sizes(sequences: int, limit: int = 512) -> int:
    """How many batch sizes vLLM captures as CUDA graphs for ``max_num_seqs``: 1, 2, 4, then every 8, then every 16.

    >>> capture_sizes(1024), capture_sizes(64), capture_sizes(1024, 1024)
    (51, 19, 83)
    """
    largest = min(2 * sequences, limit)
    small = sum(size <= largest for size in (1, 2, 4))
    return small + len(range(8, min(largest, 255) + 1, 8)) + len(range(256, largest + 1, 16))


@lru_cache(maxsize=1024)
def _graphs(version: str, sequences: int, layers: int, moe: bool, kind: str, amd: bool) -> Entry:
    facts = load_engine("vllm")
    sizes = capture_sizes(sequences, int(facts.at(f"largest_graph{kind}", version).value))
    parts = [
        (facts.at("graph_constant_bytes", version), 1.0),
        (facts.at("graph_bytes_per_size_and_layer", version), float(sizes * layers)),
    ]
    if moe:
        parts.append((facts.at("graph_moe_bytes", version), 1.0))
    factor = facts.at("graph_rocm_factor", version) if amd else None
    times = (factor.value, factor.low, factor.high) if factor is not None else (1.0, 1.0, 1.0)
    return ranged(
        "compute", "CUDA graphs",
        sum([fact.value * count for fact, count in parts]) * times[0],
        sum([fact.low * count for fact, count in parts]) * times[1],
        sum([fact.high * count for fact, count in parts]) * times[2],
        f"constant + {sizes} sizes x {layers} layers (+ MoE)",
        (factor or parts[0][0]).source,
    )  # fmt: skip


class Vllm:
    """The engine as the search sees it."""

    name = "vllm"
    replicas_share_experts = True

    @property
    def facts(self) -> EngineFacts:
        """Constants, defaults and flags with their versions and sources."""
        return load_engine("vllm")

    def accepts(self, release: PricedRelease) -> str:
        """vLLM loads safetensors; its GGUF support does not cover these models."""
        return "" if release.release.container == "safetensors" else GGUF_REASON

    def configurations(self, request: Request, release: PricedRelease) -> Iterator[Config | Refusal]:
        """Layouts over every group of equal GPUs."""
        for config in data_center.layouts(self, request, release, attention_dp=False):
            yield self._refused_start(config) or config

    def _refused_start(self, config: Config | Refusal) -> Refusal | None:
        """Refusal of a utilisation that more than the free memory is needed for.

        vLLM compares both before it loads anything (0.33.0 ``v1/worker/utils.py`` request_memory).
        """
        if isinstance(config, Refusal) or config.group is None or not config.utilization:
            return None
        visible = config.group.gpu.visible_high
        suffix = "tp_bytes" if config.world > 1 else "tp1_bytes"
        free = visible - self.facts.at(f"present_before_start_{suffix}", config.version).low
        if config.group.gpu.vendor == "amd" or config.utilization * visible <= free:
            return None
        return Refusal(
            config,
            f"vLLM starts only where {config.utilization:g} of the memory is free, and it is not: the CUDA context "
            f"takes {(visible - free) / GIB:.1f} GiB before",
            f"use --gpu-memory-utilization {int(1000 * free / visible) / 1000:g}",
        )

    def kv_dtypes(self, request: Request, version: str) -> tuple[str, ...]:
        """KV dtypes of the model's layout."""
        del version
        sparse = any(group.index_head_dim for group in request.model.kv_groups)
        return ("bf16", "fp8_ds_mla") if sparse else ("bf16", "fp8")

    def default_step(self, gpu: Gpu, version: str, tp: int) -> tuple[int, int]:
        """Sequences and batched tokens that the API server chooses for this GPU."""
        del tp
        facts = self.facts
        if gpu.capacity < LARGE_GPU_BYTES or "a100" in gpu.name.casefold() or gpu.cuda == GB10_CAPABILITY:
            sizes = ("max_num_seqs_small", "max_num_batched_tokens_small")
        elif gpu.capacity < HUGE_GPU_BYTES:
            sizes = ("max_num_seqs", "max_num_batched_tokens")
        else:
            sizes = ("max_num_seqs", "max_num_batched_tokens_large")
        return int(facts.at(sizes[0], version).value), int(facts.at(sizes[1], version).value)

    def refused_nodes(self, config: Config) -> tuple[str, str] | None:
        """A data-parallel replica has whole nodes, or a node has whole replicas.

        The rest is refused by vLLM 0.33.0 ``config/parallel.py`` nnodes_within_dp, or grouped otherwise than planned.
        """
        replica, on_node = config.tp * config.pp, config.world // config.nodes_used
        if config.nodes_used == 1 or on_node % replica == 0 or replica % on_node == 0:
            return None
        return (
            f"data-parallel replicas of {replica} GPUs would straddle nodes of {on_node}",
            "use a tp x pp that divides a node's GPUs or is a multiple of them",
        )

    def price(self, request: Request, release: PricedRelease, config: Config) -> Priced:
        """Weights, activation, buffers and the KV pool of every pipeline stage."""
        group = config.group
        assert group is not None
        gpu, facts, version = group.gpu, self.facts, config.version
        # vLLM takes its share of the whole GPU, and refuses to start where less than that is free.
        held = gpu.occupied
        config = config._replace(utilization=self._utilization(config, gpu))
        shards = shards_of(
            request, release, config,
            vision_sharded=vision_is_sharded(request.model, config),
            padding=expert_padding(release, gpu, facts, version),
        )  # fmt: skip
        usable = int((gpu.visible + held) * config.utilization)
        usable_low = int((gpu.visible_low + held) * config.utilization)
        usable_high = self.most_usable(request, config)
        fixed = self._fixed_entries(request, release, config, gpu, shards)
        graphs = self._graph_entry(request, config, gpu)
        kind = "_rocm" if gpu.vendor == "amd" else ""
        inside = bool(facts.at(f"graphs_inside_budget{kind}", version).value)
        copies = copies_projection(release)
        stages = []
        for stage in range(config.pp):
            entries = weight_entries(request, release, config, shards, stage, copies_projection=copies)
            entries += fixed[0] if stage == config.pp - 1 else fixed[1]
            if config.cpu_offload:
                entries.append(offload_entry(config, entries))
            if inside and graphs is not None:
                entries.append(graphs)
            stages.append((entries, usable, usable_low, usable_high))
        key = f"block_tokens {request.model.family}"
        if not facts.has_fact(key, version):
            key = "mla_block_tokens" if request.model.uses_mla else "block_tokens"
        block = int(facts.at(key, version).value)
        pool, devices = pool_and_devices(request, release, config, shards, stages, block)
        warnings = [*advice(request, release, config, facts)]
        if config.cpu_offload:
            warnings.append("offloaded weights cross PCIe in every step, which the speed does not count")
        if not inside and graphs is not None:
            suffix = "tp_bytes" if config.world > 1 else "tp1_bytes"
            outside = graphs.bytes + facts.at(f"present_before_start_{suffix}", version).value
            if outside > gpu.visible - usable:
                warnings.append(
                    f"vLLM {version} keeps CUDA graphs and start-up memory ({outside / 2**30:.1f} GiB) outside "
                    f"--gpu-memory-utilization {config.utilization:g}, which leaves "
                    f"{(gpu.visible - usable) / 2**30:.1f} GiB: lower it or use --enforce-eager"
                )
        if config.cpu_offload:
            devices = (*devices, *offload_devices(request, config))
        priced = fit(request, config, shards, pool, devices, warnings)
        if priced.verdict == "no" and min(devices, key=lambda device: device.free_high).kind == "host":
            known = all(device.capacity for device in devices)
            missing = "the offloaded weights do not fit in RAM" if known else "the size of RAM is not known (--ram)"
            priced = priced._replace(reason=missing)
        if usable_low > gpu.visible_low:
            reason = f"other processes hold {held / 2**30:.1f} GiB: vLLM starts only where its whole share is free"
            return priced._replace(verdict="no", reason=reason)
        return priced

    def most_usable(self, request: Request, config: Config) -> int:
        """Bytes of a GPU that it uses at most."""
        del request
        assert config.group is not None
        gpu = config.group.gpu
        return int((gpu.visible_high + gpu.occupied) * self._utilization(config, gpu))

    def _utilization(self, config: Config, gpu: Gpu) -> float:
        """What was asked for, else the default, or less where other processes hold memory."""
        if config.utilization:
            return config.utilization
        free = int(100 * gpu.visible_low / (gpu.visible_low + gpu.occupied)) / 100 if gpu.occupied else 1.0
        return min(self.facts.at("gpu_memory_utilization", config.version).value, free)

    def _fixed_entries(
        self, request: Request, release: PricedRelease, config: Config, gpu: Gpu, shards: ShardTable
    ) -> tuple[list[Entry], list[Entry]]:
        """Everything but weights, graphs and KV cache on the last stage, and on the others."""
        ranks = ranks_of(config)
        key = (
            "vllm fixed", gpu.key, ranks, config.pp, config.dp, config.batched_tokens, config.sequences,
            config.text_only, config.context, config.version, config.vision_sharded, config.lora, config.draft_tokens,
        )  # fmt: skip
        found = release.memo.get(key)
        if found is None:
            rest = [
                self._non_torch_entry(config, gpu),
                *lora_entries(request.model, config, ranks.tp),
                *rocm_entries(self.facts, config.version, gpu, shards),
            ]
            last = [*self._activation(request, release, config, gpu, True), *rest]
            last += drafter_entries(request, config, shards, ranks.tp)
            other = [*self._activation(request, release, config, gpu, False), *rest]
            found = release.memo[key] = (last, other)
        return found

    def _activation(
        self, request: Request, release: PricedRelease, config: Config, gpu: Gpu, head: bool
    ) -> Iterator[Entry]:
        """Peak of the profile run, and what the vision encoder adds to it."""
        facts, version = self.facts, config.version
        found = activation(request.model, release, gpu, config, ranks_of(config), facts, head=head)
        low, expected, high = found.text
        yield ranged(
            "compute", "peak activation", expected, low, high,
            "max(forward, sampler) + kept workspace of the experts; forward = max(2 T (3 ffn / TP + 4 hidden), "
            "attention, experts), sampler = c x vocabulary x sequences",
            facts.at("sampler_bytes_per_vocab_and_sequence", version).source,
        )  # fmt: skip
        if found.vision is not None:
            low, expected, high = found.vision
            yield ranged(
                "compute", "vision profile run", expected, low, high,
                "encoder outputs and input embeddings of one step, and the encoder's peak where it is the larger one",
                facts.at("vision_excess_bytes", version).source,
            )  # fmt: skip

    def _non_torch_entry(self, config: Config, gpu: Gpu) -> Entry:
        """Memory outside PyTorch: CUDA context growth and collective buffers."""
        if gpu.vendor == "amd":
            key = "non_torch_rocm_bytes"
        elif config.tp > 1 or config.ep > 1:
            key = "non_torch_tp_bytes"
        else:
            key = "non_torch_pp_bytes" if config.pp > 1 else "non_torch_tp1_bytes"
        fact = self.facts.at(key, config.version)
        evidence: Literal["measured", "assumed"] = "assumed" if gpu.vendor == "amd" else "measured"
        return ranged(
            "overhead", "memory outside PyTorch", fact.value, fact.low, fact.high, "by TP and version", fact.source,
            evidence,
        )  # fmt: skip

    def _graph_entry(self, request: Request, config: Config, gpu: Gpu) -> Entry | None:
        """CUDA graphs of every captured batch size."""
        if request.settings.enforce_eager:
            return None
        kind = "_blackwell" if int(gpu.cuda or 0) == DATA_CENTER_BLACKWELL else ""
        layers = -(-request.model.layers // config.pp)
        return _graphs(
            config.version, config.sequences, layers, request.model.moe is not None, kind, gpu.vendor == "amd"
        )

    def launch(self, request: Request, release: PricedRelease, config: Config) -> LaunchSpec:
        """``vllm serve`` with the settings that make the plan true."""
        model, version = request.model, config.version
        facts = self.facts
        arguments: list[str] = ["vllm", "serve", release.release.release or model.repository]

        def add(key: str, *values: str) -> None:
            arguments.extend((facts.flag(key, version), *values))

        add("tp", str(config.tp))
        if config.pp > 1:
            add("pp", str(config.pp))
        if config.dp > 1:
            add("dp", str(config.dp))
        if config.ep > 1:
            add("ep")
        if config.dcp > 1:
            add("dcp", str(config.dcp))
        add("utilization", f"{config.utilization:g}")
        add("context", str(config.context))
        add("sequences", str(config.sequences))
        add("batched_tokens", str(config.batched_tokens))
        kernel = config.group and kv_kernel(config.group.gpu, config.kv_dtype, kv_kernels(model, facts, version))
        if kernel or config.kv_dtype != "bf16":
            # For sparse attention vLLM would choose a dtype by the GPU.
            add("kv_dtype", kernel.value if kernel else config.kv_dtype)
        if kernel and kernel.backend:
            add("attention_backend", kernel.backend)
        block = f"block_tokens {model.family}"
        if facts.has_fact(block, version):
            add("block_tokens", str(int(facts.at(block, version).value)))
        if request.settings.enforce_eager:
            add("eager")
        if config.lora[0]:
            add("lora")
            add("max_loras", str(config.lora[0]))
            add("max_lora_rank", str(config.lora[1]))
        if config.cpu_offload:
            add("cpu_offload", f"{config.cpu_offload / GIB:g}")
        if config.draft_tokens and request.drafter is not None:
            chosen = {"method": request.drafter.method, "num_speculative_tokens": config.draft_tokens}
            named = {"model": request.drafter.release} if request.drafter.release else {}
            add("speculative", json.dumps(chosen | named))
        if model.vision is not None:
            if config.text_only:
                if facts.has_flag("text_only", version):
                    add("text_only")
                else:
                    add("media_limit", '{"image": 0, "video": 0}')
            elif facts.has_flag("vision_data_parallel", version):
                add("vision_data_parallel", "weights" if config.vision_sharded else "data")
        for kind, name in (("tool", model.tool_call_parser), ("reasoning", model.reasoning_parser)):
            parser = facts.parser(kind, name, version) if name else None
            if parser:
                if kind == "tool":
                    add("auto_tool_choice")
                add(f"{kind}_parser", parser)
        if model.trust_remote_code:
            add("trust_remote_code")
        add("served_name", model.id)
        nodes = 0 if config.group is None else -(-config.world // config.group.per_node)
        shared, here = tuple(arguments), listening(facts, version, self.name)
        if nodes <= 1:
            return LaunchSpec((*shared, *here), gpu_environment(request, config))
        per_node = []
        for rank in range(nodes):
            cluster = (
                facts.flag("nodes", version), str(nodes),
                facts.flag("node_rank", version), str(rank),
                facts.flag("head_address", version), "HEAD_ADDRESS",
            )  # fmt: skip
            tail = here if rank == 0 else (facts.flag("headless", version),)
            per_node.append((*shared, *cluster, *tail))
        return LaunchSpec(per_node[0], gpu_environment(request, config), tuple(per_node))


ENGINE = Vllm()
