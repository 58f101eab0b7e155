"""The same question to aiconfigurator and to this planner: layouts for Kimi K2.5 on 8x H200 under the same bounds.

Run: ``python -m benchmarks.peer [--peer PROGRAM]``. The peer is an optional program of its own environment
(``pip install aiconfigurator``); without it only our half is printed. Both choose the layouts with the most output
tokens per second of a GPU at 4,000 tokens in and 1,000 out, first token within 2 s, 50 ms a token.
"""

from __future__ import annotations

import argparse
import csv
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from planner.build import build_request
from planner.hardware import describe, machine_of
from planner.options import Options
from planner.search import search
from planner.speed import speed_of
from profiles.library import load_model

MODEL: Final = "kimi-k2.5"
INPUT, OUTPUT, TTFT_S, TPOT_S = 4000, 1000, 2.0, 0.05
CONCURRENCIES: Final = (8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 112, 128, 160, 192, 224, 256)
SHOWN: Final = 5


class Answer(NamedTuple):
    """A layout under the bounds."""

    layout: str
    concurrency: int
    per_gpu: float
    tpot_ms: float
    ttft_ms: float


def main() -> int:
    """Print both answers and their CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="aiconfigurator", help="the peer's program")
    program = shutil.which(parser.parse_args().peer)
    start = time.process_time()
    ours = _ours()
    _print("moeplan", ours, time.process_time() - start)
    if program is None:
        print("aiconfigurator is not installed")
        return 0
    theirs, seconds = _theirs(program)
    _print("aiconfigurator", theirs, seconds)
    return 0


def _print(name: str, answers: list[Answer], seconds: float) -> None:
    print(f"\n{name}: {seconds:.2f} CPU s\n{'layout':28}{'requests':>9}{'tok/s/GPU':>11}{'ms/token':>10}{'TTFT ms':>9}")
    for one in answers:
        print(f"{one.layout:28}{one.concurrency:>9}{one.per_gpu:>11.1f}{one.tpot_ms:>10.1f}{one.ttft_ms:>9.0f}")


def _ours() -> list[Answer]:
    """The best concurrency of every layout with vLLM and the maker's weights that holds the bounds."""
    options = Options(
        MODEL, gpu=("8xH200",), engine="vllm", quant="int4", kv_dtype="bf16", input_tokens=str(INPUT),
        output_tokens=str(OUTPUT), context="8k", concurrency="8",
    )  # fmt: skip
    request = build_request(options, load_model(MODEL), machine_of(describe(options), "flags"), exact=False)
    best: list[Answer] = []
    for found in search(request).found:
        config = found.priced.config
        layout = " ".join([f"{n}{getattr(config, n)}" for n in ("tp", "pp", "dp", "ep", "dcp")])
        answers = []
        for concurrency in CONCURRENCIES:
            speed = speed_of(request, found.release, found.priced, concurrency)
            if speed.ttft_s[1] <= TTFT_S and speed.tpot_s[1] <= TPOT_S:
                per_gpu = speed.decode_total[1] / config.world
                answers.append(Answer(layout, concurrency, per_gpu, speed.tpot_s[1] * 1e3, speed.ttft_s[1] * 1e3))
        best += sorted(answers, key=lambda one: -one.per_gpu)[:1]
    return sorted(best, key=lambda one: -one.per_gpu)[:SHOWN]


def _theirs(program: str) -> tuple[list[Answer], float]:
    """The peer's own table of its best layouts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                program, "cli", "default", "--model-path", "moonshotai/Kimi-K2.5", "--system", "h200_sxm",
                "--total-gpus", "8", "--backend", "vllm", "--isl", str(INPUT), "--osl", str(OUTPUT),
                "--ttft", str(TTFT_S * 1e3), "--tpot", str(TPOT_S * 1e3), "--serving-mode", "agg",
                "--top-n", str(SHOWN), "--no-color", "--save-dir", folder,
            ],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        answers = [answer for path in Path(folder).rglob("best_config_topn.csv") for answer in _read(path)]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return answers, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _read(path: Path) -> Iterator[Answer]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield Answer(
                row["parallel"], int(float(row["concurrency"])), float(row["tokens/s/gpu"]), float(row["tpot"]),
                float(row["ttft"]),
            )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
