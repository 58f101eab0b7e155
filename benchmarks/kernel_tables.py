"""Measured kernels of aiconfigurator as data: `python -m benchmarks.kernel_tables WHEEL` renews profiles/kernels.

WHEEL is the aiconfigurator-core wheel from PyPI (Apache-2.0), whose tables hold the seconds of single kernels at many
shapes, replayed from CUDA graphs. A thinned selection is kept: the shapes of large models, powers of the batch. Needs
pyarrow. The tables' "balanced" routing hits min(experts, tokens x top_k) experts, which `distinct` states for each.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from math import exp, log
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]

from profiles.engines import version_tuple

TARGET: Final = Path(__file__).parents[1] / "profiles" / "kernels"
DATA: Final = "aiconfigurator_core/systems/data"
GPUS: Final = {
    "a100_sxm": "a100-sxm-80",
    "b200_sxm": "b200-sxm-180",
    "h100_sxm": "h100-sxm-80",
    "h200_sxm": "h200-sxm-141",
    "l40s": "l40s-48",
    "rtx_pro_6000_server": "rtx-pro-6000-server-96",
}
ENGINES: Final = ("nccl", "sglang", "vllm")
TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384)
FORMATS: Final = {
    "bfloat16": "bf16", "fp8_block": "fp8", "int4_wo": "int4", "nvfp4": "nvfp4", "w4a16_mxfp4": "mxfp4"
}  # fmt: skip
SHAPES: Final = (
    (2048, 768, 8, 128), (2880, 2880, 4, 32), (2880, 2880, 4, 128), (3072, 1536, 8, 256), (4096, 1024, 10, 512),
    (4096, 1536, 8, 128), (4096, 14336, 2, 8), (5120, 8192, 1, 128), (6144, 2048, 8, 256), (6144, 2560, 8, 160),
    (7168, 2048, 8, 384),
)  # fmt: skip
"""Hidden, expert width, top k, experts. DeepSeek-V3's is routed by groups in the tables, so that how many of its
experts are hit is not known: the one with 384 experts, alike otherwise, stands for it."""
OVERTAKEN: Final = {("b200_sxm", "vllm", "grouped_moe", "int4")}
"""Tables of a kernel that the engine no longer takes first: vLLM 0.33.0 prefers FlashInfer's on capability 10
(fused_moe/oracle/int_wna16.py), which SGLang's table holds."""
FALLING_BACK: Final = {(system, "sglang", "mla_decode", "fp8") for system in ("h100_sxm", "h200_sxm")}
"""Flash attention 3 widens an FP8 latent at 6 % of the bandwidth; an engine set up for it takes FlashMLA."""
ROWS: Final = (256, 512, 1024, 2048, 4096, 7168, 16384, 65536)
COLUMNS: Final = (256, 512, 1024, 2048, 4096, 7168, 16384)
PREFERRED: Final = ("trtllm", "marlin", "triton")
"""Of several kernels for one format, the one the engines take for these models on a GPU that has it."""


def main() -> int:
    """Write one file for each GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    wheel: Path = parser.parse_args().wheel
    TARGET.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for system, gpu in GPUS.items():
            rows = _selected([row for engine in ENGINES for row in _rows(archive, system, engine)])
            text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
            package, version = wheel.name.split("-")[:2]
            source = f"{package.replace('_', '-')} {version}, systems/data/{system}"
            head = json.dumps({"gpu": gpu, "source": source, "license": "Apache-2.0, NVIDIA"})[:-1]
            path = TARGET / f"{gpu}.json"
            path.write_text(f'{head}, "rows": [\n{text}\n]}}\n', encoding="utf-8")
            print(f"{path.name}: {len(rows)} series, {path.stat().st_size >> 10} KiB")
    return 0


def _rows(archive: zipfile.ZipFile, system: str, engine: str) -> Iterator[dict[str, Any]]:
    for name in sorted(archive.namelist()):
        parts = name.removeprefix(f"{DATA}/").split("/")
        # NCCL's tables lie by its own version.
        if not name.startswith(f"{DATA}/{system}/") or len(parts) != 5 or parts[2] != engine:
            continue
        reader = READERS.get(parts[4].removesuffix("_perf.parquet"))
        if reader is not None:
            table = parquet.read_table(io.BytesIO(archive.read(name))).to_pylist()
            for row in reader(table):
                if (system, engine, row["kernel"], row["format"]) in OVERTAKEN | FALLING_BACK:
                    continue
                version = SINCE.get((system, engine, row["kernel"], row["format"]))
                yield {"engine": engine, "version": parts[3], **({"since": version} if version else {}), **row}


def _selected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest version of each engine, and of collectives all versions; nothing that was timed outside a graph."""
    newest: dict[tuple[str, str, str], tuple[int, ...]] = {}
    fastest: dict[tuple[str, str, str], float] = {}
    for row in rows:
        key = (row["kernel"], row["format"], row["engine"])
        newest[key] = max(newest.get(key, ()), version_tuple(row["version"]))
        fastest[key] = min(fastest.get(key, 1e9), row["us"][0][1])
    kept = []
    for row in rows:
        key = (row["kernel"], row["format"], row["engine"])
        older = version_tuple(row["version"]) < newest[key]
        if older and row["kernel"] != "all_reduce" and (row["engine"], row["version"], row["format"]) not in KEPT_OLDER:
            continue
        if row["kernel"] == "dense" and fastest[key] > LAUNCHED_BY_HOST_US:
            continue
        kept.append(row)
    return kept


