"""Whatever a worker does, it is one clear line, and the rest goes on."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import hwdetect.bench.suite as suite
from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.providers import PROVIDERS
from hwdetect.bench.suite import Settings, run
from hwdetect.bench.worker import Worker, WorkerDied
from hwdetect.bench.workers import machine
from hwdetect.bench.workers.serve import CannotRun
from hwdetect.bench.workers.timing import Options

Use = Callable[..., None]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("wrong", "computes wrongly: relative error 0.7, at most 0.5 is right"),
        ("not_a_number", "computes wrongly: relative error nan"),
        ("raises", "ZeroDivisionError"),
        ("crashes", "crashed with SIGABRT"),
        ("killed", "was killed from outside, as the system does when memory runs out"),
        ("exits", "ended with status 3"),
        ("greedy", "out of memory"),
        ("full_gpu", "out of memory: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 79 GiB."),
        ("no_compiler", "RuntimeError: Failed to find C compiler. Please specify"),
        ("other_gpu", "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
        ("absent", "No module named 'a_module_that_nobody_has'"),
    ],
)
def test_a_fault_is_a_reason_and_the_next_provider_runs(
    fault: str, reason: str, providers: Use, small: Settings, case: KernelCase
) -> None:
    providers(fault, "works")
    outcome = run([case], small)
    assert [row.provider for row in outcome.rows] == ["works"]
    (passed,) = outcome.rows[0].not_run
    assert passed.provider == fault
    assert reason in passed.reason
    assert "\n" not in passed.reason


@pytest.mark.parametrize("fault", ["hangs", "answers_nonsense"])
def test_a_worker_that_hangs_or_babbles_is_killed(
    fault: str, providers: Use, small: Settings, case: KernelCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("START_S", "SMALLEST_TIMEOUT_S"):
        monkeypatch.setattr(suite, name, 3.0)
    monkeypatch.setattr(suite, "SETTING_UP_S", 0.0)
    providers(fault, "works")
    outcome = run([case], replace(small, slowest_s=0.0))
    assert [row.provider for row in outcome.rows] == ["works"]
    assert "killed" in outcome.rows[0].not_run[0].reason or "no JSON object" in outcome.rows[0].not_run[0].reason


def test_what_a_library_prints_does_not_reach_the_answers(providers: Use, small: Settings, case: KernelCase) -> None:
    providers("chatters")
    assert [row.provider for row in run([case], small).rows] == ["chatters"]


def test_without_any_provider_each_reason_is_kept(providers: Use, small: Settings, case: KernelCase) -> None:
    providers("crashes", "absent")
    outcome = run([case], small)
    assert not outcome.rows
    assert [reason.provider for reason in outcome.missing[0].reasons] == ["crashes", "absent"]


def test_a_kernel_nobody_knows_says_so(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PROVIDERS, "all_reduce")
    outcome = run([kernel_case("all_reduce", "bf16", hidden=64, ranks=2)], small)
    assert outcome.missing[0].reasons[0].reason == "no provider for all_reduce is known"


def test_an_interpreter_that_does_not_start(providers: Use, small: Settings, case: KernelCase) -> None:
    providers("works")
    outcome = run([case], replace(small, pythons=("/no/such/python",)))
    assert "/no/such/python cannot be started" in outcome.missing[0].reasons[0].reason


@pytest.mark.parametrize(
    "content", [b"no library", b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(44)]
)
def test_a_library_for_another_machine(content: bytes, tmp_path: Path, small: Settings) -> None:
    library = tmp_path / "libggml.so"
    library.write_bytes(content)
    outcome = run([kernel_case("cpu_dense", "Q8_0", in_=256, out=64)], replace(small, library=str(library)))
    assert outcome.missing[0].reasons[0].provider == "ggml"
    assert "libggml.so cannot be loaded" in outcome.missing[0].reasons[0].reason


def without(module: str, folder: Path) -> str:
    """An interpreter that has all that this one has but one module."""
    path = folder / "python"
    code = f"import runpy, sys; sys.modules[{module!r}] = None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("kernel", "quantization", "dims"),
    [
        ("grouped_moe", "int4_g32", {"experts": 8, "experts_total": 8, "top_k": 2, "hidden": 256, "inter": 256}),
        ("gqa_decode", "bf16", {"heads": 2, "kv_heads": 1, "head": 64, "v": 64}),
        ("dense", "bf16", {"in": 64, "out": 64}),
        ("all_reduce", "bf16", {"hidden": 64, "ranks": 2}),
        ("gpu_to_gpu", "bf16", {"bytes": 1024}),
    ],
)
def test_without_torch_every_provider_says_so(
    kernel: str, quantization: str, dims: dict[str, int], tmp_path: Path, small: Settings
) -> None:
    case = KernelCase(kernel, quantization, tuple(sorted(dims.items())), 1, 8)  # type: ignore[arg-type]
    (missing,) = run([case], replace(small, pythons=(without("torch", tmp_path),))).missing
    assert [one.provider for one in missing.reasons] == [one.name for one in PROVIDERS[case.kernel]]
    assert all("torch" in one.reason or "No module named" in one.reason for one in missing.reasons), missing.reasons


def test_without_torch_a_cpu_is_measured_all_the_same(tmp_path: Path, small: Settings) -> None:
    case = kernel_case("cpu_router", "F32", experts=16, hidden=256, top_k=2)
    (row,) = run([case], replace(small, pythons=(without("torch", tmp_path),))).rows
    assert row.provider == "ggml"


def test_a_full_disk_is_a_reason_and_leaves_no_file(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(CannotRun, match="a file of 17 MB cannot be written: File too large"):
            machine.build("disk_read", "bf16", {"bytes": 1 << 24}, Options(path=str(tmp_path)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_memory_does_not_hold(small: Settings) -> None:
    tight = replace(small, memory_bytes=1 << 20)
    case = kernel_case("cpu_moe", "Q8_0", experts=16, experts_total=16, top_k=2, hidden=256, inter=256)
    reasons = run([case], tight).missing[0].reasons
    assert any(reason.provider == "ggml" and reason.reason.startswith("out of memory: ") for reason in reasons)


def test_a_worker_ends_with_its_parent(providers: Use) -> None:
    providers("works")
    worker = Worker(sys.executable, "works", threads=1)
    worker.ask({"options": {}}, 30)
    process = worker._process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    worker.end()


def test_ending_a_worker_leaves_no_process(providers: Use, case: KernelCase) -> None:
    providers("hangs")
    worker = Worker(sys.executable, "hangs", threads=1)
    with pytest.raises(WorkerDied, match="did not answer in 1 s and was killed"):
        worker.ask(
            {
                "kernel": "memory_read", "quantization": "bf16", "dims": {"bytes": 1}, "batch": 1, "context": 0,
                "options": {},
            },
            1.0,
        )  # fmt: skip
    assert worker._process.returncode == -signal.SIGKILL
    began = time.monotonic()
    worker.end()
    assert time.monotonic() - began < 5
