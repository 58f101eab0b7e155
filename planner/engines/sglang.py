"""SGLang: as vLLM on equal GPUs, but the static pool is a fraction of memory and activation lies outside it.

Data parallelism without attention data parallelism starts whole engines side by side, on one node only (SGLang
``srt/server_args.py`` check_server_args).

KV = memory free after loading - capacity x (1 - mem_fraction_static); the default fraction follows a published rule.
"""

from __future__ import annotations

from collections.abc import Iterator

from formulas.units import MIB
from planner.engines import data_center
from planner.engines.base import Config, LaunchSpec, Priced, Refusal, gpu_environment, listening
from planner.engines.constraints import advice
from planner.engines.sglang_memory import default_fraction, defaults
from planner.engines.tensor_parallel import (
    GGUF_REASON,
    drafter_entries,
    fit,
    pool_and_devices,
    ranks_of,
    shards_of,
    weight_entries,
)
from planner.ledger import Entry, Kind, exact, ranged
from planner.machine import Gpu
from planner.request import PricedRelease, Request
from planner.sharding import ShardTable
from profiles.engines import EngineFacts, Fact, load_engine
from profiles.serving import load_serving


class Sglang:
    """The engine as the search sees it."""

    name = "sglang"
    replicas_share_experts = False

    @property
    def facts(self) -> EngineFacts:
        """Constants, defaults and flags with their versions and sources."""
        return load_engine("sglang")

    def accepts(self, release: PricedRelease) -> str:
        """SGLang loads safetensors here."""
        return "" if release.release.container == "safetensors" else GGUF_REASON

    def configurations(self, request: Request, release: PricedRelease) -> Iterator[Config | Refusal]:
        """Layouts over every group of equal GPUs, with attention data parallelism inside tp."""
        stays = vision_stays(request)
        if stays:
            yield stays
            return
        yield from data_center.layouts(self, request, release, attention_dp=True)

    def kv_dtypes(self, request: Request, version: str) -> tuple[str, ...]:
        """KV dtypes of the model's layout."""
        del version
        sparse = any(group.index_head_dim for group in request.model.kv_groups)
        return ("bf16", "fp8_ds_mla") if sparse else ("bf16", "fp8")

    def default_step(self, gpu: Gpu, version: str, tp: int) -> tuple[int, int]:
        """Largest decode graph and prefill chunk that SGLang chooses for this GPU."""
        chosen = defaults(gpu.capacity / MIB, tp, self.facts, version)
        return chosen.graph_batch, chosen.chunked_prefill

    def refused_nodes(self, config: Config) -> tuple[str, str] | None:
        """A pipeline stage has whole nodes, or a node has whole stages.

        SGLang 0.5.23 ``srt/entrypoints/engine.py`` _calculate_rank_ranges rounds the stages of a node down, and starts
        the rest nowhere.
        """
        if config.pp % config.nodes_used == 0 or config.nodes_used % config.pp == 0:
            return None
        return (
            f"{config.pp} pipeline stages do not divide over {config.nodes_used} nodes",
            f"use a pp that is a multiple or a divisor of {config.nodes_used}",
        )

    def price(self, request: Request, release: PricedRelease, config: Config) -> Priced:
        """Weights, what loading loses, and the pool that the fraction leaves."""
        group = config.group
        assert group is not None
        gpu, facts, version = group.gpu, self.facts, config.version
        fraction = self._fraction(request, config)
        shards = shards_of(request, release, config, vision_sharded=False)
        before, growth = self._start(config, gpu)
        # SGLang prints what loading took of the device, so that on ROCm the growth is part of its weights.
        kind: Kind = "weights" if gpu.vendor == "amd" else "overhead"
        fixed = [
            *self._replicas(config, gpu, shards),
            ranged(
                kind, "CUDA context and collective buffers", growth.value, growth.low, growth.high,
                "what loading takes beside the weights", growth.source, "measured",
            ),
        ]  # fmt: skip
        usable = [
            int((gpu.visible - before.value) * fraction),
            int((gpu.visible_low - before.high) * fraction),
            self.most_usable(request, config),
        ]
        stages = []
        for stage in range(config.pp):
            entries = weight_entries(request, release, config, shards, stage, copies_projection=True) + fixed
            if stage == config.pp - 1:
                entries += drafter_entries(request, config, shards, ranks_of(config).tp)
            stages.append((entries, usable[0], usable[1], usable[2]))
        page = int(facts.at("page_tokens_mla" if request.model.uses_mla else "page_tokens", version).value)
        pool, devices = pool_and_devices(request, release, config, shards, stages, page)
        warnings = [*advice(request, release, config, facts)]
        return fit(request, config._replace(utilization=fraction), shards, pool, devices, warnings)

    def most_usable(self, request: Request, config: Config) -> int:
        """Bytes of a GPU that it uses at most."""
        assert config.group is not None
        gpu = config.group.gpu
        return int((gpu.visible_high - self._start(config, gpu)[0].low) * self._fraction(request, config))

    def _fraction(self, request: Request, config: Config) -> float:
        """``mem_fraction_static``."""
        graphs = not request.settings.enforce_eager
        return config.utilization or default_fraction(request.model, config, self.facts, graphs=graphs)

    def _start(self, config: Config, gpu: Gpu) -> tuple[Fact, Fact]:
        """Bytes gone before the free memory is measured, and those that loading takes beside weights."""
        facts, version = self.facts, config.version
        if gpu.vendor == "amd":
            return facts.at("before_load_rocm_bytes", version), facts.at("load_growth_rocm_bytes", version)
        key = "before_load_tp_bytes" if config.world > 1 else "before_load_tp1_bytes"
        return facts.at(key, version), facts.at("load_growth_bytes", version)

    def _replicas(self, config: Config, gpu: Gpu, shards: ShardTable) -> Iterator[Entry]:
        """Shared experts that old versions copy once per rank on ROCm, less the share that each rank has anyway."""
        fact = self.facts.at("replicated_shared_experts_rocm", config.version)
        shared = sum([shard.shared for shard in shards.layers])
        if fact.value and gpu.vendor == "amd" and shared and config.tp > 1:
            yield exact(
                "weights", "copies of the shared experts", shared * (config.tp - 1), "shared experts x (tp - 1) / tp",
                fact.source,
            )  # fmt: skip

    def launch(self, request: Request, release: PricedRelease, config: Config) -> LaunchSpec:
        """``python -m sglang.launch_server`` with the settings that make the plan true."""
        model, version, facts = request.model, config.version, self.facts
        arguments = ["python3", "-m", "sglang.launch_server"]

        def add(key: str, *values: str) -> None:
            arguments.extend((facts.flag(key, version), *values))

        add("model", release.release.release or model.repository)
        add("tp", str(config.tp))
        if config.pp > 1:
            add("pp", str(config.pp))
        if config.dp > 1:
            add("dp", str(config.dp))
            if config.attention_dp:
                add("attention_dp")
        if config.ep > 1:
            add("ep", str(config.ep))
        if config.dcp > 1:
            add("dcp", str(config.dcp))
        add("utilization", f"{config.utilization:.3f}")
        add("context", str(config.context))
        add("sequences", str(config.sequences))
        add("batched_tokens", str(config.batched_tokens))
        kv_dtype = kv_cache_dtype(request, config)
        if kv_dtype:
            add("kv_dtype", kv_dtype)
        if request.settings.enforce_eager:
            add("eager")
        if config.draft_tokens and request.drafter is not None:
            add("draft_algorithm", facts.flag(f"draft algorithm {request.drafter.method}", version))
            if request.drafter.release:
                add("draft_model", request.drafter.release)
            add("draft_steps", str(config.draft_tokens))
            add("draft_top_k", "1")
            add("draft_tokens", str(config.draft_tokens + 1))
        for kind, name in (("tool", model.tool_call_parser), ("reasoning", model.reasoning_parser)):
            parser = facts.parser(kind, name, version) if name else None
            if parser:
                add(f"{kind}_parser", parser)
        if model.trust_remote_code:
            add("trust_remote_code")
        add("served_name", model.id)
        shared = (*arguments, *listening(facts, version, self.name))
        nodes = 0 if config.group is None else -(-config.world // config.group.per_node)
        if nodes <= 1:
            return LaunchSpec(shared, gpu_environment(request, config))
        per_node = tuple(
            (
                *shared,
                facts.flag("nodes", version),
                str(nodes),
                facts.flag("node_rank", version),
                str(rank),
                facts.flag("head_address", version),
                f"HEAD_ADDRESS:{load_serving(self.name).head_port}",
            )
            for rank in range(nodes)
        )
        return LaunchSpec(per_node[0], gpu_environment(request, config), per_node)


def kv_cache_dtype(request: Request, config: Config) -> str:
    """The KV dtype to be told; empty where SGLang takes the model's by itself.

    For sparse attention it chooses bf16 or FP8 by the GPU (``srt/server_args.py`` of 0.5.6; 0.5.23 as well).
    """
    if config.kv_dtype != "bf16":
        return "fp8_e4m3"
    return "bfloat16" if any(group.index_head_dim for group in request.model.kv_groups) else ""


def vision_stays(request: Request) -> Refusal | None:
    """Refusal of a model without its vision tower: SGLang starts few architectures so, and none that is planned here.

    SGLang 0.5.23 ``srt/server_args.py`` LANGUAGE_MODEL_ONLY_ARCHITECTURES; sglang-kt has no such flag.
    """
    if not request.settings.text_only or request.model.vision is None:
        return None
    return Refusal(None, "SGLang loads the vision tower of this model in any case", "leave out --text-only")


ENGINE = Sglang()
