"""KV caches over the context: the plan's figures at its own, every layout to the byte, and what is not drawn."""

from __future__ import annotations

import pytest

from moeplan.api import plan as planned
from planner.kv_curve import KvCurves, grows_evenly, kv_curves
from planner.plan import Plan
from profiles.library import load_model


@pytest.fixture(scope="module")
def k25() -> Plan:
    return planned("kimi-k2.5", gpu=["8xH200"], engine="vllm", quant="moonshotai/int4", tp=8, concurrency=16)


@pytest.fixture(scope="module")
def curves(k25: Plan) -> KvCurves:
    return kv_curves(k25, k25.candidates[0], load_model("kimi-k2.5"))


def test_one_sequence_of_the_whole_context_in_every_layout(curves: KvCurves) -> None:
    ends = {form.layout: form.points[-1] for form in curves.forms}
    assert {point.context for point in ends.values()} == {262144}
    assert ends["mla"].bytes == 70_272 * 262_144 == 18_421_383_168
    assert ends["gqa"].bytes == 65_498_251_264
    assert ends["mha"].bytes == 523_986_010_112
    assert ends["mla_expanded_mha"].bytes == 654_982_512_640


def test_loads_are_bytes_per_token_on_a_rank(curves: KvCurves) -> None:
    assert [load.sequences for load in curves.loads] == [1, 16, 128]
    for load in curves.loads:
        for point in load.points:
            assert point.bytes == 70_272 * point.context * load.sequences


def test_room_at_the_plans_context_is_the_plans_figure(k25: Plan, curves: KvCurves) -> None:
    room = {one.context: one.sequences for one in curves.room}
    cache = k25.candidates[0].kv_cache
    assert room[k25.workload.context] == cache.max_sequences_at_context
    assert room[262144] == cache.tokens // 262144
    assert list(room.values()) == sorted(room.values(), reverse=True)


def test_replicas_share_the_sequences(k25: Plan, curves: KvCurves) -> None:
    first = k25.candidates[0]
    two = first.model_copy(update={"parallel": first.parallel.model_copy(update={"dp": 2})})
    halved = kv_curves(k25, two, load_model("kimi-k2.5"))
    assert [one.bytes for one in halved.loads[1].points] == [one.bytes // 2 for one in curves.loads[1].points]
    assert halved.loads[0] == curves.loads[0], "one sequence lies on one replica"
    assert halved.room[-1].sequences == 2 * curves.room[-1].sequences


def test_a_model_with_windows_has_no_curve_per_token() -> None:
    plan = planned("gpt-oss-20b", gpu=["rtx4090"])
    found = kv_curves(plan, plan.candidates[0], load_model("gpt-oss-20b"))
    assert (found.loads, found.room) == ((), ())
    assert len(found.forms) == 1 and found.forms[0].points[-1].context == plan.model.max_context


def test_a_model_that_is_not_at_hand_is_taken_as_its_plan_says(k25: Plan, curves: KvCurves) -> None:
    found = kv_curves(k25, k25.candidates[0], None)
    assert found.forms == ()
    assert found.loads == curves.loads and found.room == curves.room


@pytest.mark.parametrize(
    ("model", "even"),
    [("kimi-k2.5", True), ("deepseek-v3.2", True), ("qwen3-32b", True), ("kimi-linear-48b-a3b", False)],
)
def test_what_grows_evenly(model: str, even: bool) -> None:
    assert grows_evenly(load_model(model)) is even
