"""``--format compose``: a compose file for every node, the engine in its pinned image."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Any, Final

from formulas.units import GIB
from moeplan.launch.containers import (
    HUB_CACHE,
    WEIGHTS_MOUNT,
    check_containers,
    container_argv,
    is_file,
    with_key,
)
from moeplan.launch.deployment import Deployment, Node, file_name, remarks
from moeplan.launch.shell_text import MODEL_FOLDER, REQUIRED, unknown_in
from moeplan.launch.yaml_text import Quoted, yaml_text
from moeplan.text_safe import printable, shortened
from planner.errors import BadRequest

LOCKED_MEMORY: Final = -1
STACK_BYTES: Final = 64 << 20
HOST_CACHE: Final = "${HF_HOME:-${HOME}/.cache/huggingface}"


def compose_files(deployment: Deployment) -> dict[str, str]:
    """``compose.yaml``, or ``compose-rank-N.yaml`` for each of several nodes. Raises ``BadRequest``."""
    image = check_containers(deployment)
    host = deployment.host if deployment.several else _published(deployment.host)
    files = {}
    for node in deployment.nodes:
        comments = [
            f"{deployment.title}: {deployment.place(node)}.",
            f"Written by {printable(deployment.generated_by)}.",
            *(f"Warning: {printable(remark)}." for remark in remarks(deployment)),
        ]
        project = {"name": deployment.name, "services": {"server": _service(deployment, node, image, host)}}
        files[file_name(deployment, node, "compose", ".yaml")] = yaml_text(comments, [project])
    return files


def _service(deployment: Deployment, node: Node, image: str, host: str) -> dict[str, Any]:
    serving = deployment.serving
    # Nodes talk to each other over many ports, so several of them share the host's network.
    program, arguments = container_argv(deployment, node, host if deployment.several else "0.0.0.0")
    service: dict[str, Any] = {
        "image": Quoted(image),
        "entrypoint": [_escaped(text) for text in with_key(program, deployment)],
        "command": [_argument(text) for text in arguments],
        "environment": _environment(deployment),
    }
    if deployment.several:
        service["network_mode"] = "host"
        service["cap_add"] = ["IPC_LOCK"]
    else:
        service["ports"] = [
            {
                "target": deployment.port,
                "published": Quoted(deployment.port),
                "host_ip": Quoted(host),
                "protocol": "tcp",
            }
        ]
    service["volumes"] = _volumes(deployment)
    if serving.shm_bytes:
        service["shm_size"] = Quoted(f"{serving.shm_bytes // GIB}g")
    service["ulimits"] = {"memlock": LOCKED_MEMORY, "stack": STACK_BYTES}
    service |= _gpus(deployment, node)
    if node.rank == 0:
        inside = deployment.client_host if deployment.several else "127.0.0.1"
        service["healthcheck"] = {
            "test": ["CMD", "curl", "--fail", "--silent", f"http://{inside}:{deployment.port}{serving.health}"],
            "start_period": f"{serving.startup_s}s",
            "interval": "30s",
            "timeout": "10s",
            "retries": 6,
        }
    service |= {
        "security_opt": ["no-new-privileges:true"],
        "init": True,
        "restart": "unless-stopped",
        "stop_grace_period": "60s",
    }
    return service


def _environment(deployment: Deployment) -> dict[str, Any]:
    """What the plan sets, and (null) what is handed on from whoever starts it; nothing secret is written down."""
    handed_on = ["HF_TOKEN", deployment.serving.api_key_variable]
    if deployment.several:
        handed_on += ["NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "VLLM_HOST_IP"]
    # Docker hands out NVIDIA GPUs itself, numbered from 0; of AMD's the container sees all.
    choice = deployment.env if deployment.serving.gpu_vendor == "amd" else deployment.env_beside_gpus
    kept = {name: _escaped(value) for name, value in sorted(choice.items())}
    if deployment.serving.gpu_vendor == "amd" and "HIP_VISIBLE_DEVICES" not in kept:
        kept["HIP_VISIBLE_DEVICES"] = Quoted(",".join(str(index) for index in deployment.nodes[0].gpus))
    return {**kept, "HF_HOME": HUB_CACHE, **dict.fromkeys(handed_on)}


def _volumes(deployment: Deployment) -> list[dict[str, Any]]:
    serving = deployment.serving
    if serving.needs_folder:
        source: str = f"${{{MODEL_FOLDER}:?{REQUIRED[MODEL_FOLDER]}}}"
        return [{"type": "bind", "source": Quoted(source), "target": WEIGHTS_MOUNT, "read_only": True}]
    if serving.local_path is not None:
        path = serving.local_path
        folder = str(PurePosixPath(path).parent) if is_file(path) else path
        mount = {"type": "bind", "source": _escaped(folder), "target": WEIGHTS_MOUNT, "read_only": True}
        return [{**mount, "bind": {"create_host_path": False}}]
    return [{"type": "bind", "source": Quoted(HOST_CACHE), "target": HUB_CACHE, "bind": {"create_host_path": True}}]


def _gpus(deployment: Deployment, node: Node) -> dict[str, Any]:
    if not node.gpus:
        return {}
    if deployment.serving.gpu_vendor == "amd":
        return {
            "devices": ["/dev/kfd", "/dev/dri"],
            "group_add": [Quoted("${VIDEO_GROUP:-video}"), Quoted("${RENDER_GROUP:-render}")],
        }
    wanted = {"driver": "nvidia", "device_ids": [Quoted(index) for index in node.gpus], "capabilities": ["gpu"]}
    return {"deploy": {"resources": {"reservations": {"devices": [wanted]}}}}


def _published(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    try:
        return str(ip_address(address))
    except ValueError:
        raise BadRequest(f"--host: {shortened(host)} is not an IP address, and docker publishes on one only") from None


def _argument(text: str) -> Quoted:
    unknown = unknown_in(text)
    if unknown is None:
        return _escaped(text)
    return Quoted(f"${{{unknown.variable}:?{REQUIRED[unknown.variable]}}}{unknown.rest}")


def _escaped(text: str) -> Quoted:
    """The text as compose reads it back: a dollar is written twice."""
    return Quoted(text.replace("$", "$$"))
