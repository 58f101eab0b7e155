"""Machines of scenarios: the real binding over the built library, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from hwdetect.inventory import Inventory, Node, from_json
from tests.support.nvml_shim.build import build_shim, shim_environment
from tests.support.nvml_shim.scenario import load, names

REPOSITORY = Path(__file__).parents[3]

PROBE = """
import json, os, sys
from pathlib import Path
from hwdetect.host_system import nvidia_on_bus
from hwdetect.inventory import Inventory, Node, to_json
from hwdetect.kernel_log import kernel_log
from hwdetect.nvidia import scan

for scenario, root in json.loads(sys.argv[1]):
    if scenario:
        os.environ["NVML_SHIM_SCENARIO"] = scenario
    found = scan(Path(root))
    node = Node(name="shim", gpus=found.gpus, gpu_status=found.status, driver_version=found.driver_version,
                cuda_driver_version=found.cuda_driver_version, kernel_log=kernel_log(Path(root)),
                bus_gpus=nvidia_on_bus(Path(root)))
    print(json.dumps(to_json(Inventory(nodes=(node,)))))
"""


def probe(environment: dict[str, str], machines: list[tuple[str, Path]], script: str = PROBE) -> list[Node]:
    """Scan (scenario file, root) one after the other in one process; "" keeps the environment's scenario."""
    asked = json.dumps([(scenario, str(root)) for scenario, root in machines])
    result = subprocess.run(
        [sys.executable, "-c", script, asked],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return [from_json(json.loads(line)).nodes[0] for line in result.stdout.splitlines()]


class Shim:
    """Both built libraries, and what a scan of each scenario gives."""

    def __init__(self, folder: Path) -> None:
        self._folders = {old: folder / ("old" if old else "new") for old in (False, True)}
        for old, place in self._folders.items():
            place.mkdir(parents=True)
            build_shim(place, old_driver=old)
        self._nodes: dict[str, Node] = {}

    def library(self, scenario: str = "") -> Path:
        """The library that answers this scenario."""
        old = bool(scenario) and load(scenario).old_driver
        return self._folders[old] / "libnvidia-ml.so.1"

    def node(self, scenario: str) -> Node:
        """The machine as it is scanned, with the scenario's own files for "/". All are scanned on first use."""
        if not self._nodes:
            for old, folder in self._folders.items():
                chosen = [name for name in names() if load(name).old_driver is old]
                machines = [(str(load(name).write(folder)), load(name).root(folder)) for name in chosen]
                environment = shim_environment(folder / "libnvidia-ml.so.1")
                self._nodes.update(zip(chosen, probe(environment, machines), strict=True))
        return self._nodes[scenario]

    def scan(self, scenario: str, root: Path | None = None, **variables: str) -> Node:
        """The same with another root, or with variables of the environment."""
        if root is None and not variables:
            return self.node(scenario)
        environment = shim_environment(self.library(scenario), scenario, **variables)
        return probe(environment, [("", root or Path("/nonexistent"))])[0]

    def inventory(self, scenario: str, host: Node) -> Inventory:
        """A machine with the GPUs of a scenario and everything else of `host`."""
        node = self.node(scenario)
        taken = ("gpus", "gpu_status", "driver_version", "cuda_driver_version", "kernel_log", "bus_gpus")
        return Inventory(nodes=(host.model_copy(update={name: getattr(node, name) for name in taken}),))
