"""llama.cpp: where the layers, the experts, the KV cache and the pages go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formulas.units import GIB
from planner.engines import load_engine_model
from planner.engines.base import Config, Priced
from planner.engines.llamacpp import balanced, cell_bytes, shortage
from planner.engines.llamacpp_placement import Reads, placement_in, space_with, sums_of
from planner.ledger import Device
from planner.request import Request
from planner.step import decode_step
from profiles.library import load_model
from tests.planner.planning import K25, outcome_of, priced_of, request_of

SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


@given(SIZES, st.integers(0, 60), st.lists(st.integers(0, 20_000), min_size=1, max_size=8), st.integers(0, 500))
def test_a_placement_holds_every_layer_once_and_no_gpu_too_much(
    always: list[int], on_cpu: int, caps: list[int], head: int
) -> None:
    experts = [3 * size for size in always]
    placed = balanced(
        [float(size) for size in always], [float(size) for size in experts], on_cpu, [*map(float, caps)], head
    )
    if placed is None:
        return
    assert sum(placed) == len(always)
    first = 0
    for gpu, (count, cap) in enumerate(zip(placed, caps, strict=True)):
        layers = range(first, first + count)
        used = sum(always[layer] + (experts[layer] if layer >= on_cpu else 0) for layer in layers)
        if count or gpu == len(caps) - 1:
            assert used + (head if gpu == len(caps) - 1 else 0) <= cap
        first += count


@given(SIZES, st.lists(st.integers(0, 20_000), min_size=1, max_size=8), st.integers(0, 500))
def test_more_layers_on_the_cpu_never_fit_worse(always: list[int], caps: list[int], head: int) -> None:
    sizes, room = [float(size) for size in always], [float(cap) for cap in caps]
    experts = [3.0 * size for size in sizes]
    possible = [balanced(sizes, experts, on_cpu, room, head) is not None for on_cpu in range(len(sizes) + 1)]
    assert possible == sorted(possible)


@given(
    SIZES,
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(0, 20_000), st.sampled_from((1.0, 2.0, 7.5))), min_size=1, max_size=4),
    st.integers(0, 500),
    st.floats(0.01, 1.0),
)
def test_unequal_gpus_are_never_slower_than_filled_alike(
    always: list[int], on_cpu: int, gpus: list[tuple[int, float]], head: int, share: float
) -> None:
    sums = sums_of(map(float, always), [3.0 * size for size in always])
    caps, rates = [float(cap) for cap, _ in gpus], [rate for _, rate in gpus]
    reads = Reads(sums.always, [share * size for size in sums.experts], float(head), rates)
    on_cpu = min(on_cpu, len(always))
    space = space_with(sums, on_cpu, caps, head)
    if space is None:
        return
    alike, chosen = placement_in(space), placement_in(space, reads)
    if all(alike.layers):
        assert chosen.seconds <= reads.seconds(alike.layers, on_cpu) * (1 + 1e-5)
    assert sum(chosen.layers) == len(always)
    first = 0
    for place, (count, cap) in enumerate(zip(chosen.layers, caps, strict=True)):
        layers = range(first, first + count)
        used = sum(always[layer] * (4 if layer >= on_cpu else 1) for layer in layers)
        assert not count or used + (head if place == len(caps) - 1 else 0) <= cap
        first += count
    if len(set(rates)) == 1:
        assert chosen.layers == alike.layers


MIXED: dict[str, Any] = {
    "engine": "llama.cpp",
    "quant": "UD-Q2_K_XL",
    "ram": "512GiB",
    "ram_bandwidth": "300GB/s",
    "cores": 32,
}


def as_if_equal(request: Request) -> Request:
    """The request on GPUs that are told apart by their memory alone: llama.cpp fills them alike, in their order."""
    (node,) = request.machine.nodes
    gpus = tuple([gpu._replace(bandwidth=node.gpus[0].bandwidth) for gpu in node.gpus])
    return replace(request, machine=request.machine._replace(nodes=(node._replace(gpus=gpus),)))


def priced_on(request: Request) -> Priced:
    engine, (release,) = load_engine_model("llama.cpp"), request.releases
    (config,) = engine.configurations(request, release)
    assert isinstance(config, Config)
    return engine.price(request, release, config)


@pytest.mark.parametrize(
    "gpu",
    [["rtx-5090", "rtx-3090"], ["rtx-3090", "rtx-5090"], ["2xrtx-3090", "rtx-pro-6000"], ["a100-80", "2xrtx-4090"]],
)
def test_a_mixed_machine_is_never_slower_than_filled_in_order(gpu: list[str]) -> None:
    request = request_of(K25, exact=True, gpu=gpu, **MIXED)
    (release,) = request.releases
    chosen, alike = priced_on(request), priced_on(as_if_equal(request))
    assert chosen.verdict == alike.verdict == "fits"
    assert chosen.config.cpu_expert_layers <= alike.config.cpu_expert_layers
    steps = [decode_step(request, release, priced, 1, 4096).total for priced in (chosen, alike)]
    assert steps[0] <= steps[1]


def test_the_order_in_which_unequal_gpus_are_named_does_not_matter() -> None:
    first, second = (priced_of(gpu=gpu, **MIXED) for gpu in (["rtx-5090", "rtx-3090"], ["rtx-3090", "rtx-5090"]))
    assert first.config.placement == second.config.placement
    assert (first.config.gpu_order, second.config.gpu_order) == ((), (1, 0))
    assert [device.name for device in first.devices] == [device.name for device in second.devices]


def test_equal_gpus_keep_their_order() -> None:
    priced = priced_of(gpu="2xrtx-4090", **MIXED)
    assert priced.config.gpu_order == ()
    assert (
        priced.config.placement
        == priced_on(as_if_equal(request_of(exact=True, gpu="2xrtx-4090", **MIXED))).config.placement
    )


def gpu_weights(priced: Priced) -> int:
    return sum(device.total("weights") for device in priced.devices if device.kind != "disk")


@pytest.mark.parametrize("gpu", ["none", "rtx-4090", "4xA100-80", "8xH200", "m3-ultra"])
@pytest.mark.parametrize("quant", ["UD-Q2_K_XL", "bartowski/Q8_0"])
def test_every_weight_lies_somewhere_once(gpu: str, quant: str) -> None:
    ram = {} if gpu == "m3-ultra" else {"ram": "2TiB"}
    priced = priced_of(K25, engine="llama.cpp", quant=quant, gpu=gpu, **ram)
    (release,) = request_of(K25, exact=True, machine=None, engine="llama.cpp", quant=quant, gpu="none").releases
    # Layers are scaled and rounded one by one where the tensor types are assumed.
    assert gpu_weights(priced) == pytest.approx(release.tensors.bytes, rel=1e-7)


def test_the_fewest_layers_leave_the_gpus() -> None:
    planned = priced_of(engine="llama.cpp", quant="UD-Q2_K_XL", gpu="4xA100-80", ram="256GiB")
    layers = planned.config.cpu_expert_layers
    assert planned.verdict == "fits"
    assert 0 < layers < 61
    forced = priced_of(engine="llama.cpp", quant="UD-Q2_K_XL", gpu="4xA100-80", ram="256GiB", n_cpu_moe=layers - 1)
    assert forced.verdict != "fits"


@pytest.mark.parametrize("quant", ["UD-Q2_K_XL", "UD-TQ1_0", "bartowski/Q8_0"])
def test_room_on_other_gpus_is_used_before_a_gpu_gets_tight(quant: str) -> None:
    """A placement counts weights of assumed types at the size that the ledger counts them with."""
    assert priced_of(engine="llama.cpp", quant=quant, gpu="8xH200", ram="1TiB").verdict == "fits"


def test_layers_given_by_the_user_are_kept() -> None:
    for wanted in (0, 7, 60, 61, 5000):
        priced = priced_of(engine="llama.cpp", quant="UD-Q2_K_XL", gpu="8xH200", ram="1TiB", n_cpu_moe=wanted)
        assert priced.config.cpu_expert_layers == min(wanted, 61)


def test_the_kv_cache_lies_where_the_layers_are() -> None:
    priced = priced_of(engine="llama.cpp", quant="UD-Q2_K_XL", gpu="4xA100-80", ram="1TiB", context=32_768)
    per_layer = 32_768 * 1152
    held = [device.total("kv_cache") for device in priced.devices if device.kind == "gpu"]
    assert held == [count * per_layer for count in priced.config.placement]
    host = next(device for device in priced.devices if device.kind == "host")
    assert host.total("kv_cache") == 0


def test_keys_and_values_can_be_stored_differently() -> None:
    model = load_model("qwen3-235b-a22b")
    assert cell_bytes(model, "f16") == 4 * (256 + 256)
    assert cell_bytes(model, "f16", "q4_0") == 4 * (256 + 72)
    given = {"engine": "llama.cpp", "quant": "Q4_K_M", "gpu": "8xH200", "context": 32_768}
    sizes = [
        sum(device.total("kv_cache") for device in priced_of("qwen3-235b-a22b", **given, **types).devices)
        for types in ({}, {"cache_type_v": "q4_0"}, {"cache_type_k": "q4_0", "cache_type_v": "q4_0"})
    ]
    assert sizes == [94 * 32_768 * size for size in (2048, 1312, 576)]


def test_the_compute_buffer_is_paid_on_every_gpu_with_layers() -> None:
    priced = priced_of(engine="llama.cpp", quant="UD-Q2_K_XL", gpu="4xA100-80", ram="1TiB")
    gpus = [device for device in priced.devices if device.kind == "gpu"]
    assert len(gpus) == 4
    assert all(device.total("compute") > 0 for device in gpus)


@given(st.sampled_from((512, 1024, 2048, 4096)), st.sampled_from((8192, 32_768, 131_072)))
def test_compute_grows_with_the_micro_batch_and_the_context(ubatch: int, context: int) -> None:
    def compute(ubatch: int, context: int) -> int:
        given = {"engine": "llama.cpp", "quant": "UD-TQ1_0", "gpu": "8xH200", "ubatch": ubatch, "context": context}
        return priced_of(K25, **given).devices[0].total("compute")

    assert compute(ubatch, context) < compute(2 * ubatch, context)
    assert compute(ubatch, context) < compute(ubatch, 2 * context)


def test_a_mapped_file_fills_the_ram_there_is_and_pages_the_rest() -> None:
    priced = priced_of(engine="llama.cpp", quant="UD-TQ1_0", gpu="rtx-4090", ram="64GiB", disk="2TB@7GB/s")
    host, disk = (next(device for device in priced.devices if device.kind == kind) for kind in ("host", "disk"))
    assert priced.verdict == "fits"
    assert host.free_low == 0
    on_gpu = priced.devices[0].total("weights")
    assert priced.config.disk_bytes + host.total("weights") + on_gpu == pytest.approx(240e9, rel=1e-7)
    assert disk.total("weights") == 240_000_000_000


def test_no_disk_no_paging() -> None:
    priced = priced_of(engine="llama.cpp", quant="UD-TQ1_0", gpu="rtx-4090", ram="64GiB")
    assert priced.verdict == "no"
    assert priced.reason == "the experts kept in RAM exceed it"


@pytest.mark.parametrize(
    ("kind", "capacity", "placed", "reason"),
    [
        ("disk", 1, True, "the disk cannot hold the model file"),
        ("unified", 1, True, "the model does not fit in the unified memory"),
        ("gpu", 1, True, "attention, KV cache and compute buffers exceed a GPU"),
        ("host", 1, True, "the experts kept in RAM exceed it"),
        ("host", 1, False, "the model does not fit in RAM"),
        ("host", 0, True, "experts must leave the GPUs and the size of RAM is not known (--ram)"),
        ("host", 0, False, "the size of RAM is not known (--ram)"),
    ],
)
def test_the_reason_names_the_device_that_is_short(kind: str, capacity: int, placed: bool, reason: str) -> None:
    config = priced_of(engine="llama.cpp", quant="UD-TQ1_0", gpu="rtx-4090", ram="1TiB").config
    worst = Device(0, kind, 0, 1, "x", capacity, capacity, capacity, capacity, capacity, ())  # type: ignore[arg-type]
    assert shortage(worst, config if placed else config._replace(placement=())) == reason


def test_without_a_gpu_everything_lies_in_ram() -> None:
    for found in outcome_of(ram="2TiB", engine="llama.cpp").found:
        assert found.priced.config.group is None
        assert [device.kind for device in found.priced.devices] == ["host"]
        # Eight requests of 5,120 tokens, more than one context.
        assert found.priced.pool.tokens == 8 * 5120


@pytest.mark.parametrize(
    ("gpu", "used"), [("8xgaudi3", 0), ("8xascend-910c", 0), ("2xarc-pro-b60", 2), ("2xMI300X", 2)]
)
def test_accelerators_without_a_back_end_are_not_used(gpu: str, used: int) -> None:
    for found in outcome_of(gpu=gpu, ram="1TiB", engine="llama.cpp", quant="UD-TQ1_0").found:
        assert len(found.priced.config.placement) == used
    assert outcome_of(gpu=gpu, ram="1TiB", engine="llama.cpp", quant="UD-TQ1_0").found


def test_unified_memory_holds_everything_in_one_ledger() -> None:
    priced = priced_of(engine="llama.cpp", quant="UD-Q2_K_XL", gpu="m3-ultra")
    (device,) = priced.devices
    assert device.kind == "unified"
    assert device.capacity == 512 * GIB
    assert device.usable < device.capacity
