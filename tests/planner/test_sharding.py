"""Bytes of a release on one rank, whichever way it is divided."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulas.units import GIB
from planner.build import price_releases
from planner.engines.base import Config, divisors
from planner.engines.tensor_parallel import Ranks, absorbed_mla_bytes, ranks_of
from planner.sharding import ShardTable, build_shards, padded_vocabulary, shard_shape, stage_layers
from profiles.library import find_releases, load_model, model_ids
from profiles.model import ModelSpec
from tests.planner.planning import K25, priced_of

CHECKPOINT_BYTES = 595_148_192_736
"""Kimi K2.5 as published, total_size of its index."""


@cache
def shards(name: str, tp: int = 1, expert_tp: int = 1, expert_ranks: int = 1) -> ShardTable:
    model = load_model(name)
    (release,) = price_releases(model, find_releases(model, model.native_quantization)[:1])
    return build_shards(
        model, release.tensors.groups, tp=tp, expert_tp=expert_tp, expert_ranks=expert_ranks, vision_sharded=False,
    )  # fmt: skip


def total(table: ShardTable) -> int:
    """Everything on one rank, but multi-token prediction, which engines leave out."""
    return table.cumulative[-1] + table.embedding + table.lm_head + table.norms + table.vision


def whole_bytes(model: ModelSpec) -> int:
    return sum(group.bytes for group in model.tensors if group.tensor_class != "mtp")


@pytest.mark.parametrize("name", model_ids())
def test_one_rank_holds_the_whole_model(name: str) -> None:
    assert total(shards(name)) == whole_bytes(load_model(name))


def test_kimi_k25_on_one_rank_is_the_checkpoint() -> None:
    assert total(shards(K25)) == CHECKPOINT_BYTES


def test_kimi_k25_at_tp_8_is_more_than_an_eighth() -> None:
    """q_a, kv_a, router and norms are whole on every rank, and so is the vision tower: 71.83 GiB, not 69.28."""
    per_gpu = total(shards(K25, tp=8, expert_tp=8))
    assert round(per_gpu / GIB, 2) == 71.83
    assert round(CHECKPOINT_BYTES / 8 / GIB, 2) == 69.28


def test_kimi_k25_as_vllm_loads_it() -> None:
    """vLLM reports 72.0 GiB with vision and 71.2 without: the shards, and 0.15 to 0.2 GiB that they do not explain."""
    device = priced_of(gpu="8xH200", engine="vllm", tp=8).devices[0]
    assert device.total("weights") / GIB == pytest.approx(72.0, rel=0.003)
    text_only = priced_of(gpu="8xH200", engine="vllm", tp=8, text_only=True).devices[0]
    assert text_only.total("weights") / GIB == pytest.approx(71.2, rel=0.004)


def test_what_replicates_at_tp_8_is_what_replicates() -> None:
    """8 ranks together hold the checkpoint and seven more copies of what is not divided, nothing else."""
    model = load_model(K25)
    replicated = sum(
        group.bytes
        for group in model.tensors
        if group.role in ("q_a", "kv_a", "router", "router_bias", "norm") or group.tensor_class == "vision"
    )
    # A shard of an INT4 matrix repeats the 8 bytes of its shape.
    shapes = sum(8 * group.instances for group in model.tensors if group.tensor_class == "routed_experts")
    assert 8 * total(shards(K25, tp=8, expert_tp=8)) == CHECKPOINT_BYTES + 7 * (replicated + shapes)


@pytest.mark.parametrize("role", ["q_a", "kv_a", "router", "norm"])
@pytest.mark.parametrize("tp", [2, 8, 64])
def test_roles_that_tensor_parallelism_leaves_whole(role: str, tp: int) -> None:
    for group in load_model(K25).tensors:
        if group.role == role:
            assert shard_shape(group, tp, 0) == group.shape


def test_dp_8_with_ep_8_divides_the_experts_only() -> None:
    """88.4 GiB per GPU in published start-ups without vision; the non-experts are whole on every rank."""
    device = priced_of(gpu="8xH200", engine="vllm", tp=1, dp=8, ep=8, text_only=True).devices[0]
    entries = {entry.what: entry.bytes for entry in device.entries if entry.kind == "weights"}
    assert entries["routed experts"] == 48 * 60 * 3 * 8_257_544
    assert sum(entries.values()) == pytest.approx(88.4 * GIB, rel=0.002)


def test_deepseek_r1_at_tp_8() -> None:
    """79.6 to 79.9 GiB per GPU in published start-ups of vLLM on H200."""
    device = priced_of("deepseek-r1", gpu="8xH200", engine="vllm", tp=8).devices[0]
    assert device.total("weights") / GIB == pytest.approx(79.75, abs=0.25)


@pytest.mark.parametrize("name", model_ids())
@pytest.mark.parametrize("tp", [2, 4, 8, 16])
def test_a_rank_never_holds_less_than_its_share(name: str, tp: int) -> None:
    for ranks in ((tp, tp, 1), (tp, 1, tp), (1, 1, tp), (1, tp, 1)):
        assert total(shards(name, *ranks)) * tp >= whole_bytes(load_model(name))


@pytest.mark.parametrize("name", model_ids())
def test_more_ranks_never_hold_more_each(name: str) -> None:
    sizes = [total(shards(name, tp, tp, 1)) for tp in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", model_ids())
@given(pp=st.integers(1, 61))
def test_stages_add_up_to_the_model(name: str, pp: int) -> None:
    table, model = shards(name, 8, 8, 1), load_model(name)
    stages = stage_layers(model.layers, min(pp, model.layers))
    assert sum(table.stage_bytes(*stage) for stage in stages) == table.cumulative[-1]


@pytest.mark.parametrize("pp", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_devices_of_all_stages_hold_the_model_once(engine: str, pp: int) -> None:
    one = priced_of(gpu="8xH200", nodes=8, engine=engine, tp=8, pp=1)
    divided = priced_of(gpu="8xH200", nodes=8, engine=engine, tp=8, pp=pp)
    assert len(divided.devices) == pp
    assert sum(device.copies for device in divided.devices) == 8 * pp
    known = ("routed experts", "attention, shared and dense layers, router, norms", "embedding", "vision tower")

    def weights(what: str, priced: object) -> int:
        assert priced is one or priced is divided
        devices = one.devices if priced is one else divided.devices
        return sum(entry.bytes for device in devices for entry in device.entries if entry.what == what)

    for what in (*known, "head and final norm"):
        assert weights(what, divided) == weights(what, one), what


@given(st.integers(1, 200), st.integers(1, 64))
def test_stages_are_contiguous_and_even(layers: int, pp: int) -> None:
    pp = min(pp, layers)
    stages = stage_layers(layers, pp)
    assert [first for first, _ in stages] == [0, *[stop for _, stop in stages[:-1]]]
    assert stages[-1][1] == layers
    sizes = [stop - first for first, stop in stages]
    assert max(sizes) - min(sizes) <= 1
    # The last stage holds the head as well.
    assert sizes[-1] == min(sizes)
    assert [stop - first for first, stop in stage_layers(layers, pp, rest_last=True)] == sorted(sizes)


@pytest.mark.parametrize(("engine", "layers"), [("vllm", "layers 0-30"), ("sglang", "layers 0-29")])
def test_each_engine_divides_61_layers_its_own_way(engine: str, layers: str) -> None:
    first = priced_of(gpu="8xH200", nodes=2, engine=engine, tp=8, pp=2).devices[0]
    assert any(layers in entry.formula for entry in first.entries)


@given(st.integers(1, 300_000), st.sampled_from((1, 2, 4, 8, 16, 32, 64)))
def test_a_padded_vocabulary_divides(vocab: int, tp: int) -> None:
    rows = padded_vocabulary(vocab, tp)
    assert vocab <= rows * tp < vocab + 64
    assert rows * tp % 64 == 0


def test_absorbed_projections_are_divided_by_heads_and_stages() -> None:
    model = load_model(K25)
    whole = absorbed_mla_bytes(model, 1, 0, 61)
    assert whole == 2 * 61 * 64 * 256 * 512
    assert absorbed_mla_bytes(model, 8, 0, 61) * 8 == whole
    assert absorbed_mla_bytes(model, 1, 0, 31) + absorbed_mla_bytes(model, 1, 31, 61) == whole
    assert absorbed_mla_bytes(load_model("llama-3.1-70b"), 1, 0, 80) == 0


@pytest.mark.parametrize(
    ("config", "ranks"),
    [
        (Config("vllm", "1", None, tp=8), Ranks(8, 8, 1)),
        (Config("vllm", "1", None, tp=8, ep=8), Ranks(8, 1, 8)),
        (Config("vllm", "1", None, tp=1, dp=8, ep=8), Ranks(1, 1, 8)),
        (Config("vllm", "1", None, tp=4, dp=2), Ranks(4, 8, 1)),
        (Config("vllm", "1", None, tp=4, dp=2, pp=2, ep=8), Ranks(4, 1, 8)),
        (Config("sglang", "1", None, tp=8, dp=8, attention_dp=True), Ranks(1, 8, 1)),
        (Config("sglang", "1", None, tp=8, dp=2, ep=8, attention_dp=True), Ranks(4, 1, 8)),
    ],
)
def test_ranks(config: Config, ranks: Ranks) -> None:
    assert ranks_of(config) == ranks


@given(st.integers(1, 5000))
def test_divisors_divide(number: int) -> None:
    found = divisors(number)
    assert list(found) == sorted(set(found))
    assert all(number % divisor == 0 for divisor in found)
    assert {1, number} <= set(found)
