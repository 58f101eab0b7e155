"""The batch script, executed with stand-ins of scontrol and srun that do what Slurm's do."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.errors import BadRequest
from planner.plan import Plan
from tests.moeplan.launch.launching import (
    KINDS,
    called,
    commands,
    fake,
    planned,
    put,
    run,
    with_arguments,
    with_launch,
    written,
)

SCONTROL = """#!/usr/bin/env bash
[[ "$1 $2" == 'show hostnames' ]] || exit 9
[[ "$3" == 'gpu[1-3]' ]] && printf '%s\\n' gpu1 gpu2 gpu3
"""
SRUN = """#!/usr/bin/env bash
# Starts the command once a node, with its rank; the options are recorded.
options=()
while [[ "$1" == --* ]]; do options+=("$1"); shift; done
printf '%s\\n' "${options[@]}" > "$SLURM_SUBMIT_DIR/srun"
for ((rank = 0; rank < NODES; rank++)); do SLURM_PROCID=$rank "$@" || exit 1; done
"""


def submitted(folder: Path, program: str, nodes: int, **variables: str) -> str:
    """What the job prints, run as Slurm runs it: a copy elsewhere, with Slurm's variables."""
    place = fake(folder, program)
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    copy = folder / "spool"
    copy.mkdir(exist_ok=True)
    (copy / "slurm_script").write_text((folder / "job.sbatch").read_text())
    slurm = {
        "SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_NODELIST": "gpu[1-3]", "SLURM_CPUS_ON_NODE": "96",
        "NODES": str(nodes),
    }  # fmt: skip
    done = run(["bash", "slurm_script"], copy, place, **slurm, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_gets_its_own_arguments_and_the_first_nodes_address(kind: str, tmp_path: Path) -> None:
    plan = planned(kind)
    put(written(plan, "slurm"), tmp_path)
    wanted = list(commands(plan))
    printed = submitted(tmp_path, wanted[0][0], len(wanted), MODEL_FOLDER="/w")
    release = plan.candidates[0].quantization.release
    folder = plan.candidates[0].engine.name == "ktransformers"
    for rank, argv in enumerate(wanted):
        here = [text.replace("HEAD_ADDRESS", "gpu1") for text in argv]
        here = ["/w" if folder and text == release else text for text in here]
        assert called(tmp_path, rank).argv == tuple(here)
    assert "of gpu1" in printed
    options = (tmp_path / "srun").read_text().split()
    assert {"--kill-on-bad-exit=1", "--cpus-per-task=96"} <= set(options)


def directives(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_slurm_reserves_the_nodes_whole_and_chooses_the_gpus(tmp_path: Path) -> None:
    plan = planned("vllm on mixed GPUs")
    files = written(plan, "slurm")
    wanted = directives(files["job.sbatch"])
    assert (wanted["nodes"], wanted["ntasks-per-node"], wanted["gpus-per-node"]) == ("1", "1", "8")
    assert "exclusive" in wanted
    assert "CUDA_VISIBLE_DEVICES" not in files["launch.sh"]
    assert "gpus-per-node" not in directives(written(planned("llama.cpp without GPU"), "slurm")["job.sbatch"])


def test_apples_gpus_are_not_slurms(plan: Plan) -> None:
    with pytest.raises(BadRequest, match="these GPUs are Apple's; write --format shell"):
        written(with_arguments(plan, gpu_vendor="apple"), "slurm")


def test_directives_come_before_the_first_command(plan: Plan) -> None:
    lines = written(plan, "slurm")["job.sbatch"].splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])


def test_submitted_from_elsewhere_it_stops_with_a_clear_line(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "job.sbatch").write_text(written(with_launch(plan, ("engine",)), "slurm")["job.sbatch"])
    done = run(["bash", "job.sbatch"], tmp_path, SLURM_SUBMIT_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (2, "submit the job from the folder that holds launch.sh\n")
