"""The kernels that a configuration runs, as ``KernelCase``: its speed is their sum, and a benchmark measures them.

One rank of one layer is listed once, with how often it runs in a step. Matrices that the engines fuse (gate and up, q,
k and v) are one kernel here, since they are one in vLLM 0.33.0 and SGLang 0.5.23 (``MergedColumnParallelLinear``,
``QKVParallelLinear``, ``fused_qkv_a_proj``); llama.cpp multiplies them apart, which changes launches, not bytes.
"""

from __future__ import annotations

from math import prod
from typing import Final, Literal, NamedTuple

from formulas.kv_cache import vector_bytes
from formulas.storage import FORMATS, storage_format, tensor_bytes
from hwdetect.bench.case import KernelCase, kernel_case
from planner.engines.base import Config, Priced
from planner.engines.tensor_parallel import Ranks, ranks_of
from planner.kv import group_bytes_per_state
from planner.request import PricedRelease, Request
from planner.sharding import shard_shape
from profiles.model import KvGroup, ModelSpec, Role, TensorGroup

Rows = Literal["tokens", "sequences"]
Phase = Literal["decode", "prefill", "both"]

FUSED: Final[dict[Role, tuple[str, str]]] = {
    "q_a": ("attention projections", "qkv_a"),
    "kv_a": ("attention projections", "qkv_a"),
    "q_b": ("attention projections", "q_b"),
    "q": ("attention projections", "qkv"),
    "k": ("attention projections", "qkv"),
    "v": ("attention projections", "qkv"),
    "o": ("attention projections", "o"),
    "kv_b": ("MLA expansion", "kv_b"),
    "k_b": ("MLA expansion", "k_b"),
    "v_b": ("MLA expansion", "v_b"),
    "attention_gate": ("attention projections", "gate"),
    "indexer_q": ("sparse indexer", "q"),
    "indexer_k": ("sparse indexer", "k"),
    "indexer_weights": ("sparse indexer", "k"),
    "linear_in": ("linear attention", "in"),
    "linear_out": ("linear attention", "out"),
    "linear_gate_a": ("linear attention", "gate"),
    "dense_gate": ("dense FFN", "gate_up"),
    "dense_up": ("dense FFN", "gate_up"),
    "dense_down": ("dense FFN", "down"),
    "shared_gate": ("shared experts", "gate_up"),
    "shared_up": ("shared experts", "gate_up"),
    "shared_down": ("shared experts", "down"),
    "latent_down": ("latent projections", "down"),
    "latent_up": ("latent projections", "up"),
    "router": ("router", "router"),
    "lm_head": ("head", "head"),
}
"""Matrices a step multiplies with: the row of the time budget, and which are one kernel."""
EXPERTS: Final[frozenset[Role]] = frozenset(("expert_gate", "expert_up", "expert_down"))


class Use(NamedTuple):
    """A kernel of a step on one rank: ``case`` at one token, run ``times`` times a step.

    ``scale`` is the bytes of the stored weights over those of the case (a GGUF file mixes types within an expert);
    ``rows`` says whether its batch is the tokens of the step or its sequences (the head); ``window`` caps the context
    of attention, of which one cached state holds ``tokens_per_state`` tokens; ``phase`` in which it runs (MLA has a
    kernel for each).
    """

    what: str
    case: KernelCase
    times: int
    scale: float = 1.0
    rows: Rows = "tokens"
    window: int | None = None
    phase: Phase = "both"
    tokens_per_state: int = 1

    def states(self, tokens: float) -> float:
        """Cached states that a token sees of the ``tokens`` before it."""
        return min(tokens, self.window or tokens) / self.tokens_per_state


def at(use: Use, batch: int, context: int = 0) -> KernelCase:
    """The case of a use at a batch of tokens, and for attention at cached tokens of each sequence."""
    return use.case._replace(batch=batch, context=context)


