"""Curves of kernels: they give back what was measured, and widen with every stand-in."""

from __future__ import annotations

from math import log

import pytest

from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.measured import MeasuredPoint, MeasuredSeries
from planner import step_gpu
from planner.evidence import Curve, Evidence, axis_value, table_curve, table_points
from planner.machine import Gpu
from planner.step_gpu import evidence_of
from profiles.engines import MissingFact, load_engine
from profiles.kernels import kernel_gpus, kernel_rows
from tests.planner.planning import machine_from

EXPERTS = kernel_case(
    "grouped_moe", "int4_g32", experts=384, experts_total=384, top_k=8, hidden=7168, inter=256
)  # fmt: skip


def gpu_of(name: str, **given: object) -> Gpu:
    return machine_from(gpu=name, **given).nodes[0].gpus[0]


def series_of(case: KernelCase, seconds: dict[int, float]) -> MeasuredSeries:
    """A calibration of one kernel at some batches."""
    points = []
    for batch, median in seconds.items():
        work = case._replace(batch=batch).work()
        points.append(
            MeasuredPoint(
                batch=batch, median_s=median, low_s=median / 1.02, high_s=median * 1.02, bytes=work.bytes,
                flops=work.flops,
            )
        )  # fmt: skip
    return MeasuredSeries(
        series=case.series,
        provider="vllm",
        version="0.33",
        date="2026-11-26",
        device="NVIDIA H200",
        points=tuple(points),
    )


def test_efficiency_is_interpolated_in_logarithms_and_held_outside() -> None:
    curve = Curve(0.0, (log(1), log(100)), (log(0.1), log(0.4)), 1.1, "")
    assert curve.efficiency(10) == pytest.approx(0.2)
    assert curve.efficiency(0.01) == pytest.approx(0.1)
    assert curve.efficiency(1e6) == pytest.approx(0.4)


@pytest.mark.parametrize("gpu", kernel_gpus())
def test_a_table_gives_back_its_own_points(gpu: str) -> None:
    off = []
    for rows in kernel_rows(gpu).values():
        for row in rows:
            curve = table_curve(row, 1.0)
            off += [abs(curve.seconds(x, roofline) / seconds - 1) for x, roofline, seconds in table_points(row)]
    # A point in which the last-level cache beat the bandwidth of the memory is held at 120 % of it.
    assert sorted(off)[len(off) * 9 // 10] < 0.05
    assert len(off) > 500


def test_stable_points_count_and_unstable_ones_only_where_there_are_no_others() -> None:
    gpu = gpu_of("8xH200")
    mixed = series_of(EXPERTS, {1: 100e-6, 64: 1000e-6})
    steady, shaken = mixed.points
    shaken = shaken.model_copy(update={"stable": False, "median_s": 5000e-6})
    mixed = mixed.model_copy(update={"points": (steady, shaken)})
    assert mixed.counted == (steady,) and mixed.said == "measured by vllm 0.33 on 2026-11-26"
    alone = mixed.model_copy(update={"points": (shaken,)})
    assert alone.counted == (shaken,) and alone.said.endswith(", unstable")
    for series, point in ((mixed, steady), (alone, shaken)):
        curve = Evidence(gpu, "vllm", "0.24.0", (series,)).curve(EXPERTS)
        roofline = max(point.bytes / gpu.bandwidth, point.flops / gpu.flops["bf16"])
        assert curve.seconds(axis_value(EXPERTS._replace(batch=point.batch)), roofline) == pytest.approx(point.median_s)
        assert curve.source == series.said


def test_what_is_kept_of_many_calibrations_is_bounded() -> None:
    gpu, measured = gpu_of("8xH200"), (series_of(EXPERTS, {1: 100e-6}),)
    assert evidence_of(gpu, "vllm", "0.24.0", measured) is evidence_of(gpu, "vllm", "0.24.0", measured)
    made = [evidence_of(gpu, "vllm", "0.24.0", (series_of(EXPERTS, {1: 1e-6 * at}),)) for at in range(1, 600)]
    assert len({id(one) for one in made}) == len(made)
    assert len(step_gpu._EVIDENCE) <= step_gpu.MOST_EVIDENCE


def test_what_was_measured_here_replaces_the_table_of_the_same_series() -> None:
    gpu = gpu_of("8xH200")
    measured = series_of(EXPERTS, {1: 100e-6, 64: 1000e-6})
    tabled = Evidence(gpu, "vllm", "0.24.0").curve(EXPERTS)
    calibrated = Evidence(gpu, "vllm", "0.24.0", (measured,)).curve(EXPERTS)
    at = EXPERTS._replace(batch=64)
    work = at.work()
    roofline = max(work.bytes / gpu.bandwidth, work.flops / gpu.flops["bf16"])
    assert calibrated.seconds(axis_value(at), roofline) == pytest.approx(1000e-6)
    assert calibrated.measured and not tabled.measured
    assert calibrated.spread < tabled.spread
    assert "vllm 0.33 on 2026-11-26" in calibrated.source
    other = EXPERTS._replace(dims=(*EXPERTS.dims[:-2], ("inter", 512), ("top_k", 8)))
    assert not Evidence(gpu, "vllm", "0.24.0", (measured,)).curve(other).measured


@pytest.mark.parametrize(
    ("name", "engine", "case", "expected"),
    [
        ("8xH200", "vllm", EXPERTS, "h200_sxm"),
        ("8xB200", "vllm", EXPERTS, "b200_sxm"),
        ("8xB300", "vllm", EXPERTS, "b200_sxm"),
        ("8xrtx-4090", "vllm", EXPERTS, "l40s"),
        ("8xMI300X", "sglang", EXPERTS, "h200_sxm"),
        ("8xA100-80", "vllm", kernel_case("dense", "bf16", out=7168, in_=2048), "a100_sxm"),
    ],
)
def test_the_nearest_gpu_with_tables_stands_in(name: str, engine: str, case: KernelCase, expected: str) -> None:
    assert expected in Evidence(gpu_of(name), engine, "0.24.0").curve(case).source


def test_every_step_away_from_the_measured_kernel_widens_its_range() -> None:
    facts = load_engine("speed")
    own = Evidence(gpu_of("8xH200"), "vllm", "0.24.0").curve(EXPERTS).spread
    other_gpu = Evidence(gpu_of("8xH20"), "vllm", "0.24.0").curve(EXPERTS).spread
    foreign = Evidence(gpu_of("8xMI300X"), "vllm", "0.24.0").curve(EXPERTS).spread
    assert own == pytest.approx(facts.at("table_spread", "1").value)
    assert own < other_gpu < foreign


def test_without_nvlink_more_than_two_gpus_reduce_through_nccl() -> None:
    reduce = kernel_case("all_reduce", "bf16", hidden=7168, ranks=8)
    over_pcie = Evidence(gpu_of("8xL40S"), "vllm", "0.24.0").curve(reduce)
    over_nvlink = Evidence(gpu_of("8xH200"), "vllm", "0.24.0").curve(reduce)
    assert "nccl" in over_pcie.source and "vllm" in over_nvlink.source
    assert over_pcie.floor_s > 2 * over_nvlink.floor_s


def test_a_kernel_of_which_nothing_is_known_is_missing() -> None:
    with pytest.raises(MissingFact, match="cpu_moe"):
        Evidence(gpu_of("8xH200"), "vllm", "0.24.0").curve(EXPERTS._replace(kernel="cpu_moe"))
