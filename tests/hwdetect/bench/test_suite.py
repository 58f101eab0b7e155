"""The run as a whole: what is measured, kept, taken up again, and doubted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.limits import ASSUMED_CACHE_BYTES, last_level_cache_bytes
from hwdetect.bench.result import doubt, doubted, quartiles
from hwdetect.bench.suite import Outcome, Settings, Watch, _throttled, run
from hwdetect.bench.workers.memory import nodes_here
from hwdetect.nvidia import ClockState

Use = Callable[..., None]


def sizes(*counts: int) -> list[KernelCase]:
    return [kernel_case("memory_read", "bf16", bytes=count << 20) for count in counts]


def test_a_row_has_all_that_a_reader_needs(small: Settings) -> None:
    case = kernel_case("cpu_dense", "Q8_0", batch=2, in_=256, out=64)
    (row,) = run([case], small).rows
    assert (row.provider, row.kernel, row.batch, row.threads, row.clock) == ("ggml", "cpu_dense", 2, 1, "cpu")
    assert row.version.startswith("ggml ") and "xllamacpp" in row.version
    assert row.samples_s and quartiles(row.samples_s) == (row.low_s, row.median_s, row.high_s)
    assert row.bytes == case.work().bytes and row.flops == case.work().flops
    assert row.correctness.max_relative_error <= row.correctness.bound
    assert row.reference_bytes_per_s is not None
    assert row.fraction_of_roofline == pytest.approx(row.bytes / row.reference_bytes_per_s / row.median_s)
    assert row.fraction_of_nominal is None
    assert row.is_of(case) and not row.is_of(case._replace(batch=3))


def test_what_was_measured_before_is_not_measured_again(providers: Use, small: Settings) -> None:
    providers("works")
    cases = sizes(1, 2, 3)
    first = run(cases[:2], small)
    providers("crashes")
    second = run(cases, small, done=first.rows)
    assert second.rows == first.rows
    assert [missing.series for missing in second.missing] == [cases[2].series]


def test_ctrl_c_keeps_what_was_measured(providers: Use, small: Settings) -> None:
    providers("works")
    kept: list[int] = []

    def keep(outcome: Outcome) -> None:
        kept.append(len(outcome.rows))
        if len(outcome.rows) == 2:
            raise KeyboardInterrupt

    outcome = run(sizes(1, 2, 3), small, keep=keep)
    assert (outcome.ended, len(outcome.rows), kept) == ("interrupted", 2, [1, 2])


def test_a_watcher_hears_of_every_case_and_ends_the_run(providers: Use, small: Settings) -> None:
    providers("works")
    begun: list[tuple[int, str]] = []
    found: list[int] = []
    watch = Watch(
        begins=lambda case, provider: begun.append((case.dim("bytes"), provider)),
        found=lambda outcome: found.append(len(outcome.rows)),
        cancelled=lambda: len(found) == 2,
    )
    outcome = run(sizes(1, 2, 3), replace(small, watch=watch))
    assert (outcome.ended, len(outcome.rows), found) == ("interrupted", 2, [1, 2])
    assert list(dict.fromkeys(begun)) == [(case.dim("bytes"), "works") for case in sizes(1, 2)]


def test_a_case_at_hand_is_given_up_when_the_run_is_cancelled(
    providers: Use, small: Settings, case: KernelCase
) -> None:
    providers("hangs")
    begun: list[str] = []
    # The second time is the case; the first was the library.
    watch = Watch(begins=lambda case, provider: begun.append(provider), cancelled=lambda: len(begun) == 2)
    before = psutil.Process().children()
    outcome = run([case], replace(small, watch=watch))
    assert (outcome.ended, outcome.rows, outcome.missing) == ("interrupted", [], [])
    assert psutil.Process().children() == before


def test_a_time_budget_ends_the_run_with_a_reason(providers: Use, small: Settings) -> None:
    providers("works")
    outcome = run(sizes(1, 2), replace(small, budget_s=0.0))
    assert outcome.ended == "out_of_time"
    assert {reason.reason for missing in outcome.missing for reason in missing.reasons} == {
        "the time of the run was up"
    }


def test_a_batch_that_would_take_too_long_is_left_out(small: Settings) -> None:
    base = kernel_case("cpu_dense", "Q8_0", in_=256, out=256)
    outcome = run([base, base._replace(batch=4096)], replace(small, slowest_s=1e-4))
    assert [row.batch for row in outcome.rows] == [1]
    assert "one iteration would take" in outcome.missing[0].reasons[0].reason


def test_progress_reaches_its_end(providers: Use, small: Settings) -> None:
    providers("works")
    seen: list[tuple[int, int]] = []
    run(sizes(1, 2, 3), small, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("routing", ["uniform", "power_law"])
def test_experts_of_an_iteration(routing: str, small: Settings) -> None:
    case = kernel_case("cpu_moe", "Q8_0", batch=8, experts=32, experts_total=32, top_k=4, hidden=256, inter=256)
    (row,) = run([case], replace(small, routing=routing)).rows  # type: ignore[arg-type]
    assert row.routing is not None and row.routing.distribution == routing
    assert 4 <= row.routing.distinct_experts <= 32
    assert row.routing.max_tokens_per_expert >= 8 * 4 / 32
    assert row.bytes == case.work(row.routing.distinct_experts).bytes


def test_a_recorded_trace_is_replayed(tmp_path: Path, small: Settings) -> None:
    trace = tmp_path / "trace.npy"
    np.save(trace, np.array([[0, 1], [0, 1], [0, 1]]))
    case = kernel_case("cpu_moe", "Q8_0", batch=3, experts=8, experts_total=8, top_k=2, hidden=256, inter=256)
    (row,) = run([case], replace(small, routing="replay", trace=str(trace))).rows
    assert row.routing is not None
    assert (row.routing.distinct_experts, row.routing.max_tokens_per_expert) == (2, 3)


@pytest.mark.parametrize("trace", [np.zeros((2, 3), int), np.full((2, 2), 8), np.zeros((2, 2)), np.zeros((0, 2), int)])
def test_a_trace_of_another_model_is_refused(trace: np.ndarray, tmp_path: Path, small: Settings) -> None:
    path = tmp_path / "trace.npy"
    np.save(path, trace)
    case = kernel_case("cpu_moe", "Q8_0", experts=8, experts_total=8, top_k=2, hidden=256, inter=256)
    reasons = run([case], replace(small, routing="replay", trace=str(path))).missing[0].reasons
    assert any("trace.npy" in reason.reason for reason in reasons if reason.provider == "ggml")


def test_a_disk_is_read_and_left_as_it_was(tmp_path: Path, small: Settings) -> None:
    case = kernel_case("disk_read", "bf16", bytes=8 << 20)
    outcome = run([case], replace(small, path=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
    # A file system that has no direct reads, such as one in memory, says so instead.
    reasons = [reason.reason for missing in outcome.missing for reason in missing.reasons]
    assert outcome.rows or any("O_DIRECT" in reason for reason in reasons)


def test_memory_is_read_on_a_numa_node_and_on_all_of_them(small: Settings) -> None:
    nodes = nodes_here()
    two = replace(small, threads=2)
    one_node = [kernel_case("memory_read", "bf16", bytes=1 << 20, node=node) for node in nodes]
    outcome = run([*one_node, kernel_case("memory_read", "bf16", bytes=1 << 20, nodes=len(nodes))], two)
    if len(nodes) in (1, 2):
        assert len(outcome.rows) == len(nodes) + 1, outcome.missing
    assert all(row.bytes == 1 << 20 for row in outcome.rows)
    absent = kernel_case("memory_read", "bf16", bytes=1 << 20, node=4711)
    (missing,) = run([absent], two).missing
    assert missing.reasons[0].reason == "this process may use no CPU of NUMA node 4711"
    (missing,) = run([kernel_case("memory_read", "bf16", bytes=1 << 20, nodes=99)], two).missing
    assert "NUMA nodes, and 99 are to be read" in missing.reasons[0].reason


def test_doubts() -> None:
    steady, wild = (1.0, 1.01, 1.02, 1.03), (1.0, 1.0, 1.07, 1.08)
    assert doubt(steady, gpu=True, busy=1.0, throttled=None) is None
    assert "7 % of the median (5 % is allowed)" in (doubt(wild, gpu=True, busy=1.0, throttled=None) or "")
    assert doubt(wild, gpu=False, busy=1.0, throttled=None) is None
    assert doubt(steady, gpu=True, busy=1.0, throttled="throttled: heat") == "throttled: heat"


def test_a_case_measured_on_a_slower_core_or_memory_is_doubted(small: Settings) -> None:
    (row,) = run([kernel_case("cpu_dense", "Q8_0", in_=256, out=64)], small).rows
    good = row.model_copy(
        update={"stable": True, "unstable_because": None, "pulse_s": 1.0, "reference_bytes_per_s": 10.0}
    )
    slow = good.model_copy(update={"pulse_s": 1.25})
    starved = good.model_copy(update={"reference_bytes_per_s": 8.0})
    reasons = [one.unstable_because for one in doubted([good, slow, starved])]
    assert reasons == [
        None,
        "the core itself ran 25 % slower than for the fastest case of the run",
        "memory gave 20 % less than for the best case of the run",
    ]
    assert [one.unstable_because for one in doubted(doubted([good, slow, starved]))] == reasons
    # Other threads read at another rate.
    other = starved.model_copy(update={"threads": 2})
    assert all(one.stable for one in doubted([good, other]))


def test_clocks_that_fall_while_working() -> None:
    assert _throttled([ClockState(1980, ()), ClockState(1900, ("sw_power_cap",))]) is None
    assert _throttled([ClockState(1980, ()), ClockState(345, ("gpu_idle",))]) is None
    assert _throttled([ClockState(1980, ()), ClockState(1200, ())]) == (
        "throttled: the clock fell from 1980 to 1200 MHz"
    )
    assert _throttled([ClockState(1980, ("hw_thermal_slowdown",))]) == "throttled: hw_thermal_slowdown"


def test_caches_are_counted_once_for_those_that_share_them(tmp_path: Path) -> None:
    for cpu, shared in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        for index, (level, kind, size) in enumerate((("1", "Data", "48K"), ("3", "Unified", "32768K"))):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
            folder.mkdir(parents=True)
            for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
                (folder / name).write_text(f"{text}\n", encoding="ascii")
    assert last_level_cache_bytes(tmp_path) == (64 << 20, True)
    assert last_level_cache_bytes(tmp_path / "nothing") == (ASSUMED_CACHE_BYTES, False)
