"""Kernels as if they had been measured, and a plan held to them."""

from __future__ import annotations

from typing import Any

from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.result import BenchRow, Correctness, NotMeasured, NotRun, RoutingResult
from moeplan.bench_report import BenchReport, BenchSettings
from moeplan.validating import BetterPlan, KernelComparison, Validation
from tests.moeplan.conftest import spread

DATE = "2026-11-26T05:00:00Z"
EXPERTS = kernel_case("cpu_moe", "int4_g32", 1, experts=384, experts_total=384, top_k=8, hidden=7168, inter=2048)
ATTENTION = kernel_case("cpu_attention", "bf16", 8, 4096, heads=64, kv_heads=1, head=576, v=512)
MEMORY = kernel_case("memory_read", "bf16", bytes=256 << 20)
ROUTER = kernel_case("dense", "bf16", 8, out=384, in_=7168)


def row(case: KernelCase, milliseconds: float, iqr: float, share: float | None, **more: object) -> BenchRow:
    median = milliseconds / 1e3
    work = case.work()
    fields: dict[str, Any] = {
        "provider": "ggml", "version": "ggml 0.9.4, xllamacpp 2026.10.11549", "ours": False, "device": "AMD EPYC 9654",
        "kernel": case.kernel, "quantization": case.quantization, "series": case.series, "shape": dict(case.dims),
        "batch": case.batch, "context": case.context, "threads": 64, "routing": None, "clock": "wall",
        "samples_s": (median,) * 21, "median_s": median, "low_s": median * (1 - iqr / 2),
        "high_s": median * (1 + iqr / 2), "iqr_s": median * iqr, "wall_median_s": median, "bytes": work.bytes,
        "flops": work.flops, "reference_bytes_per_s": 412e9, "pulse_s": 0.001, "fraction_of_roofline": share,
        "fraction_of_nominal": None, "stable": True, "unstable_because": None,
        "correctness": Correctness(max_relative_error=0.0031, bound=0.02), "not_run": (), "note": "", "date": DATE,
        "python": "/usr/bin/python3",
    }  # fmt: skip
    return BenchRow.model_validate({**fields, **more})


KT_KERNEL = NotRun(provider="kt_kernel", reason="No module named 'kt_kernel'")
ROWS = (
    row(MEMORY, 0.652, 0.012, None, provider="machine", version="numpy 2.4.0", ours=True),
    *[
        row(
            EXPERTS._replace(batch=batch), 1.31 * batch**0.62, 0.018, share, not_run=(KT_KERNEL,),
            routing=RoutingResult(distribution="uniform", distinct_experts=7.5 * batch, max_tokens_per_expert=1.5),
        )
        for batch, share in ((1, 0.88), (4, 0.81), (16, 0.62))
    ],
    row(
        ATTENTION, 0.94, 0.163, 0.31, stable=False,
        unstable_because="the middle half of the samples spreads over 16 % of the median (10 % is allowed); "
        "other load: the wall clock is 1.6x the CPU time",
    ),
)  # fmt: skip
MISSING = NotMeasured(
    series=ROUTER.series, batch=8, context=0,
    reasons=(
        NotRun(provider="torch_gpu", reason="No module named 'torch'"),
        NotRun(provider="triton_gpu", reason="did not answer in 60 s and was killed: CUDA driver is insufficient"),
    ),
)  # fmt: skip


def report(**changes: object) -> BenchReport:
    fields: dict[str, Any] = {
        "schema": "moeplan.bench/1", "generated_by": "moeplan 0.1.0", "date": DATE, "fingerprint": "0123456789abcdef",
        "machine": "AMD EPYC 9654", "ended": "done", "rows": ROWS, "not_measured": (MISSING,),
        "settings": BenchSettings(
            quick=True, threads=64, seconds=0.4, routing="uniform", cache_bytes=384 << 20, memory_bytes=64 << 30,
            pythons=("/usr/bin/python3",),
        ),
    }  # fmt: skip
    return BenchReport.model_validate({**fields, **changes})


def validation() -> Validation:
    kernels = tuple(
        KernelComparison(
            series=case.series, what=what, quantization=case.quantization, shape=dict(case.dims), batch=case.batch,
            context=case.context, times=times, predicted_s=spread(low / 1e3, (low + high) / 2e3, high / 1e3),
            measured_s=None if measured is None else spread(measured / 1.02e3, measured / 1e3, measured / 0.98e3),
            ratio=None if measured is None else 2 * measured / (low + high), provider="ggml, 0.9.4", stable=True,
        )
        for case, what, times, low, high, measured in (
            (EXPERTS._replace(batch=8), "experts in RAM", 60, 3.1, 4.4, 5.2),
            (ATTENTION, "attention", 61, 0.6, 1.1, 0.94),
            (ROUTER, "router", 60, 0.02, 0.04, None),
        )
    )  # fmt: skip
    return Validation(
        schema="moeplan.validation/1", generated_by="moeplan 0.1.0", plan="the plan shown", rank=2,
        configuration="llama.cpp, unsloth/UD-Q2_K_XL, one rank", machine="AMD EPYC 9654", kernels=kernels,
        not_measured=(MISSING,), predicted_tpot_s=spread(0.22, 0.27, 0.33), corrected_tpot_s=spread(0.35, 0.37, 0.39),
        difference=0.37, term="experts in RAM",
        better=BetterPlan(
            engine="ktransformers", quantization="int4", parallel="one rank", tpot_s=spread(0.2, 0.3, 0.34),
            why="less of a token is read from RAM",
        ),
        verdict="differs", calibration=None,
    )  # fmt: skip