KEPT_OLDER: Final = {("vllm", "0.22.0", "bf16")}
"""Older tables of a kernel that engines took before the newest one: Triton's bf16 experts."""
SINCE: Final = {("b200_sxm", "sglang", "grouped_moe", "bf16"): "0.5.10"}
"""The version from which an engine takes a table's kernel, where the table is of a later one: bf16 experts through
FlashInfer came to SGLang in March 2026 (sgl-project/sglang pull request 20214 and those it names)."""
LAUNCHED_BY_HOST_US: Final = 20.0
"""A product of one token and the smallest matrix takes 2-10 us in a graph; what takes longer waits for the host."""


def _series(
    kernel: str, quantization: str, dims: dict[str, int], axis: str, points: dict[int, float]
) -> dict[str, Any]:
    """One series; ``axis`` says what the first number of a point counts, the second is microseconds.

    Points that took longer than larger ones were disturbed, they or the others: neighbours are averaged until times
    rise (isotonic regression of the logarithms).
    """
    pools: list[tuple[float, list[int]]] = []
    for at, milliseconds in sorted(points.items()):
        pools.append((log(milliseconds), [at]))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (low, left), (high, right) = pools[-2:]
            mean = (low * len(left) + high * len(right)) / (len(left) + len(right))
            pools[-2:] = [(mean, left + right)]
    us = [[at, float(f"{exp(mean) * 1e3:.3g}")] for mean, members in pools for at in members]
    return {"kernel": kernel, "format": quantization, "dims": dict(sorted(dims.items())), "axis": axis, "us": us}


