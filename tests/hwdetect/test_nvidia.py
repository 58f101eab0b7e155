"""The real nvidia-ml-py, its structures and error codes, over a library of our own in place of the driver."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwdetect.inventory import THROTTLE_FAULTS, Gpu, Node, known
from tests.hwdetect.conftest import WriteTree, needs_no_driver
from tests.support.nvml_shim.build import shim_environment
from tests.support.nvml_shim.machine import PROBE, Shim, probe


def run_probe(environment: dict[str, str], root: Path, script: str = PROBE) -> Node:
    return probe(environment, [("", root)], script)[0]


@pytest.fixture(scope="module")
def healthy(shim: Shim) -> Node:
    return shim.scan("h200x8")


def test_eight_healthy_gpus(healthy: Node) -> None:
    assert (healthy.gpu_status.code, healthy.gpu_status.detail) == ("ok", "8 GPU(s)")
    assert known(healthy.driver_version) == "580.159.03"
    assert known(healthy.cuda_driver_version) == "13.0"
    assert [gpu.index for gpu in healthy.gpus] == list(range(8))
    assert len({known(gpu.uuid) for gpu in healthy.gpus}) == 8
    assert {gpu.status for gpu in healthy.gpus} == {"ok"}


def test_a_healthy_gpu_field_by_field(healthy: Node) -> None:
    gpu = healthy.gpus[3]
    assert gpu.memory and gpu.pcie and gpu.nvlink and gpu.fabric and gpu.remapped_rows
    assert (gpu.vendor, gpu.kind, gpu.link_kind) == ("nvidia", "gpu", "nvlink")
    assert known(gpu.name) == "NVIDIA H200"
    assert known(gpu.compute_capability) == "9.0"
    assert known(gpu.memory.total_bytes) == 143771 * 2**20
    assert known(gpu.memory.reserved_bytes) == 700 * 2**20
    assert known(gpu.memory.used_by_others_bytes) == 2**20
    assert known(gpu.memory.free_bytes) == (143771 - 701) * 2**20
    assert (known(gpu.ecc), known(gpu.mig), gpu.mig_devices) == (True, False, ())
    assert known(gpu.vgpu_mode) == "none"
    assert known(gpu.pcie.bus_id) == "0000:9b:00.0"
    assert (known(gpu.pcie.device_id), known(gpu.pcie.subsystem_id)) == ("10de:2335", "10de:18be")
    assert (known(gpu.pcie.generation), known(gpu.pcie.width)) == (5, 16)
    assert (known(gpu.pcie.max_generation), known(gpu.pcie.max_width)) == (5, 16)
    assert known(gpu.nvlink.active_count) == len(gpu.nvlink.links) == 18
    link = gpu.nvlink.links[17]
    assert (link.version, link.remote_type, link.remote_bus_id) == (4, "switch", "0000:05:00.0")
    assert (known(gpu.fabric.state), known(gpu.fabric.status)) == ("completed", "success")
    assert known(gpu.fabric.clique) == 0
    assert known(gpu.fabric.cluster_uuid) == "00000000-0000-0000-0000-000000000000"
    assert (known(gpu.power_limit_w), known(gpu.default_power_limit_w)) == (700.0, 700.0)
    assert (known(gpu.persistence), known(gpu.compute_mode)) == (True, "default")
    assert known(gpu.throttle_reasons) == ("gpu_idle",)
    assert (known(gpu.remapped_rows.pending), known(gpu.remapped_rows.failure)) == (False, False)
    assert gpu.ecc_errors
    assert known(gpu.ecc_errors.volatile_uncorrected) == known(gpu.ecc_errors.aggregate_uncorrected) == 0
    assert (known(gpu.ecc_errors.volatile_corrected), known(gpu.ecc_errors.aggregate_corrected)) == (0, 3)
    assert (known(gpu.ecc_pending), known(gpu.mig_pending)) == (True, False)
    assert (known(gpu.temperature_c), known(gpu.temperature_margin_c)) == (34.0, 53.0)
    assert (known(gpu.inforom_valid), known(gpu.vbios_version)) == (True, "96.00.A5.00.01")
    assert (known(gpu.compute_processes), known(gpu.performance_state)) == (0, 0)
    assert known(gpu.pcie.card_generation) == 5


def test_health_that_is_not_well(shim: Shim) -> None:
    errors = shim.scan("ecc_errors").gpus[3].ecc_errors
    assert errors and known(errors.volatile_uncorrected) == 2
    assert known(shim.scan("inforom_corrupt").gpus[7].inforom_valid) is False
    assert known(shim.scan("used_by_others").gpus[5].compute_processes) == 1
    assert known(shim.scan("too_hot").gpus[3].temperature_margin_c) == 0.0
    old = shim.scan("old_driver").gpus[0]
    assert known(old.temperature_margin_c) == 89 - 34
    assert old.temperature_margin_c is not None and "Threshold" in old.temperature_margin_c.source
    pages = shim.scan("retired_pages").gpus[0]
    assert (known(pages.retired_pages), known(pages.retired_pages_pending)) == (2, True)
    assert known(shim.scan("ecc_off").gpus[1].ecc_pending) is False


def test_a_field_the_card_lacks_is_missing_with_its_reason(healthy: Node) -> None:
    pages = healthy.gpus[0].retired_pages_pending
    assert pages is not None
    assert (pages.value, pages.reason) == (None, "Not Supported")


def pci_tree(numa_node: str = "1") -> dict[str, str]:
    device = "sys/devices/pci0000:15/0000:15:01.0/0000:1b:00.0"
    return {
        "sys/devices/pci0000:15/0000:15:01.0/max_link_width": "8\n",
        f"{device}/numa_node": f"{numa_node}\n",
        f"{device}/vendor": "0x10de\n",
        f"{device}/class": "0x030200\n",
    }


def link_pci_device(root: Path) -> None:
    devices = root / "sys/bus/pci/devices"
    devices.mkdir(parents=True)
    (devices / "0000:1b:00.0").symlink_to("../../../devices/pci0000:15/0000:15:01.0/0000:1b:00.0")


def test_slot_and_numa_node_come_from_sysfs(shim: Shim, write_tree: WriteTree) -> None:
    root = write_tree(pci_tree())
    link_pci_device(root)
    first, second, *_ = shim.scan("h200x8", root=root).gpus
    assert first.pcie and first.pcie.slot_width and second.pcie and second.pcie.slot_width
    assert (known(first.pcie.slot_width), known(first.pcie.numa_node)) == (8, 1)
    assert second.pcie.slot_width.reason == "No such file or directory"


def test_numa_node_minus_one_is_unknown(shim: Shim, write_tree: WriteTree) -> None:
    root = write_tree(pci_tree("-1"))
    link_pci_device(root)
    pcie = shim.scan("h200x8", root=root).gpus[0].pcie
    assert pcie and pcie.numa_node
    assert (pcie.numa_node.value, pcie.numa_node.raw) == (None, "-1")


def test_half_a_pcie_link(shim: Shim) -> None:
    gpus = shim.scan("x8_link").gpus
    widths = [(known(gpu.pcie.width), known(gpu.pcie.max_width)) for gpu in gpus if gpu.pcie]
    assert widths == [(8, 16) if index == 3 else (16, 16) for index in range(8)]


def test_dead_and_unreadable_nvlinks(shim: Shim) -> None:
    gpus = shim.scan("dead_nvlink").gpus
    dead, unreadable = gpus[2].nvlink, gpus[5].nvlink
    assert dead and unreadable and unreadable.active_count
    assert [link.index for link in dead.links if not link.active] == [4, 11]
    assert known(dead.active_count) == 16
    assert len(unreadable.links) == 18
    assert unreadable.links[0].active is None
    assert unreadable.active_count.reason == "link 0: Unknown Error"


def test_lost_gpus_do_not_end_the_scan(shim: Shim) -> None:
    node = shim.scan("lost_gpu")
    assert [gpu.status for gpu in node.gpus] == ["ok"] * 6 + ["lost", "lost"]
    assert node.gpu_status.detail == "8 GPU(s), 2 of them not usable"
    before, during = node.gpus[6:]
    assert before.status_detail == "nvmlDeviceGetHandleByIndex_v2: GPU is lost"
    assert before.memory is None
    assert known(during.name) == "NVIDIA H200"
    assert during.memory and during.memory.total_bytes
    assert (during.memory.total_bytes.value, during.memory.total_bytes.reason) == (None, "GPU is lost")


def test_row_remapping(shim: Shim) -> None:
    pending = [gpu.remapped_rows for gpu in shim.scan("remap_pending").gpus if gpu.remapped_rows]
    assert [known(each.pending) for each in pending] == [index == 1 for index in range(8)]
    rows = [gpu.remapped_rows for gpu in shim.scan("remap_failed").gpus if gpu.remapped_rows]
    assert [known(each.failure) for each in rows] == [index == 4 for index in range(8)]
    assert (known(rows[4].correctable), known(rows[4].uncorrectable)) == (2, 8)


def test_throttle_reasons_and_which_are_faults(shim: Shim) -> None:
    gpus = shim.scan("throttled").gpus
    reasons = [known(gpu.throttle_reasons) or () for gpu in gpus[:4]]
    assert reasons == [
        ("hw_slowdown",),
        ("gpu_idle", "sw_power_cap"),
        ("hw_thermal_slowdown", "hw_power_brake_slowdown"),
        ("unnamed_0x800",),
    ]
    assert [bool(THROTTLE_FAULTS & set(each)) for each in reasons] == [True, False, True, False]


def test_mig_devices_and_an_empty_slot(shim: Shim) -> None:
    gpu = shim.scan("mig").gpus[0]
    assert known(gpu.mig) is True
    assert [device.index for device in gpu.mig_devices] == [0, 2]
    second = gpu.mig_devices[1]
    assert second.memory
    assert known(second.name) == "NVIDIA H200 MIG 3g.71gb"
    assert known(second.memory.total_bytes) == 74625056768
    assert (known(second.gpu_instance_id), known(second.compute_instance_id)) == (2, 0)
    assert (known(second.multiprocessors), known(second.compute_slices)) == (60, 3)


MEMINFO = {"proc/meminfo": "MemTotal:       127600748 kB\nMemAvailable:   120000000 kB\n"}


def test_an_integrated_gpu_has_the_memory_of_the_host(shim: Shim, write_tree: WriteTree) -> None:
    gpu = shim.scan("gb10", root=write_tree(MEMINFO)).gpus[0]
    assert gpu.memory and gpu.memory.total_bytes and gpu.pcie and gpu.pcie.width
    assert (gpu.kind, gpu.link_kind) == ("unified", "none")
    assert known(gpu.memory.total_bytes) == 127600748 * 1024
    assert known(gpu.memory.free_bytes) == 120000000 * 1024
    assert gpu.memory.total_bytes.source.startswith("/proc/meminfo MemTotal")
    assert (gpu.pcie.width.value, gpu.pcie.width.reason) == (None, "reported as 0")


def test_only_a_known_integrated_gpu_gets_the_memory_of_the_host(shim: Shim, write_tree: WriteTree) -> None:
    gpu = shim.scan("unknown_memoryless", root=write_tree(MEMINFO)).gpus[0]
    assert gpu.memory and gpu.memory.total_bytes
    assert gpu.kind == "gpu"
    assert (gpu.memory.total_bytes.value, gpu.memory.total_bytes.reason) == (None, "Not Supported")


def test_a_card_with_more_memory_than_its_name(shim: Shim) -> None:
    gpu = shim.scan("rtx4090_48").gpus[0]
    assert gpu.memory and gpu.nvlink and gpu.nvlink.active_count and gpu.fabric
    assert known(gpu.name) == "NVIDIA GeForce RTX 4090"
    assert known(gpu.memory.total_bytes) == 49140 * 2**20
    assert (gpu.nvlink.links, gpu.nvlink.active_count.reason) == ((), "the card has no NVLink")
    assert gpu.link_kind == "pcie"
    assert known(gpu.fabric.state) == "not_supported"
    assert gpu.fabric.clique is None
    assert (known(gpu.power_limit_w), known(gpu.default_power_limit_w)) == (300.0, 450.0)
    assert known(gpu.throttle_reasons) == ()
    assert gpu.ecc is not None and gpu.ecc.reason == "Not Supported"


def test_gpu_memory_that_is_a_numa_node(shim: Shim, healthy: Node) -> None:
    assert known(shim.scan("gh200").gpus[0].memory_numa_node) == 1
    assert known(healthy.gpus[0].memory_numa_node) is None


def test_an_old_driver_without_the_newer_functions(shim: Shim) -> None:
    node = shim.scan("old_driver")
    gpu = node.gpus[0]
    assert gpu.memory and gpu.memory.reserved_bytes and gpu.memory.total_bytes
    assert gpu.nvlink and gpu.fabric and gpu.fabric.state
    assert known(node.cuda_driver_version) == "11.4"
    assert (gpu.memory.reserved_bytes.value, gpu.memory.reserved_bytes.reason) == (None, "Function Not Found")
    assert gpu.memory.total_bytes.source == "nvmlDeviceGetMemoryInfo.total"
    assert known(gpu.memory.total_bytes) == 143771 * 2**20
    # Version 1 counts the reserve as used.
    assert known(gpu.memory.used_by_others_bytes) == 701 * 2**20
    assert known(gpu.memory.free_bytes) == (143771 - 701) * 2**20
    assert known(gpu.throttle_reasons) == ("gpu_idle",)
    assert known(gpu.nvlink.active_count) == 18
    assert gpu.nvlink.links[0].remote_type is None
    assert gpu.nvlink.links[0].reason == "nvmlDeviceGetNvLinkRemoteDeviceType: Function Not Found"
    assert (gpu.fabric.state.value, gpu.fabric.state.reason) == (None, "Function Not Found")


@pytest.mark.parametrize(
    ("scenario", "code", "detail"),
    [
        ("driver_not_loaded", "driver_not_loaded", "nvmlInit: Driver Not Loaded"),
        ("version_mismatch", "version_mismatch", "nvmlInit: RM has detected an NVML/RM version mismatch."),
        ("no_permission", "no_permission", "nvmlInit: Insufficient Permissions"),
        ("unknown_error", "error", "nvmlInit: Unknown Error"),
        ("no_devices", "no_devices", "NVML runs and counts no GPU"),
    ],
)
def test_each_way_to_fail_is_its_own_answer(shim: Shim, scenario: str, code: str, detail: str) -> None:
    node = shim.scan(scenario)
    assert (node.gpu_status.code, node.gpu_status.detail, node.gpus) == (code, detail, ())


def test_an_unforeseen_answer_costs_one_gpu(shim: Shim, tmp_path: Path) -> None:
    """What a driver of tomorrow could do cannot be brought about, so the reader of GPU 3 is made to fail."""
    broken = """
