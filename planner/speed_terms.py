"""Terms that every step model shares: what a release computes and moves, whatever runs it."""

from __future__ import annotations

from typing import NamedTuple

from formulas.kv_cache import cached_states, cached_tokens
from formulas.roofline import attention_flops, mla_decode_flops
from planner.engines.base import Config
from planner.kv import group_bytes_per_state, group_state_bytes
from planner.machine import Gpu
from planner.request import PricedRelease, Request
from profiles.engines import EngineFacts


class Step(NamedTuple):
    """Seconds of one decode step by cause."""

    fixed: float
    weights: float
    kv_cache: float
    links: float
    cpu: float
    disk: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.fixed + self.weights + self.kv_cache + self.links + self.cpu + self.disk

    @property
    def largest(self) -> str:
        """What takes most of the step."""
        names = {
            "latency": self.fixed,
            "HBM": self.weights + self.kv_cache,
            "link": self.links,
            "RAM": self.cpu,
            "disk": self.disk,
        }
        return max(names, key=lambda name: names[name])


class Work(NamedTuple):
    """Sums over the layers of a release that every configuration of it shares."""

    always_parameters: float
    routed_parameters: float
    moe_layers: int
    dense_layers: int
    mla_layers: int
    gqa_layers: int
    linear_layers: int
    indexer_layers: int


def work_of(request: Request, release: PricedRelease) -> Work:
    found = release.memo.get("work")
    if found is not None:
        return found  # type: ignore[no-any-return]
    model = request.model
    always = routed = 0
    for group in release.tensors.groups:
        if group.tensor_class in ("vision", "mtp", "embedding"):
            continue
        if group.tensor_class == "routed_experts":
            routed += group.parameters
        else:
            always += group.parameters
    share = model.moe.top_k / model.moe.experts if model.moe is not None else 0.0
    moe_layers = len(model.moe.layers) if model.moe is not None else 0
    # A layer may be in several groups: a window beside a compressed cache.
    held: dict[str, set[int]] = {"mla": set(), "linear": set(), "heads": set(), "indexer": set()}
    for kv in model.kv_groups:
        held[kv.layout if kv.layout in ("mla", "linear") else "heads"].update(kv.layers)
        held["indexer"].update(kv.layers if kv.index_head_dim or kv.index_key_bytes else ())
    count = {kind: len(layers) for kind, layers in held.items()}
    work = Work(
        always, routed * share, moe_layers, model.layers - moe_layers,
        count["mla"], count["heads"], count["linear"], count["indexer"],
    )  # fmt: skip
    release.memo["work"] = work
    return work


def kv_read_s(
    request: Request, config: Config, gpu: Gpu, facts: EngineFacts, lane: float, cached: float, tp: int
) -> float:
    """Time to read the cached tokens of ``lane`` sequences on one rank, or to compute over them if that is slower."""
    model = request.model
    moved = flops = 0.0
    for group in model.kv_groups:
        kept = float(cached_states(cached_tokens(int(cached), group.window, 1), group.tokens_per_state))
        layers = len(group.layers)
        moved += layers * (group_bytes_per_state(group, config.kv_dtype, tp) * kept + group_state_bytes(group, tp))
        heads = model.heads / tp
        if group.layout == "mla":
            flops += layers * mla_decode_flops(1, group.kv_lora_rank, group.rope_dim, kept) * heads
        elif group.layout != "linear":
            flops += layers * attention_flops(1, group.head_dim, group.v_head_dim, kept) * heads
    moved *= lane / config.dcp
    time = moved / (gpu.bandwidth * facts.at("kv_bandwidth_fraction", "1").value)
    peak = gpu.flops.get("bf16")
    return max(time, flops * lane / (0.6 * peak)) if peak else time


def expert_rate(release: PricedRelease, gpu: Gpu, facts: EngineFacts) -> float | None:
    """Operations per second that the experts' prefill kernels reach on this GPU."""
    fmt = release.expert_format
    bf16 = gpu.flops.get("bf16")
    if fmt.startswith("fp8") and gpu.flops.get("fp8"):
        return gpu.flops["fp8"] * facts.at("prefill_fp8_fraction_of_fp8", "1").value
    if fmt in ("nvfp4", "mxfp4") and gpu.flops.get("fp4"):
        return gpu.flops["fp4"] * facts.at("prefill_nvfp4_fraction_of_fp4", "1").value
    if not bf16:
        return None
    key = "prefill_bf16_fraction" if fmt == "bf16" else "prefill_int4_fraction_of_bf16"
    return bf16 * facts.at(key, "1").value


def attention_prefill_flops(request: Request, tokens: float) -> float:
    """Operations of causal attention over a prompt, all layers."""
    model = request.model
    total = 0.0
    for group in model.kv_groups:
        if group.layout == "linear":
            continue
        seen = min(tokens / 2, float(group.window or tokens)) / group.tokens_per_state
        width = (model.q_head_dim, model.v_head_dim) if group.layout == "mla" else (group.head_dim, group.v_head_dim)
        total += len(group.layers) * tokens * attention_flops(model.heads, width[0], width[1], seen)
    return total
