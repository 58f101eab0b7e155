"""Runs inside a process of its own: decodes random tokens with llama.cpp, prints CPU seconds of each as JSON.

Weights lie as llama.cpp lays them by default (repacked where it can). The arguments are a JSON object: ``path``,
``prompt`` (tokens before what is timed), ``tokens`` (timed), ``threads``, ``seed``.
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support import llama_cpp_worker as llama

WARM_UP = 4


def main() -> None:
    """Load, decode, print."""
    asked = json.loads(sys.argv[1])
    library = llama._library()
    model = llama._load(library, asked["path"], no_alloc=False, repack=True)
    vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    room = asked["prompt"] + WARM_UP + asked["tokens"]
    context = llama._context(
        library, model, n_ctx=room, n_threads=asked["threads"], n_threads_batch=asked["threads"]
    )  # fmt: skip
    draw = random.Random(asked["seed"])

    def decode(count: int) -> None:
        step = (ctypes.c_int32 * count)(*[draw.randrange(vocabulary) for _ in range(count)])
        status = library.llama_decode(context, library.llama_batch_get_one(step, count))
        if status != 0:
            raise SystemExit(f"llama_decode returned {status}")

    if asked["prompt"]:
        decode(asked["prompt"])
    for _ in range(WARM_UP):
        decode(1)
    cpu, wall = [], []
    for _ in range(asked["tokens"]):
        began, began_cpu = time.perf_counter(), time.process_time()
        decode(1)
        # Results are awaited by whoever reads them.
        library.llama_get_logits_ith(context, -1)
        cpu.append(time.process_time() - began_cpu)
        wall.append(time.perf_counter() - began)
    print(json.dumps({"cpu_s": cpu, "wall_s": wall}))


if __name__ == "__main__":
    main()
