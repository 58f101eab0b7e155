"""The needs of a plan against a machine that lacks one thing at a time."""

from __future__ import annotations

from typing import Any

import pytest

from hwdetect.facts import BoolFact, IntFact, IntsFact, TextFact, TextsFact
from hwdetect.inventory import Checkpoint, Disk, Fabric, Gpu, GpuStatus, Inventory, Node, Software
from moeplan.pipeline import run_plan
from planner.check import check
from planner.errors import BadRequest
from planner.findings import CheckReport, Finding
from planner.hardware import machine_of
from planner.options import Options
from planner.plan import Plan
from tests.support.healthy_host import DISK, GIB, HOST
from tests.support.nvml_shim.machine import Shim

NO_LIBRARY = GpuStatus(code="no_library", detail="libnvidia-ml.so.1: no such file")


def finding(report: CheckReport, code: str) -> Finding:
    (found,) = [each for each in report.findings if each.code == code]
    return found


@pytest.fixture(scope="module")
def healthy(shim: Shim) -> Node:
    return shim.inventory("h200x8", HOST).nodes[0]


def changed(node: Node, **parts: object) -> Inventory:
    return Inventory(nodes=(node.model_copy(update=parts),))


def folder(node: Node, **parts: object) -> Inventory:
    assert node.model_folder is not None
    return changed(node, model_folder=node.model_folder.model_copy(update=parts))


def disk(**parts: object) -> Disk:
    return DISK.model_copy(update=parts)


def test_a_port_that_is_taken(healthy: Node, plan: Plan) -> None:
    assert healthy.network is not None
    taken = healthy.network.model_copy(update={"listening_ports": IntsFact.reported((22, 8000), "/proc/net/tcp")})
    found = finding(check(changed(healthy, network=taken), plan), "plan_port")
    assert (found.status, found.actual) == ("fail", "something listens")
    assert ":8000" in found.action
    unread = finding(check(changed(healthy, network=None), plan), "plan_port")
    assert (unread.status, unread.required) == ("not_run", True)


@pytest.mark.parametrize(
    ("free", "held", "complete", "status"),
    [
        (600 * GIB, 0, None, "pass"),
        (500 * GIB, 0, None, "fail"),
        (500 * GIB, 100 * GIB, False, "pass"),
        (0, 595_148_192_736, True, "pass"),
        (0, 595_148_192_736, False, "warn"),
        (0, 595_148_192_735, True, "fail"),
        (None, 0, None, "not_run"),
    ],
)
def test_room_for_the_checkpoint(
    healthy: Node, plan: Plan, free: int | None, held: int, complete: bool | None, status: str
) -> None:
    room = IntFact.missing("statvfs", "no answer within 2 s") if free is None else IntFact.reported(free, "statvfs")
    there: tuple[Checkpoint, ...] = ()
    if complete is not None:
        bytes_held, whole = IntFact.reported(held, "blobs"), BoolFact.reported(complete, "blobs")
        there = (Checkpoint(repository="moonshotai/Kimi-K2.5", bytes=bytes_held, complete=whole),)
    inventory = folder(healthy, disk=disk(free_bytes=room), checkpoints=there)
    assert finding(check(inventory, plan), "plan_disk_space").status == status


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ({"kind": "memory", "fstype": "tmpfs"}, "fail"),
        ({"read_only": BoolFact.reported(True, "mount options")}, "fail"),
        ({"kind": "network", "fstype": "nfs4"}, "warn"),
        ({"kind": "overlay", "fstype": "overlay"}, "warn"),
        ({}, "pass"),
    ],
)
def test_the_kind_of_disk(healthy: Node, plan: Plan, parts: dict[str, Any], status: str) -> None:
    assert finding(check(folder(healthy, disk=disk(**parts)), plan), "plan_disk_kind").status == status


def test_no_inodes_and_no_folder(healthy: Node, plan: Plan) -> None:
    few = disk(free_inodes=IntFact.reported(3, "statvfs"))
    assert finding(check(folder(healthy, disk=few), plan), "plan_disk_inodes").status == "fail"
    unread = check(changed(healthy, model_folder=None), plan)
    assert finding(unread, "plan_disk_space").status == "not_run"
    assert unread.verdict == "undetermined"


@pytest.mark.parametrize(
    ("version", "status"), [("0.33.0", "pass"), ("0.33", "warn"), ("0.32.1", "warn"), (None, "warn")]
)
def test_the_engine_s_version(healthy: Node, plan: Plan, version: str | None, status: str) -> None:
    there = (Software(name="vllm", version=TextFact.reported(version, "importlib.metadata")),) if version else ()
    found = finding(check(changed(healthy, software=there), plan), "plan_engine")
    assert (found.status, found.required) == (status, False)


