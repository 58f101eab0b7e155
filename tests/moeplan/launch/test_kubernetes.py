"""Kubernetes manifests against the published schemas, and their commands as a kubelet would expand them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from planner.errors import BadRequest
from planner.plan import Plan
from tests.moeplan.launch.launching import HOSTILE, KINDS, commands, planned, with_arguments, with_launch, written

KUBERNETES = "1.37"
LEADER_WORKER_SET = json.loads((Path(__file__).parent / "data" / "leaderworkerset.json").read_text(encoding="utf-8"))
Manifest = dict[str, Any]


def manifests(plan: Plan, **wish: str | int) -> dict[str, Manifest]:
    """What the file holds, by kind."""
    documents = list(yaml.load_all(written(plan, "kubernetes", None, **wish)["kubernetes.yaml"], yaml.CSafeLoader))
    return {document["kind"]: document for document in documents}


def check(manifest: Manifest) -> None:
    """Against the published schema, unknown fields refused."""
    if manifest["kind"] != "LeaderWorkerSet":
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    jsonschema.validate(manifest, LEADER_WORKER_SET)
    for template in pods(manifest):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def pods(load: Manifest) -> list[Manifest]:
    """The pod templates: the leader's and the others', or the one there is."""
    if load["kind"] == "Deployment":
        return [load["spec"]["template"]]
    template = load["spec"]["leaderWorkerTemplate"]
    return [template["leaderTemplate"], template["workerTemplate"]]


def load_of(found: dict[str, Manifest]) -> Manifest:
    return found.get("Deployment") or found["LeaderWorkerSet"]


def expanded(text: str, variables: dict[str, str]) -> str:
    """``$(NAME)`` replaced where it is known, ``$$`` one dollar: Kubernetes' expansion of command and args."""

    def one(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([A-Za-z0-9_.-]*)\)", one, text)


def argv_of(pod: Manifest, **variables: str) -> list[str]:
    (container,) = pod["spec"]["containers"]
    own = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    texts = [*container["command"], *container["args"]]
    return [expanded(text, {**own, "SGLANG_API_KEY": "a key", **variables}) for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_every_manifest_meets_its_schema_and_starts_the_plans_command(kind: str) -> None:
    plan = planned(kind)
    found = manifests(plan)
    for manifest in found.values():
        check(manifest)
    serving = plan.candidates[0].launch.serving
    assert serving is not None
    release = plan.candidates[0].quantization.release
    templates = pods(load_of(found))
    wanted = list(commands(plan))
    assert load_of(found)["kind"] == ("LeaderWorkerSet" if len(wanted) > 1 else "Deployment")
    for rank, argv in enumerate(wanted):
        pod = templates[min(rank, len(templates) - 1)]
        inside = [text.replace("HEAD_ADDRESS", "head.svc") for text in argv]
        if "--host" in inside:
            inside[inside.index("--host") + 1] = "0.0.0.0"
        if serving.needs_folder:
            inside = ["/weights" if text == release else text for text in inside]
        inside[:1] = serving.image_program or inside[:1]
        inside += [serving.api_key_flag, "a key"] if serving.api_key_flag else []
        assert argv_of(pod, LWS_LEADER_ADDRESS="head.svc", LWS_WORKER_INDEX=str(rank)) == inside


def test_the_schemas_can_refuse() -> None:
    for kind in ("vllm on 8xH200", "vllm on 2 x 8xH100"):
        load = load_of(manifests(planned(kind)))
        pods(load)[0]["spec"]["containers"][0]["gpus"] = 8
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check(load)


def test_hostile_arguments_and_variables_arrive_byte_for_byte(plan: Plan) -> None:
    env = {f"V{number}": text for number, text in enumerate(HOSTILE)}
    (pod,) = pods(load_of(manifests(with_launch(plan, ("engine", *HOSTILE), env))))
    assert argv_of(pod) == ["engine", *HOSTILE]
    (container,) = pod["spec"]["containers"]
    given = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    assert {name: expanded(given[name], {"HF_HOME": "x"}) for name in env} == env


def test_secrets_are_references(plan: Plan) -> None:
    (pod,) = pods(load_of(manifests(plan)))
    (container,) = pod["spec"]["containers"]
    taken = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if "valueFrom" in entry}
    assert taken == {
        # Whoever is in the cluster reaches the server, so that it does not start without a key.
        "VLLM_API_KEY": {"name": "model-a", "key": "api-key", "optional": False},
        "HF_TOKEN": {"name": "model-a", "key": "hf-token", "optional": True},
    }


