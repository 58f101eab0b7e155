"""What a recommendation costs over all known hardware and prices: CPU seconds of one core, the whole command.

Run: ``python -m benchmarks.recommend``. The aim is under two seconds for every target.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
TARGETS: Final = (
    ("--concurrency", "1", "--context", "32k"),
    ("--concurrency", "20", "--tokens-per-s", "30", "--context", "128k"),
    ("--concurrency", "50", "--tpot", "50ms"),
    ("--workload", "agent-swarm", "--concurrency", "100"),
    ("--concurrency", "200", "--tpot", "20ms", "--context", "128k"),
)


def main() -> int:
    """Print a line for each target."""
    print(f"{'CPU s':>6}{'searches':>10}{'rent':>6}{'buy':>5}  target")
    for target in TARGETS:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "moeplan", "recommend", "kimi-k2.5", *target, "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(done.stderr)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        answer = json.loads(done.stdout)
        searches, rent, buy = answer["searched"]["searched"], len(answer["rent"]), len(answer["buy"])
        print(f"{seconds:>6.2f}{searches:>10}{rent:>6}{buy:>5}  {' '.join(target)}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
