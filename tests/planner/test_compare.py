"""Predictions beside observations. What is observed is written here; what is predicted is an estimate."""

from __future__ import annotations

from typing import get_args

import pytest

from hwdetect.serving.observation import Measurement, Observation, Reading, Term
from hwdetect.serving.startup import read_startup
from moeplan.api import estimate
from planner.compare import BLOCK_PADDING, ENTRY_TERMS, ORDER, Comparison, Row, compare, predictions
from planner.errors import BadRequest
from planner.plan import Plan
from tests.hwdetect.serving.test_vllm_log import LLAMA_19

GIB = 1 << 30
LLAMA_8B = "tests/profiles/data/configs/Meta-Llama-3.1-8B.json"
# Names of ledger entries that no engine prints.
UNPRINTED = {
    "driver context",
    "CUDA pool",
    "prompt cache",
    "operating system",
    "engine in RAM",
    "activation and CUDA context",
}
UNPRINTED_COMPUTE = {"layer-wise prefill buffer"}


def kimi(**given: str | int) -> Plan:
    return estimate("kimi-k2.5", **{"gpu": "8xH200", "engine": "vllm", "tp": 8, "engine_version": "0.33.0", **given})


def observation(**values: float) -> Observation:
    """A start-up of vLLM with sizes in GiB, tokens as they are, all to two decimals."""
    return Observation(
        engine="vllm",
        settings={},
        measurements=tuple(
            Measurement(
                term=name,  # type: ignore[arg-type]
                unit="tokens" if name == "kv_tokens" else "bytes",
                value=round(value if name == "kv_tokens" else value * GIB),
                resolution=1 if name == "kv_tokens" else GIB // 100,
                readings=(Reading(place="TP0", value=round(value)),),
            )
            for name, value in values.items()
        ),
    )


def row(compared: Comparison, term: str) -> Row:
    return next(one for one in compared.rows if one.term == term)


def test_a_real_start_up_holds_in_every_term_that_is_predicted() -> None:
    observed = read_startup(LLAMA_19.splitlines())
    assert observed is not None
    plan = estimate(
        LLAMA_8B, gpu="H100", engine="vllm", engine_version="0.19.0", gpu_memory_utilization=0.95, max_model_len=16384
    )
    compared = compare(plan, observed)
    verdicts = {one.term: one.verdict for one in compared.rows}
    assert verdicts == {
        "visible": "holds", "weights": "holds", "activation": "holds", "non_torch": "holds", "kv_cache": "holds",
        "kv_tokens": "holds", "kv_bytes_per_token": "holds",
        # Before 0.20 graphs lie outside the budget, and outside the ledger.
        "graphs": "not_predicted", "graphs_reserved": "not_predicted",
    }  # fmt: skip
    assert (compared.verdict, compared.differs_in) == ("holds", ())
    assert compared.start.verdict == "holds"
    assert row(compared, "weights").relative == pytest.approx(0, abs=0.002)


@pytest.mark.parametrize(
    ("engine", "given"),
    [
        ("vllm", {"gpu": "8xH200", "tp": 8}),
        ("sglang", {"gpu": "8xH200", "tp": 8}),
        ("llama.cpp", {"gpu": "RTX4090", "ram": "1TiB", "quant": "unsloth/UD-Q2_K_XL"}),
        ("llama.cpp", {"gpu": "none", "ram": "1TiB", "quant": "unsloth/UD-Q2_K_XL"}),
        ("ktransformers", {"gpu": "RTX4090", "ram": "1TiB", "cpu": "2xepyc-9004"}),
    ],
)
def test_every_ledger_entry_has_a_term_or_is_known_to_have_none(engine: str, given: dict[str, str | int]) -> None:
    plan = estimate("kimi-k2.5", engine=engine, context=8192, **given)
    memory = plan.candidates[0].memory if plan.candidates else plan.rejected[0].memory
    assert memory is not None
    names = {
        entry.what for device in memory.devices for entry in device.ledger if entry.kind in ("compute", "overhead")
    }
    assert names <= set(ENTRY_TERMS) | UNPRINTED | UNPRINTED_COMPUTE
    assert names & set(ENTRY_TERMS) or engine == "ktransformers"


def test_every_term_has_its_place_in_the_table() -> None:
    assert set(ORDER) == set(get_args(Term))


def test_predictions_are_those_of_the_plan() -> None:
    candidate = kimi().candidates[0]
    device = candidate.memory.devices[0]
    found = predictions(candidate.memory, candidate.kv_cache, by_layer=False)
    assert found["weights"].expected == device.weights_bytes
    assert found["kv_cache"].expected == candidate.kv_cache.budget_bytes_per_rank
    assert found["visible"].expected == device.engine_visible_bytes
    assert found["kv_tokens"].expected == candidate.kv_cache.tokens
    named = {entry.what: entry for entry in device.ledger}
    activation = named["peak activation"].bytes + named["vision profile run"].bytes
    assert found["activation"].expected == activation
    # Everything that the budget is made of, and nothing twice.
    buffers = sum(found[term].expected for term in ("weights", "activation", "non_torch", "graphs"))
    assert device.usable_bytes - buffers == pytest.approx(found["kv_cache"].expected, abs=8)


