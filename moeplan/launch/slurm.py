"""``--format slurm``: a batch script that starts the script of every node, head address and rank from Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from moeplan.launch.deployment import Deployment, remarks
from moeplan.launch.shell import scripts
from moeplan.launch.shell_text import HEAD_ADDRESS, REQUIRED
from moeplan.text_safe import printable
from planner.errors import BadRequest

JOB: Final = "job.sbatch"


def slurm_files(deployment: Deployment) -> dict[str, str]:
    """``job.sbatch`` and the scripts of the nodes. Slurm hands out the GPUs, so the scripts choose none.

    Raises ``BadRequest`` for GPUs that Slurm does not know.
    """
    if deployment.serving.gpu_vendor == "apple":
        raise BadRequest("Slurm's nodes run Linux, these GPUs are Apple's; write --format shell")
    return {JOB: "\n".join(_job(deployment)) + "\n", **scripts(deployment, deployment.env_beside_gpus)}


def _job(deployment: Deployment) -> Iterator[str]:
    nodes, per_node = len(deployment.nodes), len(deployment.nodes[0].gpus)
    yield "#!/usr/bin/env bash"
    yield f"# {deployment.title}: {deployment.hardware}."
    yield f"# Written by {printable(deployment.generated_by)}."
    for remark in remarks(deployment):
        yield f"# Warning: {printable(remark)}."
    yield f"#SBATCH --job-name={deployment.name}"
    yield f"#SBATCH --nodes={nodes}"
    yield "#SBATCH --ntasks-per-node=1"
    if per_node:
        yield f"#SBATCH --gpus-per-node={per_node}"
    yield "#SBATCH --exclusive"
    yield "#SBATCH --mem=0"
    yield "#SBATCH --output=%x-%j.log"
    yield "set -euo pipefail"
    yield ""
    yield "# Slurm runs a copy of this file; the scripts of the nodes lie where the job was submitted."
    yield 'cd "$SLURM_SUBMIT_DIR"'
    first = "launch-rank-0.sh" if deployment.several else "launch.sh"
    yield f'[[ -f {first} ]] || {{ echo "submit the job from the folder that holds {first}" >&2; exit 2; }}'
    for name in deployment.unknowns:
        if name != HEAD_ADDRESS:
            yield f': "${{{name}:?{REQUIRED[name]}}}"'
    yield 'mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")'
    yield 'HEAD_ADDRESS="${hosts[0]:?scontrol names no node}"'
    yield "export HEAD_ADDRESS"
    yield f'echo "the server will listen on port {deployment.port} of $HEAD_ADDRESS"'
    yield "# One task a node, with all of its cores: a task gets one core unless told otherwise."
    if deployment.several:
        yield "# shellcheck disable=SC2016  # every task puts in its own rank"
    yield "exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 --label \\"
    yield '  --cpus-per-task="$SLURM_CPUS_ON_NODE" --cpu-bind=none \\'
    yield "  bash -c 'exec bash \"launch-rank-$SLURM_PROCID.sh\"'" if deployment.several else "  bash launch.sh"
