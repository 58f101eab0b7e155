"""vLLM: equal GPUs, tensor / pipeline / data / expert parallel, a KV pool inside ``gpu_memory_utilization``.

Memory per GPU = utilisation x visible; minus weights, peak activation (measured by vLLM in a profile run), memory
outside PyTorch (collective buffers) and, since 0.20, CUDA graphs; the rest is KV cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from planner.engines import data_center
from planner.engines.base import Config, LaunchSpec, Priced, Refusal, gpu_environment
from planner.engines.tensor_parallel import (
    GGUF_REASON,
    fit,
    pool_and_devices,
    ranks_of,
    shards_of,
    weight_entries,
)
from planner.ledger import Entry, ranged
from planner.request import PricedRelease, Request
from profiles.engines import EngineFacts, load_engine
from profiles.model import ModelSpec

CAPTURE_LIMIT: Final = 512


def capture_sizes(sequences: int) -> int:
    """How many batch sizes vLLM captures as CUDA graphs for ``max_num_seqs``: 1, 2, 4, then every 8, then every 16.

    >>> capture_sizes(1024), capture_sizes(64)
    (51, 19)
    """
    largest = min(2 * sequences, CAPTURE_LIMIT)
    small = sum(size <= largest for size in (1, 2, 4))
    return small + len(range(8, min(largest, 255) + 1, 8)) + len(range(256, largest + 1, 16))


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
        yield from data_center.layouts(self, request, release, attention_dp=False)

    def kv_dtypes(self, request: Request, version: str) -> tuple[str, ...]:
        """KV dtypes of the model's layout."""
        del version
        sparse = any(group.index_head_dim for group in request.model.kv_groups)
        return ("bf16", "fp8_ds_mla") if sparse else ("bf16", "fp8")

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
        gpu = group.gpu
        # vLLM takes its share of the whole GPU, and refuses to start where less than that is free.
        held = gpu.occupied
        if not config.utilization:
            default = self.facts.at("gpu_memory_utilization", config.version).value
            free = int(100 * gpu.visible_low / (gpu.visible_low + held)) / 100 if held else 1.0
            config = config._replace(utilization=min(default, free))
        shards = shards_of(request, release, config, vision_sharded=False)
        usable = int((gpu.visible + held) * config.utilization)
        usable_low = int((gpu.visible_low + held) * config.utilization)
        usable_high = int((gpu.visible_high + held) * config.utilization)
        fixed = self._fixed_entries(request, release, config)
        graphs = self._graph_entry(request, config)
        inside = bool(self.facts.at("graphs_inside_budget", config.version).value)
        stages = []
        for stage in range(config.pp):
            entries = weight_entries(request, release, config, shards, stage)
            entries += fixed[0] if stage == config.pp - 1 else fixed[1]
            if inside and graphs is not None:
                entries.append(graphs)
            stages.append((entries, usable, usable_low, usable_high))
        block = int(
            self.facts.at("mla_block_tokens" if request.model.uses_mla else "block_tokens", config.version).value
        )
        pool, devices = pool_and_devices(request, release, config, shards, stages, block)
        warnings = []
        if not inside and graphs is not None:
            suffix = "tp_bytes" if config.world > 1 else "tp1_bytes"
            outside = graphs.bytes + self.facts.at(f"present_before_start_{suffix}", config.version).value
            if outside > gpu.visible - usable:
                warnings.append(
                    f"vLLM {config.version} keeps CUDA graphs and start-up memory ({outside / 2**30:.1f} GiB) outside "
                    f"--gpu-memory-utilization {config.utilization:g}, which leaves "
                    f"{(gpu.visible - usable) / 2**30:.1f} GiB: lower it or use --enforce-eager"
                )
        priced = fit(request, config, shards, pool, devices, warnings)
        if usable_low > gpu.visible_low:
            reason = f"other processes hold {held / 2**30:.1f} GiB: vLLM starts only where its whole share is free"
            return priced._replace(verdict="no", reason=reason)
        return priced

    def _fixed_entries(
        self, request: Request, release: PricedRelease, config: Config
    ) -> tuple[list[Entry], list[Entry]]:
        """Activation and non-torch memory of the last stage, and of the others."""
        key = (
            "vllm fixed", ranks_of(config), config.pp, config.batched_tokens, config.sequences, config.text_only,
            config.context, config.version,
        )  # fmt: skip
        found = release.memo.get(key)
        if found is None:
            rest = [self._non_torch_entry(config), *self._vision_entry(request, config)]
            last = [self._activation(request, release, config, True), *rest]
            other = [self._activation(request, release, config, False), *rest]
            found = release.memo[key] = (last, other)
        return found

    def _activation(self, request: Request, release: PricedRelease, config: Config, head: bool) -> Entry:
        """Peak of the profile run: the larger of the forward pass and the sampler, and the workspace of the experts."""
        model, tokens, sequences = request.model, config.batched_tokens, config.sequences
        tp = ranks_of(config).tp
        facts = self.facts
        copies = facts.at("forward_hidden_copies", config.version).value
        sampler_rate = facts.at("sampler_bytes_per_vocab_and_sequence", config.version)
        constant = facts.at("sampler_constant_bytes", config.version)
        widest = max(model.dense_ffn, _shared_width(model))
        forward = 2 * tokens * (3 * widest / tp + copies * model.hidden)
        workspace = moe_workspace_bytes(model, tokens, ranks_of(config).expert_tp)
        marlin = release.expert_format.startswith(("int4", "awq", "gptq"))
        mla = mla_workspace_bytes(model, config, int(facts.at("mla_workspace_tokens", config.version).value))
        if marlin:
            forward, persistent = forward + workspace + mla, 0.0
        else:
            forward, persistent = forward + mla, workspace
        rows = sequences if head else 0
        sampler = sampler_rate.value * model.vocab * rows + 2 * tokens * model.hidden
        low = max(forward - workspace - mla if marlin else forward - mla, sampler_rate.low * model.vocab * rows)
        high = max(forward * 1.15, sampler_rate.high * model.vocab * rows + 2 * tokens * model.hidden) + persistent
        expected = max(forward, sampler) + persistent + constant.value
        return ranged(
            "compute", "peak activation", expected, low + 0.6 * persistent, high + 3 * constant.value,
            "max(forward: 2 T (3 ffn / TP + 4 hidden) + MoE and MLA workspace, sampler: c x vocabulary x sequences)",
            sampler_rate.source,
        )  # fmt: skip

    def _vision_entry(self, request: Request, config: Config) -> list[Entry]:
        """Activation of the dummy images that vLLM encodes in its profile run."""
        if request.model.vision is None or config.text_only:
            return []
        tokens = min(config.context, int(self.facts.at("vision_profile_tokens", config.version).value))
        fact = self.facts.at("vision_profile_bytes_per_token", config.version)
        return [
            ranged(
                "compute", "vision profile run", fact.value * tokens, fact.low * tokens, fact.high * tokens,
                "bytes per image token x largest dummy item, at most the context", fact.source,
            )
        ]  # fmt: skip

    def _non_torch_entry(self, config: Config) -> Entry:
        """Memory outside PyTorch: CUDA context growth and collective buffers."""
        key = "non_torch_tp_bytes" if config.tp > 1 or config.ep > 1 else "non_torch_tp1_bytes"
        if config.tp == 1 and config.pp > 1:
            key = "non_torch_pp_bytes"
        fact = self.facts.at(key, config.version)
        return ranged(
            "overhead",
            "memory outside PyTorch",
            fact.value,
            fact.low,
            fact.high,
            "by TP and version",
            fact.source,
            "measured",
        )

    def _graph_entry(self, request: Request, config: Config) -> Entry | None:
        """CUDA graphs of every captured batch size."""
        if request.settings.enforce_eager:
            return None
        facts, sizes = self.facts, capture_sizes(config.sequences)
        layers = -(-request.model.layers // config.pp)
        parts = [
            (facts.at("graph_constant_bytes", config.version), 1.0),
            (facts.at("graph_bytes_per_size_and_layer", config.version), float(sizes * layers)),
        ]
        if request.model.moe is not None:
            parts.append((facts.at("graph_moe_bytes", config.version), 1.0))
        return ranged(
            "compute", "CUDA graphs",
            sum([fact.value * count for fact, count in parts]),
            sum([fact.low * count for fact, count in parts]),
            sum([fact.high * count for fact, count in parts]),
            f"constant + {sizes} sizes x {layers} layers (+ MoE)", parts[0][0].source,
        )  # fmt: skip

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
        if config.kv_dtype != "bf16":
            add("kv_dtype", config.kv_dtype)
        if request.settings.enforce_eager:
            add("eager")
        if model.vision is not None:
            if config.text_only:
                if facts.has_flag("text_only", version):
                    add("text_only")
                else:
                    add("media_limit", '{"image": 0, "video": 0}')
            elif facts.has_flag("vision_data_parallel", version):
                add("vision_data_parallel", "data")
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
        shared = tuple(arguments)
        if nodes <= 1:
            return LaunchSpec((*shared, "--host", "127.0.0.1", "--port", "8000"), gpu_environment(request, config))
        per_node = []
        for rank in range(nodes):
            cluster = (
                facts.flag("nodes", version), str(nodes),
                facts.flag("node_rank", version), str(rank),
                facts.flag("head_address", version), "HEAD_ADDRESS",
            )  # fmt: skip
            tail = ("--host", "127.0.0.1", "--port", "8000") if rank == 0 else (facts.flag("headless", version),)
            per_node.append((*shared, *cluster, *tail))
        return LaunchSpec(per_node[0], gpu_environment(request, config), tuple(per_node))


def _shared_width(model: ModelSpec) -> int:
    return model.moe.expert_ffn * model.moe.shared_experts if model.moe is not None else 0


def moe_workspace_bytes(model: ModelSpec, tokens: int, expert_tp: int) -> float:
    """Intermediate caches of the fused experts for ``tokens`` tokens, bf16.

    ``2 T [k max(2 inter / TP, hidden) + k inter / TP + hidden]``; fitted with the activation (llm-d-planner logs).
    """
    if model.moe is None:
        return 0.0
    k, inter = model.moe.top_k, model.moe.expert_ffn / expert_tp
    return 2 * tokens * (k * max(2 * inter, model.hidden) + k * inter + model.hidden)


def mla_workspace_bytes(model: ModelSpec, config: Config, limit: int) -> float:
    """Workspace of chunked prefill over cached MLA: the gathered latent and its expansion to heads, bf16."""
    group = next((group for group in model.kv_groups if group.layout == "mla"), None)
    if group is None:
        return 0.0
    tokens = min(max(8 * config.context, 4 * config.sequences * 64), limit)
    heads = -(-model.heads // ranks_of(config).tp)
    return 2.0 * tokens * (group.kv_lora_rank + group.rope_dim + heads * (model.nope_dim + model.v_head_dim))


ENGINE = Vllm()
