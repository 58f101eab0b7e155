"""What a plan over many mixed nodes costs: reading the inventory, pooling, searching, and the whole command.

Run: ``python -m benchmarks.fleet [--nodes 10000]``. The inventory is made of nodes as ``moeplan detect`` describes
them, in ten kinds, shuffled with a fixed seed. Times are CPU seconds of one core.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from planner.hardware import describe
from planner.options import Options

ROOT: Final = Path(__file__).parents[1]
MODEL: Final = "kimi-k2.5"
KINDS: Final = (
    ("8xH200", "2TiB", 40.0), ("8xH100", "2TiB", 30.0), ("8xA100-80", "1TiB", 15.0), ("4xA100-80", "512GiB", 7.0),
    ("8xL40S", "1TiB", 4.5), ("8xB200", "2TiB", 2.0), ("8xMI300X", "2TiB", 0.9), ("7xH100", "2TiB", 0.3),
    ("4xRTX-PRO-6000", "512GiB", 0.2), ("1xRTX4090", "256GiB", 0.1),
)  # fmt: skip
"""GPUs and RAM of a node, and the share of the fleet in per cent."""


def inventory(nodes: int) -> dict[str, Any]:
    """An inventory of so many nodes, mixed."""
    rows: list[dict[str, Any]] = []
    for gpu, ram, share in KINDS:
        node = describe(Options(MODEL, gpu=(gpu,), ram=ram)).nodes[0].model_dump(mode="json", exclude_none=True)
        rows += [node] * max(1, round(nodes * share / 100))
    rows = [{**row, "name": f"node{number:05}"} for number, row in enumerate(rows[:nodes])]
    random.Random(1).shuffle(rows)
    return {"schema": "moeplan.inventory/1", "nodes": rows}


def planned(nodes: int, folder: Path) -> tuple[float, int, int, float]:
    """CPU seconds, pools, replicas and peak memory in GB of ``moeplan plan`` over so many nodes."""
    file = folder / "inventory.json"
    file.write_text(json.dumps(inventory(nodes)), encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "moeplan", "plan", MODEL, "--inventory", str(file), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    fleet = json.loads(done.stdout)["fleet"]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, len(fleet["pools"]), fleet["replicas"], after.ru_maxrss * 1024 / 1e9


def main() -> int:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[20, 100, 1000, 10_000])
    print(f"{'nodes':>8}{'pools':>7}{'replicas':>10}{'CPU s':>8}{'peak GB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for nodes in parser.parse_args().nodes:
            seconds, count, replicas, peak = planned(nodes, Path(folder))
            print(f"{nodes:>8,}{count:>7}{replicas:>10,}{seconds:>8.2f}{peak:>9.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
