"""Every `vllm serve` that the planner would have somebody type, up to vLLM's complete configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import pytest

import moeplan
from profiles.library import load_model
from tests.conformance.engines import Answer, EngineParser, Gpu
from tests.conformance.grid import FEATURES, FIRST, MODELS, check, machines, planned
from tests.conformance.starts import Models, Start, estimated

LAYOUTS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 8}),
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 8, "ep": 8}),
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 8, "dcp": 4}),
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 8, "text_only": True}),
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 2, "pp": 4}),
    ("kimi-k2.5", {"gpu": "8xH200", "nodes": 2, "quant": "int4", "tp": 8, "pp": 2}),
    ("kimi-k2.5", {"gpu": "8xH200", "nodes": 2, "quant": "int4", "tp": 16}),
    ("kimi-k2.5", {"gpu": "8xH200", "nodes": 2, "quant": "int4", "tp": 8, "dp": 2, "ep": 16}),
    ("kimi-k2.5", {"gpu": "8xH200", "nodes": 2, "quant": "int4", "tp": 1, "dp": 16, "ep": 16}),
    ("kimi-k2.5", {"gpu": "8xH200", "nodes": 2, "quant": "int4", "tp": 4, "pp": 3}),
    (
        "kimi-k2.5",
        {"gpu": "8xH200", "ram": "1TiB", "quant": "int4", "tp": 8, "mm_encoder_tp_mode": "weights"}
        | {"cpu_offload_gb": "2.5"},
    ),
    ("deepseek-v3.2", {"gpu": "8xB200", "nodes": 2, "quant": "fp8", "tp": 8, "pp": 2}),
    ("kimi-k2.5", {"gpu": "8xB300", "quant": "nvfp4", "tp": 4, "dp": 2, "ep": 8}),
    ("kimi-k2.5", {"gpu": "8xMI300X", "quant": "int4", "tp": 8}),
    ("qwen3-235b-a22b", {"gpu": "4xH200", "quant": "bf16", "tp": 4, "ep": 4}),
    ("llama-3.1-70b", {"gpu": "4xH100", "quant": "bf16", "tp": 4}),
)
BESIDE: Final[tuple[tuple[str, dict[str, Any], dict[str, Any]], ...]] = (
    (
        "deepseek-r1",
        {"gpu": "8xH200", "quant": "fp8", "tp": 8, "speculative": "mtp", "speculative_tokens": 2},
        {"method": "mtp", "drafts": 2},
    ),
    (
        "kimi-k2.5",
        {"gpu": "8xH200", "quant": "int4", "tp": 8, "speculative": "eagle3", "speculative_tokens": 3},
        {"method": "eagle3", "drafts": 3},
    ),
    (
        "llama-3.1-70b",
        {"gpu": "4xH100", "quant": "bf16", "tp": 4, "max_loras": 3, "max_lora_rank": 32},
        {"loras": 3, "lora_rank": 32},
    ),
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 8, "mm_encoder_tp_mode": "weights"}, {"vision": "weights"}),
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 8}, {"vision": "data", "loras": 0, "drafts": 0}),
    (
        "kimi-k2.5",
        {"gpu": "8xH200", "ram": "1TiB", "quant": "int4", "tp": 8, "cpu_offload_gb": "2.5"},
        {"offload": 2.5},
    ),
    ("deepseek-v4-flash", {"gpu": "8xB200", "tp": 8, "kv_dtype": "bf16"}, {"kv_dtype": "bfloat16", "block": 256}),
    ("deepseek-v4-flash", {"gpu": "8xH200", "tp": 8}, {"kv_dtype": "fp8_ds_mla", "block": 256}),
    ("minimax-m3", {"gpu": "8xH200", "nodes": 2, "tp": 8, "pp": 2}, {"kv_dtype": "auto", "block": 128}),
    ("glm-5", {"gpu": "8xB200", "nodes": 2, "tp": 8, "pp": 2}, {"kv_dtype": "bfloat16"}),
)
"""Models, configurations with something beside the model, and what vLLM has to understand of it."""
STRADDLING: Final[tuple[dict[str, Any], ...]] = (
    {"gpu": "8xH200", "nodes": 3, "tp": 4, "pp": 3, "dp": 2},
    {"gpu": "8xH200", "nodes": 2, "tp": 4, "pp": 1, "dp": 3},
)
QUANTIZATION: Final[dict[str, tuple[str | None, ...]]] = {
    "bf16": (None,),
    "fp8": ("fp8",),
    "int4": ("compressed-tensors",),
    "mxfp4": ("compressed-tensors", "deepseek_v4_fp8", "gpt_oss_mxfp4", "mxfp4"),
    "mxfp8": ("mxfp8", "modelopt_mxfp8"),
    "nvfp4": ("modelopt_fp4",),
}
"""What vLLM calls the formats; several makers' checkpoints of MXFP4 have a class each."""
BASE: Final = (
    "moonshotai/Kimi-K2.5", "--tensor-parallel-size", "8", "--trust-remote-code", "--enable-auto-tool-choice",
    "--tool-call-parser", "kimi_k2", "--reasoning-parser", "kimi_k2",
)  # fmt: skip
LLAMA: Final = ("meta-llama/Llama-3.1-70B", "--tensor-parallel-size", "8")
H200: Final = Gpu("NVIDIA H200", (9, 0), 143771 << 20)


