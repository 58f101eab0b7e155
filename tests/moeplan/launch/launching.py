"""Plans of every kind to launch, and their files read back as their readers read them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import moeplan
from moeplan.launch import launch_files
from moeplan.launch.deployment import Wish
from planner.plan import Candidate, Launch, Plan

IMAGE = "registry.example/engine:1"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vllm on 8xH200": ("kimi-k2.5", {"gpu": "8xH200", "engine": "vllm"}),
    "vllm on 2 x 8xH100": ("kimi-k2.5", {"gpu": "8xH100", "nodes": 2, "engine": "vllm"}),
    "vllm on 3 x 8xB200": ("deepseek-r1", {"gpu": "8xB200", "nodes": 3, "engine": "vllm"}),
    "vllm on AMD": ("kimi-k2.5", {"gpu": "8xMI300X", "engine": "vllm"}),
    "vllm on mixed GPUs": ("kimi-k2.5", {"gpu": ("4xA100-80", "8xH200"), "engine": "vllm"}),
    "sglang on 8xH200": ("kimi-k2.5", {"gpu": "8xH200", "engine": "sglang"}),
    "sglang on 2 x 8xH100": ("kimi-k2.5", {"gpu": "8xH100", "nodes": 2, "engine": "sglang"}),
    "llama.cpp on 4xA100": ("kimi-k2.5", {"gpu": "4xA100-80", "ram": "512GiB", "engine": "llama.cpp"}),
    "llama.cpp on one GPU": ("kimi-k2.5", {"gpu": "rtx-4090", "ram": "512GiB", "engine": "llama.cpp"}),
    "llama.cpp without GPU": ("qwen3-235b-a22b", {"gpu": "none", "ram": "1TiB", "engine": "llama.cpp"}),
    "llama.cpp on unequal GPUs": (
        "kimi-k2.5",
        {"gpu": ("rtx-3090", "rtx-5090"), "ram": "512GiB", "engine": "llama.cpp"},
    ),
    "ktransformers": (
        "kimi-k2.5",
        {"gpu": "4xRTX-PRO-6000", "ram": "1TiB", "cpu": "2xepyc-9004", "cores": "64", "engine": "ktransformers"},
    ),
}
HOSTILE = (
    "a b", "it's", '"', "$HOME", "$(touch x)", "${HOME}", "$$", "%h", "100%", "\\", "a\\nb", ";", "&&", "*", "~", "#",
    "", "-1", "é", "null", "on", "1e3", "{}", "`x`", "$(HF_HOME)", "!x", "a: b", "- c", "@x",
)  # fmt: skip
"""Arguments that some shell, unit, YAML reader or variable expansion would take for something else."""


@cache
def planned(kind: str, top: int = 1) -> Plan:
    """A plan of this kind with its best candidates."""
    model, options = KINDS[kind]
    return moeplan.plan(model, top=top, **options)


def written(plan: Plan, form: str, candidate: Candidate | None = None, **wish: str | int) -> dict[str, str]:
    """The files in this format; an engine without a known image gets one."""
    chosen = candidate if candidate is not None else plan.candidates[0]
    serving = chosen.launch.serving
    if form in ("compose", "kubernetes") and serving is not None and serving.image is None:
        wish.setdefault("image", IMAGE)
    return launch_files(plan, chosen, form, Wish(**wish))  # type: ignore[arg-type]


def with_arguments(plan: Plan, *arguments: str, **serving: object) -> Plan:
    """The plan, its engine a program that is given these arguments."""
    return with_launch(plan, ("engine", *arguments), None, **serving)


def with_launch(plan: Plan, argv: tuple[str, ...], env: dict[str, str] | None = None, **serving: object) -> Plan:
    """The plan with another command."""
    candidate = plan.candidates[0]
    assert candidate.launch.serving is not None
    launch = Launch(argv=argv, env=env or {}, serving=candidate.launch.serving.model_copy(update=serving))
    return plan.model_copy(update={"candidates": (candidate.model_copy(update={"launch": launch}),)})


def put(files: Mapping[str, str], folder: Path) -> None:
    """Write the files as the command does."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)


def fake(folder: Path, *programs: str) -> Path:
    """A folder for the PATH with programs that record, zero-separated, name, NODE_RANK's like and arguments."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    for program in programs:
        path = place / program
        path.write_text(
            "#!/usr/bin/env bash\n"
            f'printf \'%s\\0\' {program} "$@" > "{folder}/called-${{SLURM_PROCID:-0}}"\n'
            f'env -0 > "{folder}/environment-${{SLURM_PROCID:-0}}"\n'
        )
        path.chmod(0o755)
    return place


class Called(NamedTuple):
    """How a fake program was started."""

    argv: tuple[str, ...]
    environment: dict[str, str]


def called(folder: Path, rank: int = 0) -> Called:
    """What the fake program of that rank recorded."""
    argv = (folder / f"called-{rank}").read_bytes().decode().split("\0")[:-1]
    pairs = (folder / f"environment-{rank}").read_bytes().decode().split("\0")[:-1]
    return Called(tuple(argv), dict(pair.split("=", 1) for pair in pairs))


def run(
    command: list[str], folder: Path, place: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command with nothing of this process's environment but a PATH."""
    path = f"{place}:/usr/bin:/bin" if place is not None else "/usr/bin:/bin"
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env={"PATH": path, **variables}
    )


def commands(plan: Plan) -> Iterator[tuple[str, ...]]:
    """The plan's own command of each node of its best candidate."""
    launch = plan.candidates[0].launch
    yield from launch.per_node_argv or (launch.argv,)


def docker_compose() -> str | None:
    """Docker Compose itself, where its wheel is installed."""
    try:
        import compose
    except ImportError:
        return None
    program = Path(compose.__file__ or "").with_name("docker-compose")
    return str(program) if os.access(program, os.X_OK) else None
