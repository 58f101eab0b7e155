"""The engines that are asked are those whose facts the planner uses."""

from __future__ import annotations

from profiles.engines import load_engine
from tests.conformance.engines import EngineParser


def test_vllm_is_the_default_version(vllm: EngineParser) -> None:
    assert vllm.version == load_engine("vllm").default_version


def test_sglang_is_the_default_version(sglang: EngineParser) -> None:
    assert sglang.version == load_engine("sglang").default_version


def test_sglang_kt_is_the_default_version_of_ktransformers(sglang_kt: EngineParser) -> None:
    assert sglang_kt.version == load_engine("ktransformers").default_version