def test_gpus_that_are_hidden_and_the_ones_a_launch_names(healthy: Node, plan: Plan) -> None:
    hidden = tuple(
        gpu.model_copy(update={"visible": BoolFact.reported(gpu.index > 0, "CUDA_VISIBLE_DEVICES")})
        for gpu in healthy.gpus
    )
    report = check(changed(healthy, gpus=hidden), plan)
    assert finding(report, "plan_gpu_count").actual == "7 that answer and are visible"
    best = plan.candidates[0]
    launch = best.launch.model_copy(update={"env": {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,9"}})
    named = plan.model_copy(update={"candidates": (best.model_copy(update={"launch": launch}),)})
    found = finding(check(changed(healthy), named), "plan_gpu_count")
    assert (found.status, found.actual) == ("fail", "7 that answer and are visible")
    assert found.expected == "8 GPUs (numbers 0, 1, 2, 3, 4, 5, 6, 9)"


def test_a_rank_that_is_not_in_the_plan(healthy: Node, plan: Plan) -> None:
    with pytest.raises(BadRequest, match="--rank 7 is not in the plan"):
        check(changed(healthy), plan, rank=7)
    with pytest.raises(BadRequest, match="nothing that fits"):
        check(changed(healthy), plan.model_copy(update={"candidates": ()}))


def planned(*gpu: str, engine: str) -> Plan:
    options = Options("kimi-k2.5", gpu=gpu, ram="1TiB", cpu="2xepyc-9004", engine=engine, top="1")
    return run_plan(options, exact=False, progress=None)


@pytest.fixture(scope="module")
def offloaded() -> Plan:
    """The experts in the RAM of two sockets."""
    return planned("H100", engine="ktransformers")


def host_only(node: Node, **memory: object) -> Node:
    return node.model_copy(update={"memory": node.memory.model_copy(update=memory)})


def test_main_memory_and_its_nodes(shim: Shim, offloaded: Plan) -> None:
    node = shim.inventory("h200x8", HOST).nodes[0]
    report = check(Inventory(nodes=(node,)), offloaded)
    assert finding(report, "plan_host_memory").status == "pass"
    assert finding(report, "plan_numa_memory").status == "pass"
    assert finding(report, "plan_cpu_instructions").status == "pass"
    little = host_only(node, available_bytes=IntFact.reported(300 * GIB, "/proc/meminfo MemAvailable"))
    assert finding(check(Inventory(nodes=(little,)), offloaded), "plan_host_memory").status == "fail"
    limited = host_only(node, usable_bytes=IntFact.reported(64 * GIB, "/sys/fs/cgroup/memory.max"))
    found = finding(check(Inventory(nodes=(limited,)), offloaded), "plan_host_memory")
    assert (found.status, found.evidence) == ("fail", "/sys/fs/cgroup/memory.max")
    one_sided = tuple(
        numa.model_copy(update={"memory_total_bytes": IntFact.reported(size * GIB, "node")})
        for numa, size in zip(node.numa, (2048, 0), strict=True)
    )
    report = check(changed(node, numa=one_sided), offloaded)
    assert finding(report, "plan_numa_memory").status == "fail"
    assert finding(report, "host_numa").status == "warn"
    old = node.cpu.model_copy(update={"flags": TextsFact.reported(("asimd",), "/proc/cpuinfo flags")})
    assert finding(check(changed(node, cpu=old), offloaded), "plan_cpu_instructions").status == "fail"
    unread = host_only(node, available_bytes=IntFact.missing("/proc/meminfo", "no such file"))
    assert finding(check(Inventory(nodes=(unread,)), offloaded), "plan_host_memory").status == "not_run"


def test_a_plan_without_gpus_needs_none() -> None:
    on_cpu = planned("none", engine="llama.cpp")
    node = HOST.model_copy(
        update={"gpu_status": GpuStatus(code="no_library", detail="libnvidia-ml.so.1: no such file")}
    )
    report = check(Inventory(nodes=(node,)), on_cpu)
    assert not [each for each in report.findings if each.code.startswith("gpu_")]
    assert finding(report, "plan_host_memory").status == "pass"
    alone = check(Inventory(nodes=(node,)))
    assert (alone.verdict, finding(alone, "gpu_driver").status) == ("undetermined", "not_run")


def test_a_driver_that_is_missed(plan: Plan) -> None:
    node = HOST.model_copy(
        update={"gpu_status": GpuStatus(code="no_library", detail="libnvidia-ml.so.1: no such file")}
    )
    assert finding(check(Inventory(nodes=(node,)), plan), "gpu_driver").status == "fail"
    on_bus = node.model_copy(update={"bus_gpus": IntFact.reported(8, "/sys/bus/pci/devices")})
    assert finding(check(Inventory(nodes=(on_bus,))), "gpu_driver").status == "fail"


def test_health_of_other_makers_is_not_taken_for_granted() -> None:
    gpu = Gpu(index=0, vendor="amd", name=TextFact.reported("AMD Instinct MI300X", "sysfs"))
    node = HOST.model_copy(update={"gpus": (gpu,), "gpu_status": GpuStatus(code="ok", detail="1 GPU(s)")})
    found = finding(check(Inventory(nodes=(node,))), "gpu_health")
    assert (found.status, found.required) == ("not_run", False)


def test_what_others_hold_is_planned_around(shim: Shim) -> None:
    """vLLM takes its share of the whole GPU, so on a GPU that is in use the share must be smaller."""
    inventory = shim.inventory("used_by_others", HOST)
    gpus = tuple(gpu for gpu in inventory.nodes[0].gpus if gpu.index == 5)
    node = inventory.nodes[0].model_copy(update={"gpus": gpus})
    machine = machine_of(Inventory(nodes=(node,)), "file")
    (gpu,) = machine.nodes[0].gpus
    assert gpu.occupied == 60 * GIB
    assert gpu.visible + gpu.occupied == 150_109_106_995


def test_a_split_gpu_is_planned_by_its_parts(shim: Shim) -> None:
    node = shim.inventory("mig", HOST).nodes[0]
    alone = node.model_copy(update={"gpus": node.gpus[:1]})
    machine = machine_of(Inventory(nodes=(alone,)), "file")
    (part,) = machine.nodes[0].gpus
    assert (part.name, part.capacity, part.link) == ("NVIDIA H200 MIG 3g.71gb", 74_625_056_768, "pcie")
    assert part.bandwidth == pytest.approx(4800e9 * 74_625_056_768 / 150_754_820_096)
    assert part.flops["bf16"] == pytest.approx(989e12 * 3 / 7)
    assert any("one of 2 MIG devices" in note for note in machine.notes)
    mixed = machine_of(Inventory(nodes=(node,)), "file")
    assert len(mixed.nodes[0].gpus) == 7
    assert any("whole GPUs are used" in note for note in mixed.notes)
    whole = machine_of(shim.inventory("h200x8", HOST), "file")
    assert len(whole.nodes[0].gpus) == 8


def test_a_split_gpu_without_parts_has_nothing_to_give(shim: Shim) -> None:
    node = shim.inventory("mig", HOST).nodes[0]
    bare = node.model_copy(update={"gpus": (node.gpus[0].model_copy(update={"mig_devices": ()}),)})
    machine = machine_of(Inventory(nodes=(bare,)), "file")
    assert machine.nodes[0].gpus == ()
    assert any("without a MIG device" in note for note in machine.notes)


def test_a_container_that_brings_a_newer_libcuda(shim: Shim, plan: Plan) -> None:
    node = shim.inventory("driver_too_old", HOST).nodes[0]
    assert finding(check(Inventory(nodes=(node,)), plan), "plan_driver").status == "fail"
    newer = changed(node, cuda_driver_version=TextFact.reported("13.0", "nvmlSystemGetCudaDriverVersion"))
    found = finding(check(newer, plan), "plan_driver")
    assert (found.status, found.actual) == ("pass", "CUDA 13.0, driver 550.90.12")


def links(node: Node, remote: str, active: bool = True) -> tuple[Gpu, ...]:
    """GPUs whose link 3 is down and whose others are as given."""
    gpus = []
    for gpu in node.gpus:
        assert gpu.nvlink is not None
        each = tuple(
            link.model_copy(update={"active": active and link.index != 3, "remote_type": remote})
            for link in gpu.nvlink.links
        )
        count = IntFact.reported(sum(bool(link.active) for link in each), "nvmlDeviceGetNvLinkState")
        nvlink = gpu.nvlink.model_copy(update={"links": each, "active_count": count})
        gpus.append(gpu.model_copy(update={"nvlink": nvlink}))
    return tuple(gpus)


def test_links_that_lead_nowhere(healthy: Node) -> None:
    """To a switch a link must be up; to a GPU only where that GPU is here too; a GPU alone needs none."""
    assert finding(check(changed(healthy, gpus=links(healthy, "switch"))), "gpu_nvlink").status == "fail"
    assert finding(check(changed(healthy, gpus=links(healthy, "gpu"))), "gpu_nvlink").status == "warn"
    alone = links(healthy, "gpu", active=False)[:1]
    assert not [each for each in check(changed(healthy, gpus=alone)).findings if each.code == "gpu_nvlink"]


def test_switches_before_hopper_report_no_fabric(healthy: Node) -> None:
    """An A100 behind switches says that it has no fabric; that is not asked for, and no pass."""
    state = Fabric(state=TextFact.missing("nvmlDeviceGetGpuFabricInfoV", "Not Supported"))
    for capability, required in (("8.0", False), ("9.0", True)):
        gpus = tuple(
            gpu.model_copy(update={"fabric": state, "compute_capability": TextFact.reported(capability, "NVML")})
            for gpu in healthy.gpus
        )
        found = finding(check(changed(healthy, gpus=gpus)), "gpu_fabric")
        assert (found.status, found.required) == ("not_run", required)
