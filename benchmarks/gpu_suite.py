"""The kernels of Kimi K2.5 on the GPUs of this machine: `python benchmarks/gpu_suite.py --engine-python VLLM -o FILE`.

Experts in INT4, FP8 and bf16 over the tokens of a step, whole and as one of eight ranks; at one and two tokens also
with the same experts each time, which then lie in the cache: what tables of warm kernels show. MLA decode over batch
and context; attention with keys and values of their own; projections; the router; a whole layer; copies; with several
GPUs all-reduce and all-to-all. Every provider runs every case that it can, not only the best one: the point is to
compare them. Run with the interpreter that has torch and triton. `--interpret` runs small shapes of all of it without a
GPU, Triton in its interpreter: the times mean nothing, but every line of this script has run. It has not been run on a
GPU yet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hwdetect.bench import suite  # noqa: E402
from hwdetect.bench.case import KernelCase, kernel_case  # noqa: E402
from hwdetect.bench.layer import layer_parts, layer_sums  # noqa: E402
from hwdetect.bench.providers import PROVIDERS, Provider  # noqa: E402
from hwdetect.bench.result import BenchRow, NotMeasured  # noqa: E402
from hwdetect.bench.suite import Settings  # noqa: E402
from hwdetect.bench.workers.serve import cpu_device  # noqa: E402

FORMATS = ("int4_g32", "fp8_block128", "bf16")
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
WARM_TOKENS = (1, 2)
FULL: dict[str, Any] = {
    "tokens": TOKENS, "sequences": (1, 8, 32, 128), "contexts": (1024, 8192, 32768, 131072), "prompts": (512, 4096),
    "model": {"experts": 384, "experts_total": 384, "top_k": 8, "hidden": 7168}, "inter": (2048, 256),
    "heads": (64, 8), "latent": {"kv_lora": 512, "rope": 64, "nope": 128, "v": 128},
    "grouped": {"heads": 64, "kv_heads": 8, "head": 128, "v": 128},
    "dense": ((2112, 7168), (12288, 1536), (7168, 8192), (36864, 7168)), "copy": 256 << 20,
    "layer": {"q_lora": 1536, "inter": 2048, "shared": 2048},
}  # fmt: skip
SMALL: dict[str, Any] = {
    "tokens": (1, 3), "sequences": (1, 2), "contexts": (48,), "prompts": (20,),
    "model": {"experts": 6, "experts_total": 6, "top_k": 2, "hidden": 256}, "inter": (128,), "heads": (4,),
    "latent": {"kv_lora": 64, "rope": 32, "nope": 32, "v": 32},
    "grouped": {"heads": 4, "kv_heads": 2, "head": 32, "v": 32}, "dense": ((96, 128),), "copy": 1 << 20,
    "layer": {"q_lora": 128, "inter": 128, "shared": 128},
}  # fmt: skip
PACKAGES = ("torch", "triton", "vllm", "sglang", "flashinfer-python", "sgl-deep-gemm", "sgl-flash-mla", "numpy")
VERSIONS = """
import json, sys
from importlib.metadata import version, PackageNotFoundError
found = {"python": sys.version.split()[0]}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def cases(shapes: dict[str, Any], gpus: int) -> list[KernelCase]:
    """Everything that is measured, by series."""
    model, latent, hidden = shapes["model"], shapes["latent"], shapes["model"]["hidden"]
    found = [kernel_case("host_to_device", "bf16", bytes=shapes["copy"])]
    if gpus > 1:
        found.append(kernel_case("gpu_to_gpu", "bf16", bytes=shapes["copy"]))
    for inter in shapes["inter"]:
        for fmt in FORMATS:
            found += [kernel_case("grouped_moe", fmt, tokens, inter=inter, **model) for tokens in shapes["tokens"]]
    for heads in shapes["heads"]:
        for batch in shapes["sequences"]:
            found += [
                kernel_case("mla_decode", "bf16", batch, context, heads=heads, **latent)
                for context in shapes["contexts"]
            ]  # fmt: skip
        found += [kernel_case("mla_prefill", "bf16", prompt, heads=heads, **latent) for prompt in shapes["prompts"]]
    for batch in shapes["sequences"]:
        found += [
            kernel_case("gqa_decode", "bf16", batch, context, **shapes["grouped"]) for context in shapes["contexts"]
        ]
    found += [kernel_case("gqa_prefill", "bf16", prompt, **shapes["grouped"]) for prompt in shapes["prompts"]]
    for out, columns in shapes["dense"]:
        for fmt in ("bf16", "fp8_block128"):
            found += [kernel_case("dense", fmt, tokens, in_=columns, out=out) for tokens in shapes["tokens"]]
    router = {name: model[name] for name in ("experts", "hidden", "top_k")}
    found += [kernel_case("router", "bf16", tokens, **router) for tokens in shapes["tokens"]]
    for kernel in ("all_reduce", "all_to_all"):
        if gpus > 1:
            found += [kernel_case(kernel, "bf16", tokens, hidden=hidden, ranks=gpus) for tokens in shapes["tokens"]]
    layer = {**router, **latent, **shapes["layer"], "heads": shapes["heads"][0], "gpu": 1}
    for batch in shapes["sequences"]:
        whole = kernel_case("decode_layer", "int4_g32+bf16", batch, shapes["contexts"][0], **layer)
        found += [*layer_parts(whole), whole]
    return list(dict.fromkeys(found))


