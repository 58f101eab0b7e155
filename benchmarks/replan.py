"""What another plan costs in a program that is running, as in ``moeplan tui`` when a knob was turned.

Run: ``python -m benchmarks.replan``. The machine is planned once, then each knob is turned away and back a few times;
a line has the median CPU milliseconds of the plans with the knob turned. The aim is under 100 ms where nothing is new
but the knob.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Final, NamedTuple

from moeplan.pipeline import plan_calibrated, read_inventory, read_model
from planner.options import Options

MODEL: Final = "kimi-k2.5"
TOP: Final = "10"
"""As many candidates as the screen lists."""


class Machine(NamedTuple):
    """Hardware to plan on, and other GPUs to turn to."""

    name: str
    options: Options
    other_gpus: tuple[str, ...]


MACHINES: Final = (
    Machine("8xH200", Options(MODEL, gpu=("8xH200",), top=TOP), ("8xH100", "8xB200", "8xA100-80")),
    Machine("4xA100-80 + 512 GiB", Options(MODEL, gpu=("4xA100-80",), ram="512GiB", top=TOP), ("4xL40S", "2xA100-80")),
    Machine("8xRTX3090 + 512 GiB", Options(MODEL, gpu=("8xRTX3090",), ram="512GiB", top=TOP), ("8xRTX4090",)),
    Machine(
        "4xRTX4090, 2xA100-80 + 512 GiB",
        Options(MODEL, gpu=("4xRTX4090", "2xA100-80"), ram="512GiB", top=TOP),
        ("2xRTX4090,2xA100-80", "2xRTX5090,2xA100-80"),
    ),
)
KNOBS: Final = {
    "context": ("64k", "128k", "16k", "96k"),
    "concurrency": ("1", "16", "5", "32"),
    "quant": ("int4", "UD-Q2_K_XL", "nvfp4", "UD-TQ1_0"),
    "engine": ("vllm", "llama.cpp", "sglang"),
    "kv_dtype": ("fp8", "bf16"),
    "objective": ("throughput", "cost", "latency"),
}


def plan_ms(options: Options) -> float:
    """CPU milliseconds of one plan in this process."""
    start = time.process_time()
    inventory, source = read_inventory(options)
    plan_calibrated(options, read_model(options.model), inventory, source)
    return (time.process_time() - start) * 1e3


def turned(machine: Machine, knob: str, repeats: int) -> float:
    """Median milliseconds of plans with the knob turned, each after the plan that it was turned from."""
    values = machine.other_gpus if knob == "gpu" else KNOBS[knob]
    found = []
    for _ in range(repeats):
        for value in values:
            plan_ms(machine.options)
            given = tuple(value.split(",")) if knob == "gpu" else value
            found.append(plan_ms(replace(machine.options, **{knob: given})))  # type: ignore[arg-type]
    return statistics.median(found)


def main() -> int:
    """Print a line for each machine, a column for each knob."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    knobs = (*KNOBS, "gpu")
    print(f"{'CPU ms':32}{'first':>8}{'again':>8}" + "".join(f"{knob:>13}" for knob in knobs))
    for machine in MACHINES:
        first = plan_ms(machine.options)
        again = statistics.median([plan_ms(machine.options) for _ in range(2 * repeats)])
        medians = "".join(f"{turned(machine, knob, repeats):13.0f}" for knob in knobs)
        print(f"{machine.name:32}{first:8.0f}{again:8.0f}{medians}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
