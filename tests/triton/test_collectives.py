"""Collectives between real processes: gloo over loopback, with the protocol that NCCL is measured by."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Literal

import pytest

from hwdetect.bench.case import kernel_case
from hwdetect.bench.suite import Settings, run
from hwdetect.bench.workers import collectives, gloo_cpu
from hwdetect.bench.workers.collectives import Ranks
from hwdetect.bench.workers.serve import CannotRun
from hwdetect.bench.workers.timing import Options, measure

SETTINGS = Settings(pythons=(sys.executable,), seconds=0.0, memory_bytes=64 << 20)
OPTIONS = Options(seconds=0.0, memory_bytes=64 << 20)


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    while collectives._open:
        collectives._open.pop().end()


@pytest.mark.parametrize("kernel", ["all_reduce", "all_to_all"])
def test_two_ranks_say_how_long_messages_take(kernel: Literal["all_reduce", "all_to_all"]) -> None:
    cases = [kernel_case(kernel, "bf16", batch=tokens, hidden=100, ranks=2) for tokens in (1, 33)]
    outcome = run(cases, SETTINGS)
    assert [row.batch for row in outcome.rows] == [1, 33], outcome.missing
    for row in outcome.rows:
        assert (row.provider, row.clock, row.ours) == ("gloo_cpu", "wall", False)
        assert row.correctness.max_relative_error == 0
        assert row.median_s > 0 and len(row.samples_s) >= 7
        assert [one.provider for one in row.not_run] == ["nccl_gpu"]
        assert "no time of a GPU" in row.note


def test_three_ranks_share_a_message_that_they_do_not_divide() -> None:
    answer = measure(gloo_cpu.build("all_to_all", "bf16", {"hidden": 100, "ranks": 3}, OPTIONS)(1, 0), OPTIONS)
    assert answer["correctness"]["max_relative_error"] == 0


def test_a_rank_that_hangs_is_named_and_all_are_killed() -> None:
    ranks = Ranks("gloo", 2, "all_reduce", 64, answer_s=1.0)
    os.kill(ranks._processes[1].pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match=r"rank 0 and 1 of 2 did not answer in 1 s: all are killed"):
        ranks.ask(prepare=1)
    assert all(process.returncode == -signal.SIGKILL for process in ranks._processes)


def test_a_rank_that_dies_is_named() -> None:
    ranks = Ranks("gloo", 2, "all_reduce", 64)
    os.kill(ranks._processes[1].pid, signal.SIGKILL)
    ranks._processes[1].wait()
    with pytest.raises(RuntimeError, match=r"rank \d of 2 "):
        ranks.ask(prepare=1)
    assert all(process.returncode is not None for process in ranks._processes)


def test_what_no_machine_has() -> None:
    with pytest.raises(CannotRun, match="100 processes are too many"):
        gloo_cpu.build("all_reduce", "bf16", {"hidden": 64, "ranks": 100}, OPTIONS)
    with pytest.raises(MemoryError):
        gloo_cpu.build("all_reduce", "bf16", {"hidden": 64, "ranks": 2}, OPTIONS)(10**6, 0)
