"""Hardware from flags, and what the search makes of an inventory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulas.units import GIB
from hwdetect.inventory import (
    BoolFact,
    Disk,
    FloatFact,
    GpuMemory,
    GpuStatus,
    HostMemory,
    IntFact,
    Inventory,
    MemoryModules,
    Node,
    TextFact,
    from_json,
)
from planner import machine as plain
from planner.errors import BadRequest, Undetermined
from planner.hardware import describe, machine_of, parse_gpu, summary_text
from profiles.gpus import gpu_keys, load_gpu
from tests.planner.planning import machine_from, options_of


@pytest.mark.parametrize(
    ("text", "count", "key"),
    [
        ("8xH200", 8, "h200-sxm-141"), ("8XH200", 8, "h200-sxm-141"), ("8 x h200", 8, "h200-sxm-141"),
        ("8*H200", 8, "h200-sxm-141"), ("8\u00d7H200", 8, "h200-sxm-141"), ("H100", 1, "h100-sxm-80"),
        ("4xA100-80", 4, "a100-sxm-80"), ("RTX4090", 1, "rtx-4090-24"), ("2x RTX PRO 6000", 2, "rtx-pro-6000-ws-96"),
        ("7900XTX", 1, "rx7900xtx-24"), ("2x7900XTX", 2, "rx7900xtx-24"), ("4090", 1, "rtx-4090-24"),
        ("NVIDIA H100 80GB HBM3", 1, "h100-sxm-80"), ("128xB200", 128, "b200-sxm-180"), ("DGX Spark", 1, "gb10-128"),
    ],
)  # fmt: skip
def test_counts_and_names(text: str, count: int, key: str) -> None:
    assert parse_gpu(text) == (count, key)


@pytest.mark.parametrize("key", gpu_keys())
def test_every_key_can_be_described(key: str) -> None:
    machine = machine_from(gpu=key)
    gpu = machine.nodes[0].gpus[0]
    assert gpu.key == key
    assert 0 < gpu.visible_low <= gpu.visible <= gpu.visible_high <= gpu.capacity
    assert gpu.bandwidth > 0 and gpu.link_bytes_per_s > 0 and gpu.pcie_bytes_per_s > 0


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"gpu": ""}, "unknown GPU ''"),
        ({"gpu": "8xH300"}, "unknown GPU 'H300'; nearest:"),
        ({"gpu": "0xH100"}, "not a whole number from 1 to 128"),
        ({"gpu": "129xH100"}, "not a whole number from 1 to 128"),
        ({"gpu": ["100xH100", "100xH100"]}, "more than 128 GPUs in a node"),
        ({"gpu": "RTX 6000"}, "is not clear; choose one of: rtx-6000-ada-48"),
        ({"gpu": ["none", "8xH100"]}, "--gpu none cannot be combined"),
        ({"gpu": "2xm3-ultra"}, "m3-ultra-512 shares the memory of its node"),
        ({"gpu": ["8xH100", "gb10"]}, "gb10-128 shares the memory of its node"),
        ({"gpu": "8xH100", "nodes": 0}, "--nodes: '0' is not a whole number from 1 to 4096"),
        ({"gpu": "8xH100", "nodes": ""}, "--nodes: '' is not a whole number"),
        ({"gpu": "8xH100", "nodes": "1.5"}, "--nodes: '1.5' is not a whole number"),
        ({"ram": "512"}, "--ram: '512' is not a size"),
        ({"ram": ""}, "--ram: '' is not a size"),
        ({"ram": "0GiB"}, "--ram: '0GiB' is out of range"),
        ({"ram_bandwidth": "400"}, "--ram-bandwidth: '400' is not a bandwidth"),
        ({"ram_bandwidth": ""}, "--ram-bandwidth: '' is not a bandwidth"),
        ({"cores": "-1"}, "--cores: '-1' is not a whole number"),
        ({"cores": ""}, "--cores: '' is not a whole number"),
        ({"cpu": "epyc-1"}, "--cpu: unknown CPU"),
        ({"cpu": "9xepyc-9004"}, "--cpu: epyc-9004 takes 1 to 2 sockets, not 9"),
        ({"disk": "2"}, "--disk: '2' is not a size"),
        ({"disk": "2TB@"}, "--disk: '' is not a bandwidth"),
        ({"disk": "2TB@7"}, "--disk: '7' is not a bandwidth"),
        ({"network": "fast"}, "--network: 'fast' is not a bandwidth"),
        ({"network": ""}, "--network: '' is not a bandwidth"),
        ({"link": "pcie9"}, "--link: 'pcie9' is not a link; nvlink, pcie3, pcie4, pcie5 are allowed"),
        ({"gpu": "none", "link": "pcie9"}, "--link: 'pcie9' is not a link"),
        ({"gpu": "8xrtx-4090", "link": "nvlink"}, "--link nvlink: rtx-4090-24 has no NVLink"),
    ],
)
def test_bad_hardware_is_one_clear_line(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadRequest) as caught:
        machine_from(**given)
    message = str(caught.value)
    assert complaint in message
    assert message.isprintable()


def test_no_gpu_is_a_machine_without_one() -> None:
    machine = machine_from(gpu="none", ram="64GiB")
    assert machine.nodes[0].gpus == ()
    assert machine.nodes[0].host.ram == 64 * GIB
    assert machine.groups() == ()
    assert summary_text(machine) == "no GPU, 64 GiB RAM"


def test_memory_alone_is_a_machine_without_gpu() -> None:
    assert machine_from(ram="64GiB").nodes[0].gpus == ()


def test_decimal_ram_is_taken_literally_and_noted() -> None:
    machine = machine_from(gpu="8xH200", ram="512GB")
    assert machine.nodes[0].host.ram == 512 * 10**9
    assert any("--ram 512GB is taken as 476.8 GiB" in note for note in machine.notes)
    assert not any("--ram" in note for note in machine_from(gpu="8xH200", ram="512GiB").notes)


def test_a_short_name_is_answered_with_the_key() -> None:
    assert any("is read as h100-sxm-80" in note for note in machine_from(gpu="8xH100").notes)
    assert machine_from(gpu="8xh100-sxm-80").notes == ()


def test_mixed_gpus_make_a_group_of_each_kind_with_their_own_numbers() -> None:
    machine = machine_from(gpu=["4xA100-80", "8xH200"])
    groups = {group.gpu.key: group for group in machine.groups()}
    assert groups["a100-sxm-80"].per_node == 4
    assert groups["a100-sxm-80"].indices == (0, 1, 2, 3)
    assert groups["h200-sxm-141"].per_node == 8
    assert groups["h200-sxm-141"].indices == tuple(range(4, 12))
    assert summary_text(machine) == "4x a100-sxm-80, 8x h200-sxm-141"


def test_nodes_repeat_what_is_described() -> None:
    machine = machine_from(gpu="8xH100", nodes=3, ram="1TiB", network="400Gb/s")
    assert len(machine.nodes) == 3
    assert len(set(map(repr, machine.nodes))) == 1
    assert machine.groups()[0].size == 24
    assert machine.network_bytes_per_s == 50e9
    assert summary_text(machine) == "3 nodes of 8x h100-sxm-80, 1,024 GiB RAM"


def test_a_cpu_brings_bandwidth_and_flags_unless_a_rate_is_given() -> None:
    nominal = machine_from(gpu="H100", cpu="2xepyc-9004", ram="1TiB").nodes[0].host
    assert nominal.bandwidth == pytest.approx(2 * 460.8e9, rel=0.01)
    assert nominal.sockets == 2
    assert "avx512f" in nominal.flags
    given = machine_from(gpu="H100", cpu="2xepyc-9004", ram_bandwidth="600GB/s", cores=64).nodes[0].host
    assert given.bandwidth == 600e9
    assert given.cores == 64


def test_what_is_not_given_is_not_known() -> None:
    node = machine_from(gpu="H100").nodes[0]
    assert (node.host.ram, node.host.bandwidth, node.host.cores) == (None, None, None)
    assert (node.disk.free, node.disk.read_bytes_per_s) == (None, None)


def test_a_disk_has_a_rate_only_when_it_is_given() -> None:
    assert machine_from(gpu="H100", disk="2TB").nodes[0].disk.read_bytes_per_s is None
    disk = machine_from(gpu="H100", disk="2TB@7GB/s").nodes[0].disk
    assert (disk.free, disk.read_bytes_per_s) == (2 * 10**12, 7e9)


def test_links_have_the_rate_that_was_asked_for() -> None:
    plain = machine_from(gpu="8xH100").nodes[0].gpus[0]
    assert plain.link == "nvlink"
    assert plain.link_bytes_per_s > 4e11
    rates = {link: machine_from(gpu="8xH100", link=link).nodes[0].gpus[0] for link in ("pcie3", "pcie4", "pcie5")}
    assert {gpu.link for gpu in rates.values()} == {"pcie"}
    assert [rates[link].link_bytes_per_s for link in ("pcie3", "pcie4", "pcie5")] == [15.75e9, 31.5e9, 63e9]
    assert [rates[link].pcie_bytes_per_s for link in ("pcie3", "pcie4", "pcie5")] == [15.75e9, 31.5e9, 63e9]


def test_a_slot_does_not_make_a_card_faster() -> None:
    card = machine_from(gpu="2xA100-80").nodes[0].gpus[0].pcie_bytes_per_s
    assert machine_from(gpu="2xA100-80", link="pcie5").nodes[0].gpus[0].pcie_bytes_per_s == card


def test_unified_memory_is_what_ram_says() -> None:
    spark = machine_from(gpu="gb10", ram="64GiB").nodes[0].gpus[0]
    assert spark.unified
    assert spark.capacity == 64 * GIB
    assert machine_from(gpu="m3-ultra").nodes[0].gpus[0].capacity == load_gpu("m3-ultra-512").capacity_bytes


def inventory_with(**changes: dict[str, Any]) -> Inventory:
    """An inventory of 8 H200 in which the fields of single GPUs are changed, by their number."""
    inventory = describe(options_of(gpu="8xH200"))
    node = inventory.nodes[0]
    gpus = [gpu.model_copy(update=changes.get(f"gpu{gpu.index}", {})) for gpu in node.gpus]
    return inventory.model_copy(update={"nodes": (node.model_copy(update={"gpus": tuple(gpus)}),)})


def used_by_others(inventory: Inventory, index: int, size: int) -> dict[str, Any]:
    gpu = inventory.nodes[0].gpus[index]
    assert gpu.memory is not None
    fact = gpu.memory.total_bytes.model_copy(update={"value": size})  # type: ignore[union-attr]
    return {"memory": gpu.memory.model_copy(update={"used_by_others_bytes": fact})}


def test_a_few_used_megabytes_do_not_split_a_group() -> None:
    plain = inventory_with()
    machine = machine_of(inventory_with(gpu0=used_by_others(plain, 0, 300 << 20)), "detected")
    (group,) = machine.groups()
    assert group.per_node == 8
    assert group.gpu.visible == machine_of(plain, "detected").nodes[0].gpus[0].visible - (300 << 20)


def test_a_busy_gpu_is_a_group_of_its_own() -> None:
    machine = machine_of(inventory_with(gpu3=used_by_others(inventory_with(), 3, 90 * GIB)), "detected")
    idle, busy = machine.groups()
    assert (idle.per_node, idle.indices) == (7, (0, 1, 2, 4, 5, 6, 7))
    assert (busy.per_node, busy.indices) == (1, (3,))


def test_lost_and_hidden_gpus_are_left_out_with_a_note() -> None:
    hidden = {"value": False, "source": "CUDA_VISIBLE_DEVICES", "provenance": "reported"}
    inventory = inventory_with(gpu1={"status": "lost"})
    text = inventory.model_dump(mode="json", by_alias=True)
    text["nodes"][0]["gpus"][2]["visible"] = hidden
    machine = machine_of(from_json(json.dumps(text)), "detected")
    assert [gpu.driver_index for gpu in machine.nodes[0].gpus] == [0, 3, 4, 5, 6, 7]
    assert any("GPU 1 is lost" in note for note in machine.notes)
    assert any("GPU 2 is hidden by CUDA_VISIBLE_DEVICES" in note for note in machine.notes)


def test_a_gpu_that_nobody_knows_is_undetermined() -> None:
    gpu = inventory_with().nodes[0].gpus[0]
    assert gpu.name is not None
    unknown = {"key": None, "name": gpu.name.model_copy(update={"value": "Voodoo 2"})}
    with pytest.raises(Undetermined, match=r"node0: no facts are known for GPU 5, 'Voodoo 2'; describe it with --gpu"):
        machine_of(inventory_with(gpu5=unknown), "detected")


def test_nodes_with_different_numbers_make_groups_of_both() -> None:
    whole = describe(options_of(gpu="8xH200")).nodes[0]
    single = whole.model_copy(update={"name": "small", "gpus": whole.gpus[:1]})
    machine = machine_of(Inventory(nodes=(whole, single)), "file")
    assert {(group.per_node, group.nodes) for group in machine.groups()} == {(8, (0,)), (1, (0, 1))}


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(["nodes", "ram", "ram_bandwidth", "cpu", "cores", "disk", "link", "network"]),
        st.text(max_size=20),
    )
)
def test_any_text_describes_a_machine_or_is_refused(given: dict[str, str]) -> None:
    try:
        machine = machine_from(gpu="2xH100", **given)
    except BadRequest as error:
        assert str(error).startswith("--")
    else:
        assert machine.groups()[0].size % 2 == 0


def node_with(**parts: object) -> plain.Node:
    """One node of a detected machine in the planner's numbers."""
    fields = {"name": "a", "gpu_status": GpuStatus(code="no_devices", detail=""), **parts}
    return machine_of(Inventory(nodes=(Node.model_validate(fields),)), "detected").nodes[0]