import hwdetect.nvidia as door
read = door.read_gpu
door.read_gpu = lambda handle, index, root: 1 // 0 if index == 3 else read(handle, index, root)
for scenario, root in"""
    environment = shim_environment(shim.library(), "h200x8")
    gpus = run_probe(environment, tmp_path, PROBE.replace("\nfor scenario, root in", broken, 1)).gpus
    assert [gpu.status for gpu in gpus] == ["error" if index == 3 else "ok" for index in range(8)]
    assert (gpus[3].status_detail or "").startswith("ZeroDivisionError")


def test_denied_devices(shim: Shim) -> None:
    some, every = shim.scan("one_denied"), shim.scan("all_denied")
    assert some.gpu_status.code == "ok"
    assert [gpu.status for gpu in some.gpus] == ["error"] + ["ok"] * 7
    assert every.gpu_status.code == "no_permission"
    assert every.gpu_status.detail == "nvmlDeviceGetHandleByIndex_v2: Insufficient Permissions"


@needs_no_driver
def test_no_library_though_the_card_is_there(tmp_path: Path, write_tree: WriteTree) -> None:
    root = write_tree(pci_tree())
    link_pci_device(root)
    status = run_probe(shim_environment(tmp_path / "nothing.so"), root).gpu_status
    assert status.code == "no_library"
    assert status.detail.startswith("NVML: libnvidia-ml.so.1: cannot open shared object file")
    assert status.detail.endswith("; 1 NVIDIA GPU(s) on the PCI bus")


def test_a_broken_library_is_not_an_absent_one(tmp_path: Path) -> None:
    library = tmp_path / "libnvidia-ml.so.1"
    library.write_text("not a library at all, but long enough to be looked at as one" * 20)
    status = run_probe(shim_environment(library), tmp_path).gpu_status
    assert status.code == "error"
    assert "invalid ELF header" in status.detail


@needs_no_driver
def test_the_library_where_wsl_keeps_it(shim: Shim, tmp_path: Path) -> None:
    """Only the path is ours: the linker does not know the folder, as in a container under WSL."""
    environment = shim_environment(shim.library(), "rtx4090_48") | {"LD_LIBRARY_PATH": ""}
    moved = PROBE.replace(
        "\nfor scenario, root in",
        f"import hwdetect.nvidia as door; door.WSL_LIBRARY = {str(shim.library())!r}\nfor scenario, root in",
    )
    assert len(run_probe(environment, tmp_path, moved).gpus) == 1


def test_the_deprecated_pynvml_package_is_recognised(shim: Shim, tmp_path: Path) -> None:
    package = tmp_path / "pynvml"
    package.mkdir()
    (package / "__init__.py").write_text("")
    environment = shim_environment(shim.library(), "h200x8", PYTHONPATH=f"{tmp_path}{os.pathsep}.")
    status = run_probe(environment, tmp_path).gpu_status
    assert (status.code, status.detail) == (
        "error",
        "the deprecated Python package pynvml hides nvidia-ml-py: uninstall pynvml",
    )


def seen(gpus: tuple[Gpu, ...]) -> list[bool | None]:
    return [known(gpu.visible) for gpu in gpus]


def test_cuda_visible_devices_marks_the_gpus(shim: Shim) -> None:
    gpus = shim.scan("h200x8", CUDA_VISIBLE_DEVICES="2,GPU-0").gpus
    assert seen(gpus) == [index == 2 for index in range(8)]
    assert gpus[0].visible is not None and gpus[0].visible.raw == "2,GPU-0"


def test_cuda_visible_devices_and_mig(shim: Shim) -> None:
    gpus = shim.scan("mig", CUDA_VISIBLE_DEVICES="MIG-bbbb").gpus
    assert seen(gpus) == [True] + [False] * 7
    assert [known(device.visible) for device in gpus[0].mig_devices] == [False, True]


def test_numbers_mean_nothing_certain_once_cuda_may_count_otherwise(shim: Shim) -> None:
    gpus = shim.scan("lost_gpu", CUDA_VISIBLE_DEVICES="0", CUDA_DEVICE_ORDER="PCI_BUS_ID").gpus
    assert seen(gpus) == [None] * 8
    assert gpus[0].visible is not None
    assert gpus[0].visible.reason == "only CUDA knows which device its numbers mean here"
