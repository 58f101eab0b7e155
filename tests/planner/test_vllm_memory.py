"""vLLM's ledger beside start-ups that were published with every term, and its mechanisms one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.engines.base import Priced
from planner.engines.vllm_memory import vision_run
from planner.sharding import ExpertPadding
from profiles.engines import load_engine
from tests.planner.planning import outcome_of, priced_of

GIB = 2**30
CONFIGS = Path(__file__).parents[1] / "profiles" / "data" / "configs"


def entry(priced: Priced, what: str) -> float:
    return sum(one.bytes for one in priced.devices[-1].entries if one.what == what) / GIB


def vllm(model: str = "kimi-k2.5", **given: object) -> Priced:
    return priced_of(model, **({"gpu": "8xH200", "engine": "vllm", "tp": 8} | given))


@pytest.mark.parametrize(
    ("config", "given", "weights", "activation", "budget"),
    [
        # github.com/llm-d/llm-d-benchmark config_explorer/empirical-vllm-memory-results.md
        ("gpt-oss-120b", {"engine_version": "0.11", "gpu": "1xH100", "tp": 1}, 64.38, 7.38, 3.33),
        ("Qwen3-32B", {"engine_version": "0.11", "gpu": "1xH100", "tp": 1, "gpu_memory_utilization": 0.9},
         61.03, 5.64, 4.45),
        # github.com/llm-d-incubation/llm-d-planner accuracy/results/v0.19.0/logs
        ("Mixtral-8x7B-v0.1", {"engine_version": "0.19", "gpu": "2xH100", "tp": 2, "max_model_len": 8192},
         43.51, 1.21, 28.44),
        ("Meta-Llama-3.1-8B", {"engine_version": "0.19", "gpu": "1xH100", "tp": 1, "max_model_len": 8192},
         14.99, 1.89, 58.11),
        ("Meta-Llama-3.1-8B", {"engine_version": "0.19", "gpu": "4xH100", "tp": 1, "pp": 4, "max_model_len": 8192},
         4.26, 2.01, 68.89),
    ],
)  # fmt: skip
def test_published_start_ups(
    config: str, given: dict[str, Any], weights: float, activation: float, budget: float
) -> None:
    defaults: dict[str, Any] = {"max_model_len": 16000, "gpu_memory_utilization": 0.95}
    priced = vllm(str(CONFIGS / f"{config}.json"), **(defaults | given))
    last = priced.devices[-1]
    assert last.total("weights") / GIB == pytest.approx(weights, rel=0.002)
    assert entry(priced, "peak activation") == pytest.approx(activation, abs=0.03)
    assert priced.pool.budget / GIB == pytest.approx(budget, abs=0.08)


@pytest.mark.parametrize(
    ("gpu", "version", "sequences", "batched"),
    [
        ("H100", "0.19", 1024, 8192),
        ("A100-80", "0.19", 256, 2048),
        ("L40S", "0.33", 256, 2048),
        ("B200", "0.27", 1024, 8192),
        ("B200", "0.28", 1024, 16384),
    ],
)
def test_default_sizes_follow_the_gpu_and_the_version(gpu: str, version: str, sequences: int, batched: int) -> None:
    config = vllm("llama-3.1-70b", gpu=f"8x{gpu}", engine_version=version, max_model_len=8192).config
    assert (config.sequences, config.batched_tokens) == (sequences, batched)


@pytest.mark.parametrize(("version", "utilization"), [("0.19", 0.90), ("0.20", 0.92)])
def test_default_utilization(version: str, utilization: float) -> None:
    assert vllm(engine_version=version).config.utilization == utilization


def test_the_sampler_sorted_until_0_16() -> None:
    """A vocabulary of 163,840 and 1,024 sequences: 5.9 GiB with indices, 2.3 without."""
    sorting, masking = (vllm(engine_version=version, text_only=True) for version in ("0.16", "0.17"))
    assert entry(sorting, "peak activation") - entry(masking, "peak activation") == pytest.approx(3.67, abs=0.05)


def test_int4_experts_keep_their_workspace_since_0_23() -> None:
    """Two caches of 8,192 tokens x 8 experts x 7,168 in bf16, 1.75 GiB, beside the sampler."""
    direct, modular = (vllm(engine_version=version, text_only=True) for version in ("0.22", "0.23"))
    assert entry(modular, "peak activation") - entry(direct, "peak activation") == pytest.approx(1.75, abs=0.01)


def test_data_parallel_ranks_gather_their_tokens() -> None:
    one = vllm("deepseek-r1", tp=8, engine_version="0.19", max_num_seqs=16)
    eight = vllm("deepseek-r1", tp=1, dp=8, ep=8, engine_version="0.19", max_num_seqs=16)
    workspace = 2 * 8192 * 8 * 2 * 7168 / GIB
    assert entry(eight, "peak activation") - entry(one, "peak activation") > 6.9 * workspace


def test_kimi_k25_profiles_two_images_in_a_step_of_8192_tokens() -> None:
    priced = vllm(max_num_batched_tokens=8192)
    model = outcome_of(exact=True, gpu="8xH200", engine="vllm", tp=8).found[0].release.release
    assert model.release == "moonshotai/Kimi-K2.5"
    from profiles.library import load_model

    run = vision_run(load_model("kimi-k2.5"), priced.config, 16384)
    assert (run.items, run.tokens_each) == (2, 4096)
    # Outputs of both images and one step of embeddings stay while the language model runs.
    assert run.kept == 2 * 8192 * 7168 * 2
    assert entry(priced, "vision profile run") * GIB == pytest.approx(run.kept)
    assert not entry(vllm(text_only=True), "vision profile run")


def test_the_vision_tower_divides_on_request_where_its_heads_do() -> None:
    whole, divided = (entry(vllm(mm_encoder_tp_mode=mode), "vision tower") for mode in ("data", "weights"))
    assert whole == pytest.approx(0.878, abs=0.001)
    assert divided < 0.25 * whole
    sixteen_heads: dict[str, Any] = {"gpu": "8xH200", "nodes": 4, "tp": 32, "mm_encoder_tp_mode": "weights"}
    assert entry(vllm(**sixteen_heads), "vision tower") == pytest.approx(whole)


def test_absorbed_projections_are_copies_only_of_quantized_ones() -> None:
    assert not entry(vllm(), "absorbed MLA projections")
    assert entry(vllm("deepseek-r1"), "absorbed MLA projections") == pytest.approx(0.238, abs=0.001)


def test_rocm_counted_freed_blocks_until_0_20() -> None:
    """DeepSeek-R1 at TP 8: 81.3 GiB printed on MI300X, 79.6 to 79.9 on CUDA."""
    old, new = (vllm("deepseek-r1", gpu="8xMI300X", engine_version=version) for version in ("0.20", "0.21"))
    assert old.devices[0].total("weights") / GIB == pytest.approx(81.3, abs=0.05)
    assert new.devices[0].total("weights") / GIB == pytest.approx(79.55, abs=0.05)


@pytest.mark.parametrize(
    ("gpu", "version", "loaded"),
    [
        # Printed: 64.38 (github.com/vllm-project/vllm/issues/33155), Marlin 65.97 (issues/23278)
        ("H100", "0.14.1", 64.38),
        ("A100-80", "0.14.1", 65.97),
    ],
)
def test_gpt_oss_loads_more_than_its_checkpoint(gpu: str, version: str, loaded: float) -> None:
    priced = vllm(str(CONFIGS / "gpt-oss-120b.json"), gpu=gpu, tp=1, engine_version=version, max_model_len=8192)
    assert priced.devices[0].total("weights") / GIB == pytest.approx(loaded, rel=0.0015)


def test_padding_only_ever_adds() -> None:
    from profiles.library import load_model

    group = next(one for one in load_model(str(CONFIGS / "gpt-oss-120b.json")).tensors if one.role == "expert_down")
    plain = ExpertPadding().bytes_of(group, (2880, 2880))
    assert plain == group.bytes_each
    assert ExpertPadding(256, 128).bytes_of(group, (2880, 2880)) > plain


def test_lora_slots() -> None:
    """K2.x at TP 8 loads half a GiB more with slots; twice the slots or the rank take twice the bytes."""
    one, two, wide = (
        entry(vllm(max_loras=slots, max_lora_rank=rank), "LoRA slots") for slots, rank in ((1, 64), (2, 64), (1, 128))
    )
    assert two == pytest.approx(2 * one, rel=1e-6)
    assert wide == pytest.approx(2 * one, rel=1e-6)
    assert 0.1 < one < 1.0


def test_eagle3_takes_weights_and_divided_kv_cache() -> None:
    without, drafted = vllm(), vllm(speculative="eagle3")
    matrices = (829_459_456 * 2 + 163_840 * 7168 * 2) / 8 / GIB
    assert entry(drafted, "drafter (eagle3)") == pytest.approx(matrices, rel=1e-6)
    assert drafted.pool.bytes_per_token - without.pool.bytes_per_token == 2 * 64 * 128 * 2 / 8


def test_mtp_layers_are_loaded_when_they_draft() -> None:
    without, drafted = vllm("deepseek-r1"), vllm("deepseek-r1", speculative="mtp")
    assert not entry(without, "drafter (mtp)")
    # 11.7 GB without the copies of embedding and head, of which eh_proj, q_a and kv_a are whole on every rank.
    assert 11.7e9 / GIB < entry(drafted, "drafter (mtp)") * 8 < 11.7e9 / GIB + 7 * 0.25
    assert drafted.pool.bytes_per_token - without.pool.bytes_per_token == 1152


def test_offloaded_weights_are_in_ram() -> None:
    priced = vllm(gpu="8xA100-80", ram="1TiB", cpu_offload_gb=10, max_model_len=8192)
    gpu, host = priced.devices
    assert gpu.total("weights") == vllm(gpu="8xA100-80", max_model_len=8192).devices[0].total("weights") - 10 * GIB
    assert (host.kind, host.total("weights")) == ("host", 80 * GIB)


@pytest.mark.parametrize(
    ("given", "reason"),
    [({}, "the size of RAM is not known (--ram)"), ({"ram": "64GiB"}, "the offloaded weights do not fit in RAM")],
)
def test_offloading_needs_ram(given: dict[str, Any], reason: str) -> None:
    assert vllm(cpu_offload_gb=10, **given).reason == reason


@pytest.mark.parametrize("gpu", ["8xH100", "8xA100-80"])
@pytest.mark.parametrize("version", ["0.15", "0.19", "0.22", "0.33"])
def test_kimi_k25_on_eighty_gigabytes_is_never_called_impossible(gpu: str, version: str) -> None:
    """At 0.95 with 8k of context and 64 sequences it starts, with about ten thousand tokens of KV cache."""
    priced = vllm(gpu=gpu, engine_version=version, max_model_len=8192, max_num_seqs=64, gpu_memory_utilization=0.95)
    assert priced.verdict != "no"
    assert priced.pool.budget_high > 10_000 * 70_272


def test_a_utilization_above_the_free_memory_is_refused_before_loading() -> None:
    given: dict[str, Any] = {"gpu": "8xH200", "engine": "vllm", "engine_version": "0.19", "tp": 8}
    (miss,) = outcome_of(exact=True, **given, gpu_memory_utilization=0.99).missed
    assert miss.reason == (
        "vLLM starts only where 0.99 of the memory is free, and it is not: the CUDA context takes 1.5 GiB before"
    )
    assert miss.remedy == "use --gpu-memory-utilization 0.989"
    assert outcome_of(exact=True, **given, gpu_memory_utilization=0.98).found


def test_kimi_k25_on_h100_at_the_default_does_not_start() -> None:
    assert vllm(gpu="8xH100", engine_version="0.19", max_model_len=8192).verdict == "no"


def test_every_fact_of_the_ledger_holds_for_old_and_new_versions() -> None:
    facts = load_engine("vllm")
    for key in (
        "sampler_bytes_per_vocab_and_sequence", "sampler_bytes_per_vocab_and_sequence_rocm", "expert_chunk_tokens",
        "expert_workspace_kept", "non_torch_tp_bytes", "graphs_inside_budget", "graphs_inside_budget_rocm",
        "max_num_batched_tokens_large", "mxfp4_triton_hidden_multiple",
    ):  # fmt: skip
        for version in ("0.6", "0.11", "0.17", "0.20", "0.25", "0.33", "1.0"):
            fact = facts.at(key, version)
            assert fact.low <= fact.value <= fact.high
            assert fact.source
