"""Flags are right for the versions that they are said to be in: earlier engines, asked for their own commands."""

from __future__ import annotations

from typing import Any, Final

import pytest

import moeplan
from planner.engines.constraints import too_old
from profiles.engines import load_engine
from profiles.library import load_model
from tests.conformance.engines import Answer, EngineParser, Gpu
from tests.conformance.grid import HARDWARE, check, planned
from tests.conformance.starts import Models, Start, estimated
from tests.conformance.test_vllm import differences

OLDER: Final = ("vllm-0.11.0", "sglang-0.5.6", "vllm-0.19.0")
MODELS_THEN: Final = ("kimi-k2.5", "kimi-k2", "deepseek-r1", "qwen3-235b-a22b", "llama-3.1-70b")
SINCE: Final[dict[str, tuple[tuple[str, dict[str, Any], str, str], ...]]] = {
    "vllm-0.11.0": (
        ("qwen3-235b-a22b", {"quant": "bf16", "tp": 8, "pp": 2}, "--nnodes", "unrecognized arguments"),
        ("kimi-k2-thinking", {"quant": "int4", "tp": 8}, "--reasoning-parser", "invalid choice"),
    ),
    "sglang-0.5.6": (
        ("kimi-k2.5", {"quant": "int4", "tp": 8, "dcp": 4}, "--dcp-size", "unrecognized arguments"),
        ("qwen3-235b-a22b", {"quant": "bf16", "tp": 8}, "hermes", "invalid choice"),
    ),
}
"""Models, configurations, what of their command the version does not take, and what it says to it."""
H200: Final = Gpu("NVIDIA H200", (9, 0), 143771 << 20)


def disagreements(parser: EngineParser, engine: str) -> dict[str, bool]:
    """Flags of the fact file about which the engine's parser disagrees, and what the file says."""
    facts = load_engine(engine)
    said = {
        row["flag"]: facts.has_flag(key, parser.version)
        for key, rows in facts.flags().items()
        for row in rows
        if row["flag"].startswith("--")
    }
    assert len(said) > 2
    return {flag: has for flag, has in said.items() if has is not (flag in parser.flags)}


def test_vllm_is_the_default_version(vllm: EngineParser) -> None:
    assert vllm.version == load_engine("vllm").default_version
    assert not disagreements(vllm, "vllm")


def test_sglang_is_the_default_version(sglang: EngineParser) -> None:
    assert sglang.version == load_engine("sglang").default_version
    assert not disagreements(sglang, "sglang")


def test_sglang_kt_is_the_default_version_of_ktransformers(sglang_kt: EngineParser) -> None:
    assert sglang_kt.version == load_engine("ktransformers").default_version
    assert not disagreements(sglang_kt, "ktransformers")


def model_only(start: Start, answer: Answer) -> dict[str, str]:
    """What is compared where only the parser was asked."""
    return {} if answer.understood == {"model": start.candidate.quantization.release} else {"model": "another"}


@pytest.mark.parametrize("older", OLDER, indirect=True)
def test_earlier_engines_start_what_is_planned_for_them(older: EngineParser, models: Models) -> None:
    """vLLM 0.19 up to its complete configuration, the others up to their parser."""
    engine, version = older.part.split("-")
    whole = older.part == "vllm-0.19.0"
    assert older.version == version
    assert not disagreements(older, engine)
    for model in MODELS_THEN:
        if too_old(engine, load_model(model), load_engine(engine), version):
            continue
        starts = planned(model, engine, [{**work, "engine_version": version} for work in HARDWARE[1::4]])
        asked = starts if whole else (start.for_the_parser() for start in starts)
        check(older, models, asked, differences if whole else model_only, at_least=10)
    if whole:
        argv = ("moonshotai/Kimi-K2.5", "--trust-remote-code", "--tensor-parallel-size", "16")
        answer = older.ask(argv, models.named("kimi-k2.5", "int4"), H200, 8)
        assert "larger than the number of available GPUs" in answer.error


@pytest.mark.parametrize("older", OLDER[:2], indirect=True)
def test_a_command_for_the_default_version_would_not_do(older: EngineParser, models: Models) -> None:
    engine, version = older.part.split("-")
    for model, options, missing, why in SINCE[older.part]:
        machine = {"gpu": "8xH200", "nodes": 2, **options}
        starts = list(estimated(model, engine=engine, **machine))
        assert starts
        for start in starts:
            error = older.ask(start.argv, models.of(start), None, start.node_gpus).error
            assert why in error and missing in error
        for candidate in moeplan.estimate(model, engine=engine, engine_version=version, **machine).candidates:
            assert missing not in candidate.launch.argv
