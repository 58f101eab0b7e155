"""The kernels of Kimi K2.5 on one GPU: `python benchmarks/gpu_suite.py --engine-python VLLM -o FILE`.

Experts in INT4, FP8 and bf16 over the tokens of a step, whole and as one of eight ranks; MLA decode over batch and
context; projections; pinned copies. Every provider runs every case that it can, not only the best one: the point is to
compare them. Run with the interpreter that has torch and triton. It has not been run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hwdetect.bench import suite  # noqa: E402
from hwdetect.bench.case import KernelCase, kernel_case  # noqa: E402
from hwdetect.bench.providers import PROVIDERS  # noqa: E402
from hwdetect.bench.result import BenchRow, NotMeasured  # noqa: E402
from hwdetect.bench.suite import Settings  # noqa: E402

TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
SEQUENCES = (1, 8, 32, 128)
CONTEXTS = (1024, 8192, 32768, 131072)
FORMATS = ("int4_g32", "fp8_block128", "bf16")
MODEL = {"experts": 384, "experts_total": 384, "top_k": 8, "hidden": 7168}


def cases() -> list[KernelCase]:
    """Everything that is measured, by series."""
    found = [kernel_case("host_to_device", "bf16", bytes=256 << 20)]
    for inter in (2048, 256):
        for fmt in FORMATS:
            found += [kernel_case("grouped_moe", fmt, batch=tokens, inter=inter, **MODEL) for tokens in TOKENS]
    for heads in (64, 8):
        for sequences in SEQUENCES:
            found += [
                kernel_case(
                    "mla_decode", "bf16", batch=sequences, context=context, heads=heads, kv_lora=512, rope=64, nope=128,
                    v=128,
                )
                for context in CONTEXTS
            ]  # fmt: skip
    for out, columns in ((2112, 7168), (12288, 1536), (7168, 8192), (36864, 7168)):
        found += [kernel_case("dense", "bf16", batch=tokens, in_=columns, out=out) for tokens in TOKENS]
    return found


def measured(settings: Settings) -> tuple[list[BenchRow], list[NotMeasured]]:
    """Rows of each provider by itself, so that none hides another."""
    rows: list[BenchRow] = []
    missing: list[NotMeasured] = []
    wanted = cases()
    for kernel in dict.fromkeys(case.kernel for case in wanted):
        known = PROVIDERS.get(kernel, ())
        for provider in known:
            PROVIDERS[kernel] = (provider,)
            outcome = suite.run([case for case in wanted if case.kernel == kernel], settings)
            rows += outcome.rows
            missing += outcome.missing
            print(f"{provider.name}, {kernel}: {len(outcome.rows)} measured, {len(outcome.missing)} not", flush=True)
            if outcome.ended == "interrupted":
                return rows, missing
        PROVIDERS[kernel] = known
    return rows, missing


def main() -> None:
    """Measure, and write the rows as data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine-python", action="append", default=[], help="interpreter of an installed vLLM")
    parser.add_argument("--nominal-bytes-per-s", type=float, help="the datasheet's memory bandwidth")
    parser.add_argument("--nominal-flops-per-s", type=float, help="the datasheet's dense bf16 rate")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    settings = Settings(
        pythons=(sys.executable,), engine_pythons=tuple(args.engine_python), seconds=args.seconds,
        nominal_bytes_per_s=args.nominal_bytes_per_s, nominal_flops_per_s=args.nominal_flops_per_s,
    )  # fmt: skip
    rows, missing = measured(settings)
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "rows": [row.model_dump(mode="json") for row in rows],
        "not_measured": [one.model_dump(mode="json") for one in missing],
    }
    args.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
