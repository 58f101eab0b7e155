"""What vLLM allocates beside weights and KV cache, as its profile run finds it. Sizes in bytes.

vLLM runs one step of ``max_num_batched_tokens`` dummy tokens, then the sampler over ``max_num_seqs`` rows, and keeps
the peak of what PyTorch had allocated away from the KV cache. The peak is that of the fullest moment, not the sum of
all: the vision encoder, a layer's attention, a layer's experts and the sampler come one after the other. What stays
allocated throughout (the workspace of modular expert kernels since 0.13, encoder outputs) adds to each.
Read in vLLM 0.11 to 0.33: ``v1/worker/gpu_worker.py``, ``v1/worker/gpu_model_runner.py``, ``v1/worker/workspace.py``,
``model_executor/layers/fused_moe``, ``model_executor/layers/attention/mla_attention.py``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from planner.engines.base import Config
from planner.engines.tensor_parallel import Ranks
from planner.machine import Gpu
from planner.request import PricedRelease
from profiles.engines import EngineFacts
from profiles.model import ModelSpec

ACTIVATION_BYTES: Final = 2
"""A bf16 element."""
INT4_FORMATS: Final = ("int4", "awq", "gptq")
MONOLITHIC_ON_DATA_CENTER_BLACKWELL: Final = ("fp8", "nvfp4", "mxfp4", *INT4_FORMATS)
"""Expert formats that run through TensorRT-LLM's kernels of FlashInfer there, which keep no workspace of vLLM's."""
DEEP_GEMM_ROWS: Final = 128
"""DeepGEMM pads the rows of every expert to a multiple of this."""


class Workspace(NamedTuple):
    """Buffers of the routed experts: ``kept`` outlives the layer, ``passing`` is freed after it."""

    kept: float
    kept_high: float
    passing: float


def expert_workspace(
    model: ModelSpec, release: PricedRelease, gpu: Gpu, config: Config, ranks: Ranks, facts: EngineFacts
) -> Workspace:
    """Intermediate caches of one layer's routed experts for one step.

    A modular kernel asks for two caches at once, ``2 M k [max(i, h) + max(2 i, h)]`` bytes for ``M`` tokens of ``k``
    experts of width ``i`` on this rank and hidden size ``h``; the direct Marlin call for ``2 M k [max(2 i, h) + i]``
    and its output. Data-parallel ranks that share experts gather their tokens first, so that ``M`` is the tokens of
    all of them.
    """
    moe = model.moe
    if moe is None:
        return Workspace(0.0, 0.0, 0.0)
    version, width, hidden = config.version, moe.expert_ffn / ranks.expert_tp, model.hidden
    tokens = config.batched_tokens * (1 if config.own_experts else config.dp)
    rows = min(tokens, int(facts.at("expert_chunk_tokens", version).value)) * moe.top_k
    modular = ACTIVATION_BYTES * rows * (max(width, hidden) + max(2 * width, hidden))
    fused = ACTIVATION_BYTES * (rows * (max(2 * width, hidden) + width) + tokens * hidden)
    experts = release.expert_format
    if gpu.cuda is not None and int(gpu.cuda) == 10 and experts.startswith(MONOLITHIC_ON_DATA_CENTER_BLACKWELL):
        return Workspace(0.0, 0.3 * modular, fused)
    if experts.startswith(INT4_FORMATS) and not facts.at("int4_experts_modular", version).value:
        return Workspace(0.0, 0.0, fused)
    if not facts.at("expert_workspace_kept", version).value:
        return Workspace(0.0, 0.0, modular)
    padded = rows + moe.experts // ranks.expert_ranks * (DEEP_GEMM_ROWS - 1)
    return Workspace(modular, modular * (padded / rows if experts.startswith("fp8") else 1.0), 0.0)


def attention_scratch_bytes(model: ModelSpec, config: Config, ranks: Ranks, limit: int) -> float:
    """Largest moment of a layer's attention above the step's hidden states.

    Chunked prefill over cached MLA expands its latent to heads: ``2 L heads / tp (nope + v)`` for the ``L`` tokens of
    its workspace, ``min(max(8 context, 4 sequences x block), limit)``; queries take ``2 T heads / tp (nope + rope)``.
    """
    group = next((group for group in model.kv_groups if group.layout == "mla"), None)
    if group is None:
        return 0.0
    tokens = max(min(max(8 * config.context, 4 * config.sequences * 64), limit), config.sequences * 64)
    heads = -(-model.heads // ranks.tp)
    query = config.batched_tokens * heads * (model.nope_dim + group.rope_dim)
    return ACTIVATION_BYTES * (tokens * heads * (model.nope_dim + model.v_head_dim) + query)


class VisionRun(NamedTuple):
    """The encoder's part of the profile run: its own peak, and the outputs that stay while the model runs."""

    peak: float
    kept: float
    items: int
    tokens_each: int


