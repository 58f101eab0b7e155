"""The engines of tests/conformance/setup.sh; without MOEPLAN_CONFORMANCE, its folder, nothing here is collected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.engines import EngineParser
from tests.conformance.starts import Models

collect_ignore_glob = ["workers/*"] if os.environ.get("MOEPLAN_CONFORMANCE") else ["*"]


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where setup.sh put the engines."""
    return Path(os.environ["MOEPLAN_CONFORMANCE"]).absolute()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def vllm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineParser]:
    with EngineParser("vllm", folder, tmp_path_factory.mktemp("vllm") / "log") as parser:
        yield parser


@pytest.fixture(scope="session")
def sglang(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineParser]:
    with EngineParser("sglang", folder, tmp_path_factory.mktemp("sglang") / "log") as parser:
        yield parser


@pytest.fixture(scope="session")
def sglang_kt(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineParser]:
    with EngineParser("sglang-kt", folder, tmp_path_factory.mktemp("sglang-kt") / "log") as parser:
        yield parser


@pytest.fixture(scope="module")
def older(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineParser]:
    """The engine of an earlier version that the parameter names, `vllm-0.19.0` say."""
    with EngineParser(request.param, folder, tmp_path_factory.mktemp(request.param) / "log") as parser:
        yield parser
