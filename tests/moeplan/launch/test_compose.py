"""Compose files, read back by Docker Compose itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.errors import BadRequest
from planner.plan import Plan
from tests.moeplan.launch.launching import (
    HOSTILE,
    IMAGE,
    KINDS,
    commands,
    docker_compose,
    planned,
    put,
    run,
    with_arguments,
    with_launch,
    written,
)

COMPOSE = docker_compose()
VARIABLES = {"HOME": "/home/me", "HEAD_ADDRESS": "10.0.0.1", "MODEL_FOLDER": "/my weights", "VLLM_API_KEY": "a $key"}

pytestmark = pytest.mark.skipif(COMPOSE is None, reason="Docker Compose's wheel is for Linux on x86-64")


def read(files: dict[str, str], name: str, folder: Path, **variables: str) -> dict[str, Any]:
    """The service as Docker Compose understands it; what it prints has its dollars doubled again."""
    put(files, folder)
    assert COMPOSE is not None
    done = run([COMPOSE, "-f", name, "config", "--format", "json"], folder, None, **{**VARIABLES, **variables})
    assert done.returncode == 0, done.stderr
    service: dict[str, Any] = json.loads(done.stdout)["services"]["server"]
    for key in ("entrypoint", "command"):
        service[key] = [text.replace("$$", "$") for text in service[key]]
    return service


@pytest.mark.parametrize("kind", KINDS)
def test_docker_compose_reads_the_plans_command(kind: str, tmp_path: Path) -> None:
    plan = planned(kind)
    files = written(plan, "compose")
    names = [name for name in files if name.endswith(".yaml")]
    release = plan.candidates[0].quantization.release
    serving = plan.candidates[0].launch.serving
    assert serving is not None
    for name, argv in zip(names, commands(plan), strict=True):
        service = read(files, name, tmp_path)
        inside = list(argv)
        if len(names) == 1:
            # Inside the container it listens to all, and the host publishes it on the loopback.
            inside[inside.index("--host") + 1] = "0.0.0.0"
            (port,) = service["ports"]
            assert (port["host_ip"], port["published"], port["target"]) == (
                "127.0.0.1",
                str(serving.port),
                serving.port,
            )
        else:
            assert service["network_mode"] == "host"
            assert "ports" not in service
        inside = [text.replace("HEAD_ADDRESS", "10.0.0.1") for text in inside]
        if serving.needs_folder:
            inside = ["/weights" if text == release else text for text in inside]
            assert service["volumes"][0]["source"] == "/my weights"
        assert service["command"] == inside[1:]
        program = list(serving.image_program or inside[:1])
        assert service["entrypoint"][-len(program) :] == program
        assert service["image"] == (serving.image.reference if serving.image else IMAGE)
        assert not service["image"].endswith(":latest")


def test_hostile_arguments_and_variables_arrive_byte_for_byte(plan: Plan, tmp_path: Path) -> None:
    env = {f"V{number}": text for number, text in enumerate(HOSTILE)}
    service = read(written(with_launch(plan, ("engine", *HOSTILE), env), "compose"), "compose.yaml", tmp_path)
    assert service["command"] == list(HOSTILE)
    assert {name: service["environment"][name].replace("$$", "$") for name in env} == env


def test_secrets_come_from_whoever_starts_it(plan: Plan, tmp_path: Path) -> None:
    files = written(plan, "compose")
    assert all("a $key" not in text and "a-token" not in text for text in files.values())
    environment = read(files, "compose.yaml", tmp_path, HF_TOKEN="a-token")["environment"]
    assert (environment["HF_TOKEN"], environment["VLLM_API_KEY"]) == ("a-token", "a $$key")
    service = read(files, "compose.yaml", tmp_path, HF_HOME="/cache")
    assert service["environment"].get("HF_TOKEN") is None
    assert [mount["source"] for mount in service["volumes"]] == ["/cache"]


@pytest.mark.parametrize("key", ["", "a key's $value"])
def test_a_key_as_a_flag_is_added_by_the_entrypoint(plan: Plan, tmp_path: Path, key: str) -> None:
    keyed = with_launch(plan, ("printf", "%s|", "a b"), api_key_flag="--api-key", api_key_variable="A_KEY")
    service = read(written(keyed, "compose"), "compose.yaml", tmp_path)
    done = run([*service["entrypoint"], *service["command"]], tmp_path, A_KEY=key)
    assert done.stdout == "a b|" + (f"--api-key|{key}|" if key else "")


def test_without_the_heads_address_docker_compose_refuses(tmp_path: Path) -> None:
    put(written(planned("vllm on 2 x 8xH100"), "compose"), tmp_path)
    assert COMPOSE is not None
    done = run([COMPOSE, "-f", "compose-rank-1.yaml", "config", "-q"], tmp_path, HOME="/home/me")
    assert done.returncode != 0
    assert "HEAD_ADDRESS" in done.stderr and "set it to the address of node 0" in done.stderr


def test_of_mixed_gpus_the_planned_ones_are_handed_out(tmp_path: Path) -> None:
    plan = planned("vllm on mixed GPUs")
    service = read(written(plan, "compose"), "compose.yaml", tmp_path)
    (wanted,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert wanted["device_ids"] == [str(number) for number in range(4, 12)]
    # Inside they are numbered from 0.
    assert "CUDA_VISIBLE_DEVICES" not in service["environment"]


def test_the_fastest_of_unequal_gpus_stays_the_first_in_a_container(tmp_path: Path) -> None:
    plan = planned("llama.cpp on unequal GPUs")
    assert plan.candidates[0].launch.env["CUDA_VISIBLE_DEVICES"] == "1,0"
    service = read(written(plan, "compose"), "compose.yaml", tmp_path)
    (wanted,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert sorted(wanted["device_ids"]) == ["0", "1"]
    chosen = {name: text for name, text in service["environment"].items() if name.startswith("CUDA")}
    assert chosen == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}


def test_local_weights_are_mounted_read_only(plan: Plan, tmp_path: Path) -> None:
    for path, inside, source in (
        ("/my $data/K2.5/a-00001-of-00002.gguf", "/weights/a-00001-of-00002.gguf", "/my $data/K2.5"),
        ("/my $data/K2.5", "/weights", "/my $data/K2.5"),
    ):
        local = with_arguments(plan, "--model", path, download=None, local_path=path)
        service = read(written(local, "compose"), "compose.yaml", tmp_path)
        assert service["command"] == ["--model", inside]
        (mount,) = service["volumes"]
        assert (mount["source"].replace("$$", "$"), mount["read_only"]) == (source, True)
        # A path that is not there stops the start; Docker would make an empty folder of it.
        assert not mount["bind"].get("create_host_path", False)


@pytest.mark.parametrize(
    ("host", "published"),
    [("0.0.0.0", "0.0.0.0"), ("localhost", "127.0.0.1"), ("::1", "::1"), ("10.0.0.7", "10.0.0.7")],
)
def test_the_address_is_that_of_the_published_port(plan: Plan, tmp_path: Path, host: str, published: str) -> None:
    service = read(written(plan, "compose", host=host, port=9000), "compose.yaml", tmp_path)
    assert [(port["host_ip"], port["published"], port["target"]) for port in service["ports"]] == [
        (published, "9000", 9000)
    ]


def test_the_health_check_waits_for_the_weights(plan: Plan, tmp_path: Path) -> None:
    check = read(written(plan, "compose"), "compose.yaml", tmp_path)["healthcheck"]
    assert check["test"][-1] == "http://127.0.0.1:8000/health"
    assert check["start_period"] == "4h0m0s"


def test_what_containers_cannot_do_is_refused(plan: Plan) -> None:
    with pytest.raises(BadRequest, match=r"box' is not an IP address, and docker publishes on one only"):
        written(plan, "compose", host="my-box")
    for form in ("compose", "kubernetes"):
        with pytest.raises(BadRequest, match="containers are not given apple GPUs here; write --format shell"):
            written(with_arguments(plan, gpu_vendor="apple"), form)
        with pytest.raises(BadRequest, match=r"'a\.gguf' are not named by an absolute path"):
            written(with_arguments(plan, download=None, local_path="a.gguf"), form)
