"""Every `sglang.launch_server` that the planner would have somebody type, through SGLang's resolution and checks."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

import moeplan
from planner.engines.sglang_memory import defaults
from profiles.engines import load_engine
from tests.conformance.engines import Answer, EngineParser, Gpu
from tests.conformance.grid import FEATURES, FIRST, MODELS, check, machines, planned
from tests.conformance.starts import Models, Start, estimated

LAYOUTS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 8}),
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 8, "ep": 8}),
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 8, "dcp": 4}),
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 2, "pp": 4}),
    ("kimi-k2.5", {"gpu": "8xH200", "quant": "int4", "tp": 8, "dp": 8, "ep": 8}),
    ("kimi-k2.5", {"gpu": "8xH200", "nodes": 2, "quant": "int4", "tp": 16, "dp": 16, "ep": 16}),
    ("deepseek-r1", {"gpu": "8xH200", "quant": "fp8", "tp": 8, "speculative": "mtp", "speculative_tokens": 2}),
    ("kimi-k2.5", {"gpu": "8xH200", "nodes": 2, "quant": "int4", "tp": 16}),
    ("kimi-k2.5", {"gpu": "8xH200", "nodes": 2, "quant": "int4", "tp": 8, "pp": 2}),
    ("kimi-k2.5", {"gpu": "8xB300", "quant": "nvfp4", "tp": 4, "dp": 2}),
    ("kimi-k2.5", {"gpu": "8xMI300X", "quant": "int4", "tp": 8}),
    ("qwen3-235b-a22b", {"gpu": "4xH200", "quant": "bf16", "tp": 4, "ep": 4}),
    ("llama-3.1-70b", {"gpu": "4xH100", "quant": "bf16", "tp": 2, "pp": 2}),
)
KV_DTYPES: Final = {
    ("bf16", False): "auto",
    ("bf16", True): "bfloat16",
    ("fp8", True): "fp8_e4m3",
    ("fp8_ds_mla", True): "fp8_e4m3",
}
BASE: Final = (
    "--model-path", "moonshotai/Kimi-K2.5", "--trust-remote-code", "--tp-size", "8",
    "--tool-call-parser", "kimi_k2", "--reasoning-parser", "kimi_k2",
)  # fmt: skip
TWO_NODES: Final = ("--nnodes", "2", "--dist-init-addr", "HEAD_ADDRESS:5000", "--node-rank")
H200: Final = Gpu("NVIDIA H200", (9, 0), 143771 << 20)


def differences(start: Start, answer: Answer) -> dict[str, str]:
    """What SGLang understood that is not what was planned."""
    candidate, settings, understood = start.candidate, start.candidate.settings, answer.understood
    planned: dict[str, Any] = {"model": candidate.quantization.release}
    if start.gpu is not None:
        parallel = candidate.parallel
        # Data parallelism inside tensor parallelism takes no GPUs of its own.
        inside = start.gpus == parallel.tp * parallel.pp
        planned |= {"tp": parallel.tp, "pp": parallel.pp, "dcp": parallel.dcp, "ep": parallel.ep}
        planned |= {"dp": 1 if inside else parallel.dp, "attention_dp": parallel.dp if inside else 1}
        planned |= {"expert_tp": parallel.tp // parallel.ep, "gpus": start.node_gpus, "world": start.gpus}
        planned |= {"context": settings["context"], "sequences": settings["max_num_seqs"]}
        planned |= {"batched_tokens": settings["max_num_batched_tokens"], "served": start.plan.model.id}
        planned |= {"kv_dtype": KV_DTYPES[candidate.kv_cache.dtype, "--kv-cache-dtype" in start.argv]}
        planned |= {"utilization": pytest.approx(settings["memory_utilization"], abs=6e-4)}
    return {key: f"{understood[key]}, not {value}" for key, value in planned.items() if understood[key] != value}


@pytest.mark.parametrize("model", MODELS)
def test_sglang_starts_every_planned_configuration(sglang: EngineParser, models: Models, model: str) -> None:
    starts = planned(model, "sglang", machines(model))
    check(sglang, models, starts, differences, at_least=500 if model == FIRST else 1)


@pytest.mark.parametrize(("model", "options"), LAYOUTS, ids=str)
def test_sglang_starts_an_estimated_configuration(
    sglang: EngineParser, models: Models, model: str, options: dict[str, Any]
) -> None:
    starts = [
        (start, feature) for feature in FEATURES for start in estimated(model, engine="sglang", **options, **feature)
    ]
    check(sglang, models, [start for start, _ in starts], differences, at_least=4)
    for start, feature in starts:
        if start.gpu is not None:
            understood = sglang.ask(start.argv, models.of(start), start.gpu, start.node_gpus).understood
            assert understood["eager"] is feature.get("enforce_eager", False)


@pytest.mark.parametrize(
    ("model", "quant", "method", "algorithm"),
    [("deepseek-r1", "fp8", "mtp", "EAGLE"), ("kimi-k2.5", "int4", "eagle3", "EAGLE3")],
)
def test_sglang_understands_the_drafter(
    sglang: EngineParser, models: Models, model: str, quant: str, method: str, algorithm: str
) -> None:
    options: dict[str, Any] = {"gpu": "8xH200", "quant": quant, "tp": 8, "speculative": method}
    (start,) = estimated(model, engine="sglang", speculative_tokens=2, **options)
    answer = sglang.ask(start.argv, models.of(start), start.gpu, start.node_gpus)
    assert answer.accepted, f"{answer.error}: {start}"
    assert not differences(start, answer)
    assert (answer.understood["algorithm"], answer.understood["drafts"]) == (algorithm, 2)


def test_sglang_loads_the_vision_tower_that_it_cannot_leave_out(sglang: EngineParser, models: Models) -> None:
    (refusal,) = moeplan.estimate("kimi-k2.5", engine="sglang", gpu="8xH200", quant="int4", text_only=True).rejected
    assert "vision tower" in refusal.reason
    answer = sglang.ask((*BASE, "--language-model-only"), models.named("kimi-k2.5", "int4"), H200, 8)
    assert "does not support ['KimiK25ForConditionalGeneration']" in answer.error


def test_the_planned_fraction_is_not_above_sglangs_own(sglang: EngineParser, models: Models) -> None:
    for start in planned("deepseek-v3", "sglang", [{"gpu": "8xH200"}]):
        place = start.argv.index("--mem-fraction-static")
        argv = (*start.argv[:place], *start.argv[place + 2 :])
        own = sglang.ask(argv, models.of(start), start.gpu, start.node_gpus).understood["utilization"]
        assert start.candidate.settings["memory_utilization"] <= own + 1e-3, start


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--no-such-flag",), "unrecognized arguments"),
        (("--tp-size", "eight"), "invalid int value"),
        (("--tool-call-parser", "deepseek_v3"), "invalid choice"),
        (("--reasoning-parser", "deepseek_r1"), "invalid choice"),
        (("--kv-cache-dtype", "fp9"), "invalid choice"),
        (("--cuda-graph-max-bs", "8"), "unrecognized arguments"),
        (("--kt-gpu-prefill-token-threshold", "400"), "unrecognized arguments"),
        (("--context-length", "300000"), "greater than the derived context_length"),
        (("--served-model-name", "kimi:k2.5"), "cannot contain a colon"),
        (("--dp-size", "3", "--enable-dp-attention"), "AssertionError"),
        (("--dp-size", "2", *TWO_NODES, "0"), "multi-node data-parallel replicas are not supported"),
        (("--tp-size", "7", *TWO_NODES, "0"), "must be divisible by number of nodes"),
        (("--dcp-size", "0"), "must be >= 1"),
        (("--language-model-only",), "does not support"),
    ],
)
def test_sglang_refuses(sglang: EngineParser, models: Models, more: tuple[str, ...], why: str) -> None:
    model = models.named("kimi-k2.5", "int4")
    assert sglang.ask(BASE, model, H200, 8).accepted
    answer = sglang.ask((*BASE, *more), model, H200, 8)
    assert not answer.accepted
    assert re.search(why, answer.error), answer.error


@pytest.mark.parametrize(("pp", "taken"), [("2", 8), ("3", 4 * 2)])
def test_sglang_divides_pipeline_stages_over_nodes(sglang: EngineParser, models: Models, pp: str, taken: int) -> None:
    """Three stages on two nodes: SGLang starts two of them and says nothing, so it is refused here."""
    argv = (*BASE, "--tp-size", "4", "--pp-size", pp, *TWO_NODES)
    model = models.named("kimi-k2.5", "int4")
    answers = [sglang.ask((*argv, rank), model, H200, 8).understood for rank in ("0", "1")]
    assert [answer["world"] for answer in answers] == [4 * int(pp)] * 2
    assert sum(answer["gpus"] for answer in answers) == taken
    plan = moeplan.estimate("kimi-k2.5", engine="sglang", gpu="8xH200", nodes=2, quant="int4", tp=4, pp=int(pp))
    refused = [rejection.reason for rejection in plan.rejected if "pipeline stages" in rejection.reason]
    assert bool(refused) is (taken < 4 * int(pp))


def test_sglangs_default_chunk_is_the_planners(sglang: EngineParser, models: Models) -> None:
    understood = sglang.ask(BASE, models.named("kimi-k2.5", "int4"), H200, 8).understood
    chosen = defaults(H200.bytes / 2**20, 8, load_engine("sglang"), sglang.version)
    assert understood["batched_tokens"] == chosen.chunked_prefill


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("kimi-k2.5", {"gpu": "8xH200", "tp": 8}),
        ("kimi-k2.5", {"gpu": "8xH200", "tp": 8, "enforce_eager": True}),
        ("kimi-k2.5", {"gpu": "8xB300", "tp": 8, "max_num_seqs": 64}),
        ("kimi-k2.5", {"gpu": "8xH200", "nodes": 2, "tp": 16, "pp": 1, "max_num_batched_tokens": 16384}),
        ("deepseek-r1", {"gpu": "8xH200", "tp": 8, "dp": 8}),
        ("deepseek-r1", {"gpu": "8xH200", "tp": 8, "dp": 8, "max_num_seqs": 256}),
        ("deepseek-r1", {"gpu": "8xH200", "tp": 8, "speculative": "mtp"}),
        ("qwen3-235b-a22b", {"gpu": "8xH100", "tp": 8}),
        ("llama-3.1-70b", {"gpu": "8xL40S", "tp": 8}),
        ("llama-3.1-70b", {"gpu": "8xA100-80", "tp": 2, "pp": 2, "max_num_batched_tokens": 1024}),
        ("llama-3.1-70b", {"gpu": "8xRTX5090", "tp": 8, "max_model_len": 8192}),
    ],
    ids=str,
)
def test_the_fraction_is_sglangs_own(sglang: EngineParser, models: Models, model: str, options: dict[str, Any]) -> None:
    (start,) = list(estimated(model, engine="sglang", **options))[:1]
    place = start.argv.index("--mem-fraction-static")
    argv = (*start.argv[:place], *start.argv[place + 2 :])
    own = sglang.ask(argv, models.of(start), start.gpu, start.node_gpus).understood["utilization"]
    assert start.candidate.settings["memory_utilization"] == pytest.approx(own, abs=6e-4)