def test_modules_of_memory_give_a_nominal_bandwidth_where_none_was_measured() -> None:
    modules = MemoryModules(nominal_bytes_per_s=FloatFact.reported(307.2e9, "DMI"))
    assert node_with(memory_modules=modules).host.bandwidth == 307.2e9
    measured = HostMemory(bandwidth_bytes_per_s=FloatFact(value=250e9, source="bench", provenance="measured"))
    host = node_with(memory_modules=modules, memory=measured).host
    assert (host.bandwidth, host.bandwidth_source) == (250e9, "measured")


def test_weights_go_on_a_disk_that_can_be_written() -> None:
    big, small = IntFact.reported(2 * 10**12, "statvfs"), IntFact.reported(10**12, "statvfs")
    disks = (
        Disk(mount="/image", free_bytes=big, read_only=BoolFact.reported(True, "mount options")),
        Disk(mount="/ram", free_bytes=big, kind="memory"),
        Disk(mount="/data", free_bytes=small, kind="local"),
    )
    assert node_with(disks=disks).disk.free == 10**12


@pytest.mark.parametrize(("available", "ram"), [(100 * GIB, 100 * GIB), (600 * GIB, 512 * GIB)])
def test_memory_that_others_hold_is_not_planned(available: int, ram: int) -> None:
    memory = HostMemory(
        usable_bytes=IntFact.reported(512 * GIB, "cgroup"), available_bytes=IntFact.reported(available, "meminfo")
    )
    assert node_with(memory=memory).host.ram == ram


def test_a_limit_on_wired_memory_is_what_the_gpu_may_take() -> None:
    gpu = {
        "index": 0, "vendor": "apple", "kind": "unified", "name": TextFact.reported("Apple M3 Ultra", "sysctl"),
        "key": "m3-ultra-512",
        "memory": GpuMemory(
            total_bytes=IntFact.reported(512 * GIB, "sysctl"), wired_limit_bytes=IntFact.reported(500 * GIB, "sysctl")
        ),
    }  # fmt: skip
    (found,) = node_with(gpus=(gpu,)).gpus
    assert (found.visible_low, found.visible, found.visible_high) == (500 * GIB, 500 * GIB, 500 * GIB)
