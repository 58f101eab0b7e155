"""GPUs of which others hold a part: vLLM takes its share of the whole, and starts only where that much is free."""

from __future__ import annotations

from formulas.units import GIB
from planner.machine import Machine
from planner.search import Outcome
from tests.planner.planning import machine_from, outcome_of

HELD = 20 * GIB


def shared() -> Machine:
    """8x H200 with 20 GiB of each in use."""
    machine = machine_from(gpu="8xH200")
    (node,) = machine.nodes
    gpus = tuple(
        gpu._replace(
            visible=gpu.visible - HELD,
            visible_low=gpu.visible_low - HELD,
            visible_high=gpu.visible_high - HELD,
            occupied=HELD,
        )
        for gpu in node.gpus
    )
    return machine._replace(nodes=(node._replace(gpus=gpus),))


def estimate(machine: Machine, share: str | None = None) -> Outcome:
    given = {} if share is None else {"gpu_memory_utilization": share}
    return outcome_of(exact=True, machine=machine, engine="vllm", quant="int4", tp="8", **given)


def test_the_share_is_lowered_to_what_is_free() -> None:
    (found,) = estimate(shared()).found
    config, device = found.priced.config, found.priced.devices[0]
    whole = 150_109_106_995
    # 119.8 of 139.8 GiB are free: 85 %, rounded down.
    assert config.utilization == 0.85
    assert device.usable == int(0.85 * whole) <= whole - HELD
    assert device.visible == whole - HELD


def test_a_share_that_was_asked_for_and_is_not_free_is_refused() -> None:
    outcome = estimate(shared(), "0.92")
    assert outcome.found == []
    (missed,) = outcome.missed
    assert missed.reason == "other processes hold 20.0 GiB: vLLM starts only where its whole share is free"
    (found,) = estimate(shared(), "0.8").found
    assert found.priced.config.utilization == 0.8


def test_idle_gpus_keep_the_default() -> None:
    (found,) = estimate(machine_from(gpu="8xH200")).found
    assert found.priced.config.utilization == 0.92
