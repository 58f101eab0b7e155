"""Every start of KTransformers, by the parser and the checks of sglang-kt, its fork of SGLang."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

import moeplan
from tests.conformance.engines import Answer, EngineParser, Gpu
from tests.conformance.starts import Models, Start, estimated, starts_of

GRID: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("kimi-k2.5", {"gpu": "4xRTX4090-48", "ram": "1TiB", "cpu": "2xepyc-9004", "cores": 64}),
    ("kimi-k2.5", {"gpu": "8xL20", "ram": "1TiB", "cpu": "2xxeon-spr", "cores": 64, "context": "64k"}),
    ("kimi-k2", {"gpu": "1xH100", "ram": "2TiB", "cpu": "xeon-emr", "cores": 32}),
    ("kimi-k2-thinking", {"gpu": "2xRTX-PRO-6000", "ram": "1TiB", "cpu": "2xxeon-spr", "cores": 96}),
    ("deepseek-v3", {"gpu": "8xL20", "ram": "1TiB", "cpu": "2xxeon-spr", "cores": 64}),
    ("deepseek-r1", {"gpu": "4xA100-80", "ram": "1TiB", "cpu": "2xxeon-spr", "cores": 64}),
    ("qwen3-235b-a22b", {"gpu": "1xH100", "ram": "1TiB", "cpu": "xeon-emr", "cores": 32}),
)
METHODS: Final = {"int4": "RAWINT4", "fp8": "FP8", "bf16": "BF16"}
BASE: Final = (
    "--model", "moonshotai/Kimi-K2.5", "--kt-weight-path", "moonshotai/Kimi-K2.5", "--kt-method", "RAWINT4",
    "--kt-cpuinfer", "64", "--kt-threadpool-count", "2", "--kt-num-gpu-experts", "8",
    "--tensor-parallel-size", "2", "--trust-remote-code",
)  # fmt: skip
L20: Final = Gpu("NVIDIA L20", (8, 9), 46068 << 20)


def differences(start: Start, answer: Answer, cores: int) -> dict[str, str]:
    """What sglang-kt understood that is not what was planned."""
    candidate, settings, understood = start.candidate, start.candidate.settings, answer.understood
    planned = {
        "model": candidate.quantization.release,
        "weights": candidate.quantization.release,
        "tp": candidate.parallel.tp,
        "pp": 1,
        "dp": 1,
        "ep": 1,
        "gpus": start.gpus,
        "method": METHODS[candidate.quantization.name],
        "gpu_experts": candidate.offload.gpu_experts_per_layer,
        "threads": cores,
        "context": settings["context"],
        "sequences": settings["max_num_seqs"],
        "batched_tokens": settings["max_num_batched_tokens"],
        "utilization": pytest.approx(settings["memory_utilization"], abs=1e-4),
        "served": start.plan.model.id,
    }
    return {key: f"{understood[key]}, not {value}" for key, value in planned.items() if understood[key] != value}


@pytest.mark.parametrize(("model", "options"), GRID, ids=str)
def test_ktransformers_starts_every_planned_configuration(
    sglang_kt: EngineParser, models: Models, model: str, options: dict[str, Any]
) -> None:
    starts = list(starts_of(moeplan.plan(model, engine="ktransformers", top=1000, **options)))
    assert starts
    for start in starts:
        answer = sglang_kt.ask(start.argv, models.of(start), start.gpu, start.node_gpus)
        assert answer.accepted, f"{answer.error}: {start}"
        assert not differences(start, answer, options["cores"]), start


@pytest.mark.parametrize(("key", "value"), [("enforce_eager", True), ("kv_dtype", "fp8"), ("max_model_len", 8192)])
def test_ktransformers_starts_an_estimated_configuration(
    sglang_kt: EngineParser, models: Models, key: str, value: str | int | bool
) -> None:
    options: dict[str, Any] = {"gpu": "4xRTX-PRO-6000", "ram": "1TiB", "cpu": "2xepyc-9004", "cores": 64, key: value}
    (start,) = estimated("kimi-k2.5", engine="ktransformers", quant="int4", **options)
    answer = sglang_kt.ask(start.argv, models.of(start), start.gpu, start.node_gpus)
    assert answer.accepted, answer.error
    assert not differences(start, answer, 64)
    assert answer.understood["eager"] is (key == "enforce_eager")
    assert answer.understood["kv_dtype"] == ("fp8_e4m3" if key == "kv_dtype" else "auto")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--no-such-flag",), "unrecognized arguments"),
        (("--kt-cpuinfer", "all"), "invalid int value"),
        (("--kt-amx-weight-path", "weights"), "unrecognized arguments"),
        (("--dcp-size", "2"), "unrecognized arguments"),
        (("--tool-call-parser", "deepseek_v3"), "invalid choice"),
        (("--kv-cache-dtype", "nvfp4"), "invalid choice"),
        (("--language-model-only",), "unrecognized arguments"),
        (("--language-only",), "requires at least one encoder urls"),
        (("--context-length", "300000"), "greater than the derived context_length"),
        (("--dp-size", "2", "--nnodes", "2"), "multi-node data parallel is not supported"),
    ],
)
def test_sglang_kt_refuses(sglang_kt: EngineParser, models: Models, more: tuple[str, ...], why: str) -> None:
    model = models.named("kimi-k2.5", "int4")
    assert sglang_kt.ask(BASE, model, L20, 2).accepted
    answer = sglang_kt.ask((*BASE, *more), model, L20, 2)
    assert not answer.accepted
    assert re.search(why, answer.error), answer.error


def test_sglang_kt_takes_any_method(sglang_kt: EngineParser, models: Models) -> None:
    """Why the methods are checked against the planner's own table above: nobody else would."""
    answer = sglang_kt.ask((*BASE, "--kt-method", "NO_SUCH"), models.named("kimi-k2.5", "int4"), L20, 2)
    assert answer.accepted and answer.understood["method"] == "NO_SUCH"