def differences(start: Start, answer: Answer) -> dict[str, str]:
    """What vLLM understood that is not what was planned."""
    candidate, settings, understood = start.candidate, start.candidate.settings, answer.understood
    planned: dict[str, Any] = {"model": candidate.quantization.release}
    if start.gpu is not None:
        parallel = candidate.parallel
        planned |= {"tp": parallel.tp, "pp": parallel.pp, "dp": parallel.dp, "dcp": parallel.dcp}
        planned |= {"expert_parallel": parallel.ep > 1, "gpus": start.node_gpus, "world": start.gpus}
        planned |= {"context": settings["context"], "sequences": settings["max_num_seqs"]}
        planned |= {"batched_tokens": settings["max_num_batched_tokens"], "served": start.plan.model.id}
        planned |= {"kv_dtype": told(start, "--kv-cache-dtype") or "auto"}
        assert candidate.kv_cache.dtype == "bf16" or planned["kv_dtype"] == candidate.kv_cache.dtype
        if planned["kv_dtype"] == "bfloat16" and understood["kv_dtype"] == "auto":
            # What the configuration of DeepSeek-V3.2 makes of bfloat16.
            planned["kv_dtype"] = "auto"
        planned |= {"block": int(told(start, "--block-size") or understood["block"])}
        planned |= {"utilization": pytest.approx(settings["memory_utilization"], abs=1e-4)}
        named = QUANTIZATION[candidate.quantization.name]
        planned |= {"quantization": understood["quantization"] if understood["quantization"] in named else named}
    return {key: f"{understood[key]}, not {value}" for key, value in planned.items() if understood[key] != value}


def at_least_one(starts: Iterable[Start]) -> list[Start]:
    """The starts, of which there have to be some."""
    found = list(starts)
    assert found
    return found


def told(start: Start, flag: str) -> str | None:
    """What the command gives the flag."""
    return start.argv[start.argv.index(flag) + 1] if flag in start.argv else None


@pytest.mark.parametrize("model", MODELS)
def test_vllm_starts_every_planned_configuration(vllm: EngineParser, models: Models, model: str) -> None:
    starts = planned(model, "vllm", machines(model))
    check(vllm, models, starts, differences, at_least=1000 if model == FIRST else 1)


@pytest.mark.parametrize(("model", "options"), LAYOUTS, ids=str)
def test_vllm_starts_an_estimated_configuration(
    vllm: EngineParser, models: Models, model: str, options: dict[str, Any]
) -> None:
    starts = [
        (start, feature) for feature in FEATURES for start in estimated(model, engine="vllm", **options, **feature)
    ]
    check(vllm, models, [start for start, _ in starts], differences, at_least=4)
    for start, feature in starts:
        if start.gpu is not None:
            understood = vllm.ask(start.argv, models.of(start), start.gpu, start.node_gpus).understood
            assert understood["eager"] is feature.get("enforce_eager", False)
            assert understood["text_only"] is (options.get("text_only", False) or load_model(model).vision is None)


@pytest.mark.parametrize(("model", "options", "meant"), BESIDE, ids=str)
def test_vllm_understands_what_stands_beside_the_model(
    vllm: EngineParser, models: Models, model: str, options: dict[str, Any], meant: dict[str, Any]
) -> None:
    for start in at_least_one(estimated(model, engine="vllm", **options)):
        answer = vllm.ask(start.argv, models.of(start), start.gpu, start.node_gpus)
        assert answer.accepted, f"{answer.error}: {start}"
        assert not differences(start, answer)
        assert {key: answer.understood[key] for key in meant} == meant


