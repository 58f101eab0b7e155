"""Facts of the engines by version."""

from __future__ import annotations

import pytest

from profiles.engines import engine_names, load_engine


@pytest.mark.parametrize(
    ("engine", "kind", "name", "version", "parser"),
    [
        ("vllm", "tool", "kimi_k2", "0.11.0", "kimi_k2"),
        ("vllm", "reasoning", "kimi_k2", "0.11.0", None),
        ("vllm", "reasoning", "kimi_k2", "0.11.1", "kimi_k2"),
        ("sglang", "tool", "hermes", "0.5.8", "qwen25"),
        ("sglang", "tool", "hermes", "0.5.9", "hermes"),
        ("sglang", "tool", "deepseek_v3", "0.5.6", "deepseekv3"),
        ("sglang", "reasoning", "deepseek_v3", "0.5.6", "deepseek-v3"),
    ],
)
def test_parsers_have_the_versions_names(engine: str, kind: str, name: str, version: str, parser: str | None) -> None:
    assert load_engine(engine).parser(kind, name, version) == parser


@pytest.mark.parametrize("engine", engine_names())
def test_a_flag_that_not_every_version_has_says_how_that_is_known(engine: str) -> None:
    for key, rows in load_engine(engine).flags().items():
        for row in rows:
            assert row.get("source") or not {"since", "until"} & set(row), key
