"""What merging and checking the reports of many nodes costs, and checking one inventory of as many nodes.

Run: ``python -m benchmarks.cluster [--nodes 10000]``. The nodes are 8xH200 as the NVML library of the healthy test
scenario tells of them, with names of their own, one in a hundred with a narrow link. CPU seconds of one core.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from hwdetect.inventory import Inventory, Node, to_json
from planner.check import check
from tests.support.nvml_shim.machine import Shim

ROOT: Final = Path(__file__).parents[1]


def nodes(count: int, folder: Path) -> list[Node]:
    """So many nodes; every hundredth has a GPU on half its lanes."""
    shim = Shim(folder)
    good, bad = shim.node("h200x8"), shim.node("x8_link")
    return [
        (bad if number % 100 == 50 else good).model_copy(update={"name": f"node{number:05}"}) for number in range(count)
    ]


def cpu_seconds(*arguments: str) -> tuple[float, float, int]:
    """CPU seconds, peak memory in GB and exit status of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = (sys.executable, "-m", "moeplan", *arguments)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(done.stderr)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, after.ru_maxrss * 1024 / 1e9, done.returncode


def main() -> int:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000, 10_000])
    print(f"{'nodes':>8}  {'what':34}{'MB read':>9}{'CPU s':>8}{'peak GB':>9}{'exit':>6}")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for count in parser.parse_args().nodes:
            found = nodes(count, folder / str(count))
            reports = folder / f"reports{count}"
            reports.mkdir()
            for node in found:
                (reports / f"{node.name}.json").write_text(check(Inventory(nodes=(node,))).to_json(), encoding="utf-8")
            cluster = folder / f"cluster{count}.json"
            cluster.write_text(to_json(Inventory(nodes=tuple(found))), encoding="utf-8")
            each = sum(path.stat().st_size for path in reports.iterdir())
            names = [str(path) for path in sorted(reports.iterdir())]
            for what, size, arguments in (
                ("merge check reports", each, ("merge", *names, "--json")),
                ("check one inventory", cluster.stat().st_size, ("check", "--inventory", str(cluster), "--json")),
            ):
                seconds, peak, status = cpu_seconds(*arguments)
                print(f"{count:>8,}  {what:34}{size / 1e6:>9.1f}{seconds:>8.2f}{peak:>9.2f}{status:>6}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
