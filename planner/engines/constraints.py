"""Layouts that vLLM and SGLang refuse, some of them only after loading, and those that their guides advise against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from planner.engines.base import Config, Refusal, divisors
from planner.machine import Gpu
from planner.request import PricedRelease, Request
from planner.sharding import COLUMNS, EXPERT_COLUMNS, EXPERT_ROWS, ROWS
from profiles.engines import EngineFacts, KvKernel, version_tuple
from profiles.model import ModelSpec

HOPPER_AND_DATA_CENTER_BLACKWELL: Final = (9, 10)
SPARSE_MLA: Final = "sparse_mla"
FP8_BLOCK: Final = 128
MARLIN_WIDTH: Final = 64
"""Marlin's kernels take expert shards in steps of this (vLLM 0.33.0 ``quantization/utils/marlin_utils.py``)."""


def unsupported_gpu(gpu: Gpu, release: PricedRelease) -> str:
    """Why these kernels do not run on this GPU; empty when they do.

    Minimum capabilities from vLLM 0.33.0: bf16 8.0, compressed-tensors INT4 7.5, FP8 weight-only 7.5, NVFP4 7.5
    (weight-only below 10.0).
    """
    if gpu.vendor not in ("nvidia", "amd"):
        return f"vLLM and SGLang have no production back end for {gpu.name}"
    if gpu.vendor == "amd":
        return "NVFP4 weights need an NVIDIA GPU" if release.expert_format == "nvfp4" else ""
    capability = gpu.cuda
    if capability is None:
        return f"the compute capability of {gpu.name} is not known"
    if capability < 7.5:
        return f"{gpu.name} has compute capability {capability}; the quantized kernels need 7.5"
    if capability < 8.0:
        return f"{gpu.name} has compute capability {capability}; bfloat16 needs 8.0"
    return ""


def kv_kernels(model: ModelSpec, facts: EngineFacts, version: str) -> tuple[KvKernel, ...]:
    """What the engine says of KV dtypes for this model's attention: by family, or for sparse MLA; none for others."""
    found = facts.kv_kernels(model.family, version)
    if not found and any(group.index_head_dim for group in model.kv_groups):
        found = facts.kv_kernels(SPARSE_MLA, version)
    return found


def kv_kernel(gpu: Gpu, kv_dtype: str, kernels: Iterable[KvKernel]) -> KvKernel | None:
    """The one that reads this dtype on this GPU."""
    kind = "amd" if gpu.vendor == "amd" else str(int(gpu.cuda or 0))
    return next((row for row in kernels if row.dtype == kv_dtype and kind in row.gpus), None)


def unsupported_kv(
    gpu: Gpu, kv_dtype: str, model: ModelSpec, facts: EngineFacts, version: str
) -> tuple[str, str] | None:
    """Reason and remedy where this KV dtype has no attention kernel on this GPU.

    Dense MLA outside Hopper and data-centre Blackwell has Triton's kernel alone, which reads an FP8 cache in some
    versions. For sparse attention the engine's facts list the kernels.
    """
    kernels = kv_kernels(model, facts, version)
    if kernels:
        if kv_kernel(gpu, kv_dtype, kernels):
            return None
        others = dict.fromkeys(row.dtype for row in kernels if kv_kernel(gpu, row.dtype, kernels))
        what = f"{facts.name} {version} has no kernel for this model's attention with {kv_dtype} KV on {gpu.name}"
        return what, f"use --kv-dtype {' or '.join(others)}" if others else "use another GPU or engine"
    if kv_dtype == "bf16" or gpu.vendor != "nvidia":
        return None
    capability = gpu.cuda or 0.0
    if model.uses_mla and int(capability) not in HOPPER_AND_DATA_CENTER_BLACKWELL:
        triton = kv_dtype == "fp8" and facts.has_fact("triton_mla_fp8", version)
        if not triton:
            reason = f"MLA with {kv_dtype} KV has kernels for compute capability 9.x and 10.x only, not {capability}"
            return reason, "use --kv-dtype bf16"
    if capability < 8.9:
        return f"{kv_dtype} KV needs compute capability 8.9, not {capability}", "use --kv-dtype bf16"
    return None


