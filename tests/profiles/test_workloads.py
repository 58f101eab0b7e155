"""The workload definitions."""

from __future__ import annotations

import pytest

from profiles.names import UnknownName
from profiles.workloads import DEFAULT_WORKLOAD, load_workload, workload_names


def test_the_five_workloads() -> None:
    assert workload_names() == ("agent-swarm", "batch", "chat", "coding-agent", "rag")


def test_the_default_is_chat() -> None:
    chat = load_workload(DEFAULT_WORKLOAD)
    assert chat.name == "chat"
    assert (chat.input_tokens, chat.output_tokens, chat.concurrency, chat.context) == (4096, 1024, 8, 32_768)
    assert chat.prefix_cache_hit_rate is None


def test_a_swarm_is_a_hundred_agents() -> None:
    assert load_workload("agent-swarm").concurrency == 100


@pytest.mark.parametrize("name", workload_names())
def test_every_workload_fits_its_own_context_and_says_where_it_comes_from(name: str) -> None:
    workload = load_workload(name)
    assert 0 < workload.input_tokens + workload.output_tokens <= workload.context
    assert workload.concurrency > 0 and workload.images >= 0
    assert workload.prefix_cache_hit_rate is None or 0 < workload.prefix_cache_hit_rate < 1
    assert workload.source.startswith("definition of this project")
    assert workload.note


def test_an_unknown_workload_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="coding-agent"):
        load_workload("coding")
    with pytest.raises(UnknownName, match="batch, chat"):
        load_workload("")
