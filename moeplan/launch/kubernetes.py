"""``--format kubernetes``: a Deployment on one node, a LeaderWorkerSet on several, with Service and volume claim."""

from __future__ import annotations

from typing import Any, Final

from formulas.units import GIB
from moeplan.launch.containers import HUB_CACHE, VENDORS, WEIGHTS_MOUNT, check_containers, container_argv
from moeplan.launch.deployment import Deployment, Node, remarks
from moeplan.launch.shell_text import HEAD_ADDRESS, unknown_in
from moeplan.launch.yaml_text import Quoted, yaml_text
from moeplan.text_safe import printable
from planner.errors import BadRequest

MANIFEST: Final = "kubernetes.yaml"
LEADER_WORKER_SET: Final = "leaderworkerset.x-k8s.io/v1"
LEADER_ADDRESS: Final = "$(LWS_LEADER_ADDRESS)"
WORKER_INDEX: Final = "$(LWS_WORKER_INDEX)"
"""Set in every container by LeaderWorkerSet (kubernetes-sigs/lws api/leaderworkerset/v1/leaderworkerset_types.go)."""
PROBE_PERIOD_S: Final = 10
SPARE: Final = 1.1
"""Assumed: room on the volume beside the weights."""
API_KEY: Final = "api-key"
HUB_TOKEN: Final = "hf-token"


def kubernetes_files(deployment: Deployment) -> dict[str, str]:
    """``kubernetes.yaml``. Raises ``BadRequest`` where no image is known or the nodes differ in more than rank."""
    image = check_containers(deployment)
    comments = [
        f"{deployment.title}: {deployment.hardware}.",
        f"Written by {printable(deployment.generated_by)}. The Secret {deployment.name} is yours to make: README.md.",
        *(f"Warning: {printable(remark)}." for remark in remarks(deployment)),
    ]
    first, *others = [_command(deployment, node) for node in deployment.nodes]
    leader = _pod(deployment, image, first, serves=True)
    if others:
        load = _leader_worker_set(deployment, leader, _pod(deployment, image, _shared(others), serves=False))
    else:
        load = _deployment(deployment, leader)
    return {MANIFEST: yaml_text(comments, [_claim(deployment), load, _service(deployment)])}


def _command(deployment: Deployment, node: Node) -> list[str]:
    """Program and arguments; the Secret must have a key, since others in the cluster reach the server."""
    program, arguments = container_argv(deployment, node, "0.0.0.0")
    key = deployment.serving.api_key_flag
    given = [key, f"$({deployment.serving.api_key_variable})"] if key else []
    return [*(_escaped(text) for text in (*program, *arguments)), *given]


def _shared(commands: list[list[str]]) -> list[str]:
    """The one command of all nodes but the first, in which only the rank differs. Raises ``BadRequest``."""
    shared = list(commands[0])
    ranks = [str(rank) for rank in range(1, len(commands) + 1)]
    for place, texts in enumerate(zip(*commands, strict=False)):
        if list(texts) == ranks and place and shared[place - 1] == "--node-rank":
            shared[place] = WORKER_INDEX
        elif len(set(texts)) > 1:
            break
    else:
        if len({len(command) for command in commands}) == 1:
            return shared
    raise BadRequest("the plan's nodes differ in more than their rank, so no LeaderWorkerSet can start them")


