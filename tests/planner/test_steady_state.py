"""Serving in closed form: what concurrency, prompts, the cache and drafts make of a step."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from planner.assemble import make_plan
from planner.disaggregated import best_split
from planner.errors import BadRequest
from planner.pareto import front
from planner.request import Request
from planner.search import search
from planner.serving import serve
from planner.speed import speed_of, token_budget
from tests.planner.planning import request_of
from tests.planner.test_steps import one_of

SGLANG: dict[str, Any] = {"gpu": "8xB200", "engine": "sglang", "quant": "int4", "tp": 8}
LONG: dict[str, Any] = {"input_tokens": 8192, "output_tokens": 1024}


def drafted(request: Request, tokens: int, accepted: float | None = None) -> Request:
    return replace(request, settings=replace(request.settings, draft_tokens=tokens, accept_length=accepted))


def test_one_request_waits_for_nobody() -> None:
    request, release, priced = one_of(concurrency=1, **LONG, **SGLANG)
    found = serve(request, release, priced)
    assert found.waiting == 0
    assert found.tpot_s == found.step.total
    assert found.ttft_s > found.prompt.total


def test_the_prompts_of_the_others_fall_on_every_token() -> None:
    request, release, priced = one_of(concurrency=64, **LONG, **SGLANG)
    found = serve(request, release, priced)
    assert found.waiting == pytest.approx(63 * found.prompt.total / 1024)
    short = one_of(concurrency=64, input_tokens=1024, output_tokens=1024, **SGLANG)
    assert serve(*short).waiting < found.waiting / 3


def test_an_engine_that_mixes_prompts_into_steps_saves_the_steps_they_ride_on() -> None:
    request, release, priced = one_of(concurrency=64, **LONG, **{**SGLANG, "engine": "vllm"})
    found = serve(request, release, priced)
    assert found.waiting < 63 * found.prompt.total / 1024


def test_more_requests_take_longer_each_and_give_more_together() -> None:
    request, release, priced = one_of(concurrency=1, **LONG, **SGLANG)
    speeds = [speed_of(request, release, priced, concurrency) for concurrency in (1, 4, 16, 64)]
    for fewer, more in pairwise(speeds):
        assert more.tpot_s[1] > fewer.tpot_s[1]
        assert more.decode_total[1] > fewer.decode_total[1]


def test_requests_that_find_no_room_in_the_cache_wait() -> None:
    request, release, priced = one_of(concurrency=512, **LONG, **SGLANG)
    small = priced._replace(pool=priced.pool._replace(tokens=100 * (8192 + 512)))
    speed = speed_of(request, release, small)
    assert speed.effective_concurrency == pytest.approx(100)
    assert speed.bound_by == "admission"
    assert speed.ttft_s[1] > 100


def test_a_prefix_found_in_the_cache_is_not_computed_again() -> None:
    request, release, priced = one_of(concurrency=32, **LONG, **SGLANG)
    cold = serve(request, release, priced)
    hit = replace(request, demand=replace(request.demand, prefix_cache_hit_rate=0.75))
    warm = serve(hit, replace(release, memo={}), priced)
    assert warm.prompt.total < 0.6 * cold.prompt.total
    assert warm.waiting < 0.6 * cold.waiting
    assert warm.step.total == cold.step.total


def test_drafts_help_one_user_more_than_many() -> None:
    request, release, priced = one_of("deepseek-v3", concurrency=1, **LONG, **{**SGLANG, "quant": "fp8"})
    gains = []
    for concurrency in (1, 64):
        plain = serve(request, release, priced, concurrency)
        drafting = serve(drafted(request, 3), release, priced, concurrency)
        assert drafting.step.total > plain.step.total
        assert any(term.what == "drafting" for term in drafting.step.terms)
        gains.append(plain.tpot_s / drafting.tpot_s)
    assert gains[0] > 1.5 > 1.0 and gains[0] > gains[1]
    wide = speed_of(drafted(request, 3), release, priced).tpot_s
    told = speed_of(drafted(request, 3, 2.6), release, priced).tpot_s
    assert told[2] / told[0] < wide[2] / wide[0]


def test_the_accept_length_that_a_person_knows_is_taken() -> None:
    asked: dict[str, Any] = {"speculative": "mtp", "speculative_tokens": 3, "concurrency": 1, **SGLANG, "quant": "fp8"}
    most = [
        speed_of(*one_of("deepseek-v3", **asked, accept_length=length)).decode_per_request[1] for length in (1, 2, 4)
    ]
    assert most[1] == pytest.approx(2 * most[0], rel=0.1)
    assert most[2] > 1.8 * most[1]
    unknown, told = (speed_of(*one_of("deepseek-v3", **asked, **given)) for given in ({}, {"accept_length": 2.6}))
    assert told.tpot_s[1] == unknown.tpot_s[1]
    assert told.tpot_s[2] / told.tpot_s[0] < unknown.tpot_s[2] / unknown.tpot_s[0]
    with pytest.raises(BadRequest, match="--accept-length needs --speculative"):
        request_of("deepseek-v3", accept_length=2.6, **SGLANG)


def test_engines_that_are_planned_without_drafts_do_not_gain_by_them() -> None:
    request, release, priced = one_of(gpu="rtx-4090", engine="llama.cpp", quant="UD-TQ1_0", ram="512GiB")
    assert serve(drafted(request, 3), release, priced) == serve(request, release, priced)


def test_the_token_budget_sums_to_the_time_per_token() -> None:
    for concurrency in (1, 64):
        request, release, priced = one_of(concurrency=concurrency, **LONG, **SGLANG)
        speed = speed_of(request, release, priced)
        assert token_budget(speed.serving).total == pytest.approx(speed.tpot_s[1])
        assert speed.tpot_s[0] < speed.tpot_s[1] < speed.tpot_s[2] < 1.8 * speed.tpot_s[0]


def test_images_are_encoded_before_the_prompt() -> None:
    request, release, priced = one_of(concurrency=1, **LONG, **SGLANG)
    seen = replace(request, demand=replace(request.demand, images=4))
    prompt = serve(seen, replace(release, memo={}), priced).prompt
    assert any(term.what == "vision encoder" and term.seconds > 0 for term in prompt.terms)


def test_prompts_on_nodes_of_their_own_leave_the_steps_alone() -> None:
    request, release, priced = one_of(nodes=4, concurrency=64, **LONG, **{**SGLANG, "pp": 1})
    split = best_split(request, release, priced, 4, 64)
    assert split is not None
    assert split.prefill_nodes + split.decode_nodes == 4
    together = serve(request, release, priced)
    assert split.per_user == pytest.approx(1 / together.step.total)
    assert split.total <= split.decode_nodes * 64 / together.step.total * (1 + 1e-9)
    assert "modelled without measurement" in split.note
    assert best_split(request, release, priced, 1, 64) is None


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    request = request_of(gpu="8xH200", tpot="60ms")
    plan = make_plan(request, search(request), {}, "test")
    assert len(plan.pareto) >= 3
    for faster, fuller in pairwise(plan.pareto):
        assert faster.tokens_per_s_per_user >= fuller.tokens_per_s_per_user
        assert faster.tokens_per_s_per_gpu < fuller.tokens_per_s_per_gpu
    assert all(point.tpot_s.expected <= 0.06 for point in plan.pareto)
    assert front([]) == []


def test_a_plan_explains_its_time() -> None:
    request = request_of(gpu="8xH200", concurrency=16)
    best = make_plan(request, search(request), {}, "test").candidates[0]
    speed = best.performance
    assert sum(entry.seconds for entry in speed.budget) == pytest.approx(speed.tpot_s.expected)
    assert sum(entry.share for entry in speed.budget) == pytest.approx(1.0)
    assert all(entry.low_s <= entry.seconds <= entry.high_s and entry.source for entry in speed.budget)
    assert speed.evidence == "modelled"
    assert speed.prompt_budget
