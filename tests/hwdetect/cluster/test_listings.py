"""Schedulers' listings as inventories: what they say, what they leave out, and never a traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwdetect.cluster import read_listing
from hwdetect.inventory import Inventory, known

MIB, GIB = 1 << 20, 1 << 30


def read(listing: object) -> Inventory:
    found = read_listing(listing if isinstance(listing, str) else json.dumps(listing))
    assert found is not None
    return found


def kubernetes_node(
    name: str,
    *,
    labels: dict[str, str] | None = None,
    allocatable: dict[str, str] | None = None,
    spec: dict[str, Any] | None = None,
    conditions: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """A node of 8 H100 as a cluster with GPU feature discovery prints it."""
    ready = [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}]
    return {
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
                "nvidia.com/gpu.memory": "81559",
                "nvidia.com/gpu.count": "8",
                "nvidia.com/gpu.compute.major": "9",
                "nvidia.com/gpu.compute.minor": "0",
                "nvidia.com/cuda.driver-version.full": "570.124.06",
                "nvidia.com/mig.strategy": "single",
                **(labels or {}),
            },
        },
        "spec": spec or {},
        "status": {
            "allocatable": {
                "cpu": "191900m", "memory": "2113293012Ki", "nvidia.com/gpu": "8", **(allocatable or {}),
            },
            "conditions": ready if conditions is None else conditions,
        },
    }  # fmt: skip


def kubernetes(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": list(nodes)}


def test_kubernetes_node_with_gpu_feature_discovery() -> None:
    (node,) = read(kubernetes(kubernetes_node("gpu-0"))).nodes
    assert node.name == "gpu-0"
    assert [gpu.index for gpu in node.gpus] == list(range(8))
    gpu = node.gpus[7]
    assert known(gpu.name) == "NVIDIA-H100-80GB-HBM3"
    assert gpu.memory is not None
    assert known(gpu.memory.total_bytes) == 81559 * MIB
    assert known(gpu.compute_capability) == "9.0"
    assert known(node.driver_version) == "570.124.06"
    assert known(node.memory.usable_bytes) == 2113293012 * 1024
    assert known(node.cpu.usable_cores) == 191.9


def test_kubernetes_driver_of_older_labels() -> None:
    labels = {"nvidia.com/cuda.driver-version.full": "", "nvidia.com/cuda.driver.major": "535"}
    labels |= {"nvidia.com/cuda.driver.minor": "104", "nvidia.com/cuda.driver.rev": "12"}
    (node,) = read(kubernetes(kubernetes_node("gpu-0", labels=labels))).nodes
    assert known(node.driver_version) == "535.104.12"


def test_kubernetes_gpus_that_are_not_handed_out_are_broken() -> None:
    (node,) = read(kubernetes(kubernetes_node("gpu-0", allocatable={"nvidia.com/gpu": "6"}))).nodes
    assert [gpu.status for gpu in node.gpus] == ["ok"] * 6 + ["error"] * 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"spec": {"unschedulable": True}}, "it is cordoned"),
        ({"conditions": [{"type": "Ready", "status": "False"}]}, "it is not ready"),
        ({"conditions": [{"type": "Ready", "status": "Unknown"}]}, "it is not ready"),
        ({"conditions": []}, "it is not ready"),
    ],
)
def test_kubernetes_nodes_that_take_no_work_are_left_out(changes: dict[str, Any], why: str) -> None:
    found = read(kubernetes(kubernetes_node("good"), kubernetes_node("bad", **changes)))
    assert [node.name for node in found.nodes] == ["good"]
    assert found.notes == (f"bad is left out: {why}",)
    with pytest.raises(ValueError, match=why):
        read_listing(json.dumps(kubernetes(kubernetes_node("bad", **changes))))


@pytest.mark.parametrize(
    "labels",
    [{"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"}, {"nvidia.com/mig.strategy": "mixed"}],
)
def test_kubernetes_mig_is_never_counted_as_whole_gpus(labels: dict[str, str]) -> None:
    found = read(kubernetes(kubernetes_node("gpu-0", labels=labels)))
    assert found.nodes[0].gpus == ()
    assert "MIG" in found.notes[0]


def test_kubernetes_gpus_without_labels_are_said() -> None:
    found = read(kubernetes(kubernetes_node("gpu-0", labels={"nvidia.com/gpu.product": ""})))
    assert found.nodes[0].gpus == ()
    assert "without labels" in found.notes[0]


def test_kubernetes_amd() -> None:
    labels = {"nvidia.com/gpu.product": "", "nvidia.com/gpu.count": "0"}
    labels |= {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"}
    allocatable = {"nvidia.com/gpu": "0", "amd.com/gpu": "8"}
    (node,) = read(kubernetes(kubernetes_node("mi", labels=labels, allocatable=allocatable))).nodes
    assert len(node.gpus) == 8
    assert {gpu.vendor for gpu in node.gpus} == {"amd"}


SLURM = """\
NodeName=dgx-01 Arch=x86_64 CoresPerSocket=56
   CPUAlloc=0 CPUEfctv=224 CPUTot=224 CPULoad=1.02
   AvailableFeatures=h100,nvlink
   Gres=gpu:h100:8(S:0-1)
   NodeAddr=dgx-01 NodeHostName=dgx-01 Version=23.11.4
   OS=Linux 5.15.0-105-generic #115-Ubuntu SMP Mon Apr 15 09:52:04 UTC 2024
   RealMemory=2063837 AllocMem=0 FreeMem=2010001 Sockets=2 Boards=1
   State=IDLE ThreadsPerCore=2 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   CfgTRES=cpu=224,mem=2063837M,billing=224,gres/gpu=8