@pytest.mark.parametrize(("tp", "pp", "dp", "firsts"), [(8, 1, 2, [0, 1]), (1, 1, 16, [0, 8]), (16, 1, 1, [0, 0])])
def test_the_nodes_of_vllm_share_the_replicas_and_find_the_head(
    vllm: EngineParser, models: Models, tp: int, pp: int, dp: int, firsts: list[int]
) -> None:
    """Without --data-parallel-size-local and -address: vLLM has them from the nodes and the head's address."""
    options: dict[str, Any] = {"gpu": "8xH200", "nodes": 2, "quant": "int4", "tp": tp, "pp": pp, "dp": dp}
    starts = at_least_one(estimated("kimi-k2.5", engine="vllm", **options, **({"ep": dp * tp} if dp > 1 else {})))
    answers = [vllm.ask(start.argv, models.of(start), start.gpu, start.node_gpus) for start in starts]
    assert [answer.understood["first_replica"] for answer in answers] == firsts
    for answer in answers:
        of_replicas, of_ranks = answer.understood["head"]
        assert of_ranks == "HEAD_ADDRESS" and (dp == 1 or of_replicas == "HEAD_ADDRESS")


@pytest.mark.parametrize("options", STRADDLING, ids=str)
def test_vllm_refuses_the_replicas_that_are_refused_here(
    vllm: EngineParser, models: Models, options: dict[str, Any]
) -> None:
    plan = moeplan.estimate("deepseek-v3", engine="vllm", quant="fp8", **options)
    assert "straddle" in plan.rejected[0].reason
    argv = ("deepseek-ai/DeepSeek-V3", "--nnodes", str(options["nodes"]), "--node-rank", "0")
    ranks = [
        f"--{name}-parallel-size={options[key]}" for key, name in (("tp", "tensor"), ("pp", "pipeline"), ("dp", "data"))
    ]
    answer = vllm.ask((*argv, *ranks), models.named("deepseek-v3", "fp8"), H200, 8)
    assert "must be divisible by the number of data parallel node groups" in answer.error


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--no-such-flag",), "unrecognized arguments"),
        (("--tensor-parallel-size", "eight"), "invalid int value"),
        (("--mm-encoder-tp-mode", "pipeline"), "invalid choice"),
        (("--tool-call-parser", "kimi_k9"), "invalid tool call parser"),
        (("--reasoning-parser", "kimi_k9"), "Reasoning parser .* not found"),
        (("--tensor-parallel-size", "0"), "greater than or equal to 1"),
        (("--tensor-parallel-size", "7"), r"attention heads \(64\) must be divisible"),
        (("--tensor-parallel-size", "16"), "larger than the number of available GPUs"),
        (("--pipeline-parallel-size", "2"), "larger than the number of available GPUs"),
        (("--decode-context-parallel-size", "3"), "must be divisible by dcp_size=3"),
        (("--kv-cache-dtype", "fp9"), "Invalid kv_cache_dtype"),
        (("--gpu-memory-utilization", "1.2"), "less than or equal to 1"),
        (("--max-model-len", "300000"), "greater than the derived max_model_len"),
        (("--enable-eplb",), "expert"),
        (("--nnodes", "3", "--node-rank", "0"), "must evenly divide the total world size"),
        (("--data-parallel-size", "3", "--nnodes", "2", "--node-rank", "0"), "must be divisible by"),
        (("--nnodes", "2", "--node-rank", "2"), "must be between 0 and 1"),
    ],
)
def test_vllm_refuses(vllm: EngineParser, models: Models, more: tuple[str, ...], why: str) -> None:
    model = models.named("kimi-k2.5", "int4")
    assert vllm.ask(BASE, model, H200, 8).accepted
    answer = vllm.ask((*BASE, *more), model, H200, 8)
    assert not answer.accepted
    assert re.search(why, answer.error), answer.error


def test_vllm_refuses_tool_choice_without_a_parser(vllm: EngineParser, models: Models) -> None:
    argv = (*BASE[:4], "--enable-auto-tool-choice")
    assert "requires --tool-call-parser" in vllm.ask(argv, models.named("kimi-k2.5", "int4"), H200, 8).error


@pytest.mark.parametrize("gpu", ["H200", "H100", "A40", "A100-80", "L40S", "B200", "B300", "RTX-PRO-6000"])
def test_vllm_defaults_are_the_planners(vllm: EngineParser, models: Models, gpu: str) -> None:
    (start,) = estimated("llama-3.1-70b", engine="vllm", gpu=f"8x{gpu}", tp=8, max_model_len=8192)
    understood = vllm.ask(LLAMA, models.named("llama-3.1-70b", "bf16"), start.gpu, 8).understood
    settings = start.candidate.settings
    assert understood["utilization"] == settings["memory_utilization"]
    assert understood["sequences"] == settings["max_num_seqs"]
    assert understood["batched_tokens"] == settings["max_num_batched_tokens"]
