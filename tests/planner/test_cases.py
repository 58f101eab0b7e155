"""The kernels of a configuration: they move the bytes that its ledger holds, and name each shape once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from formulas.storage import storage_format, tensor_bytes
from planner.cases import Use, is_attention, kernel_cases, uses_of
from planner.engines.tensor_parallel import ranks_of
from planner.sharding import build_shards
from tests.planner.planning import outcome_of, request_of


def stored_bytes(uses: Iterable[Use]) -> float:
    """Weight bytes of all kernels of one step, every expert read, from their shapes alone."""
    total = 0.0
    for use in uses:
        case = use.case
        if is_attention(case) or case.kernel in ("all_reduce", "all_to_all") or use.phase == "decode":
            continue
        fmt = storage_format(case.quantization)
        if case.kernel in ("grouped_moe", "cpu_moe"):
            hidden, inter = case.dim("hidden"), case.dim("inter")
            each = 2 * tensor_bytes(fmt, (inter, hidden)) + tensor_bytes(fmt, (hidden, inter))
            total += use.times * use.scale * case.dim("experts") * each
        else:
            out = case.dim("experts") if case.kernel == "router" else case.dim("out")
            columns = case.dim("hidden") if case.kernel == "router" else case.dim("in")
            total += use.times * use.scale * tensor_bytes(fmt, (out, columns))
    return total


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("kimi-k2.5", {"gpu": "8xH200", "engine": "vllm", "quant": "int4", "tp": 8}),
        ("kimi-k2.5", {"gpu": "8xH200", "engine": "sglang", "quant": "int4", "tp": 8, "dp": 8, "ep": 8}),
        ("qwen3-235b-a22b", {"gpu": "8xH200", "engine": "vllm", "tp": 8}),
        ("llama-3.1-70b", {"gpu": "8xA100-80", "engine": "vllm", "tp": 8}),
        ("kimi-k2.5", {"gpu": "none", "ram": "1TiB", "engine": "llama.cpp", "quant": "UD-Q2_K_XL"}),
    ],
)
def test_the_kernels_read_the_weights_that_the_shards_hold(model: str, given: dict[str, Any]) -> None:
    request = request_of(model, exact=True, **given)
    release = request.releases[0]
    found = outcome_of(model, exact=True, **given).found[0]
    config = found.priced.config
    ranks = ranks_of(config)
    shards = build_shards(
        request.model, release.tensors.groups, tp=ranks.tp, expert_tp=ranks.expert_tp, expert_ranks=ranks.expert_ranks,
        vision_sharded=False, scale=release.tensors.scale,
    )  # fmt: skip
    held = shards.cumulative[-1] + shards.lm_head
    # Norms, biases and the rotary table are no matrices; the vocabulary is padded.
    assert stored_bytes(uses_of(request, release, config)) == pytest.approx(held, rel=2e-3)


def test_a_plan_names_each_kernel_once_with_the_batch_of_its_demand() -> None:
    given: dict[str, Any] = {"gpu": "8xH200", "engine": "vllm", "quant": "int4", "tp": 8, "concurrency": 24}
    request = request_of(exact=True, **given)
    priced = outcome_of(exact=True, **given).found[0].priced
    cases = kernel_cases(request, request.releases[0], priced)
    assert len(set(cases)) == len(cases)
    experts = [case for case in cases if case.kernel == "grouped_moe"]
    assert [case.batch for case in experts] == [24, 4096]
    assert experts[0].series == "grouped_moe/int4_g32/experts384.experts_total384.hidden7168.inter256.top_k8"
    attention = next(case for case in cases if case.kernel == "mla_decode")
    assert (attention.batch, attention.context) == (24, 4096 + 512)


def test_experts_meet_the_tokens_of_all_replicas_that_share_them() -> None:
    given: dict[str, Any] = {
        "gpu": "8xH200", "engine": "sglang", "quant": "int4", "tp": 8, "dp": 8, "ep": 8, "concurrency": 64
    }  # fmt: skip
    request = request_of(exact=True, **given)
    cases = kernel_cases(request, request.releases[0], outcome_of(exact=True, **given).found[0].priced)
    batches = {case.kernel: case.batch for case in reversed(cases)}
    assert (batches["grouped_moe"], batches["mla_decode"]) == (64, 8)
