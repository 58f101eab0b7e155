"""What compose and Kubernetes have in common: the engine inside its image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from moeplan.launch.deployment import Deployment, Node
from moeplan.launch.shell_text import MODEL_FOLDER
from moeplan.text_safe import shortened
from planner.errors import BadRequest

HUB_CACHE: Final = "/root/.cache/huggingface"
"""Where the images, which run as root, keep what they download; HF_HOME says so as well."""
WEIGHTS_MOUNT: Final = "/weights"
VENDORS: Final = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
"""Vendors whose GPUs containers are given, with the name of the Kubernetes device plug-in's resource."""


def check_containers(deployment: Deployment) -> str:
    """The image. Raises ``BadRequest`` where none is known or where containers do not get the GPUs."""
    engine, serving = deployment.candidate.engine, deployment.serving
    if (deployment.gpus and serving.gpu_vendor not in VENDORS) or serving.gpu_vendor == "apple":
        raise BadRequest(f"containers are not given {serving.gpu_vendor or 'unknown'} GPUs here; write --format shell")
    if deployment.image is None:
        raise BadRequest(
            f"no container image of {engine.name} {engine.version} is known: give one with --image, or write "
            "--format shell, slurm or systemd"
        )
    if serving.local_path is not None and not PurePosixPath(serving.local_path).is_absolute():
        raise BadRequest(f"the plan's weights {shortened(serving.local_path)} are not named by an absolute path")
    return deployment.image


def container_argv(deployment: Deployment, node: Node, host: str) -> tuple[list[str], list[str]]:
    """Program and arguments inside the image, with the weights where they are mounted."""
    serving = deployment.serving
    argv = list(deployment.argv(node, host))
    if serving.local_path is not None:
        inside = mounted_path(serving.local_path)
        argv = [inside if text == serving.local_path else text for text in argv]
    argv = [WEIGHTS_MOUNT if text == MODEL_FOLDER else text for text in argv]
    program = list(serving.image_program) if serving.image_program else argv[:1]
    return program, argv[1:]


def mounted_path(path: str) -> str:
    """A local path inside the container: the folder, or the file in its folder (shards and projectors lie beside).

    >>> mounted_path("/data/K2.5/a-00001-of-00002.gguf"), mounted_path("/data/K2.5")
    ('/weights/a-00001-of-00002.gguf', '/weights')
    """
    return f"{WEIGHTS_MOUNT}/{PurePosixPath(path).name}" if is_file(path) else WEIGHTS_MOUNT


def is_file(path: str) -> bool:
    """Whether local weights are named by a file; a plan may be launched where they do not lie."""
    return PurePosixPath(path).suffix in (".gguf", ".safetensors", ".json")


def with_key(program: Sequence[str], deployment: Deployment) -> list[str]:
    """The program behind a shell that adds the API key, for an engine that takes it as a flag only."""
    serving = deployment.serving
    if not serving.api_key_flag:
        return list(program)
    variable = serving.api_key_variable
    script = f'exec "$@" ${{{variable}:+{serving.api_key_flag} "${variable}"}}'
    return ["bash", "-c", script, "bash", *program]
