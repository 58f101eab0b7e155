"""Every format's file, read back, starts what the engine's parser understands as the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import moeplan
from moeplan.launch import BESIDE, FORMATS
from planner.plan import Plan
from tests.conformance.engines import EngineParser
from tests.conformance.starts import COMMANDS, Models
from tests.moeplan.launch.launching import called, fake, put, run, written
from tests.moeplan.launch.test_kubernetes import argv_of, load_of, manifests, pods
from tests.moeplan.launch.test_slurm import submitted
from tests.moeplan.launch.test_systemd import started, units

KINDS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("vllm", {"gpu": "8xH200"}),
    ("vllm", {"gpu": "8xH100", "nodes": 2}),
    ("sglang", {"gpu": "8xH200"}),
    ("sglang", {"gpu": "8xH100", "nodes": 2}),
)
HEAD: Final = "10.0.0.1"


def by_shell(plan: Plan, folder: Path) -> list[list[str]]:
    files = written(plan, "shell")
    put(files, folder)
    found = []
    for name in (name for name in files if name.endswith(".sh") and name not in BESIDE):
        place = fake(folder, plan.candidates[0].launch.argv[0])
        assert run([f"./{name}"], folder, place, HEAD_ADDRESS=HEAD).returncode == 0
        found.append(list(called(folder).argv))
    return found


def by_compose(plan: Plan, folder: Path) -> list[list[str]]:
    del folder
    found = []
    for name, text in written(plan, "compose").items():
        if name.endswith(".yaml"):
            service = yaml.safe_load(text)["services"]["server"]
            program = [part for part in plan.candidates[0].launch.argv[:3] if part in service["entrypoint"]]
            command = [part.replace("$$", "$") for part in service["command"]]
            found.append([*(program or service["entrypoint"]), *command])
    return found


def by_kubernetes(plan: Plan, folder: Path) -> list[list[str]]:
    del folder
    templates = pods(load_of(manifests(plan)))
    return [argv_of(pod, LWS_LEADER_ADDRESS=HEAD, LWS_WORKER_INDEX=str(rank)) for rank, pod in enumerate(templates)]


def by_slurm(plan: Plan, folder: Path) -> list[list[str]]:
    put(written(plan, "slurm"), folder)
    nodes = len(plan.candidates[0].launch.per_node_argv) or 1
    submitted(folder, plan.candidates[0].launch.argv[0], nodes)
    return [list(called(folder, rank).argv) for rank in range(nodes)]


def by_systemd(plan: Plan, folder: Path) -> list[list[str]]:
    program = plan.candidates[0].launch.argv[0]
    return [list(started(unit, folder, program)) for unit in units(written(plan, "systemd"))]


READERS: Final = {
    "shell": by_shell,
    "compose": by_compose,
    "kubernetes": by_kubernetes,
    "slurm": by_slurm,
    "systemd": by_systemd,
}
HEADS: Final = {"slurm": "gpu1"}


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize(("engine", "options"), KINDS, ids=str)
def test_what_a_format_starts_is_understood_as_the_plan(
    request: pytest.FixtureRequest,
    models: Models,
    tmp_path: Path,
    form: str,
    engine: str,
    options: dict[str, Any],
) -> None:
    assert form in FORMATS
    parser: EngineParser = request.getfixturevalue(engine)
    plan = moeplan.plan("kimi-k2.5", top=1, engine=engine, **options)
    commands = READERS[form](plan, tmp_path)
    assert len(commands) == options.get("nodes", 1)
    assert sorted(READERS) == sorted(FORMATS)
    for argv in commands:
        start = len(COMMANDS[engine])
        assert tuple(argv[:start]) == COMMANDS[engine]
        answer = parser.ask(argv[start:], models.named("kimi-k2.5", "int4"), None, 8)
        assert answer.accepted, f"{answer.error}: {argv}"
        assert answer.understood == {"model": "moonshotai/Kimi-K2.5"}