def test_a_start_may_take_as_long_as_a_slow_download_and_a_busy_server_lives(plan: Plan) -> None:
    (pod,) = pods(load_of(manifests(plan)))
    (container,) = pod["spec"]["containers"]
    startup, liveness = container["startupProbe"], container["livenessProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] == 14400
    assert liveness["failureThreshold"] * liveness["periodSeconds"] >= 180
    assert {probe["httpGet"]["path"] for probe in (startup, liveness, container["readinessProbe"])} == {"/health"}


def test_only_the_leader_answers_and_its_service_has_a_name_of_its_own() -> None:
    found = manifests(planned("sglang on 2 x 8xH100"))
    leader, worker = (pod["spec"]["containers"][0] for pod in pods(found["LeaderWorkerSet"]))
    assert "startupProbe" in leader and "startupProbe" not in worker
    assert found["Service"]["metadata"]["name"] != found["LeaderWorkerSet"]["metadata"]["name"]
    assert found["Service"]["spec"]["selector"]["leaderworkerset.sigs.k8s.io/worker-index"] == "0"
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_volume_holds_the_weights_and_shared_memory_is_memory(plan: Plan) -> None:
    found = manifests(plan)
    size = found["PersistentVolumeClaim"]["spec"]["resources"]["requests"]["storage"]
    assert int(size.removesuffix("Gi")) * 2**30 > plan.candidates[0].quantization.bytes
    (pod,) = pods(load_of(found))
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["spec"]["volumes"]


def test_experts_in_ram_are_requested() -> None:
    plan = planned("ktransformers")
    (pod,) = pods(load_of(manifests(plan)))
    (host,) = (device for device in plan.candidates[0].memory.devices if device.kind == "host")
    wanted = pod["spec"]["containers"][0]["resources"]["requests"]["memory"]
    assert int(wanted.removesuffix("Gi")) == -(-sum(entry.bytes for entry in host.ledger) // 2**30)
    assert [part["command"][:2] for part in pod["spec"]["initContainers"]] == [["hf", "download"]]


def test_what_a_manifest_cannot_say_is_refused(plan: Plan, two_node_plan: Plan) -> None:
    with pytest.raises(BadRequest, match="--host: pods are reached through their Service"):
        written(plan, "kubernetes", host="0.0.0.0")
    candidate = two_node_plan.candidates[0]
    apart = (("x", "--node-rank", "0"), ("x", "--node-rank", "1"), ("x", "--node-rank", "2", "--more"))
    devices = tuple(
        device.model_copy(update={"node": node}) for node in range(3) for device in candidate.memory.devices[:8]
    )
    memory = candidate.memory.model_copy(update={"devices": devices})
    launch = candidate.launch.model_copy(update={"per_node_argv": apart})
    changed = candidate.model_copy(update={"launch": launch, "memory": memory})
    with pytest.raises(BadRequest, match="nodes differ in more than their rank"):
        written(two_node_plan, "kubernetes", changed)


@pytest.mark.parametrize("name", ["Kimi K2.5", "7B", "a" * 80, "---", "é"])
def test_names_are_dns_labels(plan: Plan, name: str) -> None:
    for manifest in manifests(with_arguments(plan, served_name=name)).values():
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,61}[a-z0-9]", manifest["metadata"]["name"])
