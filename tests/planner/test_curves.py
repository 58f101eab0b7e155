"""Curves of a candidate: they go through the plan's own point, and MLA is what the calculator says it is."""

from __future__ import annotations

import pytest

from planner.assemble import make_plan
from planner.curves import Curves, curves_of
from planner.plan import Candidate, Plan
from planner.request import Request
from planner.search import search
from tests.planner.planning import K25, request_of


def planned(**given: object) -> tuple[Request, Plan]:
    request = request_of(K25, machine=None, exact=False, **given)
    return request, make_plan(request, search(request), {}, "test")


def curves(request: Request, candidate: Candidate) -> Curves:
    found = curves_of(request, candidate)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "machine",
    [
        {"gpu": "8xH200"},
        {"gpu": "8xH200", "kv_dtype": "fp8"},
        {"gpu": "8xH100", "nodes": "2"},
        {"gpu": "4xA100-80", "ram": "256GiB", "cpu": "2xepyc-9004"},
        {"gpu": "1xrtx-4090", "ram": "768GiB", "cpu": "2xepyc-9004"},
        {"gpu": "none", "ram": "1TiB", "cpu": "2xepyc-9004"},
    ],
    ids=str,
)
def test_every_candidate_is_found_again_with_the_speed_of_the_plan(machine: dict[str, str]) -> None:
    request, plan = planned(**machine)
    assert plan.candidates
    for candidate in plan.candidates:
        (point,) = [one for one in curves(request, candidate).loads if one.requests == plan.workload.concurrency]
        speed, said = point.speed, candidate.performance
        assert speed.decode_total[1] == pytest.approx(said.decode_tokens_per_s_total.expected)
        assert speed.ttft_s[1] == pytest.approx(said.ttft_s.expected)


def test_the_cache_of_a_whole_context_beside_what_gqa_and_mha_would_take() -> None:
    request, plan = planned(gpu="8xH200", engine="vllm", quant="int4", kv_dtype="bf16")
    whole = curves(request, plan.candidates[0]).contexts[-1]
    sizes = {row.layout: row.bytes for row in whole.layouts}
    assert (whole.context, whole.kv_bytes) == (262_144, 61 * 576 * 2 * 262_144)
    assert sizes["mla"] == whole.kv_bytes
    assert sizes["gqa"] < sizes["mha"] == 61 * 64 * 256 * 2 * 262_144 < sizes["mla_expanded_mha"]


def test_sharing_the_cache_makes_a_ranks_part_smaller() -> None:
    request, plan = planned(gpu="8xH200", engine="vllm", quant="int4", kv_dtype="bf16", tp="8", dcp="8")
    whole = curves(request, plan.candidates[0]).contexts[-1]
    assert whole.kv_bytes * 8 == whole.layouts[0].bytes


def test_longer_contexts_hold_more_and_serve_slower_until_they_do_not_fit() -> None:
    request, plan = planned(gpu="8xH200", concurrency="16")
    points = curves(request, plan.candidates[0]).contexts
    assert [one.context for one in points] == sorted({one.context for one in points})
    assert [one.kv_bytes for one in points] == sorted(one.kv_bytes for one in points)
    fits = [one.speed is not None for one in points]
    assert fits == sorted(fits, reverse=True)
    assert (fits[0], fits[-1]) == (True, False)
    rates = [one.speed.decode_total[1] for one in points if one.speed is not None and one.context >= 4096]
    assert rates == sorted(rates, reverse=True)


def test_requests_beyond_what_runs_at_a_time_wait() -> None:
    request, plan = planned(gpu="8xH200")
    loads = curves(request, plan.candidates[0]).loads
    totals = [one.speed.decode_total[1] for one in loads]
    waits = [one.speed.ttft_s[1] for one in loads]
    assert totals == sorted(totals)
    assert loads[-1].speed.effective_concurrency < loads[-1].requests
    assert waits[-1] > 10 * waits[0]


def test_a_candidate_of_another_request_is_not_found() -> None:
    request, plan = planned(gpu="8xH200", engine="vllm")
    smaller = request_of(K25, gpu="1xH200")
    assert curves_of(smaller, plan.candidates[0]) is None
    assert curves_of(request, plan.candidates[0].model_copy(update={"settings": {}})) is None
