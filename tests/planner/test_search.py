"""What holds for every search, whatever the machine."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulas.units import GIB
from planner.assemble import make_plan
from planner.plan import Candidate, Plan
from planner.request import OBJECTIVES
from planner.search import no_collection, search
from profiles.config_reader import BadConfig, UnknownFamily
from profiles.headers.errors import BadModelFile
from profiles.library import model_ids
from tests.planner.planning import K25, machine_from, outcome_of, request_of, starting

CONFIGS = sorted((Path(__file__).parents[1] / "profiles" / "data" / "configs").glob("*.json"))
GPUS = (
    "8xH200",
    "8xH100",
    "4xB200",
    "8xA100-80",
    "8xMI300X",
    "4xrtx-4090",
    "2xRTX-PRO-6000",
    "m3-ultra",
    "gb10",
    "none",
)


def planned(model: str = K25, *, exact: bool = False, **given: object) -> Plan:
    request = request_of(model, exact=exact, machine=None, **given)
    return make_plan(request, search(request), {}, "test")


@st.composite
def machines(draw: st.DrawFn) -> dict[str, Any]:
    described: dict[str, Any] = {"gpu": draw(st.sampled_from(GPUS)), "nodes": draw(st.sampled_from((1, 1, 1, 2)))}
    ram = draw(st.sampled_from((None, "64GiB", "256GiB", "1TiB", "2TiB")))
    if ram is not None:
        described["ram"] = ram
    if draw(st.booleans()):
        described["disk"] = draw(st.sampled_from(("400GB", "2TB@7GB/s")))
    return described


@settings(max_examples=20, deadline=None)
@given(machines(), st.sampled_from((K25, "qwen3-235b-a22b", "llama-3.1-70b")))
def test_every_candidate_is_true_to_its_machine(described: dict[str, Any], model: str) -> None:
    request = request_of(model, **described)
    outcome = search(request)
    assert outcome.found or outcome.missed
    for found in outcome.found:
        priced, config = found.priced, found.priced.config
        assert priced.verdict in ("fits", "tight")
        if priced.verdict == "fits":
            assert all(device.free_low >= 0 for device in priced.devices)
        if config.group is not None:
            nodes = [request.machine.nodes[node] for node in config.group.nodes]
            assert config.world <= sum(len(node.gpus) for node in nodes)
            gpus = [device for device in priced.devices if device.kind in ("gpu", "unified")]
            assert sum(device.copies for device in gpus) <= config.world
        for low, expected, high in (
            found.speed.tpot_s,
            found.speed.ttft_s,
            found.speed.decode_total,
            found.speed.prefill,
        ):
            assert 0 < low <= expected <= high
    for miss in outcome.missed:
        assert miss.reason
        if miss.priced is not None and miss.priced.verdict == "no":
            assert miss.short_by > 0


def test_every_device_of_every_candidate_exists() -> None:
    several: list[dict[str, Any]] = [
        {"gpu": "8xH100", "nodes": 2, "ram": "1TiB"},
        {"gpu": ["4xA100-80", "8xH200"], "ram": "1TiB"},
    ]
    for described in several:
        machine = machine_from(**described)
        names = {(number, gpu.driver_index): gpu.name for number, node in enumerate(machine.nodes) for gpu in node.gpus}
        for candidate in planned(top=60, **described).candidates:
            gpus = [device for device in candidate.memory.devices if device.kind == "gpu"]
            places = [(device.node, device.index) for device in gpus]
            assert len(places) == len(set(places))
            assert [names[place] for place in places] == [device.name for device in gpus]
            if candidate.engine.name in ("vllm", "sglang"):
                inside = candidate.settings.get("attention_data_parallel", False)
                ranks = candidate.parallel
                assert len(gpus) == ranks.tp * ranks.pp * (1 if inside else ranks.dp)


@pytest.mark.parametrize(
    "described", [{"gpu": "8xH200"}, {"gpu": "8xH100", "nodes": 2, "ram": "1TiB"}, {"ram": "512GiB"}], ids=str
)
def test_the_same_request_twice_gives_the_same_json(described: dict[str, Any]) -> None:
    assert planned(**described).to_json() == planned(**described).to_json()


@pytest.mark.parametrize(
    "described", [{"gpu": "8xH200"}, {"gpu": "8xH100"}, {"gpu": "4xA100-80", "ram": "256GiB"}], ids=str
)
def test_the_summary_counts_what_is_there(described: dict[str, Any]) -> None:
    plan = planned(top=1000, **described)
    verdicts = Counter(candidate.verdict for candidate in plan.candidates)
    assert (plan.search.fitting, plan.search.tight) == (verdicts["fits"], verdicts["tight"])
    assert plan.search.rejected >= len(plan.rejected)
    assert sum(rejection.count for rejection in plan.rejected) <= plan.search.rejected
    assert [candidate.rank for candidate in plan.candidates] == list(range(1, len(plan.candidates) + 1))


def test_an_estimate_that_makes_requests_wait_is_tight_and_counted_so() -> None:
    plan = planned(exact=True, gpu="8xH200", engine="vllm", tp=8, concurrency=1000, input_tokens=8192)
    (candidate,) = plan.candidates
    assert (candidate.verdict, candidate.fits) == ("tight", False)
    assert (plan.search.fitting, plan.search.tight) == (0, 1)
    assert any("the others wait" in warning for warning in candidate.warnings)


def test_what_fits_ranks_before_what_is_tight() -> None:
    for objective in OBJECTIVES:
        candidates = planned(gpu="4xA100-80", ram="256GiB", top=1000, objective=objective).candidates
        order = [candidate.fits for candidate in candidates]
        assert order == sorted(order, reverse=True)


def keyed(candidate: Candidate, objective: str) -> float:
    speed = candidate.performance
    return {
        "throughput": -speed.decode_tokens_per_s_total.expected,
        "latency": speed.tpot_s.expected,
        "context": -float(candidate.kv_cache.tokens * candidate.parallel.dp),
    }[objective]


@pytest.mark.parametrize("objective", ["throughput", "latency", "context"])
def test_the_first_candidate_is_the_best_by_its_objective(objective: str) -> None:
    candidates = planned(gpu="8xH200", top=1000, objective=objective).candidates
    assert len(candidates) > 50
    best = min(keyed(candidate, objective) for candidate in candidates if candidate.fits)
    # Rates that the model cannot tell apart (a step of 4 %) count as equal.
    assert keyed(candidates[0], objective) <= best * (1.045 if best > 0 else 0.957)


def test_quality_puts_the_makers_weights_first() -> None:
    first = planned(gpu="8xH200", objective="quality").candidates[0]
    assert first.quality.native


def test_a_model_on_disk_needs_room_on_it() -> None:
    """The file is mapped, so a disk that cannot hold it holds no plan."""
    small = outcome_of(gpu="rtx-4090", ram="64GiB", disk="100GB", quant="UD-TQ1_0")
    assert not small.found
    assert {miss.reason for miss in small.missed} == {"the disk cannot hold the model file"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_that_is_read_gets_an_answer(config: Path) -> None:
    given: dict[str, Any] = {"ram": "512GiB"}
    try:
        outcomes = [
            outcome_of(str(config), gpu=gpu, **({} if gpu == "m3-ultra" else given))
            for gpu in ("8xH200", "m3-ultra", "2xrtx-4090", "none")
        ]
    except (BadConfig, UnknownFamily, BadModelFile):
        assert ".hf_quant_config" in config.name or ".tensors" in config.name
        return
    assert all(outcome.found or outcome.missed for outcome in outcomes)


@pytest.mark.parametrize("model", model_ids())
def test_every_built_in_model_fits_eight_large_gpus(model: str) -> None:
    plan = planned(model, gpu="8xB300", top=3)
    assert len(plan.candidates) == 3
    for candidate in plan.candidates:
        assert candidate.performance.decode_tokens_per_s_total.low > 0
        assert candidate.kv_cache.tokens > 0


def test_bounds_reject_what_is_too_slow() -> None:
    plan = planned(gpu="8xH200", engine="vllm", quant="int4", tpot="1ms")
    assert not plan.candidates
    assert plan.rejected[0].reason.endswith("ms per token, more than --tpot")
    assert not planned(gpu="8xH200", ttft="1ms").candidates
    assert not planned(gpu="8xH200", min_throughput="1000000").candidates
    fast = planned(gpu="8xH200", tpot="30ms", top=1000)
    assert fast.candidates
    assert all(candidate.performance.tpot_s.expected <= 0.03 for candidate in fast.candidates)


def test_what_nobody_published_is_priced_and_not_proposed() -> None:
    plan = planned(gpu="8xH200", nodes=3, quant="fp16")
    assert not plan.candidates
    reasons = {rejection.reason for rejection in plan.rejected if rejection.engine == "vllm"}
    assert {reason for reason in reasons if "straddle nodes" not in reason} == {
        "nobody published these weights", "weights and buffers alone exceed the usable memory of a GPU",
    }  # fmt: skip


def test_a_quality_bound_names_what_was_not_measured() -> None:
    plan = planned(gpu="8xH200", ram="1TiB", max_kld="0.02", quality_suite="thireus-kimi-k2.5", top=1000)
    assert {candidate.quantization.name for candidate in plan.candidates} == {"int4"}
    assert any("was not measured in suite" in rejection.reason for rejection in plan.rejected)


def test_progress_runs_to_its_end() -> None:
    seen: list[tuple[int, int]] = []
    search(request_of(gpu="8xH200"), lambda done, total: seen.append((done, total)))
    assert seen == [(done, seen[-1][1]) for done in range(seen[-1][1] + 1)]


def test_tighter_settings_are_tried_and_told() -> None:
    squeezed = [
        found for found in outcome_of(gpu="8xH100", engine="vllm", quant="int4").found if found.priced.config.squeezed
    ]
    assert squeezed
    candidate = planned(gpu="8xH100", engine="vllm", quant="int4").candidates[0]
    assert candidate.settings["memory_utilization"] == 0.95
    assert any("starts with --gpu-memory-utilization 0.95" in warning for warning in candidate.warnings)
    given = outcome_of(gpu="8xH100", engine="vllm", quant="int4", gpu_memory_utilization=0.9)
    assert not any(found.priced.config.squeezed for found in given.found)


def test_ram_that_is_not_known_is_never_assumed() -> None:
    outcome = outcome_of(gpu="2xH100", engine="llama.cpp", quant="UD-Q2_K_XL")
    assert not outcome.found
    assert {miss.reason for miss in outcome.missed} == {
        "experts must leave the GPUs and the size of RAM is not known (--ram)"
    }
    assert not outcome_of(gpu="none").found


def test_kimi_k25_on_two_nodes_of_eight_h100() -> None:
    fits = starting(outcome_of(gpu="8xH100", nodes=2, quant="int4"))
    assert ("vllm", "moonshotai", "int4", 8, 2, 1, 1, 1, False, "bf16") in fits
    assert not {key for key in fits if key[:5] == ("vllm", "moonshotai", "int4", 8, 1) and key[5] == 1}


def test_usable_memory_is_what_the_engine_sees() -> None:
    (found, *_) = outcome_of(gpu="8xH100", nodes=2, quant="int4", engine="vllm").found
    device = found.priced.devices[0]
    assert round(device.visible / GIB, 2) == 79.19
    assert device.capacity == 81_559 << 20


def test_collection_is_off_as_long_as_any_thread_searches() -> None:
    assert gc.isenabled()
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(no_collection())
        second.enter_context(no_collection())
        first.close()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
