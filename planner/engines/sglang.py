"""SGLang: as vLLM on equal GPUs, but the static pool is a fraction of memory and activation lies outside it.

Data parallelism without attention data parallelism starts whole engines side by side, on one node only (SGLang
``srt/server_args.py`` check_server_args).

KV = memory free after loading - capacity x (1 - mem_fraction_static); the default fraction follows a published rule.
"""

from __future__ import annotations

from collections.abc import Iterator

from formulas.units import MIB
from planner.engines import data_center
from planner.engines.base import Config, LaunchSpec, Priced, Refusal, gpu_environment
from planner.engines.constraints import advice
from planner.engines.sglang_memory import default_fraction, defaults
from planner.engines.tensor_parallel import (
    GGUF_REASON,
    NO_DRAFTED_SPEED,
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

    def price(self, request: Request, release: PricedRelease, config: Config) -> Priced:
        """Weights, what loading loses, and the pool that the fraction leaves."""
        group = config.group
        assert group is not None
        gpu, facts, version = group.gpu, self.facts, config.version
        fraction = config.utilization or default_fraction(
            request.model, config, facts, graphs=not request.settings.enforce_eager
        )
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
            int((gpu.visible_high - before.low) * fraction),
        ]
        stages = []
        for stage in range(config.pp):
            entries = weight_entries(request, release, config, shards, stage, copies_projection=True) + fixed
            if stage == config.pp - 1:
                entries += drafter_entries(request, config, shards, ranks_of(config).tp)
            stages.append((entries, usable[0], usable[1], usable[2]))
        page = int(facts.at("page_tokens_mla" if request.model.uses_mla else "page_tokens", version).value)
        pool, devices = pool_and_devices(request, release, config, shards, stages, page)
        warnings = [*advice(request, release, config, facts), *([NO_DRAFTED_SPEED] if config.draft_tokens else [])]
        return fit(request, config._replace(utilization=fraction), shards, pool, devices, warnings)

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
        arguments: list[str] = [
            "python3", "-m", "sglang.launch_server",
            "--model-path", release.release.release or model.repository,
        ]  # fmt: skip

        def add(key: str, *values: str) -> None:
            arguments.extend((facts.flag(key, version), *values))

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
        if config.kv_dtype != "bf16":
            add("kv_dtype", "fp8_e4m3")
        if request.settings.enforce_eager:
            add("eager")
        if config.draft_tokens and request.drafter is not None:
            arguments += ["--speculative-algorithm", "EAGLE3" if request.drafter.release else "EAGLE"]
            if request.drafter.release:
                arguments += ["--speculative-draft-model-path", request.drafter.release]
            arguments += ["--speculative-num-steps", str(config.draft_tokens), "--speculative-eagle-topk", "1"]
            arguments += ["--speculative-num-draft-tokens", str(config.draft_tokens + 1)]
        if model.tool_call_parser:
            add("tool_parser", parser_name(facts, version, model.tool_call_parser))
        if model.reasoning_parser:
            add("reasoning_parser", parser_name(facts, version, model.reasoning_parser))
        if model.trust_remote_code:
            add("trust_remote_code")
        add("served_name", model.id)
        shared = (*arguments, "--host", "127.0.0.1", "--port", "30000")
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
                "HEAD_ADDRESS:5000",
            )
            for rank in range(nodes)
        )
        return LaunchSpec(per_node[0], gpu_environment(request, config), per_node)


def parser_name(facts: EngineFacts, version: str, name: str) -> str:
    """SGLang's name of a tool-call or reasoning parser that the model's card gives by vLLM's."""
    key = f"parser {name}"
    return facts.flag(key, version) if facts.has_flag(key, version) else name


ENGINE = Sglang()
