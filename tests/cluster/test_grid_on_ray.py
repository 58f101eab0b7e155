"""Grids on a real Ray cluster: the same cells as here, and none lost when a node dies in the middle."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

from hwdetect.inventory import Inventory
from moeplan.grid import Hardware, Named, Question, questions, run_here, run_on_ray
from planner.hardware import describe
from planner.options import Options
from profiles.library import load_model
from tests.support.ray_cluster import RayCluster

MODELS = ("kimi-k2.5", "deepseek-v3", "qwen3-235b-a22b")
MACHINES = ("8xH200", "8xB200", "4xA100-80", "1xRTX4090")
WORKLOADS = ("chat", "rag", "batch")


def table() -> tuple[list[Question], tuple[Named, ...], tuple[Hardware, ...]]:
    models = tuple(Named(name, load_model(name)) for name in MODELS)
    machines = tuple(Hardware(gpu, _inventory(gpu), "flags") for gpu in MACHINES)
    return questions(len(models), len(machines), WORKLOADS, Options("")), models, machines


def _inventory(gpu: str) -> Inventory:
    return describe(Options("", gpu=(gpu,), ram="512GiB"))


def test_a_grid_on_ray_is_the_grid_here(cluster: RayCluster) -> None:
    asked, models, machines = table()
    told: list[tuple[int, int]] = []
    there = run_on_ray(asked, models, machines, lambda done, total: told.append((done, total)))
    assert there == run_here(asked, models, machines, lambda done, total: None)
    assert told[-1] == (len(asked), len(asked))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_command_line(cluster: RayCluster) -> None:
    command = (sys.executable, "-m", "moeplan", "grid", "kimi-k2.5", "--machine", "8xH200", "--machine", "1xL4")
    here, there = (
        subprocess.run([*command, "--json", *more], capture_output=True, text=True, check=False, timeout=300)
        for more in ((), ("--on", "ray"))
    )
    assert there.returncode == here.returncode == 1, there.stderr
    cells = json.loads(there.stdout)
    assert cells["computed_on"] == "ray"
    assert {**cells, "computed_on": "here"} == json.loads(here.stdout)


def test_no_cell_is_lost_when_a_node_dies_in_the_middle(cluster: RayCluster) -> None:
    asked, models, machines = table()
    victim = next(iter(cluster.worker_nodes))
    killed: list[int] = []
    nodes_before: list[int] = []

    def kill_in_the_middle(done: int, total: int) -> None:
        if not killed and 4 <= done < total:
            nodes_before.append(sum(node["Alive"] for node in import_module("ray").nodes()))
            cluster.remove_node(victim, allow_graceful=False)
            killed.append(done)

    there = run_on_ray(asked, models, machines, kill_in_the_middle)
    assert killed
    assert nodes_before == [3]
    assert killed[0] < len(asked)
    assert there == run_here(asked, models, machines, lambda done, total: None)
