"""More hardware never loses an answer, more work never wins one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tests.planner.planning import outcome_of, starting


@pytest.mark.parametrize("gpu", ["8xH200", "8xH100", "4xB200", "4xA100-80", "rtx-4090", "none"])
def test_a_longer_context_never_lets_more_layouts_fit(gpu: str) -> None:
    given: dict[str, Any] = {"gpu": gpu, "ram": "512GiB"}
    sets = [starting(outcome_of(context=context, **given)) for context in ("8k", "64k", "256k")]
    for shorter, longer in pairwise(sets):
        assert longer <= shorter


@pytest.mark.parametrize("gpu", ["8xH200", "8xH100", "4xA100-80"])
def test_more_requests_never_let_more_layouts_fit(gpu: str) -> None:
    given: dict[str, Any] = {"gpu": gpu, "ram": "512GiB"}
    sets = [starting(outcome_of(concurrency=concurrency, **given)) for concurrency in (1, 8, 512)]
    for fewer, more in pairwise(sets):
        assert more <= fewer


@pytest.mark.parametrize("gpu", ["none", "rtx-4090", "2xH100", "4xA100-80", "8xH100"])
def test_more_ram_never_loses_an_answer(gpu: str) -> None:
    found = [outcome_of(gpu=gpu, ram=ram).found for ram in ("64GiB", "256GiB", "1TiB", "2TiB")]
    answered = [bool(candidates) for candidates in found]
    fitting = [any(item.priced.verdict == "fits" for item in candidates) for candidates in found]
    assert answered == sorted(answered)
    assert fitting == sorted(fitting)
    # No release fits in 64 GiB and a small card.
    assert answered[0] == (gpu not in ("none", "rtx-4090"))
    assert fitting[-1]


@pytest.mark.parametrize("gpu", ["H100", "A100-80", "rtx-4090", "H200", "L40S"])
def test_more_gpus_never_lose_an_answer(gpu: str) -> None:
    found = [outcome_of(gpu=f"{count}x{gpu}", ram="256GiB").found for count in (1, 2, 3, 4, 6, 8, 9)]
    fitting = [any(item.priced.verdict == "fits" for item in candidates) for candidates in found]
    assert [bool(candidates) for candidates in found] == sorted([bool(candidates) for candidates in found])
    assert fitting == sorted(fitting)
    assert fitting[-1]


@pytest.mark.parametrize("other", ["T4", "rtx-5080", "A10", "L4", "rtx-3090", "arc-b580"])
def test_a_small_card_beside_the_others_never_loses_the_answer(other: str) -> None:
    for gpus in (["rtx-4090"], ["8xH200"]):
        alone = outcome_of(gpu=gpus, ram="256GiB").found
        beside = outcome_of(gpu=[*gpus, other], ram="256GiB").found
        assert {found.engine.name for found in alone} <= {found.engine.name for found in beside}


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_more_nodes_never_lose_an_answer(nodes: int) -> None:
    few, many = (
        starting(outcome_of(gpu="8xH100", nodes=count, quant="int4", engine="vllm")) for count in (nodes, nodes + 1)
    )
    assert few and many


def test_a_faster_disk_or_more_room_on_it_never_loses_an_answer() -> None:
    answers = [
        len(outcome_of(gpu="rtx-4090", ram="64GiB", disk=disk).found) for disk in ("100GB", "300GB", "2TB", "2TB@7GB/s")
    ]
    assert answers == sorted(answers)
