"""Every launch set asks for the plan's GPUs, summed over all of its files: for every layout, in every format."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from planner.plan import Candidate, Plan
from tests.moeplan.launch.launching import planned, written
from tests.moeplan.launch.test_slurm import directives
from tests.moeplan.launch.test_systemd import command, settings, units

SHOWN = 60
KINDS = (
    "vllm on 8xH200", "vllm on 2 x 8xH100", "vllm on 3 x 8xB200", "vllm on AMD", "vllm on mixed GPUs",
    "sglang on 8xH200", "sglang on 2 x 8xH100", "llama.cpp on 4xA100", "llama.cpp on one GPU", "llama.cpp without GPU",
    "llama.cpp on unequal GPUs",
    "ktransformers",
)  # fmt: skip


def flags_of(argv: list[str]) -> dict[str, str]:
    return {text: argv[place + 1] for place, text in enumerate(argv[:-1]) if text.startswith("--")}


def asked_by(argv: list[str]) -> int:
    """GPUs that the engine takes on one node, from its own arguments."""
    flags = flags_of(argv)
    if "llama-server" in argv:
        # It spreads over all that it sees, unless told to use none.
        shares = flags.get("--tensor-split")
        return len(shares.split(",")) if shares else min(int(flags["--n-gpu-layers"]), 1)
    sizes = [
        int(flags.get(long, flags.get(short, "1")))
        for long, short in (
            ("--tensor-parallel-size", "--tp-size"),
            ("--pipeline-parallel-size", "--pp-size"),
            ("--data-parallel-size", "--dp-size"),
        )
    ]
    # With attention data parallelism SGLang's tp counts every GPU already.
    dp = 1 if "--enable-dp-attention" in argv else sizes[2]
    world, nodes = sizes[0] * sizes[1] * dp, int(flags.get("--nnodes", "1"))
    assert world % nodes == 0
    return world // nodes


def by_shell(files: dict[str, str]) -> int:
    scripts = [text for name, text in files.items() if name.startswith("launch")]
    return sum(asked_by(shlex.split(text[text.index("\nexec ") :].replace("\\\n", " "))) for text in scripts)


def by_compose(files: dict[str, str]) -> int:
    total = 0
    for name, text in files.items():
        if name.endswith(".yaml"):
            service = yaml.load(text, yaml.CSafeLoader)["services"]["server"]
            if "devices" in service:
                total += len(service["environment"]["HIP_VISIBLE_DEVICES"].split(","))
            elif "deploy" in service:
                (wanted,) = service["deploy"]["resources"]["reservations"]["devices"]
                assert len(set(wanted["device_ids"])) == len(wanted["device_ids"])
                total += len(wanted["device_ids"])
    return total


def by_kubernetes(files: dict[str, str]) -> int:
    def of(pod: dict[str, Any]) -> int:
        limits = pod["spec"]["containers"][0]["resources"].get("limits", {})
        return sum(int(count) for name, count in limits.items() if name.endswith("/gpu"))

    total = 0
    for document in yaml.load_all(files["kubernetes.yaml"], yaml.CSafeLoader):
        spec = document["spec"]
        if document["kind"] == "Deployment":
            total += spec["replicas"] * of(spec["template"])
        elif document["kind"] == "LeaderWorkerSet":
            template = spec["leaderWorkerTemplate"]
            workers = (template["size"] - 1) * of(template["workerTemplate"])
            total += spec["replicas"] * (of(template["leaderTemplate"]) + workers)
    return total


def by_slurm(files: dict[str, str]) -> int:
    wanted = directives(files["job.sbatch"])
    reserved = int(wanted["nodes"]) * int(wanted.get("gpus-per-node", "0"))
    assert by_shell(files) == reserved
    return reserved


def by_systemd(files: dict[str, str]) -> int:
    return sum(asked_by(command(settings(unit)["ExecStart"][0], {})) for unit in units(files))


COUNTS: dict[str, Callable[[dict[str, str]], int]] = {
    "shell": by_shell, "compose": by_compose, "kubernetes": by_kubernetes, "slurm": by_slurm, "systemd": by_systemd,
}  # fmt: skip


def layouts(plan: Plan) -> Iterator[Candidate]:
    """The best candidate of every layout."""
    seen = set()
    for candidate in plan.candidates:
        layout = (candidate.parallel, len(candidate.memory.devices), len(candidate.launch.per_node_argv))
        if layout not in seen:
            seen.add(layout)
            yield candidate


@pytest.mark.parametrize("form", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_launch_set_asks_for_the_plans_gpus(kind: str, form: str) -> None:
    plan = planned(kind, SHOWN)
    for candidate in layouts(plan):
        gpus = sum(device.kind == "gpu" for device in candidate.memory.devices)
        assert COUNTS[form](written(plan, form, candidate)) == gpus, candidate.parallel


def test_the_layouts_cover_what_engines_have() -> None:
    """Tensor, pipeline, data and expert parallelism, decode context, attention data parallelism, several nodes."""
    found = [candidate for kind in KINDS for candidate in layouts(planned(kind, SHOWN))]
    for rank in ("tp", "pp", "dp", "ep", "dcp"):
        assert any(getattr(candidate.parallel, rank) > 1 for candidate in found), rank
    assert any("--enable-dp-attention" in candidate.launch.argv for candidate in found)
    assert {len(candidate.launch.per_node_argv) for candidate in found} >= {0, 2, 3}


def test_the_count_sees_a_wrong_number() -> None:
    files = written(planned("vllm on 2 x 8xH100"), "kubernetes")
    text = re.sub(r"size: 2", "size: 3", files["kubernetes.yaml"])
    assert by_kubernetes({"kubernetes.yaml": text}) == 24
