"""The simulation agrees with the closed form where that is exact, and shows what means hide: queues and tails."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.build import build_request
from planner.errors import BadRequest
from planner.request import Request, Traffic
from planner.search import Found, search
from planner.serving import serve
from planner.simulate import Simulated, percentiles, simulate
from profiles.library import load_model
from tests.planner.planning import K25, machine_from, options_of


def found_of(**given: object) -> tuple[Request, Found]:
    """One configuration of K2.5 INT4 on 8x H200 that starts, with the demand given."""
    values: dict[str, object] = {"engine": "vllm", "quant": "int4", "tp": 8, "context": "32k", **given}
    machine = machine_from(gpu=values.pop("gpu", "8xH200"))
    request = build_request(options_of(K25, **values), load_model(K25), machine, exact=True)
    (found,) = search(request).found
    return request, found


def simulated(traffic: Traffic, **given: object) -> Simulated:
    request, found = found_of(**given)
    return simulate(request, found.release, found.priced, traffic)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_constant_lengths_and_no_queue_are_the_closed_form(engine: str, concurrency: int) -> None:
    request, found = found_of(engine=engine, concurrency=concurrency)
    expected = serve(request, found.release, found.priced)
    seen = simulate(request, found.release, found.priced, Traffic())
    assert seen.tpot_s.mean == pytest.approx(expected.tpot_s, rel=0.03)
    assert seen.output_tokens_per_s == pytest.approx(concurrency / expected.tpot_s, rel=0.08)
    assert seen.preemptions == 0
    assert seen.queue_s.p99 == pytest.approx(0, abs=expected.step.total * 2)


def test_one_user_waits_for_nobody() -> None:
    seen = simulated(Traffic(), concurrency=1)
    assert seen.ttft_s.p50 == pytest.approx(seen.ttft_s.p99)
    assert seen.running == pytest.approx(1.0, abs=0.01)
    assert seen.waiting == 0


def test_the_kv_pool_admits_no_more_than_it_holds_and_the_rest_queue() -> None:
    request, found = found_of(concurrency=600, input_tokens=8192, output_tokens=1024, max_num_seqs=1024)
    seen = simulate(request, found.release, found.priced, Traffic(requests=3000))
    each = 8192
    assert seen.running <= found.priced.pool.tokens / each
    assert seen.waiting > 300
    assert seen.queue_s.p50 > 60
    assert seen.ttft_s.p50 > seen.queue_s.p50
    assert seen.preemptions > 0


def test_the_limit_on_sequences_queues_too() -> None:
    seen = simulated(Traffic(), concurrency=32, max_num_seqs=8)
    assert seen.running <= 8.01
    assert seen.queue_s.p50 > 1


def test_arrivals_beyond_the_rate_saturate_and_slow_ones_see_an_empty_machine() -> None:
    most = simulated(Traffic(), concurrency=64).requests_per_s
    calm = simulated(Traffic(rate_per_s=most / 50), concurrency=64)
    busy = simulated(Traffic(rate_per_s=most * 0.7), concurrency=64)
    over = simulated(Traffic(rate_per_s=most * 5, requests=3000), concurrency=64)
    alone = simulated(Traffic(), concurrency=1)
    assert calm.ttft_s.p50 == pytest.approx(alone.ttft_s.p50, rel=0.1)
    assert calm.tpot_s.p50 == pytest.approx(alone.tpot_s.p50, rel=0.1)
    assert not calm.saturated
    assert not busy.saturated
    assert busy.requests_per_s == pytest.approx(most * 0.7, rel=0.15)
    assert busy.ttft_s.p99 > calm.ttft_s.p99
    assert over.saturated


def test_lengths_that_vary_make_tails() -> None:
    even, varied = (simulated(Traffic(variation=variation), concurrency=16) for variation in (0.0, 0.8))
    assert varied.latency_s.p99 > 1.5 * even.latency_s.p99
    assert varied.tpot_s.mean == pytest.approx(even.tpot_s.mean, rel=0.15)


def test_goodput_counts_what_meets_both_bounds() -> None:
    free = simulated(Traffic(variation=0.5), concurrency=32)
    assert free.goodput_share == 1
    bound = free.tpot_s.p50 * 1e3
    tight = simulated(Traffic(variation=0.5), concurrency=32, tpot=f"{bound:.3f}ms")
    assert tight.goodput_share == pytest.approx(0.5, abs=0.1)
    assert tight.goodput_requests_per_s == pytest.approx(tight.requests_per_s * tight.goodput_share)


def test_replicas_that_share_nothing_serve_in_parallel() -> None:
    fraction = {"gpu": "8xB200", "engine": "sglang", "tp": 4, "gpu_memory_utilization": 0.88}
    one = simulated(Traffic(), concurrency=16, **fraction)
    two = simulated(Traffic(), dp=2, concurrency=32, **fraction)
    assert two.output_tokens_per_s > 1.7 * one.output_tokens_per_s


def test_a_seed_gives_the_same_answer() -> None:
    traffic = Traffic(rate_per_s=0.5, variation=0.5)
    assert simulated(traffic, concurrency=8) == simulated(traffic, concurrency=8)
    assert simulated(traffic, concurrency=8) != simulated(Traffic(rate_per_s=0.5, variation=0.5, seed=2), concurrency=8)


@settings(max_examples=15, deadline=None)
@given(
    users=st.integers(1, 200),
    input_tokens=st.integers(1, 20_000),
    output_tokens=st.integers(1, 4000),
    variation=st.sampled_from([0.0, 0.5, 2.0]),
    rate=st.sampled_from([None, 0.1, 10.0]),
    engine=st.sampled_from(["vllm", "sglang"]),
)
def test_it_always_ends_and_its_numbers_hold_together(
    users: int, input_tokens: int, output_tokens: int, variation: float, rate: float | None, engine: str
) -> None:
    traffic = Traffic(rate, variation, requests=60)
    seen = simulated(traffic, concurrency=users, input_tokens=input_tokens, output_tokens=output_tokens, engine=engine)
    for values in (seen.ttft_s, seen.tpot_s, seen.latency_s, seen.queue_s):
        assert 0 <= values.p50 <= values.p95 <= values.p99
    assert seen.requests > 0
    assert seen.queue_s.mean <= seen.ttft_s.mean <= seen.latency_s.mean
    assert 0 <= seen.goodput_share <= 1
    assert seen.running >= 0
    assert seen.waiting >= 0


def test_percentiles_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentiles([])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arrival_rate": "1"}, "--arrival-rate needs --simulate"),
        ({"length_variation": "1"}, "--length-variation needs --simulate"),
        ({"simulate": True, "arrival_rate": "0"}, "--arrival-rate: '0' is not requests per second above zero"),
        ({"simulate": True, "arrival_rate": "nan"}, "--arrival-rate"),
        ({"simulate": True, "length_variation": "-1"}, "--length-variation: '-1' is not a share from 0 to 3"),
    ],
)
def test_bad_input(given: dict[str, object], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        found_of(**given)
