"""How many candidates a search prices and times per second on one core, and what a whole plan costs.

Run: ``python -m benchmarks.search``. A candidate counts once: engine, release, ranks, KV dtype, placement and offload
make it another one, its settings do not. Every repeat builds its request anew, so that nothing is remembered from the
last. Times are CPU seconds of this process; prints a table with what similar programs need beside it.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from planner.build import build_request
from planner.engines.base import Priced
from planner.hardware import describe, machine_of
from planner.options import Options
from planner.request import PricedRelease, Request
from planner.search import Outcome, search
from profiles.library import load_model

REPOSITORY: Final = Path(__file__).parents[1]
MODEL: Final = "kimi-k2.5"
PLAN: Final = (sys.executable, "-m", "moeplan", "plan", MODEL, "--gpu", "8xH200", "--json")
PEER_RATE: Final = "aiconfigurator 0.12.0: about 200 per second (8xH200, vLLM)"
PEER_PLAN: Final = "aiconfigurator 0.12.0: 13.5 (vLLM) and 23.1 (SGLang)"


class Machine(NamedTuple):
    """Hardware to search, by its options."""

    name: str
    options: Options
    peers: str = ""


MACHINES: Final = (
    Machine("8xH200", Options(MODEL, gpu=("8xH200",)), PEER_RATE),
    Machine("2 x 8xH100", Options(MODEL, gpu=("8xH100",), nodes="2")),
    Machine("4xA100-80 + 256 GiB", Options(MODEL, gpu=("4xA100-80",), ram="256GiB")),
)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"{'machine':22}{'distinct':>10}{'CPU s':>9}{'per s':>9}  peers, per core")
    for machine in MACHINES:
        outcome, seconds = _searched(machine.options, repeats)
        count = len(distinct_keys(outcome))
        print(f"{machine.name:22}{count:>10,}{seconds:>9.3f}{count / seconds:>9,.0f}  {machine.peers}")
    seconds = _median(_plan_cpu_s, repeats)
    print(f"\nmoeplan plan {MODEL} --gpu 8xH200 --json: {seconds:.2f} CPU s  {PEER_PLAN}")
    return 0


def distinct_keys(outcome: Outcome) -> set[tuple[object, ...]]:
    """Keys of the candidates that were priced; refusals, which cost nothing, are left out."""
    priced = [(found.release, found.priced) for found in outcome.found]
    priced += [(miss.release, miss.priced) for miss in outcome.missed if miss.priced is not None]
    return {candidate_key(release, candidate) for release, candidate in priced}


def candidate_key(release: PricedRelease, priced: Priced) -> tuple[object, ...]:
    """What makes a candidate another one."""
    config, files = priced.config, release.release
    return (
        config.engine, files.publisher, files.quantization, files.release,
        config.group.gpu.key if config.group is not None else None,
        config.tp, config.pp, config.dp, config.ep, config.dcp, config.attention_dp, config.kv_dtype,
        config.placement, config.gpu_order, config.cpu_expert_layers, config.gpu_experts_per_layer,
        bool(config.disk_bytes),
    )  # fmt: skip


def _request(options: Options) -> Request:
    return build_request(options, load_model(options.model), machine_of(describe(options), "flags"), exact=False)


def _searched(options: Options, repeats: int) -> tuple[Outcome, float]:
    """The last outcome, and the median CPU seconds of request and search together."""
    outcome = search(_request(options))

    def once() -> float:
        start = time.process_time()
        search(_request(options))
        return time.process_time() - start

    return outcome, _median(once, repeats)


def _plan_cpu_s() -> float:
    """CPU seconds, user and system, of one call of the program."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        PLAN, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _median(sample: Callable[[], float], repeats: int) -> float:
    return statistics.median([sample() for _ in range(repeats)])


if __name__ == "__main__":
    raise SystemExit(main())