def _pod(deployment: Deployment, image: str, command: list[str], *, serves: bool) -> dict[str, Any]:
    """The pod template of the node that answers, or of the others."""
    serving = deployment.serving
    program = len(serving.image_program or command[:1])
    server: dict[str, Any] = {
        "name": "server",
        "image": Quoted(image),
        "command": [Quoted(text) for text in command[:program]],
        "args": [Quoted(text) for text in command[program:]],
        "env": _environment(deployment),
    }
    if serves:
        server["ports"] = [{"name": "http", "containerPort": deployment.port}]
        server |= _probes(deployment)
    server["resources"] = _resources(deployment)
    server["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": _capabilities(deployment)}
    server["volumeMounts"] = [{"name": "weights", "mountPath": _mount(deployment)}]
    volumes: list[dict[str, Any]] = [{"name": "weights", "persistentVolumeClaim": {"claimName": deployment.name}}]
    if serving.shm_bytes:
        server["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
        volumes.append(
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": Quoted(f"{serving.shm_bytes // GIB}Gi")}}
        )
    spec: dict[str, Any] = {
        # A Service named like an engine would set variables that the engine reads, as VLLM_PORT.
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "seccompProfile": {"type": "RuntimeDefault"},
            # The images run as root without its powers over files: the volume must belong to its group.
            "fsGroup": 0,
            "fsGroupChangePolicy": "OnRootMismatch",
        },
    }
    if serving.needs_folder and serving.download is not None:
        spec["initContainers"] = [_fetch(deployment, image, server)]
    return {"metadata": {"labels": _labels(deployment)}, "spec": {**spec, "containers": [server], "volumes": volumes}}


def _fetch(deployment: Deployment, image: str, server: dict[str, Any]) -> dict[str, Any]:
    """Downloads the release into the folder that the engine wants; does nothing when it is there."""
    download = deployment.serving.download
    assert download is not None
    command = ["hf", "download", download.repository, "--local-dir", WEIGHTS_MOUNT]
    if deployment.revision:
        command += ["--revision", deployment.revision]
    return {
        "name": "download",
        "image": Quoted(image),
        "command": [Quoted(text.replace("$", "$$")) for text in command],
        "env": [entry for entry in server["env"] if entry["name"] in ("HF_HOME", "HF_TOKEN")],
        "securityContext": server["securityContext"],
        "volumeMounts": server["volumeMounts"][:1],
    }


def _environment(deployment: Deployment) -> list[dict[str, Any]]:
    """What the plan sets, and what comes from the Secret; the device plug-in chooses the GPUs."""
    kept = {**deployment.env_beside_gpus, "HF_HOME": HUB_CACHE}
    values = [{"name": name, "value": Quoted(_escaped(value))} for name, value in sorted(kept.items())]
    return [
        *values,
        _secret(deployment, deployment.serving.api_key_variable, API_KEY, optional=False),
        _secret(deployment, "HF_TOKEN", HUB_TOKEN, optional=True),
    ]


def _secret(deployment: Deployment, variable: str, key: str, *, optional: bool) -> dict[str, Any]:
    reference = {"name": deployment.name, "key": key, "optional": optional}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _probes(deployment: Deployment) -> dict[str, Any]:
    """A start may take as long as a slow download; afterwards a server that is merely busy is left alone."""
    request = {"httpGet": {"path": deployment.serving.health, "port": "http"}}
    tries = -(-deployment.serving.startup_s // PROBE_PERIOD_S)
    return {
        "startupProbe": {
            **request, "periodSeconds": PROBE_PERIOD_S, "timeoutSeconds": 5, "failureThreshold": tries
        },
        "readinessProbe": {**request, "periodSeconds": PROBE_PERIOD_S, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**request, "periodSeconds": 30, "timeoutSeconds": 30, "failureThreshold": 6},
    }  # fmt: skip


def _resources(deployment: Deployment) -> dict[str, Any]:
    gpus = len(deployment.nodes[0].gpus)
    resources: dict[str, Any] = {}
    in_ram = sum(
        entry.bytes
        for device in deployment.candidate.memory.devices
        if device.kind == "host" and device.node == deployment.candidate.memory.devices[0].node
        for entry in device.ledger
    )
    if in_ram:
        resources["requests"] = {"memory": Quoted(f"{-(-in_ram // GIB)}Gi")}
    if gpus:
        resources["limits"] = {VENDORS[deployment.serving.gpu_vendor or ""]: Quoted(gpus)}
    return resources


def _capabilities(deployment: Deployment) -> dict[str, Any]:
    """Several nodes register memory with the network adapter."""
    return {"drop": ["ALL"], **({"add": ["IPC_LOCK"]} if deployment.several else {})}


def _mount(deployment: Deployment) -> str:
    serving = deployment.serving
    return WEIGHTS_MOUNT if serving.needs_folder or serving.local_path is not None else HUB_CACHE


def _labels(deployment: Deployment) -> dict[str, str]:
    return {"app.kubernetes.io/name": deployment.name}


def _deployment(deployment: Deployment, pod: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": deployment.name, "labels": _labels(deployment)},
        "spec": {
            "replicas": 1,
            # A second pod would wait for GPUs that the first one holds.
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": deployment.serving.startup_s + 600,
            "selector": {"matchLabels": _labels(deployment)},
            "template": pod,
        },
    }


def _leader_worker_set(deployment: Deployment, leader: dict[str, Any], worker: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": LEADER_WORKER_SET,
        "kind": "LeaderWorkerSet",
        "metadata": {"name": deployment.name, "labels": _labels(deployment)},
        "spec": {
            "replicas": 1,
            # The leader is ready only when the others have joined it.
            "startupPolicy": "LeaderCreated",
            "leaderWorkerTemplate": {
                "size": len(deployment.nodes),
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": leader,
                "workerTemplate": worker,
            },
        },
    }


def _service(deployment: Deployment) -> dict[str, Any]:
    """Inside the cluster only. A LeaderWorkerSet makes a Service of its own name, so this one has another."""
    selector = _labels(deployment)
    if deployment.several:
        selector = {
            "leaderworkerset.sigs.k8s.io/name": deployment.name,
            "leaderworkerset.sigs.k8s.io/worker-index": Quoted(0),
        }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service_name(deployment), "labels": _labels(deployment)},
        "spec": {
            "type": "ClusterIP",
            "selector": selector,
            "ports": [{"name": "http", "port": deployment.port, "targetPort": "http"}],
        },
    }


def service_name(deployment: Deployment) -> str:
    """The Service that clients use."""
    return f"{deployment.name}-api"


def _claim(deployment: Deployment) -> dict[str, Any]:
    size = -(-int(deployment.candidate.quantization.bytes * SPARE) // GIB)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": deployment.name, "labels": _labels(deployment)},
        "spec": {
            "accessModes": ["ReadWriteMany" if deployment.several else "ReadWriteOnce"],
            "resources": {"requests": {"storage": Quoted(f"{size}Gi")}},
        },
    }


def _escaped(text: str) -> str:
    """The text as Kubernetes reads it back: it expands ``$(NAME)``, and writes ``$$`` as one dollar."""
    unknown = unknown_in(text)
    if unknown is not None and unknown.variable == HEAD_ADDRESS:
        return LEADER_ADDRESS + unknown.rest
    return text.replace("$", "$$")
