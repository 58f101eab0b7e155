"""Measured rates of GPUs and disks: from a calibration into the inventory, and from there into the check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwdetect.bench.measured import MeasuredPoint, MeasuredSeries
from hwdetect.inventory import Inventory, from_json, known, to_json
from hwdetect.rates import disk_of
from moeplan.calibration import fingerprint, store_kernels
from moeplan.calibrations import place_of
from moeplan.measured_rates import with_measured_rates
from planner.check import check
from planner.findings import CheckReport
from tests.support.healthy_host import HOST
from tests.support.nvml_shim.machine import Shim

SERIES: dict[str, Any] = {
    "provider": "torch_gpu", "version": "torch 2.14.0", "date": "2026-11-26", "measured_at": "2026-11-26T01:02:03Z",
    "device": "NVIDIA H200",
}  # fmt: skip


def series(name: str, rate: float, *, stable: bool = True, **changes: object) -> MeasuredSeries:
    point = MeasuredPoint(batch=1, median_s=1.0, low_s=1.0, high_s=1.0, bytes=rate, flops=0.0, stable=stable)
    return MeasuredSeries(**{**SERIES, "series": f"{name}/bf16/bytes1", "points": (point,), **changes})


@pytest.fixture
def machine(shim: Shim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inventory:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return shim.inventory("h200x8", HOST)


def keep(machine: Inventory, *measured: MeasuredSeries) -> None:
    place = place_of("auto", fingerprint(machine))
    assert place is not None
    store_kernels(place, measured, machine=fingerprint(machine), description="d", generated_by="g", make_folder=True)


def judged(report: CheckReport, kernel: str) -> tuple[str, str]:
    (found,) = [row for row in report.findings if row.code == f"bandwidth_{kernel}"]
    return found.status, found.actual


def test_a_machine_without_a_calibration_stays_as_it_is(machine: Inventory) -> None:
    assert with_measured_rates(machine) is machine
    assert judged(check(machine), "host_to_device") == ("not_run", "not known: not measured")


def test_the_check_judges_by_the_calibration_of_its_machine(machine: Inventory) -> None:
    keep(
        machine, series("host_to_device", 30e9), series("disk_read", 2e9, device="/models", threads=4),
        series("grouped_moe", 1.0, reference_bytes_per_s=4.2e12),
    )  # fmt: skip
    # Through JSON, as another machine reads it.
    found = from_json(to_json(with_measured_rates(machine)))
    report = check(found)
    assert judged(report, "host_to_device") == ("fail", "30 GB/s")
    assert judged(report, "memory_read") == ("pass", "4,200 GB/s")
    (copied,) = [rate for rate in found.nodes[0].gpu_rates if rate.kernel == "memory_read"]
    assert "copies on the GPU" in copied.bytes_per_s.source
    (finding,) = [row for row in report.findings if row.code == "bandwidth_host_to_device"]
    assert "torch_gpu torch 2.14.0, 2026-11-26 01:02 UTC" in finding.evidence
    disk = found.nodes[0].disks[0].read_bytes_per_s
    assert disk is not None
    assert (disk.value, disk.provenance) == (2e9, "measured")
    rates = report.machines[0].rates_bytes_per_s
    assert rates == {"disk /models": 2e9, "memory_read": 4.2e12, "host_to_device": 30e9}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"date": "2020-01-02"}, "measured on 2020-01-02, more than 90 days ago"),
        ({"stable": False}, "every measurement of it was unstable"),
    ],
)
def test_what_is_stale_or_unstable_is_said_and_not_used(
    machine: Inventory, changes: dict[str, Any], reason: str
) -> None:
    keep(machine, series("host_to_device", 60e9, **changes))
    found = with_measured_rates(machine)
    status, actual = judged(check(found), "host_to_device")
    assert status == "not_run"
    assert reason in actual
    assert any(reason in note for note in found.notes)
    assert not check(found).machines[0].rates_bytes_per_s


def test_a_result_that_is_named_comes_before_the_calibration(machine: Inventory) -> None:
    keep(machine, series("host_to_device", 60e9))
    found = with_measured_rates(machine)
    assert judged(check(found), "host_to_device")[0] == "pass"
    assert judged(check(found, bench={}), "host_to_device") == ("not_run", "not known: not measured")


def test_a_calibration_of_other_gpus_says_nothing_of_these(machine: Inventory) -> None:
    keep(machine, series("host_to_device", 60e9, device="NVIDIA A100-SXM4-80GB"))
    assert with_measured_rates(machine).nodes[0].gpu_rates == ()


def test_a_folder_is_on_the_file_system_nearest_above_it() -> None:
    root, models = (HOST.disks[0].model_copy(update={"mount": mount}) for mount in ("/", "/models"))
    assert disk_of(Path("/models/hub"), (root, models)) == models
    assert disk_of(Path("/modelsx"), (root, models)) == root
    assert disk_of(Path("/srv"), (models,)) is None
    assert known(root.free_bytes)


def test_a_rate_of_one_numa_node_is_not_that_of_the_memory(machine: Inventory) -> None:
    keep(machine, series("memory_read", 90e9, provider="machine", device="Xeon", threads=96))
    (node,) = with_measured_rates(machine).nodes
    fact = node.memory.bandwidth_bytes_per_s
    assert fact is not None and fact.value is None
    assert fact.reason == "90.0 GB/s were read, of memory on one of 2 NUMA nodes, not of all"
    alone = machine.nodes[0].model_copy(update={"numa": machine.nodes[0].numa[:1]})
    (node,) = with_measured_rates(machine.model_copy(update={"nodes": (alone,)})).nodes
    assert known(node.memory.bandwidth_bytes_per_s) == 90e9


def test_a_rate_of_all_numa_nodes_is_that_of_the_memory(machine: Inventory) -> None:
    rates = {"nodes2": 170e9, "node0": 200e9, "node1": 90e9}
    keep(
        machine,
        *[
            series("memory_read", rate, provider="machine", device="Xeon", threads=96).model_copy(
                update={"series": f"memory_read/bf16/bytes1.{place}"}
            )
            for place, rate in rates.items()
        ],
    )
    (node,) = with_measured_rates(machine).nodes
    assert known(node.memory.bandwidth_bytes_per_s) == 170e9
