"""Recorded trees for the host readers, and a real NVML binding over the shim for the NVIDIA door."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from hwdetect.inventory import Node, from_json
from tests.support.nvml_shim.build import build_shim, shim_environment

REPOSITORY = Path(__file__).parents[2]

PROBE = """
import sys
from pathlib import Path
from hwdetect.inventory import Inventory, Node, to_json
from hwdetect.nvidia import scan

found = scan(Path(sys.argv[1]))
node = Node(name="shim", gpus=found.gpus, gpu_status=found.status, driver_version=found.driver_version,
            cuda_driver_version=found.cuda_driver_version)
print(to_json(Inventory(nodes=(node,))))
"""


def has_real_driver() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


needs_no_driver = pytest.mark.skipif(has_real_driver(), reason="this machine has a real NVIDIA driver")


WriteTree = Callable[[dict[str, str]], Path]


@pytest.fixture
def write_tree(tmp_path: Path) -> WriteTree:
    """Write files below an empty root and return it."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


class Shim(NamedTuple):
    """A built NVML shim, and a scan of its scenarios in a process of its own."""

    library: Path

    def scan(self, *scenarios: str, root: Path = Path("/nonexistent"), **variables: str) -> Node:
        environment = shim_environment(self.library, *scenarios, **variables)
        return run_probe(environment, root)


def run_probe(environment: dict[str, str], root: Path, script: str = PROBE) -> Node:
    result = subprocess.run(
        [sys.executable, "-c", script, str(root)],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    return from_json(result.stdout).nodes[0]


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    return Shim(build_shim(tmp_path_factory.mktemp("nvml")))


@pytest.fixture(scope="session")
def old_shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    return Shim(build_shim(tmp_path_factory.mktemp("nvml_old"), old_driver=True))