def too_old(engine: str, model: ModelSpec, facts: EngineFacts, version: str) -> Refusal | None:
    """Refusal of a version that does not know the architecture; None where it does, or where that is not known."""
    since = facts.since(f"model {model.family}")
    if since is None or version_tuple(version) >= version_tuple(since):
        return None
    return Refusal(None, f"{engine} {version} does not know {model.family}", f"use --engine-version {since} or newer")


def split_blocks(
    request: Request, release: PricedRelease, config: Config, ranks: int, facts: EngineFacts
) -> tuple[str, str] | None:
    """Reason and remedy where a matrix in FP8 blocks of 128 does not divide into whole blocks.

    Source: vLLM 0.33.0 quantization/utils/fp8_utils.py validate_fp8_block_shape, validate_fp8_block_shape_moe; since
    0.30 experts are refined to smaller blocks instead (quantization/fp8.py). SGLang 0.5.23 checks the same.
    """
    tp = config.tp // config.dp if config.attention_dp else config.tp
    key = ("split blocks", tp, ranks, config.ep, config.version, config.engine)
    if key not in release.kept:
        release.kept[key] = _first_split(release, tp, 1 if config.ep > 1 else ranks, facts, config.version)
    found: tuple[str, str] | None = release.kept[key]
    return found


def _first_split(
    release: PricedRelease, tp: int, expert_ranks: int, facts: EngineFacts, version: str
) -> tuple[str, str] | None:
    refined = facts.has_fact("fp8_expert_blocks_refined", version)
    for group in release.tensors.groups:
        if not group.format.startswith("fp8_block128") or len(group.shape) < 2:
            continue
        by_rows = group.role in ROWS or group.role in EXPERT_ROWS
        if not by_rows and group.role not in COLUMNS and group.role not in EXPERT_COLUMNS:
            continue
        expert = group.tensor_class == "routed_experts"
        ways = expert_ranks if expert else tp
        size = group.shape[-2] if by_rows else group.shape[-1]
        if ways > 1 and size % (FP8_BLOCK * ways) and not (expert and refined):
            what = "an expert's" if expert else "a"
            remedy = "use expert parallelism or fewer ranks" if expert else "use fewer tensor-parallel ranks"
            return f"{what} matrix of {size} divided by {ways} is not whole FP8 blocks of {FP8_BLOCK}", remedy
    return None


def advice(request: Request, release: PricedRelease, config: Config, facts: EngineFacts) -> tuple[str, ...]:
    """What costs memory or is advised against in guides, and that no code refuses."""
    assert config.group is not None
    vendor = config.group.gpu.vendor
    key = ("advice", config.engine, config.version, vendor, config.tp, config.dp, config.ep, config.attention_dp)
    found: tuple[str, ...] | None = release.kept.get(key)
    if found is None:
        found = release.kept[key] = tuple(_advice(request.model, release, config, vendor, facts))
    if request.exact and request.narrow.ep is None and config.ep > 1:
        return (f"whole experts on {config.ep} ranks: {config.engine} refuses to divide each over them", *found)
    return found


def _advice(model: ModelSpec, release: PricedRelease, config: Config, vendor: str, facts: EngineFacts) -> Iterator[str]:
    moe, ranks = model.moe, config.tp if config.attention_dp or config.own_experts else config.tp * config.dp
    int4 = release.expert_format.startswith(("int4", "awq", "gptq"))
    if moe is not None and config.ep == 1 and int4 and vendor == "nvidia" and moe.expert_ffn // ranks % MARLIN_WIDTH:
        yield (
            f"experts of width {moe.expert_ffn // ranks} on a rank are padded to {MARLIN_WIDTH} by Marlin: expert "
            "parallelism or fewer ranks waste nothing"
        )
    if moe is not None and moe.experts % config.ep:
        yield (
            f"{moe.experts} experts do not divide over {config.ep} ranks: some hold one more, and load balancing "
            "of experts (EPLB) cannot be turned on"
        )
    most = f"amd_ranks {model.family}"
    if vendor == "amd" and facts.has_fact(most, config.version):
        limit = int(facts.at(most, config.version).value)
        if config.tp > limit:
            yield f"{config.engine}'s guide for {model.name} advises at most tp {limit} on AMD"


