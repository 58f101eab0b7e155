"""AMD by recorded sysfs trees, Apple by recorded values of sysctl."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwdetect import amd, apple
from hwdetect.detect import detect
from hwdetect.inventory import known
from tests.hwdetect.conftest import WriteTree

NODES = "sys/class/kfd/kfd/topology/nodes"
CARD = "sys/bus/pci/devices/0000:c5:00.0"
CPU = {f"{NODES}/0/properties": "cpu_cores_count 96\nsimd_count 0\n"}


def gpu_node(number: int, *, unique: int, function: int = 0, bank: int = 0) -> dict[str, str]:
    location = 0xC5 << 8 | function
    properties = f"simd_count 1216\ngfx_target_version 90402\nlocation_id {location}\ndomain 0\nunique_id {unique}\n"
    files = {f"{NODES}/{number}/properties": properties}
    if bank:
        files[f"{NODES}/{number}/mem_banks/0/properties"] = f"heap_type 1\nsize_in_bytes {bank}\n"
    return files


WHOLE = {
    **CPU,
    **gpu_node(1, unique=0xA1),
    f"{CARD}/product_name": "AMD Instinct MI300X\n",
    f"{CARD}/mem_info_vram_total": "206141652992\n",
    f"{CARD}/mem_info_vram_used": "300000000\n",
    f"{CARD}/current_compute_partition": "SPX\n",
    f"{CARD}/current_memory_partition": "NPS1\n",
    f"{CARD}/current_link_width": "16\n",
    f"{CARD}/max_link_width": "16\n",
    f"{CARD}/numa_node": "0\n",
}


def test_a_whole_accelerator(write_tree: WriteTree) -> None:
    (gpu,) = amd.scan(write_tree(WHOLE))
    assert (known(gpu.name), gpu.vendor, known(gpu.compute_capability)) == ("AMD Instinct MI300X", "amd", "gfx942")
    assert gpu.memory and gpu.pcie
    assert known(gpu.memory.total_bytes) == 206141652992
    assert known(gpu.memory.used_by_others_bytes) == 300000000
    assert known(gpu.memory.free_bytes) == 206141652992 - 300000000
    assert (known(gpu.partition), known(gpu.uuid)) == ("SPX/NPS1", "GPU-00000000000000a1")
    assert (known(gpu.pcie.bus_id), known(gpu.pcie.width), known(gpu.pcie.numa_node)) == ("0000:c5:00.0", 16, 0)


def test_partitions_are_devices_with_their_share(write_tree: WriteTree) -> None:
    files = dict(WHOLE) | {f"{CARD}/current_compute_partition": "CPX\n"}
    for number in range(8):
        files |= gpu_node(number + 1, unique=0xA1 + number, function=number, bank=25 << 30)
    gpus = amd.scan(write_tree(files))
    assert [gpu.index for gpu in gpus] == list(range(8))
    assert {known(gpu.partition) for gpu in gpus} == {"CPX/NPS1"}
    assert {known(gpu.memory.total_bytes) for gpu in gpus if gpu.memory} == {25 << 30}
    assert {known(gpu.memory.free_bytes) for gpu in gpus if gpu.memory} == {None}


def test_a_field_that_is_not_there_is_missing(write_tree: WriteTree) -> None:
    (gpu,) = amd.scan(write_tree(CPU | gpu_node(1, unique=0)))
    assert gpu.name is not None and gpu.name.reason == "No such file or directory"
    assert gpu.memory is not None and known(gpu.memory.total_bytes) is None
    assert gpu.uuid is not None and gpu.uuid.reason == "not given"


def test_without_gpus_and_on_this_machine(write_tree: WriteTree) -> None:
    assert amd.scan(write_tree(CPU)) == ()
    (node,) = detect(write_tree(WHOLE)).nodes
    assert [gpu.vendor for gpu in node.gpus] == ["amd"]
    assert node.gpu_status.code == "ok"


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(sorted(WHOLE)), st.text(max_size=60)))
def test_whatever_sysfs_says(tmp_path_factory: pytest.TempPathFactory, spoilt: dict[str, str]) -> None:
    root = tmp_path_factory.getbasetemp() / "amd"
    for name, text in (WHOLE | spoilt).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, errors="replace")
    assert len(amd.scan(root)) <= 2


MAC = {"machdep.cpu.brand_string": "Apple M3 Ultra", "hw.memsize": "549755813888", "iogpu.wired_limit_mb": "0"}


def reader(values: dict[str, str]) -> apple.Read:
    def read(name: str) -> str:
        if name not in values:
            raise OSError(None, f"unknown oid '{name}'")
        return values[name]

    return read


def test_apple_silicon_shares_its_memory() -> None:
    (gpu,) = apple.scan(reader(MAC))
    assert (gpu.kind, gpu.vendor, known(gpu.name)) == ("unified", "apple", "Apple M3 Ultra")
    assert gpu.memory and gpu.memory.wired_limit_bytes
    assert known(gpu.memory.total_bytes) == 512 << 30
    assert gpu.memory.wired_limit_bytes.unlimited
    (raised,) = apple.scan(reader(MAC | {"iogpu.wired_limit_mb": "500000"}))
    assert raised.memory and known(raised.memory.wired_limit_bytes) == 500000 << 20


def test_an_intel_mac_and_no_mac() -> None:
    assert apple.scan(reader(MAC | {"machdep.cpu.brand_string": "Intel(R) Xeon(R) W"})) == ()
    assert apple.scan(reader({})) == ()
    (gpu,) = apple.scan(reader({"machdep.cpu.brand_string": "Apple M2", "hw.memsize": "soon"}))
    assert gpu.memory and gpu.memory.total_bytes and gpu.memory.wired_limit_bytes
    assert gpu.memory.total_bytes.reason == "not a number"
    assert gpu.memory.wired_limit_bytes.reason == "unknown oid 'iogpu.wired_limit_mb'"