def kernel_cases(request: Request, release: PricedRelease, priced: Priced) -> tuple[KernelCase, ...]:
    """Every distinct kernel the speed of ``priced`` depends on, at the batches the demand makes of it.

    Decode at the sequences of one replica and the mean context, prefill at one chunk of the prompt.
    """
    demand, config = request.demand, priced.config
    lane = lane_batch(request, priced)
    context = demand.input_tokens + demand.output_tokens // 2
    fresh = max(round(demand.input_tokens * (1 - demand.prefix_cache_hit_rate)), 1)
    chunk = max(1, min(fresh, config.batched_tokens or fresh))
    cases: dict[KernelCase, None] = {}
    for use in uses_of(request, release, config):
        tokens = lane * config.expert_group if is_expert_parallel(use, config) else lane
        kept = max(int(use.states(context)), 1) if is_attention(use.case) else 0
        if use.phase != "prefill":
            cases[at(use, tokens, kept)] = None
        if use.phase != "decode":
            rows = 1 if use.rows == "sequences" else chunk
            cases[at(use, rows)] = None
    return tuple(cases)


def lane_batch(request: Request, priced: Priced) -> int:
    """Sequences that decode together on one replica: the demand's share of it, as far as the KV cache admits."""
    config, demand = priced.config, request.demand
    each = demand.input_tokens + demand.output_tokens
    lane = max(1, -(-demand.concurrency // config.replicas))
    if priced.pool.bytes_per_token:
        lane = min(lane, max(priced.pool.tokens // each, 1))
    return max(1, lane // config.pp)


def is_attention(case: KernelCase) -> bool:
    """Whether the kernel reads the KV cache."""
    return case.kernel in ("mla_decode", "mla_prefill", "gqa_decode", "gqa_prefill", "cpu_attention")


def is_expert_parallel(use: Use, config: Config) -> bool:
    """Whether the tokens of all data-parallel replicas meet in this kernel."""
    return use.case.kernel in ("grouped_moe", "cpu_moe", "all_to_all") and config.expert_group > 1


def uses_of(request: Request, release: PricedRelease, config: Config) -> tuple[Use, ...]:
    """The kernels of one step of a configuration, whole model; kept for configurations that divide alike."""
    ranks = ranks_of(config) if config.group is not None and not config.placement else Ranks(1, 1, 1)
    unified = config.group is not None and config.group.gpu.unified
    on_cpu = (config.engine, config.group is None, unified, config.cpu_expert_layers, config.gpu_experts_per_layer)
    key = ("uses", ranks, config.kv_dtype, config.dcp, config.expert_group, on_cpu)
    found: tuple[Use, ...] | None = release.kept.get(key)
    if found is None:
        uses = [*_weights(request.model, release, config, ranks, on_cpu)]
        uses += _attention(request.model, config, ranks)
        if ranks.tp > 1:
            reduced = 2 * request.model.layers
            if config.expert_group > 1 and request.model.moe is not None:
                reduced -= len(request.model.moe.layers)
            hidden = request.model.hidden
            uses.append(Use("all-reduce", kernel_case("all_reduce", "bf16", hidden=hidden, ranks=ranks.tp), reduced))
        if config.expert_group > 1 and request.model.moe is not None:
            shared = max(ranks.expert_ranks, ranks.expert_tp)
            case = kernel_case("all_to_all", "bf16", hidden=request.model.hidden, ranks=shared)
            uses.append(Use("all-to-all", case, 2 * len(request.model.moe.layers)))
        found = release.kept[key] = tuple(uses)
    return found


def _weights(
    model: ModelSpec, release: PricedRelease, config: Config, ranks: Ranks, on_cpu: tuple[object, ...]
) -> list[Use]:
    """The kernels with weights: whatever the KV cache, the same."""
    key = ("weight kernels", ranks, on_cpu)
    found: list[Use] | None = release.kept.get(key)
    if found is None:
        found = [*_matrices(model, release, config, ranks), *_experts(model, release, config, ranks)]
        release.kept[key] = found
    return found


def _format(name: str) -> str:
    """The format as a case names it; one that no case can name counts as bf16."""
    return name if name in FORMATS else "bf16"


def _matrices(model: ModelSpec, release: PricedRelease, config: Config, ranks: Ranks) -> list[Use]:
    """Projections, dense layers, shared experts, router and head."""
    kv_heads = max((group.n_kv_heads for group in model.kv_groups), default=0)
    kernel: Literal["dense", "cpu_dense"] = "cpu_dense" if config.group is None else "dense"
    shapes: dict[tuple[str, str, int, str, tuple[int, ...]], int] = {}
    tied = all(group.role != "lm_head" for group in release.tensors.groups)
    for group in release.tensors.groups:
        if group.tensor_class in ("vision", "mtp") or len(group.shape) < 2:
            continue
        role: Role = "lm_head" if tied and group.role == "embedding" else group.role
        if role not in FUSED:
            continue
        shape = shard_shape(group, ranks.tp, kv_heads)
        row, fused = FUSED[role]
        key = (row, fused, shape[-1], _format(group.format), group.layers)
        shapes[key] = shapes.get(key, 0) + prod(shape[:-1]) * group.per_layer
    merged: dict[tuple[str, str, int, int, str], int] = {}
    for (row, fused, columns, fmt, layers), out in shapes.items():
        name = (row, fused, out, columns, fmt)
        merged[name] = merged.get(name, 0) + max(len(layers), 1)
    uses = []
    for (row, fused, out, columns, fmt), times in merged.items():
        if row == "router" and model.moe is not None and kernel == "dense":
            case = kernel_case("router", fmt, experts=out, hidden=columns, top_k=model.moe.top_k)
        elif fused == "kv_b":
            # Decode multiplies with the two absorbed halves, prefill expands the latent with the whole.
            uses.append(Use(row, kernel_case(kernel, "bf16", out=out, in_=columns), times, phase="decode"))
            uses.append(Use(row, kernel_case(kernel, fmt, out=out, in_=columns), times, phase="prefill"))
            continue
        else:
            case = kernel_case(kernel, fmt, out=out, in_=columns)
        rows: Rows = "sequences" if row == "head" else "tokens"
        uses.append(Use(row, case, times, release.tensors.scale, rows))
    return uses


def _experts(model: ModelSpec, release: PricedRelease, config: Config, ranks: Ranks) -> list[Use]:
    """Routed experts of every layer on one rank, on the GPU or in RAM; layers of equal format are one entry."""
    moe = model.moe
    if moe is None:
        return []
    by_layers: dict[tuple[int, ...], list[TensorGroup]] = {}
    for group in release.tensors.groups:
        if group.role in EXPERTS and group.tensor_class == "routed_experts":
            by_layers.setdefault(group.layers, []).append(group)
    per_layer: dict[int, list[TensorGroup]] = {}
    for layers, groups in by_layers.items():
        for layer in layers:
            per_layer.setdefault(layer, []).extend(groups)
    alike: dict[tuple[object, ...], int] = {}
    first: dict[tuple[object, ...], tuple[bool, list[TensorGroup]]] = {}
    for layer, groups in sorted(per_layer.items()):
        in_ram = layer < config.cpu_expert_layers
        key: tuple[object, ...] = (in_ram, *[id(group) for group in groups])
        if key in alike:
            alike[key] += 1
        else:
            alike[key], first[key] = 1, (in_ram, groups)
    counted: dict[tuple[KernelCase, float], int] = {}
    for key, layers_alike in alike.items():
        in_ram, groups = first[key]
        stretched = release.tensors.scale
        cases = _expert_cases(moe.experts, moe.top_k, groups, config, ranks, stretched, in_ram=in_ram)
        for case, scale in cases:
            counted[case, scale] = counted.get((case, scale), 0) + layers_alike
    names = {"grouped_moe": "routed experts", "cpu_moe": "experts in RAM"}
    return [Use(names[case.kernel], case, times, scale) for (case, scale), times in counted.items()]


def _expert_cases(
    experts: int, top_k: int, groups: list[TensorGroup], config: Config, ranks: Ranks, stretched: float, *, in_ram: bool
) -> list[tuple[KernelCase, float]]:
    gate = next((group for group in groups if group.role == "expert_gate"), groups[0])
    inter = -(-gate.shape[-2] // ranks.expert_tp) if gate.role == "expert_gate" else gate.shape[-1]
    hidden, fmt = gate.shape[-1], _format(gate.format)
    # A GGUF file keeps the experts of a layer in one tensor, a checkpoint one tensor each.
    stored = sum([group.bytes_each * group.per_layer for group in groups]) / experts * stretched
    plain = 2 * tensor_bytes(storage_format(fmt), (gate.shape[-2], hidden))
    plain += tensor_bytes(storage_format(fmt), (hidden, gate.shape[-2]))
    scale = stored / plain if plain else 1.0

    def case(kernel: Literal["grouped_moe", "cpu_moe"], here: int) -> tuple[KernelCase, float]:
        named = kernel_case(
            kernel, fmt, experts=here, experts_total=experts, top_k=top_k, hidden=hidden, inter=inter
        )  # fmt: skip
        return named, scale

    if config.group is None:
        return [case("cpu_moe", experts)]
    if config.engine == "ktransformers":
        on_gpu = config.gpu_experts_per_layer
        cpu = kernel_case(
            "cpu_moe", fmt, experts=experts - on_gpu, experts_total=experts, top_k=top_k, hidden=hidden,
            inter=gate.shape[-2],
        )  # fmt: skip
        return [(cpu, scale), *([case("grouped_moe", on_gpu)] if on_gpu else [])]
    if config.placement and in_ram and not config.group.gpu.unified:
        return [case("cpu_moe", experts)]
    return [case("grouped_moe", -(-experts // ranks.expert_ranks))]


def _attention(model: ModelSpec, config: Config, ranks: Ranks) -> list[Use]:
    """Attention over the cache, one entry per layout."""
    uses = []
    for group in model.kv_groups:
        if group.layout == "linear":
            continue
        heads, layers = max(-(-model.heads // ranks.tp), 1), len(group.layers)
        if group.layout == "mla":
            dims = {
                "kv_lora": group.kv_lora_rank, "rope": group.rope_dim, "nope": model.nope_dim, "v": model.v_head_dim
            }  # fmt: skip
            if config.group is None:
                # On a CPU the absorbed form is one shared head as wide as the latent and its rope key.
                decode = kernel_case(
                    "cpu_attention", _attention_dtype(config), heads=heads, kv_heads=1,
                    head=group.kv_lora_rank + group.rope_dim, v=group.kv_lora_rank,
                )  # fmt: skip
            else:
                # Decode context parallelism gathers the heads of its ranks and divides the tokens instead.
                decode = kernel_case("mla_decode", _attention_dtype(config), heads=heads * config.dcp, **dims)
            prefill = kernel_case("mla_prefill", _attention_dtype(config), heads=heads, **dims)
        else:
            dims = {
                "kv_heads": max(-(-group.n_kv_heads // ranks.tp), 1), "head": group.head_dim, "v": group.v_head_dim
            }  # fmt: skip
            kernel: Literal["cpu_attention", "gqa_decode"] = "cpu_attention" if config.group is None else "gqa_decode"
            decode = kernel_case(kernel, _attention_dtype(config), heads=heads, **dims)
            prefill = kernel_case("gqa_prefill", _attention_dtype(config), heads=heads, **dims)
        scale = _cache_scale(group, config, ranks.tp)
        seen = Use("attention", decode, layers, scale, "tokens", group.window, "decode", group.tokens_per_state)
        uses += [seen, seen._replace(case=prefill, scale=1.0, phase="prefill")]
    return uses


def _attention_dtype(config: Config) -> str:
    """The KV dtype as a case names it: the layouts of sparse MLA are variants of fp8."""
    return "fp8" if config.kv_dtype == "fp8_ds_mla" else config.kv_dtype


def _cache_scale(group: KvGroup, config: Config, tp: int) -> float:
    """Bytes a cached state takes over those of its plain vectors: scales, and the keys of an indexer."""
    stored = group_bytes_per_state(group, config.kv_dtype, tp)
    if group.layout == "mla" and config.group is None:
        plain = vector_bytes(group.kv_lora_rank + group.rope_dim, config.kv_dtype)
        plain += vector_bytes(group.kv_lora_rank, config.kv_dtype)
    elif group.layout == "mla":
        plain = vector_bytes(group.kv_lora_rank + group.rope_dim, _attention_dtype(config))
    else:
        heads = max(-(-group.n_kv_heads // tp), 1)
        dtype = _attention_dtype(config)
        plain = heads * (vector_bytes(group.head_dim, dtype) + vector_bytes(group.v_head_dim, dtype))
    return stored / plain if plain else 1.0