NodeName=dgx-02 Arch=x86_64 CoresPerSocket=56
   Gres=gpu:h100:8(S:0-1)
   RealMemory=2063837 Sockets=2
   State=MIXED+DRAIN ThreadsPerCore=2
   Reason=GPU fell off [root@2026-11-01T10:00:00] State=IDLE Gres=none

NodeName=cpu-01 CoresPerSocket=32 Gres=(null) RealMemory=512000 Sockets=2 State=ALLOCATED
NodeName=mix-01 CoresPerSocket=32 Gres=gpu:a100:4(S:0),gpu:l40s:2,gpu:3 RealMemory=512000 Sockets=2 State=IDLE*
NodeName=mix-02 CoresPerSocket=32 Gres=gpu:a100:4 RealMemory=512000 Sockets=2 State=DOWN*+POWERED_DOWN
"""


def test_slurm_text() -> None:
    found = read(SLURM)
    assert [node.name for node in found.nodes] == ["dgx-01", "cpu-01", "mix-01"]
    dgx, cpu, mix = found.nodes
    assert len(dgx.gpus) == 8
    assert known(dgx.gpus[0].name) == "h100"
    assert dgx.gpus[0].memory is None
    assert known(dgx.memory.usable_bytes) == 2063837 * MIB
    assert known(dgx.cpu.usable_cores) == 112
    assert cpu.gpus == ()
    assert [known(gpu.name) for gpu in mix.gpus] == ["a100"] * 4 + ["l40s"] * 2
    assert "dgx-02 is left out: its state is MIXED+DRAIN" in found.notes
    assert any(note.startswith("mix-02 is left out") for note in found.notes)
    assert "mix-01: 3 GPUs without a type in Gres are left out" in found.notes


def test_slurm_json_says_the_same() -> None:
    row = {"name": "dgx-01", "gres": "gpu:h100:8(S:0-1)", "real_memory": 2063837, "cores": 56, "sockets": 2}
    found = read({"meta": {}, "nodes": [{**row, "state": ["IDLE"]}, {**row, "name": "dgx-02", "state": ["DOWN"]}]})
    assert found.nodes == read(SLURM).nodes[:1]
    assert found.notes == ("dgx-02 is left out: its state is DOWN",)


def ray_node(name: str) -> dict[str, Any]:
    resources = {"CPU": 224.0, "GPU": 8.0, "accelerator_type:H100": 1.0, "memory": 1e12, f"node:{name}": 1.0}
    return {
        "NodeID": f"{name:0>40}", "Alive": True, "NodeManagerHostname": name,
        "Resources": resources, "Labels": {},
    }  # fmt: skip


def test_ray() -> None:
    nodes = [ray_node("a"), {**ray_node("b"), "Alive": False}, {**ray_node("c"), "Resources": {"CPU": 8.0, "GPU": 2.0}}]
    found = read(nodes)
    assert [(node.name, len(node.gpus)) for node in found.nodes] == [("a", 8), ("c", 0)]
    assert known(found.nodes[0].gpus[0].name) == "H100"
    assert known(found.nodes[0].memory.usable_bytes) == 10**12
    assert len(found.notes) == 2


def test_two_ray_nodes_on_one_host_keep_their_own_names() -> None:
    found = read([ray_node("a"), {**ray_node("a"), "NodeID": "ff" * 20}])
    assert [node.name for node in found.nodes] == ["a", "a-ffffffff"]


@pytest.mark.parametrize("listing", ["", "hello", "[]", "{}", "[1]", '{"nodes": []}', '{"kind": "Pod"}', "null", '"x"'])
def test_what_is_no_listing(listing: str) -> None:
    assert read_listing(listing) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = (
    *("metadata", "labels", "name", "status", "spec", "allocatable", "conditions", "type", "Ready", "kind", "items"),
    *("nodes", "gres", "state", "real_memory", "sockets", "cores", "NodeID", "Alive", "Resources", "GPU", "memory"),
    *("nvidia.com/gpu", "nvidia.com/gpu.product", "nvidia.com/gpu.memory", "nvidia.com/gpu.count", "amd.com/gpu"),
    *("accelerator_type:H100", "NodeManagerHostname", "node_id", "resources_total", "cpu"),
)
HOSTILE = st.recursive(
    JSON | st.sampled_from(["Node", "List", "True", "IDLE", "8", "9" * 30, "1e9", "-1", "gpu:h100:9999", "\x1b[2J"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=30,
)


def check_bounds(found: Inventory | None) -> None:
    for node in found.nodes if found is not None else ():
        assert len(node.gpus) <= 512
        assert "\x1b" not in node.name


@given(HOSTILE)
def test_any_json(document: object) -> None:
    try:
        check_bounds(read_listing(json.dumps(document)))
    except ValueError as error:
        assert "\n" not in str(error)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(KEYS), HOSTILE, min_size=1).map(
            lambda row: {"kind": "Node", **row, "gres": row.get("gres", ""), "name": row.get("name", "n")}
        ),
        min_size=1, max_size=3,
    ),
    st.sampled_from(["items", "nodes", "list"]),
)  # fmt: skip
def test_any_nodes(nodes: list[dict[str, Any]], form: str) -> None:
    document: object = nodes
    if form == "items":
        document = kubernetes(*nodes)
    elif form == "nodes":
        document = {"nodes": nodes}
    else:
        document = [{"NodeID": "x", "Resources": {}, **node} for node in nodes]
    try:
        check_bounds(read_listing(json.dumps(document)))
    except ValueError as error:
        assert "\n" not in str(error)


@given(
    st.lists(st.sampled_from([*SLURM.split(" "), "\n", "NodeName=", "=", "Gres=gpu:h100:8", "\x1b[2J"]), max_size=80)
)
def test_any_slurm_text(words: list[str]) -> None:
    try:
        check_bounds(read_listing("NodeName=" + " ".join(words)))
    except ValueError as error:
        assert "\n" not in str(error)