def refused_layout(
    request: Request, release: PricedRelease, config: Config, facts: EngineFacts
) -> tuple[str, str] | None:
    """Reason and remedy when the engine's code refuses this layout."""
    model, group = request.model, config.group
    assert group is not None
    if config.world > group.size:
        return (
            f"tp {config.tp} x pp {config.pp} x dp {config.dp} needs {config.world} GPUs, there are {group.size}",
            f"use at most {group.size} ranks",
        )
    if config.world % config.nodes_used:
        return (
            f"{config.world} ranks do not divide over {config.nodes_used} nodes",
            f"use a multiple of {config.nodes_used} ranks",
        )
    if config.own_experts and config.nodes_used > 1:
        return (
            f"{config.engine} runs data-parallel replicas on one node, or inside tp",
            f"use tp {config.tp * config.dp} with dp {config.dp}, or start one server per node",
        )
    if config.attention_dp and config.tp % config.dp:
        return (
            f"attention data parallelism divides tp {config.tp} by dp {config.dp}",
            "use a dp that divides tp",
        )
    if model.heads % config.tp:
        allowed = ", ".join(str(d) for d in divisors(model.heads) if d <= group.size)
        return f"{model.heads} attention heads are not divisible by tp {config.tp}", f"use tp {allowed}"
    kv_heads = max((kv.n_kv_heads for kv in model.kv_groups if kv.layout != "mla"), default=0)
    attention_tp = config.tp // config.dp if config.attention_dp else config.tp
    if kv_heads and kv_heads % attention_tp and attention_tp % kv_heads:
        allowed = ", ".join(str(d) for d in divisors(model.heads) if d <= group.size and not kv_heads % d)
        return f"{kv_heads} KV heads are neither divided nor replicated by tp {attention_tp}", f"use tp {allowed}"
    if config.pp > model.layers:
        return (
            f"{model.layers} layers cannot make {config.pp} pipeline stages",
            f"use pp up to {model.layers}",
        )
    if config.tp % config.dcp:
        return f"tp {config.tp} is not divisible by dcp {config.dcp}", "use a dcp that divides tp"
    if config.dcp > 1 and not model.uses_mla:
        return "decode context parallelism is planned for MLA models only", "use dcp 1"
    only = f"dcp_capability {model.family}"
    if config.dcp > 1 and facts.has_fact(only, config.version):
        generation = int(facts.at(only, config.version).value)
        if int(group.gpu.cuda or 0) != generation:
            return f"decode context parallelism of {model.name} has kernels for {generation}.x alone", "use dcp 1"
    ranks = config.tp if config.attention_dp else config.tp * config.expert_group
    if config.ep not in (1, ranks):
        product = "tp" if config.attention_dp or config.own_experts else "tp x dp"
        return f"the expert-parallel size is {product} = {ranks}, not {config.ep}", f"use ep {ranks}"
    split = split_blocks(request, release, config, ranks, facts)
    if split is not None:
        return split
    if model.moe is None:
        return ("a dense model has no experts to distribute", "use ep 1") if config.ep > 1 else None
    if model.moe.experts % config.ep and facts.has_fact("experts_divide_by_ep", config.version):
        ways = ", ".join(str(way) for way in divisors(model.moe.experts) if way <= group.size)
        return f"{model.moe.experts} experts do not divide over {config.ep} expert-parallel ranks", f"use ep {ways}"
    expert_format = release.expert_format
    if config.ep == 1 and "_g" in expert_format:
        size = int(expert_format.rpartition("_g")[2])
        share, rest = divmod(model.moe.expert_ffn, ranks)
        if rest or share % size:
            return (
                f"an expert of width {model.moe.expert_ffn} cannot be divided by {ranks} in groups of {size}",
                "use expert parallelism",
            )
    return None
