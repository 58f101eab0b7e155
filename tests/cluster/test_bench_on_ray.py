"""``bench --cluster ray`` on a real cluster: memory read on every node, and nodes that give no result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from moeplan import estimate
from moeplan.cli.schema import FOLDER
from planner.plan import Kernel
from tests.support.ray_cluster import RayCluster

READ = "memory_read/bf16/bytes67108864"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan whose only kernel is to read memory: cheap, and the same on every machine."""
    made = estimate("kimi-k2.5", gpu="8xH200", engine="vllm", quant="int4", tp=8)
    kernel = Kernel(
        kernel="memory_read", quantization="bf16", dims={"bytes": 64 << 20}, batch=1, context=0, series=READ
    )
    (candidate,) = made.candidates
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(
        made.model_copy(update={"candidates": (candidate.model_copy(update={"kernels": (kernel,)}),)}).to_json()
    )
    return path


def bench(plan: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    command = (sys.executable, "-m", "moeplan", "bench", str(plan), "--cluster", "ray", "--calibration", "none")
    done = subprocess.run(
        [*command, "--quick", "--threads", "1", "--json", *flags],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"said": done.stderr}
    return done.returncode, report


def test_every_node_is_measured_once(cluster: RayCluster, plan: Path) -> None:
    code, report = bench(plan)
    schema = json.loads((FOLDER / "cluster-bench.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(report)
    assert len(report["nodes"]) == len({one["node"] for one in report["nodes"]}) == 3
    for one in report["nodes"]:
        assert READ in {row["series"] for row in one["report"]["rows"]}
        assert one["report"]["not_measured"] == []
    # All on one machine that does other work too: who is slower is chance, that every node answered is not.
    assert {finding["code"] for finding in report["findings"]} <= {"cluster_outlier"}
    assert code == (1 if report["findings"] else 0)


def test_nodes_that_take_too_long_are_findings(cluster: RayCluster, plan: Path) -> None:
    code, report = bench(plan, "--node-timeout", "1ms")
    assert (code, report["nodes"]) == (3, [])
    assert [finding["code"] for finding in report["findings"]] == ["node_report"] * 3
    assert all(finding["actual"].startswith("timeout") for finding in report["findings"])
