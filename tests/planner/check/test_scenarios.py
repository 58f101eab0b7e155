"""Every scenario file says what is found in it; nothing more and nothing less is."""

from __future__ import annotations

import pytest

from planner.check_codes import CHECKS
from planner.findings import CheckReport
from planner.plan import Plan
from tests.support.check_document import DOCUMENT, asks, document, report_of
from tests.support.nvml_shim.machine import Shim
from tests.support.nvml_shim.scenario import load, names

WANTED = {
    *("h200x8", "x8_link", "dead_nvlink", "lost_gpu", "remap_pending", "remap_failed", "mig", "gb10", "rtx4090_48"),
    *("throttled", "xid", "version_mismatch", "no_permission", "driver_not_loaded", "old_driver", "mixed_gpus"),
    *("fabric_not_ready", "vgpu", "ecc_off", "power_capped", "used_by_others", "exclusive_mode", "driver_too_old"),
}


def test_the_scenarios_that_matter_are_there() -> None:
    assert set(names()) >= WANTED


@pytest.mark.parametrize("name", names())
def test_what_is_found(shim: Shim, name: str) -> None:
    assert asks(report_of(shim, name)) == load(name).findings


@pytest.mark.parametrize("name", names())
def test_what_is_found_against_a_plan(shim: Shim, plan: Plan, name: str) -> None:
    assert asks(report_of(shim, name, plan)) == load(name).plan_findings


def passed(report: CheckReport) -> set[str]:
    return {each.code for each in report.findings if each.status == "pass"}


def test_a_healthy_machine_passes_every_check_that_is_meant_for_it(shim: Shim, plan: Plan) -> None:
    report = report_of(shim, "h200x8", plan)
    assert report.verdict == "go"
    elsewhere = {
        *("gpu_on_bus", "gpu_health", "gpu_ecc_pending", "gpu_retired_pages", "gpu_vgpu", "gpu_used_by_others"),
        *("nvswitch_sxid", "host_cpu_quota"),
        *("plan_host_memory", "plan_numa_memory", "plan_cpu_instructions"),
        *("cluster_gpus", "cluster_versions", "cluster_outlier", "node_report"),
    }
    assert passed(report) == set(CHECKS) - elsewhere
    assert {each.subject for each in report.findings if each.code == "gpu_ecc"} == {"GPU 0-7"}


def test_every_finding_has_what_an_operator_needs(shim: Shim, plan: Plan) -> None:
    for name in names():
        for each in report_of(shim, name, plan).findings:
            assert each.code in CHECKS
            assert each.expected and each.actual and each.node == "node-a", each
            assert bool(each.action) == (each.status != "pass") or each.status == "not_run", each
            if each.status == "not_run":
                assert each.actual.startswith("not known: ") or each.code in ("gpu_driver", "plan_gpu_count"), each


def test_the_document_is_what_the_check_finds(shim: Shim, plan: Plan) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert document(shim, plan, text) == text, "renew it: python -m tests.support.check_document --write"
