"""Steps summed from measured kernels of a CPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.measured import MeasuredPoint, MeasuredSeries
from planner.cases import Use
from planner.kernel_time import predicted
from planner.machine import Host
from planner.measured_cpu import SCALED_SPREAD, CpuEvidence, interpolated, step_rows, total

EXPERTS = kernel_case("cpu_moe", "IQ1_S", experts=384, experts_total=384, top_k=8, hidden=7168, inter=2048)
HEAD = kernel_case("cpu_dense", "Q8_0", in_=7168, out=2112)
ATTENTION = kernel_case("cpu_attention", "f16", heads=64, kv_heads=1, head=576, v=512)


def point(case: KernelCase, seconds: float, spread: float = 1.0) -> MeasuredPoint:
    work = case.work()
    return MeasuredPoint(
        batch=case.batch, context=case.context, median_s=seconds, low_s=seconds / spread, high_s=seconds * spread,
        bytes=work.bytes, flops=work.flops,
    )  # fmt: skip


def series(case: KernelCase, *points: MeasuredPoint, provider: str = "ggml", threads: int | None = 4) -> MeasuredSeries:
    return MeasuredSeries(
        series=case.series, provider=provider, version="1", date="2026-11-01", device="a CPU", threads=threads,
        points=points,
    )  # fmt: skip


@given(st.floats(1e-5, 1.0), st.integers(1, 64), st.integers(1, 64))
def test_a_rate_that_does_not_change_is_found_between_and_below(rate: float, first: int, asked: int) -> None:
    low, high = HEAD._replace(batch=first), HEAD._replace(batch=64 * first)
    points = [point(case, case.work().bytes * rate / 1e6) for case in (low, high)]
    case = HEAD._replace(batch=min(asked, 64 * first))
    assert interpolated(case, points) == pytest.approx(case.work().bytes * rate / 1e6)


def test_a_measured_batch_is_what_was_measured() -> None:
    points = [point(EXPERTS._replace(batch=batch), seconds) for batch, seconds in ((1, 0.03), (4, 0.11), (16, 0.5))]
    assert [interpolated(EXPERTS._replace(batch=one.batch), points) for one in points] == pytest.approx(
        [0.03, 0.11, 0.5]
    )


def test_beyond_the_largest_batch_time_grows_with_the_operations() -> None:
    points = [point(HEAD, 1e-3), point(HEAD._replace(batch=512), 0.2)]
    assert interpolated(HEAD._replace(batch=1024), points) == pytest.approx(0.4)


def test_attention_is_over_the_cached_tokens_of_all_sequences() -> None:
    points = [point(ATTENTION._replace(context=1000), 0.01), point(ATTENTION._replace(context=4000), 0.04)]
    assert interpolated(ATTENTION._replace(context=2000), points) == pytest.approx(0.02, rel=0.02)
    assert interpolated(ATTENTION._replace(batch=2, context=2000), points) == pytest.approx(0.04, rel=0.02)


def test_a_step_is_the_sum_of_its_kernels() -> None:
    uses = [
        Use("experts in RAM", EXPERTS, 60), Use("head", HEAD, 1, scale=1.5),
        Use("attention", ATTENTION, 61, scale=0.5, phase="decode"), Use("attention", ATTENTION, 61, phase="prefill"),
        Use("routed experts", kernel_case("dense", "bf16", in_=8, out=8), 1),
    ]  # fmt: skip
    evidence = CpuEvidence(
        [
            series(EXPERTS, point(EXPERTS, 0.03)), series(HEAD, point(HEAD, 0.002)),
            series(ATTENTION, point(ATTENTION._replace(context=100), 0.001)),
        ],
        "llama.cpp", 4,
    )  # fmt: skip
    rows = step_rows(uses, evidence, 1, 100)
    assert [(row.what, row.times) for row in rows] == [("experts in RAM", 60), ("head", 1), ("attention", 61)]
    found = total(rows)
    assert found is not None
    # The scale of a cache is of its bytes, and attention on a CPU is bound by its operations.
    assert found[0] == pytest.approx(60 * 0.03 + 1.5 * 0.002 + 61 * 0.001)
    assert 1 < found[1] < 1.06


def test_one_kernel_that_was_not_measured_leaves_no_sum() -> None:
    evidence = CpuEvidence([series(EXPERTS, point(EXPERTS, 0.03))], "llama.cpp", 4)
    rows = step_rows([Use("experts in RAM", EXPERTS, 60), Use("head", HEAD, 1)], evidence, 1, 0)
    assert [row.seconds is None for row in rows] == [False, True]
    assert total(rows) is None and total([]) is None


@pytest.mark.parametrize(
    ("engine", "provider", "known"),
    [("llama.cpp", "ggml", True), ("llama.cpp", "kt_kernel", False), ("ktransformers", "kt_kernel", True),
     ("llama.cpp", "onnxruntime_cpu", False), ("vllm", "ggml", False)],
)  # fmt: skip
def test_only_kernels_that_the_engine_runs_are_evidence(engine: str, provider: str, known: bool) -> None:
    evidence = CpuEvidence([series(HEAD, point(HEAD, 1.0), provider=provider)], engine, 4)
    assert (evidence.measured(HEAD) is not None) == known


def test_other_threads_scale_and_widen() -> None:
    both = [series(HEAD, point(HEAD, 1.0), threads=1), series(HEAD, point(HEAD, 0.3), threads=4)]
    exact, scaled = (CpuEvidence(both, "llama.cpp", threads).measured(HEAD) for threads in (4, 8))
    assert exact is not None and scaled is not None
    assert (exact.seconds, scaled.seconds) == pytest.approx((0.3, 0.15))
    assert scaled.spread == pytest.approx(exact.spread * SCALED_SPREAD)
    assert "scaled to 8" in scaled.source


def test_more_threads_do_not_read_faster_than_the_memory() -> None:
    memory = kernel_case("memory_read", "bf16", bytes=1 << 28)
    read = series(memory, point(memory, (1 << 28) / 100e9), provider="machine", threads=64)
    one = series(EXPERTS, point(EXPERTS, 0.03), threads=1)
    found = CpuEvidence([one, read], "llama.cpp", 64).measured(EXPERTS)
    assert found is not None and found.seconds == pytest.approx(EXPERTS.work().bytes / 100e9)
    assert found.seconds > 0.03 / 64


def test_a_wide_measurement_stays_wide() -> None:
    found = CpuEvidence([series(HEAD, point(HEAD, 1.0, spread=1.4))], "llama.cpp", 4).measured(HEAD)
    assert found is not None and found.spread == pytest.approx(1.4)


def test_low_bit_experts_are_predicted_by_what_a_core_computes() -> None:
    host = Host(None, "", 400e9, "measured", 8, 1, frozenset(), "")
    low, wide = (
        predicted(EXPERTS._replace(quantization=kind), None, host)  # type: ignore[arg-type]
        for kind in ("IQ1_S", "Q8_0")
    )
    assert low is not None and wide is not None
    rates = [
        EXPERTS._replace(quantization=kind).work().bytes / one.seconds for kind, one in (("IQ1_S", low), ("Q8_0", wide))
    ]
    assert rates[0] < rates[1]
    assert predicted(EXPERTS, None, _replace_cores(host)) is None  # type: ignore[arg-type]


def _replace_cores(host: Host) -> Host:
    return host._replace(cores=None)