def _moe(table: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    found: dict[Any, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in table:
        shape = (row["hidden_size"], row["inter_size"], row["topk"], row["num_experts"])
        tokens, tp = row["num_tokens"], row["moe_tp_size"]
        if shape not in SHAPES or row["distribution"] != "balanced" or row["moe_ep_size"] != 1 or tp > 8:
            continue
        if tokens not in TOKENS or row["moe_dtype"] not in FORMATS:
            continue
        if row["latency"] is None or row["latency"] <= 0:
            continue
        found[row["moe_dtype"], shape, tp][row["kernel_source"]][tokens] = row["latency"]
    for (dtype, (hidden, inter, top_k, experts), tp), kernels in sorted(found.items()):
        name = min(kernels, key=_preference)
        if inter % tp or len(kernels[name]) < 3:
            continue
        dims = {"experts": experts, "experts_total": experts, "top_k": top_k, "hidden": hidden, "inter": inter // tp}
        yield _series("grouped_moe", FORMATS[dtype], dims, "batch", kernels[name])


def _preference(kernel: str) -> int:
    return next((rank for rank, name in enumerate(PREFERRED) if name in kernel.lower()), len(PREFERRED))


def _gemm(table: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    found: dict[Any, dict[int, float]] = defaultdict(dict)
    for row in table:
        if row["gemm_dtype"] in FORMATS and row["n"] in ROWS and row["k"] in COLUMNS and row["m"] in TOKENS:
            known = found[row["gemm_dtype"], row["n"], row["k"]]
            known[row["m"]] = min(row["latency"], known.get(row["m"], row["latency"]))
    for (dtype, out, columns), points in sorted(found.items()):
        yield _series("dense", FORMATS[dtype], {"out": out, "in": columns}, "batch", points)


def _kv_format(name: str) -> str:
    return "fp8" if "fp8" in name else "bf16"


def _mla_decode(table: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    found: dict[Any, dict[int, float]] = defaultdict(dict)
    for row in table:
        heads, cached = row["num_heads"], row["batch_size"] * (row["isl"] + row["step"])
        if heads in (8, 16, 32, 64, 128) and row["batch_size"] in (1, 8, 64, 256):
            _keep(found[heads, row["kv_cache_dtype"]], cached, row["latency"], row["batch_size"])
    for (heads, dtype), points in sorted(found.items()):
        dims = {"heads": heads, "kv_lora": 512, "rope": 64, "nope": 128, "v": 128}
        yield _series("mla_decode", _kv_format(dtype), dims, "cached", points)


def _keep(points: dict[int, float], cached: int, latency: float, batch: int) -> None:
    """One point per power of four of cached tokens; more sequences fill the GPU better, and are what loads are."""
    power = 1
    while power * 2 < cached:
        power *= 4
    if batch > 1 or power <= 16384:
        points[power] = min(latency, points.get(power, latency)) if power in points else latency


def _gqa_decode(table: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    found: dict[Any, dict[int, float]] = defaultdict(dict)
    for row in table:
        shape = (row["num_heads"], row["num_key_value_heads"], row["head_dim"])
        if shape not in GQA or row.get("window_size") or row.get("beam_width", 1) != 1:
            continue
        cached = row["batch_size"] * (row["isl"] + row["step"])
        if row["batch_size"] in (1, 8, 64, 256):
            _keep(found[shape, row["kv_cache_dtype"]], cached, row["latency"], row["batch_size"])
    for ((heads, kv_heads, head), dtype), points in sorted(found.items()):
        dims = {"heads": heads, "kv_heads": kv_heads, "head": head, "v": head}
        yield _series("gqa_decode", _kv_format(dtype), dims, "cached", points)


GQA: Final = ((4, 1, 128), (8, 1, 64), (8, 1, 128), (16, 2, 128), (32, 4, 128), (64, 8, 64), (64, 8, 128))
"""Heads, KV heads and head width of one rank."""


def _mla_prefill(table: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    found: dict[Any, dict[int, float]] = defaultdict(dict)
    for row in table:
        alone = row["batch_size"] == 1 and not row.get("step") and row["isl"] in TOKENS
        if alone and row["num_heads"] in (8, 16, 64, 128):
            found[row["num_heads"]][row["isl"]] = row["latency"]
    for heads, points in sorted(found.items()):
        dims = {"heads": heads, "kv_lora": 512, "rope": 64, "nope": 128, "v": 128}
        yield _series("mla_prefill", "bf16", dims, "batch", points)


def _gqa_prefill(table: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    found: dict[Any, dict[int, float]] = defaultdict(dict)
    for row in table:
        shape = (row["num_heads"], row.get("num_key_value_heads", 0), row["head_dim"])
        alone = row["batch_size"] == 1 and not row.get("step") and row["isl"] in TOKENS
        if alone and shape in GQA and not row.get("window_size") and "fp8" not in row["kv_cache_dtype"]:
            found[shape][row["isl"]] = row["latency"]
    for (heads, kv_heads, head), points in sorted(found.items()):
        dims = {"heads": heads, "kv_heads": kv_heads, "head": head, "v": head}
        yield _series("gqa_prefill", "bf16", dims, "batch", points)


def _all_reduce(table: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The tables count bf16 elements of the message; a series here counts its bytes."""
    found: dict[Any, dict[int, float]] = defaultdict(dict)
    for row in table:
        if "eager" not in row["kernel_source"] and row["num_gpus"] in (2, 4, 8):
            size = 2 * row["message_size"]
            if (size.bit_length() - 1) % 2 == 0:
                known = found[row["num_gpus"]]
                known[size] = min(row["latency"], known.get(size, row["latency"]))
    for ranks, points in sorted(found.items()):
        yield _series("all_reduce", "bf16", {"ranks": ranks}, "bytes", points)


def _nccl(table: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    reduced = [row for row in table if row["op_name"] == "all_reduce" and row["nccl_dtype"] == "half"]
    yield from _all_reduce(reduced)


READERS: Final = {
    "moe": _moe,
    "gemm": _gemm,
    "generation_mla": _mla_decode,
    "generation_attention": _gqa_decode,
    "context_mla": _mla_prefill,
    "context_attention": _gqa_prefill,
    "custom_allreduce": _all_reduce,
    "nccl": _nccl,
}


if __name__ == "__main__":
    raise SystemExit(main())
