"""What a call of ``moeplan`` costs before it does anything, and what a whole plan costs.

Run: ``python -m benchmarks.startup``. Prints a table of CPU seconds (user and system, of a fresh process), the median
of several runs, and beside it what was measured of similar programs; exits with 1 where ``--help`` takes over
``HELP_LIMIT_S`` more than bare Python does.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

HELP_LIMIT_S: Final = 0.05
REPOSITORY: Final = Path(__file__).parents[1]
MODULE: Final = ("-m", "moeplan")
PLAN: Final = ("plan", "kimi-k2.5", "--gpu", "8xH200")
ESTIMATE: Final = ("estimate", "kimi-k2.5", "--gpu", "8xH200", "--engine", "vllm", "--tp", "8")


class Case(NamedTuple):
    """One call of the interpreter."""

    name: str
    argv: tuple[str, ...]
    peers: str = ""


CASES: Final = (
    Case("python -c pass", ("-c", "pass")),
    Case("--help", (*MODULE, "--help"), "aiconfigurator 0.89, llm-d-planner 0.9, llmfit is a Rust binary"),
    Case("plan --help", (*MODULE, "plan", "--help")),
    Case("estimate --json", (*MODULE, *ESTIMATE, "--json"), "aiconfigurator estimate, one point 3.0"),
    Case("plan --json", (*MODULE, *PLAN, "--json")),
    Case("plan", (*MODULE, *PLAN)),
)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    medians: dict[str, float] = {}
    print(f"{'CPU seconds':20}{'median':>9}{'lowest':>9}{'highest':>9}  peers, CPU seconds")
    for case in CASES:
        # The first run reads from disk and writes byte code.
        cpu_seconds(case)
        runs = [cpu_seconds(case) for _ in range(repeats)]
        medians[case.name] = statistics.median(runs)
        print(f"{case.name:20}{medians[case.name]:9.3f}{min(runs):9.3f}{max(runs):9.3f}  {case.peers}".rstrip())
    added = medians["--help"] - medians["python -c pass"]
    print(f"--help takes {added * 1e3:.0f} ms more than bare Python; {HELP_LIMIT_S * 1e3:.0f} ms are allowed")
    return 0 if added <= HELP_LIMIT_S else 1


def cpu_seconds(case: Case) -> float:
    """User and system time of one process. Raises ``CalledProcessError`` where it fails."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *case.argv], check=True, capture_output=True, cwd=REPOSITORY, env=kept)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
