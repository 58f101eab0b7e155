from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hwdetect import host_cpu
from hwdetect.detect import detect
from hwdetect.inventory import from_json, known, to_json
from tests.hwdetect.conftest import REPOSITORY, WriteTree, needs_no_driver
from tests.support.nvml_shim.build import shim_environment
from tests.support.nvml_shim.machine import Shim

DETECT = """
import sys
from pathlib import Path
from hwdetect.detect import detect
from hwdetect.inventory import to_json

print(to_json(detect(Path(sys.argv[1]))))
"""


def test_this_machine_survives_json() -> None:
    inventory = detect()
    assert from_json(to_json(inventory)) == inventory
    (node,) = inventory.nodes
    assert node.name == inventory.hostname
    assert inventory.collected_at is not None
    assert abs(datetime.now(UTC) - inventory.collected_at) < timedelta(seconds=30)
    usable = known(node.memory.usable_bytes)
    assert usable is not None and 0 < usable <= (known(node.memory.total_bytes) or 0)
    assert known(node.cpu.usable_cores)
    assert node.disks and node.os.system


@needs_no_driver
def test_a_machine_without_gpus_is_a_normal_answer() -> None:
    (node,) = detect().nodes
    assert (node.gpu_status.code, node.gpus) == ("no_library", ())
    assert node.driver_version is None


def test_the_device_variables_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,\x1b1")
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "all")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert detect().nodes[0].environment == {
        "CUDA_VISIBLE_DEVICES": r"0,\x1b1",
        "NVIDIA_VISIBLE_DEVICES": "all",
    }


def test_an_empty_root_gives_reasons_not_errors(tmp_path: Path) -> None:
    inventory = detect(tmp_path)
    (node,) = inventory.nodes
    assert node.memory.total_bytes is not None and node.memory.total_bytes.reason
    assert node.cpu.model is not None and node.cpu.model.reason
    assert (node.numa, node.os.distribution, inventory.notes) == ((), None, ())


def test_one_broken_part_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(root: Path, affinity: object) -> None:
        raise RuntimeError("no such\nluck")

    monkeypatch.setattr(host_cpu, "cpu", broken)
    inventory = detect()
    assert r"processors: RuntimeError: no such\x0aluck" in inventory.notes
    assert known(inventory.nodes[0].memory.total_bytes)
    assert inventory.nodes[0].cpu.model is None


def test_the_distribution(write_tree: WriteTree) -> None:
    root = write_tree({"etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'})
    assert detect(root).nodes[0].os.distribution == "Debian GNU/Linux 12 (bookworm)"


GIB = 2**20  # in the kernel's kB
GRACE_HOPPER = {
    "proc/meminfo": f"MemTotal: {576 * GIB} kB\nMemAvailable: {500 * GIB} kB\nHugetlb: 0 kB\n",
    "sys/devices/system/node/node0/cpulist": "0-71\n",
    "sys/devices/system/node/node0/meminfo": f"Node 0 MemTotal: {480 * GIB} kB\n",
    "sys/devices/system/node/node1/cpulist": "\n",
    "sys/devices/system/node/node1/meminfo": f"Node 1 MemTotal: {96 * GIB} kB\nNode 1 MemFree: {90 * GIB} kB\n",
}


def test_gpu_memory_in_the_kernel_s_total_is_not_counted_twice(shim: Shim, write_tree: WriteTree) -> None:
    root = write_tree(GRACE_HOPPER)
    environment = shim_environment(shim.library("gh200"), "gh200")
    result = subprocess.run(
        [sys.executable, "-c", DETECT, str(root)],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    (node,) = from_json(result.stdout).nodes
    assert known(node.memory.total_bytes) == 576 * 2**30
    assert known(node.memory.usable_bytes) == 480 * 2**30
    assert known(node.memory.available_bytes) == 410 * 2**30
    assert [numa.gpu_index for numa in node.numa] == [None, 0]


def test_nodes_that_hold_less_than_the_kernel_promises_are_noted(write_tree: WriteTree) -> None:
    nodes = {name: text for name, text in GRACE_HOPPER.items() if "node1" not in name}
    (note,) = detect(write_tree(nodes)).notes
    assert note.startswith("/proc/meminfo says 576.0 GiB, the NUMA nodes hold 480.0 GiB")


def test_detecting_loads_the_binding_only_when_asked() -> None:
    script = "import sys, hwdetect.detect; print('pynvml' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
