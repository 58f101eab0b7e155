"""Parts of the workers that need no library of anybody."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwdetect.bench.workers import memory, onnx_model
from hwdetect.bench.workers.blocks import expert_layer, int4_rows
from hwdetect.bench.workers.routing import Router, Slots, slots_needed
from hwdetect.bench.workers.timing import Options, Prepared, measure


@given(st.integers(1, 20), st.integers(1, 8), st.integers(8, 40), st.integers(0, 1000))
def test_a_token_goes_to_distinct_experts(tokens: int, top_k: int, experts: int, seed: int) -> None:
    ids = Router(experts, experts, top_k, Options(seed=seed)).draw(tokens)
    assert ids.shape == (tokens, top_k)
    assert all(len(set(row)) == top_k for row in ids.tolist())
    assert ids.min() >= 0 and ids.max() < experts


def test_uniform_routing_hits_as_many_as_expected() -> None:
    router = Router(384, 384, 8, Options())
    distinct = np.mean([len(np.unique(router.draw(64))) for _ in range(50)])
    assert distinct == pytest.approx(384 * (1 - (1 - 8 / 384) ** 64), rel=0.02)


def test_popular_experts_are_hit_more_often() -> None:
    uniform, skewed = (Router(64, 64, 4, Options(routing=name)) for name in ("uniform", "power_law"))
    busiest = [np.bincount(router.draw(500).ravel()).max() for router in (uniform, skewed)]
    assert busiest[1] > 2 * busiest[0]


def test_experts_of_other_ranks_are_nobodys() -> None:
    ids = Router(6, 8, 4, Options()).draw(100)
    assert set(np.unique(ids).tolist()) == {-1, *range(6)}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_a_slot_comes_back_only_after_all_others(draws: list[int]) -> None:
    slots = Slots(20, seed=1)
    used: list[int] = []
    for count in draws:
        placed, distinct, _ = slots.place(np.arange(count).reshape(1, count))
        assert distinct == count == len(set(placed.ravel().tolist()))
        used += sorted(placed.ravel().tolist(), key=slots.order.tolist().index)
    for slot in set(used):
        places = [at for at, one in enumerate(used) if one == slot]
        # Within a draw the order is free, so that up to one draw's experts may be missing in between.
        assert all(later - earlier >= 20 - 2 * 5 for earlier, later in itertools.pairwise(places))


def test_tokens_of_an_expert_share_its_slot() -> None:
    placed, distinct, busiest = Slots(10, seed=1).place(np.array([[3, 4], [3, 5], [-1, 3]]))
    assert placed[0, 0] == placed[1, 0] == placed[2, 1]
    assert placed[2, 0] == -1
    assert (distinct, busiest) == (3, 3)
    with pytest.raises(MemoryError, match="3 experts are hit"):
        Slots(2, seed=1).place(np.arange(3).reshape(1, 3))


def test_a_pool_is_four_caches_at_least() -> None:
    options = Options(cache_bytes=100, memory_bytes=10_000)
    assert slots_needed(10, 2, 384, options) == 40
    assert slots_needed(10, 2, 384, Options(cache_bytes=100, memory_bytes=10_000, largest_batch=100)) == 200
    with pytest.raises(MemoryError, match="stay out of the cache"):
        slots_needed(10, 2, 384, Options(cache_bytes=100, memory_bytes=399))


def prepared(seen: list[int], error: float, **more: Callable[[], float] | int | str) -> Prepared:
    def step() -> Callable[[], object]:
        seen.append(len(seen))
        return lambda: None

    return Prepared(step, lambda: error, 0.01, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [0.02, float("nan"), float("inf")])
def test_what_computes_wrongly_is_not_timed(error: float) -> None:
    seen: list[int] = []
    assert set(measure(prepared(seen, error), Options(seconds=0.0))) == {"incorrect"}
    assert seen == []


def test_every_iteration_is_set_up_anew_and_the_reference_is_read_between() -> None:
    seen: list[int] = []
    reads: list[float] = []

    def reference() -> float:
        reads.append(1e9)
        return 1e9

    answer = measure(prepared(seen, 0.0, reference=reference), Options(seconds=0.0))
    assert len(seen) == len(answer["samples_s"]) + 2
    assert reads and answer["reference_bytes_per_s"] == 1e9
    assert answer["clock"] == "cpu"
    assert measure(prepared([], 0.0), Options(seconds=0.0, threads=2))["clock"] == "wall"


def test_int4_means_what_it_says() -> None:
    rows = int4_rows(128, 3)
    low, high = (rows.packed & 15).astype(int) - 8, (rows.packed >> 4).astype(int) - 8
    steps = np.stack([low, high], axis=2).reshape(13, 128)
    assert np.allclose(steps * np.repeat(rows.scales, 32, axis=1), rows.values)
    assert {steps.min(), steps.max()} <= set(range(-8, 8))


def test_the_reference_of_an_expert_layer() -> None:
    wide, narrow = int4_rows(64, 1).values, int4_rows(32, 2).values
    token = np.random.default_rng(1).standard_normal((1, 64))
    gate = np.stack([wide[(5 * 32 + row) % 13] for row in range(32)])
    up = np.stack([wide[(5 * 32 + row + 1) % 13] for row in range(32)])
    down = np.stack([narrow[(5 * 64 + row) % 13] for row in range(64)])
    inner = gate @ token[0] / (1 + np.exp(-(gate @ token[0]))) * (up @ token[0])
    found = expert_layer(wide, narrow, token, np.array([[5, -1]]), np.array([[0.25, 0.75]]))
    assert np.allclose(found[0], 0.25 * (down @ inner))


def test_an_onnx_model_is_laid_out_as_protobuf() -> None:
    # Field 1 (ir_version) as a number, 8: the first bytes of any ONNX file of that version.
    model = onnx_model.model([], [], onnx_model.value("x", 4), onnx_model.value("y", 300))
    assert model[:2] == b"\x08\x08"
    assert b"com.microsoft" in model and b"\xac\x02" in model


def test_cpus_of_numa_nodes_that_this_process_may_use(tmp_path: Path) -> None:
    for node, cpus in ((0, "0-3"), (1, "4-7"), (2, "")):
        folder = tmp_path / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpus}\n", encoding="ascii")
    assert memory.nodes_here(tmp_path, frozenset(range(8))) == {0: {0, 1, 2, 3}, 1: {4, 5, 6, 7}}
    assert memory.nodes_here(tmp_path, frozenset({2, 3})) == {0: {2, 3}}
    assert memory.nodes_here(tmp_path / "none", frozenset({0})) == {}


@given(st.integers(1, 40), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_threads_are_shared_out_over_nodes_by_their_cpus(threads: int, sizes: list[int]) -> None:
    nodes = [frozenset(range(100 * at, 100 * at + size)) for at, size in enumerate(sizes)]
    places = memory.shared_out(threads, nodes)
    assert len(places) == threads and set(places) <= set(nodes)
    for node in nodes:
        assert abs(places.count(node) - threads * len(node) / sum(sizes)) < len(nodes) + 1


def test_each_thread_fills_what_it_reads_on_its_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, frozenset[int]]] = []
    fill = memory.filled

    def filled(size: int) -> np.ndarray[Any, Any]:
        seen.append((threading.get_ident(), frozenset(os.sched_getaffinity(0))))
        return fill(size)

    monkeypatch.setattr(memory, "filled", filled)
    before = os.sched_getaffinity(0)
    nodes = [frozenset({cpu}) for cpu in sorted(before)[:2]]
    readers = memory.Readers(1 << 20, 4, nodes)
    assert len({thread for thread, _ in seen}) == 4
    assert sorted(map(sorted, {cpus for _, cpus in seen})) == sorted(map(sorted, nodes))
    # Of the thread alone: this one may go where it could before.
    assert os.sched_getaffinity(0) == before
    readers.read(1, 2)
    assert readers.size == 1 << 20