def vision_run(model: ModelSpec, config: Config, patches_each: int) -> VisionRun:
    """Dummy items of the largest size, as many as the encoder budget of one step holds.

    The budget is ``max(batched tokens, tokens of an item)``; an item of ``patches_each`` patches gives ``patches /
    merge^2`` tokens. A replicated tower (``data``) takes whole items on each rank, a sharded one all of them in part.
    Per patch: the hidden state twice, and the larger of packed q, k and v with their rotation in fp32, and the
    feed-forward pair; pixels enter as bf16.

    Kimi K2.5 admits 16,384 patches, 4,096 tokens, so two items in a step of 8,192 tokens.
    """
    vision = model.vision
    assert vision is not None
    tokens_each = patches_each // vision.merge**2
    budget = max(config.batched_tokens, tokens_each)
    per_prompt = max(1, config.context // tokens_each)
    items = max(1, min(budget // tokens_each, config.sequences * per_prompt))
    sharded = vision_is_sharded(model, config)
    ways = config.tp if sharded else 1
    on_rank = items if sharded else -(-items // config.tp)
    hidden = vision.hidden
    each = 4 * hidden + max(18 * hidden, 4 * vision.ffn) / ways + ACTIVATION_BYTES * 3 * vision.patch**2
    outputs = ACTIVATION_BYTES * items * tokens_each * model.hidden
    embeddings = ACTIVATION_BYTES * config.batched_tokens * model.hidden
    return VisionRun(on_rank * patches_each * each + outputs, outputs + embeddings, items, tokens_each)


def vision_is_sharded(model: ModelSpec, config: Config) -> bool:
    """Whether the tower is divided over the ranks: on request, and where its heads divide (``models/vision.py``)."""
    vision = model.vision
    return vision is not None and config.vision_sharded and not vision.heads % config.tp


class Activation(NamedTuple):
    """Peak of the profile run without and with the vision encoder, each low, expected, high."""

    text: tuple[float, float, float]
    vision: tuple[float, float, float] | None


def activation(
    model: ModelSpec,
    release: PricedRelease,
    gpu: Gpu,
    config: Config,
    ranks: Ranks,
    facts: EngineFacts,
    *,
    head: bool,
) -> Activation:
    """The peak of one pipeline stage; ``head`` says whether it is the one that samples.

    ``max(forward, sampler) + kept``. ``forward`` is the largest of the feed-forward ``2 T (3 ffn / tp + 4 hidden)``,
    attention ``2.5`` and experts ``4`` hidden states with their scratch; ``sampler`` is ``rate x vocabulary x
    sequences + 2 T hidden``. Stages of a pipeline hold what they receive, twice the hidden states.
    """
    version, tokens = config.version, config.batched_tokens
    hidden = ACTIVATION_BYTES * tokens * model.hidden
    experts = expert_workspace(model, release, gpu, config, ranks, facts)
    moe = model.moe
    widest = max(model.dense_ffn, moe.expert_ffn * moe.shared_experts if moe is not None else 0)
    copies = facts.at("forward_hidden_copies", version).value
    scratch = attention_scratch_bytes(model, config, ranks, int(facts.at("mla_workspace_tokens", version).value))
    forward = max(
        copies * hidden + ACTIVATION_BYTES * tokens * 3 * widest / ranks.tp,
        facts.at("attention_hidden_copies", version).value * hidden + scratch,
        copies * hidden + experts.passing,
    )
    kind = "" if gpu.vendor == "nvidia" else "_rocm"
    rate = facts.at(f"sampler_bytes_per_vocab_and_sequence{kind}", version)
    rows = model.vocab * min(config.sequences, tokens) if head else 0
    sampler = rate.value * rows + hidden
    received = 2 * hidden if config.pp > 1 else 0.0
    constant = facts.at("sampler_constant_bytes", version).value
    low = max(0.7 * forward, rate.low * rows) + 0.8 * experts.kept + received
    expected = max(forward, sampler) + experts.kept + received + constant
    high = max(1.15 * forward, rate.high * rows + hidden) + experts.kept_high + received + 3 * constant
    if model.vision is None or config.text_only:
        return Activation((low, expected, high), None)
    run = vision_run(model, config, vision_patches(model, facts, version))
    excess = facts.at("vision_excess_bytes", version)
    return Activation(
        (low, expected, high),
        (
            max(run.peak - low, 0.0) * 0.5,
            max(run.peak - expected, 0.0) + run.kept + excess.value,
            max(run.peak - expected, 0.0) + run.kept + excess.high,
        ),
    )


def vision_patches(model: ModelSpec, facts: EngineFacts, version: str) -> int:
    """Patches of the largest item that the model's processor admits."""
    key = f"vision_item_patches {model.family}"
    return int(facts.at(key if facts.has_fact(key, version) else "vision_item_patches", version).value)
