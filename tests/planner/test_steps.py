"""Steps by kernel: right at both ends, monotonic in between, and replaced by what was measured here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from hwdetect.bench.case import kernel_case
from planner.budget import Budget
from planner.cases import uses_of
from planner.engines.base import Config, Priced
from planner.request import PricedRelease, Request
from planner.step import decode_step, prefill_step
from planner.step_gpu import fuses_norms
from profiles.model import KvGroup
from tests.planner.planning import K25, machine_from, outcome_of, request_of
from tests.planner.test_evidence import series_of

TP8: dict[str, Any] = {"engine": "vllm", "quant": "int4", "tp": 8}


def one_of(model: str = K25, **given: object) -> tuple[Request, PricedRelease, Priced]:
    request = request_of(model, exact=True, machine=None, **given)
    outcome = outcome_of(model, exact=True, machine=None, **given)
    priced = [found.priced for found in outcome.found] + [miss.priced for miss in outcome.missed]
    assert priced[0] is not None, outcome.missed[0].reason
    return request, request.releases[0], priced[0]


def row(budget: Budget, what: str) -> float:
    return sum(term.seconds for term in budget.terms if term.what == what)


def test_one_stream_is_a_floor_that_more_bandwidth_hardly_lowers() -> None:
    steps = [decode_step(*one_of(gpu=f"8x{name}", **TP8), 1, 1024) for name in ("H100", "H200", "B200")]
    assert max(step.total for step in steps) < 1.3 * min(step.total for step in steps)
    assert all(0.006 < step.total < 0.012 for step in steps)
    request, release, priced = one_of(gpu="8xH200", **TP8)
    always = sum(shard.always for shard in priced.shards.layers) + priced.shards.lm_head
    hit = sum(8 * shard.expert for shard in priced.shards.layers)
    assert decode_step(request, release, priced, 1, 1024).total > 6 * (always + hit) / 4.8e12


def test_a_large_batch_approaches_the_roofline() -> None:
    request, release, priced = one_of(gpu="8xH200", **TP8)
    whole = sum(shard.always + shard.expert * shard.experts for shard in priced.shards.layers)
    cache = 256 * 4096 * 61 * 1152
    step = decode_step(request, release, priced, 256, 4096)
    assert 1.0 < step.total / ((whole + cache) / 4.8e12) < 2.5
    assert step.bound_by == "HBM"


@pytest.mark.parametrize("gpu", ["8xH200", "8xA100-80", "8xMI300X", "8xRTX-PRO-6000"])
def test_more_sequences_and_longer_contexts_never_take_less_time(gpu: str) -> None:
    one = one_of(gpu=gpu, **TP8)
    by_batch = [decode_step(*one, batch, 4096).total for batch in (1, 2, 8, 32, 128, 512)]
    by_context = [decode_step(*one, 32, context).total for context in (64, 1024, 8192, 65536)]
    by_prompt = [prefill_step(*one, tokens, 0).total for tokens in (64, 512, 4096, 16384)]
    for series in (by_batch, by_context, by_prompt):
        # Tables are measurements: a larger batch may by chance have been a little faster.
        assert all(later > 0.97 * earlier for earlier, later in pairwise(series))
        assert series[-1] > series[0]


def test_the_budget_is_the_step() -> None:
    step = decode_step(*one_of(gpu="8xH200", **TP8), 16, 4096)
    assert sum(term.seconds for term in step.terms) == pytest.approx(step.total)
    names = [term.what for term in step.terms]
    assert len(set(names)) == len(names)
    assert {"routed experts", "attention", "all-reduce", "small kernels", "router", "head"} <= set(names)
    assert all(term.source and term.spread >= 1 for term in step.terms)


def test_steps_are_kept_by_batch_and_context() -> None:
    one = one_of(gpu="8xH200", **TP8)
    assert decode_step(*one, 16, 4096) is decode_step(*one, 16, 4100)
    assert prefill_step(*one, 512, 0) is prefill_step(*one, 512, 0)


def test_kernels_measured_on_this_machine_replace_the_tables() -> None:
    request, release, priced = one_of(gpu="8xH200", **TP8)
    before = decode_step(request, release, priced, 64, 4096)
    experts = next(use.case for use in uses_of(request, release, priced.config) if use.case.kernel == "grouped_moe")
    slow = series_of(experts, {1: 80e-6, 64: 2000e-6, 1024: 5000e-6})
    calibrated = replace(request, kernels=(slow,))
    fresh = replace(release, memo={})
    after = decode_step(calibrated, fresh, priced, 64, 4096)
    assert row(after, "routed experts") == pytest.approx(60 * 2000e-6, rel=1e-3)
    assert row(after, "attention") == row(before, "attention")
    assert before.measured_share == 0
    assert after.measured_share == pytest.approx(row(after, "routed experts") / after.total)


def test_a_machine_without_nvlink_waits_for_its_links() -> None:
    nvlink = decode_step(*one_of(gpu="8xH100", **TP8), 1, 1024)
    pcie = decode_step(*one_of(gpu="8xH100", link="pcie5", **TP8), 1, 1024)
    assert row(pcie, "all-reduce") > 3 * row(nvlink, "all-reduce")
    assert row(pcie, "routed experts") == row(nvlink, "routed experts")


def test_decode_context_parallelism_divides_the_cache_that_is_read() -> None:
    whole = decode_step(*one_of(gpu="8xH200", **TP8), 16, 131072)
    divided = decode_step(*one_of(gpu="8xH200", dcp=8, **TP8), 16, 131072)
    assert row(divided, "attention") < 0.4 * row(whole, "attention")


def test_expert_parallel_replicas_exchange_tokens_instead_of_reducing_them() -> None:
    given: dict[str, Any] = {"gpu": "8xH200", "engine": "sglang", "quant": "int4", "tp": 8, "dp": 8, "ep": 8}
    step = decode_step(*one_of(**given), 8, 4096)
    assert row(step, "all-to-all") > 0 and row(step, "all-reduce") == 0


def cpu(**given: object) -> Budget:
    options: dict[str, Any] = {"gpu": "rtx-4090", "ram": "1TiB", "engine": "llama.cpp", "quant": "UD-Q2_K_XL",
                               "n_cpu_moe": 999, **given}  # fmt: skip
    return decode_step(*one_of(**options), 1, 4096)


def test_experts_in_ram_take_the_longer_of_moving_and_computing() -> None:
    few, many = cpu(cores=8, ram_bandwidth="400GB/s"), cpu(cores=128, ram_bandwidth="400GB/s")
    assert next(term.bound for term in few.terms if term.what == "experts in RAM") == "CPU"
    assert next(term.bound for term in many.terms if term.what == "experts in RAM") == "RAM"
    slow = cpu(cores=128, ram_bandwidth="200GB/s")
    assert row(slow, "experts in RAM") == pytest.approx(2 * row(many, "experts in RAM"))
    assert row(slow, "attention") == row(many, "attention")


def test_a_second_socket_adds_less_than_the_first() -> None:
    one = row(cpu(cpu="1xepyc-9004", cores=96), "experts in RAM")
    two = row(cpu(cpu="2xepyc-9004", cores=192), "experts in RAM")
    assert one / 2 < two < one


def test_a_per_core_rate_measured_here_replaces_the_table() -> None:
    request, release, priced = one_of(
        gpu="rtx-4090", ram="1TiB", engine="llama.cpp", quant="UD-Q2_K_XL", n_cpu_moe=999, cores=8,
        ram_bandwidth="400GB/s",
    )  # fmt: skip
    case = next(use.case for use in uses_of(request, release, priced.config) if use.case.kernel == "cpu_moe")
    moved = case.work().bytes
    series = series_of(case, {1: moved / 8e9}).model_copy(update={"threads": 2})
    step = decode_step(replace(request, kernels=(series,)), replace(release, memo={}), priced, 1, 4096)
    term = next(term for term in step.terms if term.what == "experts in RAM")
    assert term.measured and "measured by" in term.source
    assert term.seconds == pytest.approx(priced.cpu_expert_bytes * 8 / 384 / (8 * 4e9), rel=1e-3)


def test_more_gpus_copy_the_experts_faster_but_the_host_stages_them_once() -> None:
    given: dict[str, Any] = {"engine": "ktransformers", "quant": "int4", "ram": "2TiB", "cpu": "2xxeon-spr",
                             "max_num_batched_tokens": 32768, "context": 40960}  # fmt: skip
    prompts = [
        prefill_step(*one_of(gpu=f"{count}xrtx-4090-48-mod", tp=count, **given), 8192, 0) for count in (1, 2, 4, 8)
    ]
    totals = [prompt.total for prompt in prompts]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] < 8 * totals[-1]
    assert len({round(row(prompt, "staging of experts"), 6) for prompt in prompts}) == 1
    assert row(prompts[0], "experts over PCIe") == pytest.approx(8 * row(prompts[-1], "experts over PCIe"))


def test_rates_measured_here_replace_those_of_modules_slots_and_disks() -> None:
    request, release, priced = one_of(
        gpu="rtx-4090", ram="1TiB", engine="llama.cpp", quant="UD-Q2_K_XL", n_cpu_moe=999, cores=256,
        ram_bandwidth="400GB/s",
    )  # fmt: skip
    read = kernel_case("memory_read", "bf16", bytes=1 << 30)
    copy = kernel_case("host_to_device", "bf16", bytes=1 << 30)
    kernels = (series_of(read, {1: (1 << 30) / 100e9}), series_of(copy, {1: (1 << 30) / 5e9}))
    calibrated = replace(request, kernels=kernels)
    fresh = replace(release, memo={})
    before, after = (decode_step(*one, priced, 1, 4096) for one in ((request, release), (calibrated, fresh)))
    assert row(after, "experts in RAM") == pytest.approx(4 * row(before, "experts in RAM"))
    slow = prefill_step(calibrated, fresh, priced, 4096, 0)
    fast = prefill_step(request, release, priced, 4096, 0)
    assert slow.total > fast.total


def test_layers_on_a_slower_card_are_read_at_its_pace() -> None:
    given: dict[str, Any] = {"engine": "llama.cpp", "quant": "UD-IQ1_S", "n_cpu_moe": 50, "ram": "512GiB"}
    fast = row(decode_step(*one_of("deepseek-r1", gpu=["2xrtx-5090"], **given), 1, 4096), "weights on GPUs")
    mixed = row(decode_step(*one_of("deepseek-r1", gpu=["rtx-5090", "rtx-3090"], **given), 1, 4096), "weights on GPUs")
    slow = row(decode_step(*one_of("deepseek-r1", gpu=["2xrtx-3090"], **given), 1, 4096), "weights on GPUs")
    assert fast < mixed < slow


def with_caches(request: Request, changed: Callable[[KvGroup], KvGroup]) -> Request:
    """The request of a model whose caches are otherwise."""
    groups = tuple([changed(group) for group in request.model.kv_groups])
    return replace(request, model=replace(request.model, kv_groups=groups))


def attention_times(request: Request, release: PricedRelease, priced: Priced) -> tuple[float, float]:
    """Seconds of attention in a step and in a chunk of a prompt, after a long context."""
    fresh = replace(release, memo={}, kept={})
    decode = decode_step(request, fresh, priced, 8, 65_536)
    return row(decode, "attention"), row(prefill_step(request, fresh, priced, 512, 65_536), "attention")


def test_attention_over_compressed_states_does_less_for_the_same_context() -> None:
    request, release, priced = one_of("deepseek-v4-pro", gpu="8xB200", engine="vllm", tp=8, concurrency=32)
    uses = uses_of(request, release, priced.config)
    decode = [use for use in uses if use.what == "attention" and use.phase == "decode"]
    assert [use.states(65_536) for use in decode] == [128, 65_536 / 4, 65_536 / 128]
    plain = with_caches(request, lambda group: group._replace(tokens_per_state=1))
    times = zip(attention_times(request, release, priced), attention_times(plain, release, priced), strict=True)
    assert all(1.5 * less < more for less, more in times)


@pytest.mark.parametrize("gpu", ["2xrtx-5090", "none"])
def test_windows_are_read_no_further_than_they_reach(gpu: str) -> None:
    given = {"gpu": gpu, "engine": "llama.cpp", "quant": "Q8_0", "ram": "512GiB", "cores": 32}
    request, release, priced = one_of("gpt-oss-120b", **given)
    whole = with_caches(request, lambda group: group._replace(window=None))
    times = zip(attention_times(request, release, priced), attention_times(whole, release, priced), strict=True)
    assert all(1.5 * less < more for less, more in times)


def test_popular_experts_are_fewer_to_read_but_load_one_rank() -> None:
    given: dict[str, Any] = {"gpu": "8xH200", "engine": "sglang", "quant": "int4", "tp": 8}
    for ep, batch in ((1, 64), (8, 4096)):
        request, release, priced = one_of(**given, ep=ep)
        skewed, *_ = one_of(**given, ep=ep, routing="power_law")
        fresh = replace(release, memo={})
        even, uneven = (
            row(decode_step(*asked, priced, batch, 1024), "routed experts")
            for asked in ((request, release), (skewed, fresh))
        )
        assert uneven < 0.8 * even if ep == 1 else uneven > 1.2 * even


def test_popular_experts_in_ram_are_fewer_to_read() -> None:
    given: dict[str, Any] = {"gpu": "rtx-4090", "engine": "llama.cpp", "quant": "UD-Q2_K_XL", "ram": "512GiB"}
    request, release, priced = one_of(**given, sequences=16)
    skewed, *_ = one_of(**given, sequences=16, routing="power_law")
    even = row(decode_step(request, release, priced, 16, 1024), "experts in RAM")
    assert row(decode_step(skewed, replace(release, memo={}), priced, 16, 1024), "experts in RAM") < 0.9 * even
    assert decode_step(skewed, replace(release, memo={}), priced, 1, 1024).total == pytest.approx(
        decode_step(request, release, priced, 1, 1024).total, rel=0.01
    )


@pytest.mark.parametrize(
    ("engine", "version", "gpu", "family", "layout", "fused"),
    [
        ("vllm", "0.16.0", "8xH200", "kimi_k25", {}, False),
        ("vllm", "0.17.0", "8xH200", "kimi_k25", {}, True),
        ("vllm", "0.19.0", "8xH200", "kimi_k25", {"pp": 2}, False),
        ("vllm", "0.33.0", "8xH200", "kimi_k25", {"pp": 2}, True),
        ("vllm", "0.33.0", "8xA100-80", "kimi_k25", {}, False),
        ("vllm", "0.33.0", "4xRTX-PRO-6000", "kimi_k25", {}, False),
        ("vllm", "0.33.0", "8xMI300X", "kimi_k25", {}, False),
        ("sglang", "0.5.6", "8xB200", "deepseek_v3", {}, True),
        ("sglang", "0.5.6", "8xH200", "deepseek_v3", {}, False),
        ("sglang", "0.5.6", "8xB200", "qwen3_moe", {}, False),
        ("sglang", "0.5.7", "8xH200", "qwen3_moe", {}, True),
        ("sglang", "0.5.23", "8xH200", "kimi_k25", {"attention_dp": True, "dp": 8}, False),
        ("sglang", "0.5.23", "8xH200", "minimax_m2", {}, False),
    ],
)
def test_norms_are_fused_where_the_engine_does_so_by_itself(
    engine: str, version: str, gpu: str, family: str, layout: dict[str, Any], fused: bool
) -> None:
    (group,) = machine_from(gpu=gpu).groups()
    config = Config(engine, version, group, tp=4)._replace(**layout)
    assert fuses_norms(config, group.gpu, family) is fused