def test_layers_on_several_devices_add_up() -> None:
    plan = estimate(
        "kimi-k2.5", gpu="2xRTX4090", ram="1TiB", engine="llama.cpp", quant="unsloth/UD-Q2_K_XL", context=8192
    )
    memory, pool = plan.candidates[0].memory, plan.candidates[0].kv_cache
    found = predictions(memory, pool, by_layer=True)
    gpus = [device for device in memory.devices if device.kind == "gpu"]
    assert len(gpus) == 2
    assert found["weights_on_gpus"].expected == sum(device.weights_bytes for device in gpus)
    assert found["weights"].expected == sum(device.weights_bytes for device in memory.devices)
    assert found["kv_cache"].expected == sum(device.kv_cache_bytes for device in memory.devices)
    assert "visible" not in found


def test_what_lies_beyond_the_range_differs_by_that_much() -> None:
    plan = kimi()
    expected = predictions(plan.candidates[0].memory, plan.candidates[0].kv_cache, by_layer=False)
    high = expected["weights"].high / GIB
    compared = compare(plan, observation(weights=high + 2, non_torch=0.4))
    weights = row(compared, "weights")
    assert weights.verdict == "differs"
    assert weights.outside == pytest.approx(2 * GIB, abs=GIB / 50)
    assert weights.readings == (("TP0", round(high + 2)),)
    assert compared.verdict == "differs"
    assert compared.differs_in == ("weights",)
    below = row(compare(plan, observation(weights=expected["weights"].low / GIB - 3)), "weights")
    assert below.outside == pytest.approx(-3 * GIB, abs=GIB / 50)


def test_rounding_is_not_a_difference() -> None:
    plan = kimi()
    high = predictions(plan.candidates[0].memory, plan.candidates[0].kv_cache, by_layer=False)["weights"].high / GIB
    assert row(compare(plan, observation(weights=round(high * 1.004, 2))), "weights").verdict == "holds"
    assert row(compare(plan, observation(weights=round(high * 1.007, 2))), "weights").verdict == "differs"


def test_the_farthest_term_comes_first() -> None:
    compared = compare(kimi(), observation(weights=80.0, non_torch=9.0, kv_cache=30.0))
    assert compared.differs_in == ("non_torch", "kv_cache", "weights")


def test_bytes_per_token_show_a_wrong_geometry_whatever_the_budget_is() -> None:
    plan = kimi()
    each = plan.candidates[0].kv_cache.bytes_per_token_per_rank
    assert each == 70272
    tokens = 30 * GIB // each
    right = compare(plan, observation(kv_cache=30.0, kv_tokens=tokens))
    assert row(right, "kv_bytes_per_token").verdict == "holds"
    padded = compare(plan, observation(kv_cache=30.0, kv_tokens=tokens * (1 - BLOCK_PADDING)))
    assert row(padded, "kv_bytes_per_token").verdict == "holds"
    # An MLA cache divided over the ranks would hold eight times as many.
    divided = compare(plan, observation(kv_cache=30.0, kv_tokens=tokens * 8))
    assert row(divided, "kv_bytes_per_token").verdict == "differs"


def test_without_a_figure_nothing_is_compared() -> None:
    compared = compare(kimi(), observation(compute_on_gpu=1.0))
    assert compared.verdict == "nothing_to_compare"
    assert row(compared, "compute_on_gpu").verdict == "not_predicted"
    assert row(compared, "weights").verdict == "not_in_log"


@pytest.mark.parametrize(
    ("gpus", "observed", "verdict"),
    [
        ("8xH200", {"kv_cache": 30.0, "kv_tokens": 450_000}, "holds"),
        ("8xRTX4090", {"kv_cache": 30.0, "kv_tokens": 450_000}, "differs"),
        ("8xH200", {"kv_cache": 30.0}, "not_in_log"),
    ],
)
def test_a_start_that_was_thought_impossible_differs(gpus: str, observed: dict[str, float], verdict: str) -> None:
    start = compare(kimi(gpu=gpus), observation(**observed)).start
    assert start.verdict == verdict


@pytest.mark.parametrize(("gpus", "verdict"), [("8xH200", "differs"), ("8xRTX4090", "holds")])
def test_a_failure_that_was_not_foreseen_differs(gpus: str, verdict: str) -> None:
    failed = observation(weights=71.9).model_copy(update={"failure": "CUDA out of memory"})
    compared = compare(kimi(gpu=gpus, max_model_len=8192), failed)
    assert (compared.start.verdict, compared.start.observed) == (verdict, "out_of_memory")
    assert ("start" in compared.differs_in) == (verdict == "differs")


def test_a_configuration_that_the_engine_refuses_has_no_prediction() -> None:
    plan = estimate("kimi-k2.5", gpu="8xH200", engine="vllm", tp=8, ep=3)
    with pytest.raises(BadRequest, match="nothing is predicted"):
        compare(plan, observation(weights=71.9))
