"""``check --cluster ray`` on a real cluster whose nodes have NVML libraries of different scenarios."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from moeplan.checking_cluster import check_on_ray
from moeplan.ray_nodes import connected, nodes_of, on_every_node
from planner.findings import CheckReport, verdict_of
from tests.support.nvml_shim.build import build_shim
from tests.support.nvml_shim.scenarios import load
from tests.support.ray_cluster import RayCluster

SCENARIOS = {"good-1": "h200x8", "good-2": "h200x8", "narrow": "x8_link", "doomed": "h200x8"}


@pytest.fixture(scope="module")
def shimmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RayCluster, dict[str, object]]]:
    """A head without GPUs and a named node for each scenario; the processes of a node see its NVML library."""
    cluster = import_module("ray.cluster_utils").Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "node_name": "head"},
    )
    before = dict(os.environ)
    nodes: dict[str, object] = {}
    try:
        for name, scenario in SCENARIOS.items():
            folder = tmp_path_factory.mktemp(name)
            os.environ["LD_LIBRARY_PATH"] = str(build_shim(folder).parent)
            os.environ["NVML_SHIM_SCENARIO"] = str(load(scenario).write(folder))
            nodes[name] = cluster.add_node(num_cpus=1, num_gpus=0, node_name=name)
        cluster.wait_for_nodes(timeout=120)
        os.environ.clear()
        os.environ.update(before)
        os.environ["RAY_ADDRESS"] = cluster.address
        yield cluster, nodes
    finally:
        os.environ.clear()
        os.environ.update(before)
        cluster.shutdown()


def checked(progress: Callable[[int, int], None] = lambda done, total: None) -> CheckReport:
    return check_on_ray(
        None, rank=1, strict=False, engine_python=None, model_folder=None, timeout_s=120.0, progress=progress
    )


def verdict_on(report: CheckReport, node: str) -> str:
    return verdict_of([finding for finding in report.findings if finding.node == node])


def codes_on(report: CheckReport, node: str) -> set[str]:
    return {finding.code for finding in report.findings if finding.node == node and finding.status == "fail"}


def test_every_node_is_checked_with_its_own_library(shimmed: tuple[RayCluster, dict[str, object]]) -> None:
    told: list[tuple[int, int]] = []
    report = checked(progress=lambda done, total: told.append((done, total)))
    assert sorted(report.nodes) == ["doomed", "good-1", "good-2", "head", "narrow"]
    assert told[-1] == (5, 5)
    assert codes_on(report, "narrow") == {"gpu_pcie_width"}
    for name in ("good-1", "good-2", "doomed"):
        assert codes_on(report, name) == set(), name
    hardware = {machine.node: machine.hardware for machine in report.machines}
    assert hardware["good-1"] == hardware["narrow"] == "8x h200-sxm-141"
    assert hardware["head"] == "no GPU"
    assert report.verdict == "no_go"


def test_a_node_that_hangs_is_a_finding_of_its_own(shimmed: tuple[RayCluster, dict[str, object]]) -> None:
    def slow_on_one(name: str) -> str:
        if name == "narrow":
            time.sleep(60)
        if name == "good-2":
            raise RuntimeError("no moeplan here")
        return name

    ray = connected()
    try:
        began = time.monotonic()
        answers = on_every_node(ray, slow_on_one, (), timeout_s=15.0, progress=lambda done, total: None)
        assert time.monotonic() - began < 40
        assert {node.name for node in nodes_of(ray)} == {*SCENARIOS, "head"}
    finally:
        ray.shutdown()
    said = {answer.node.name: answer for answer in answers}
    assert {name for name, answer in said.items() if answer.outcome == "answered"} == {"good-1", "doomed", "head"}
    assert said["narrow"].outcome == "timeout"
    assert (said["good-2"].outcome, said["good-2"].detail) == ("failed", "RuntimeError: no moeplan here")


def test_the_command_line(shimmed: tuple[RayCluster, dict[str, object]], tmp_path: Path) -> None:
    junit = tmp_path / "check.xml"
    command = (sys.executable, "-m", "moeplan", "check", "--cluster", "ray", "--junit", str(junit))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "NO-GO" in done.stdout
    assert "narrow" in done.stdout
    assert "gpu_pcie_width" in done.stdout
    assert "gpu_pcie_width" in junit.read_text(encoding="utf-8")
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=300)
    assert json.loads(as_json.stdout)["verdict"] == "no_go"


def test_a_node_that_dies_during_the_check_is_a_finding(shimmed: tuple[RayCluster, dict[str, object]]) -> None:
    cluster, nodes = shimmed
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if not killed:
            killed.append(done)
            cluster.remove_node(nodes["doomed"], allow_graceful=False)

    report = checked(progress=kill_one)
    assert killed == [0]
    (lost,) = [finding for finding in report.findings if finding.code == "node_report"]
    assert (lost.node, lost.status) == ("doomed", "fail")
    assert lost.actual.startswith("lost")
    assert sorted(report.nodes) == ["doomed", "good-1", "good-2", "head", "narrow"]
    assert verdict_on(report, "good-1") == verdict_on(report, "good-2")
    again = checked()
    assert [finding.node for finding in again.findings if finding.code == "node_report"] == ["doomed"]