def measured(wanted: list[KernelCase], settings: Settings) -> tuple[list[BenchRow], list[NotMeasured], bool]:
    """Rows of each provider by itself, so that none hides another, and whether all was done."""
    rows: list[BenchRow] = []
    missing: list[NotMeasured] = []
    for kernel in dict.fromkeys(case.kernel for case in wanted):
        known: tuple[Provider, ...] = PROVIDERS.get(kernel, ())
        try:
            for provider in known:
                PROVIDERS[kernel] = (provider,)
                outcome = suite.run([case for case in wanted if case.kernel == kernel], settings)
                rows += outcome.rows
                missing += outcome.missing
                print(
                    f"{provider.name}, {kernel}: {len(outcome.rows)} measured, {len(outcome.missing)} not", flush=True
                )
                if outcome.ended == "interrupted":
                    return rows, missing, False
        finally:
            PROVIDERS[kernel] = known
    return rows, missing, True


def machine(pythons: list[str]) -> dict[str, Any]:
    """What ran it: GPUs and driver as nvidia-smi says, processor, system, packages of each interpreter."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv"]
        gpus = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        gpus = []
    packages = {}
    for python in dict.fromkeys(pythons):
        done = subprocess.run(
            [python, "-c", VERSIONS, *PACKAGES], capture_output=True, text=True, timeout=120, check=False
        )
        packages[Path(python).parent.parent.name] = json.loads(done.stdout) if done.returncode == 0 else None
    return {"gpus": gpus, "cpu": cpu_device(), "system": platform.platform(terse=True), "packages": packages}


def number_of_gpus(python: str) -> int:
    """As PyTorch sees them."""
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    return int(done.stdout) if done.returncode == 0 else 0


def main() -> None:
    """Measure, and write the rows as data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine-python", action="append", default=[], help="interpreter of a vLLM or an SGLang")
    parser.add_argument("--nominal-bytes-per-s", type=float, help="the datasheet's memory bandwidth")
    parser.add_argument("--nominal-flops-per-s", type=float, help="the datasheet's dense bf16 rate")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--interpret", action="store_true", help="small shapes without a GPU")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if args.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    settings = Settings(
        pythons=(sys.executable,), engine_pythons=tuple(args.engine_python),
        seconds=0.0 if args.interpret else args.seconds, cache_bytes=1 << 16 if args.interpret else 32 << 20,
        nominal_bytes_per_s=args.nominal_bytes_per_s, nominal_flops_per_s=args.nominal_flops_per_s,
    )  # fmt: skip
    shapes = SMALL if args.interpret else FULL
    wanted = cases(shapes, 2 if args.interpret else number_of_gpus(sys.executable))
    rows, missing, done = measured(wanted, settings)
    warm: list[BenchRow] = []
    if done:
        few = [case for case in wanted if case.kernel == "grouped_moe" and case.batch in WARM_TOKENS]
        print("the same experts each time:", flush=True)
        warm, missing_warm, done = measured(few, replace(settings, warm=True))
        missing += missing_warm
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine([sys.executable, *args.engine_python]),
        "interpreted": args.interpret,
        "complete": done,
        "rows": [row.model_dump(mode="json") for row in rows],
        "warm_rows": [row.model_dump(mode="json") for row in warm],
        "layers": [layer.model_dump(mode="json") for layer in layer_sums(rows)],
        "not_measured": [one.model_dump(mode="json") for one in missing],
    }
    args.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
