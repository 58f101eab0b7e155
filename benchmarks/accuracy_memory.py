"""The memory sections of docs/accuracy.md: weights and KV cache per GPU beside published start-ups."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from moeplan import estimate  # noqa: E402
from planner.errors import BadRequest, Undetermined  # noqa: E402
from planner.plan import Candidate, DeviceMemory, Memory, Plan, Rejection  # noqa: E402

GIB: Final = 1 << 30
MEASURED: Final = ROOT / "profiles" / "measured" / "memory.json"
CONFIGS: Final = ROOT / "tests" / "profiles" / "data" / "configs"
MODELS: Final = {
    "deepseek-r1": "deepseek-r1",
    "deepseek-v3": "deepseek-v3",
    "qwen3-235b-a22b-fp8": f"{CONFIGS}/Qwen3-235B-A22B-FP8.json",
    "qwen3-30b-a3b": f"{CONFIGS}/Qwen3-30B-A3B.json",
    "qwen3-32b": f"{CONFIGS}/Qwen3-32B.json",
    "llama-3.1-8b": f"{CONFIGS}/Meta-Llama-3.1-8B.json",
    "llama-3.3-70b-instruct-fp8-dynamic": f"{CONFIGS}/Llama-3.3-70B-Instruct-FP8-dynamic.json",
    "mixtral-8x7b": f"{CONFIGS}/Mixtral-8x7B-v0.1.json",
    "gpt-oss-120b": f"{CONFIGS}/gpt-oss-120b.json",
    "kimi-k2.5": "kimi-k2.5",
}
GPUS: Final = {
    "AMD MI308X": "mi300x", "H100-80GB": "H100", "H100 80GB": "H100", "H100 80GB (79.18 GiB)": "H100",
    "RTX 4090 48GB class (total VRAM)": "L40S", "48GB-class CUDA GPU": "L40S",
}  # fmt: skip
"""The GPU that a row is priced for. The MI308X has an MI300X's memory; the last two rows name a class only."""
UNDATED: Final = {"2025-07": "0.9.2", "2026-02": "0.7.2", "2026-01": "0.7.2"}
"""Versions of rows that give only a month: the release of that time, or for KTransformers the one that is read."""
UNLIKE: Final = {
    "r1-gguf-vllm-16x3090": "GGUF in vLLM's V0 engine is not planned",
    "k2-kt-q4km": "GGUF in KTransformers 0.3 is not planned",
    "v3-kt-q4km": "GGUF in KTransformers 0.2 is not planned",
    "v32-kt-int4": "INT4 experts of this model are not a published release",
    "v3-int8-kt-tp2": "AMX INT8 experts of this model are not a published release",
}
"""Rows that cannot be priced, and why."""


class Row(NamedTuple):
    """One comparison, GiB."""

    engine: str
    hardware: str
    case: str
    term: str
    measured: float
    low: float
    expected: float
    high: float

    @property
    def error(self) -> float:
        """Expected minus measured."""
        return self.expected - self.measured


def rows_of_file() -> list[dict[str, Any]]:
    """Every published measurement of memory."""
    rows: list[dict[str, Any]] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return rows


def compared() -> tuple[list[Row], list[tuple[str, str]]]:
    """Every comparison, and the measurements that cannot be compared with the reason."""
    rows: list[Row] = []
    left: list[tuple[str, str]] = []
    for measurement in rows_of_file():
        if measurement["engine"] in ("ik_llama.cpp", "llama.cpp server"):
            continue
        reason = _add(measurement, rows)
        if reason:
            left.append((_case(measurement), reason))
    return list(dict.fromkeys(rows)), list(dict.fromkeys(left))


def _add(measurement: dict[str, Any], rows: list[Row]) -> str:
    why = UNLIKE.get(measurement["id"], "")
    if why:
        return why
    if measurement.get("quantization"):
        return f"--quantization {measurement['quantization']} quantizes at loading, which is not planned"
    if measurement.get("dtype", "bfloat16") == "float32":
        return "--dtype float32 doubles the checkpoint, which is not planned"
    if measurement.get("status") == "failed":
        return "the log ends before the KV cache is sized"
    result = priced(measurement)
    if isinstance(result, str):
        return result
    memory, pool = result.memory, result.kv_cache
    assert memory is not None
    assert pool is not None
    found = list(_terms(measurement, memory))
    budget = _measured_budget(measurement)
    if budget is not None:
        found.append((
            "KV cache", budget, pool.budget_low_bytes_per_rank / GIB, pool.budget_bytes_per_rank / GIB,
            pool.budget_high_bytes_per_rank / GIB,
        ))  # fmt: skip
    engine, hardware, case = measurement["engine"], f"{measurement['n_gpu']}x {measurement['gpu']}", _case(measurement)
    rows += [Row(engine, hardware, case, *numbers) for numbers in found]
    return "" if found else "the measurement has no term that is compared"


def _terms(measurement: dict[str, Any], memory: Memory) -> Iterator[tuple[str, float, float, float, float]]:
    """Weights, activation, memory outside PyTorch and all of a GPU, where they were measured."""
    measured = measurement["measured"]
    gpus = [device for device in memory.devices if device.kind == "gpu"]
    fullest = max(gpus, key=lambda device: device.weights_bytes)
    last = gpus[-1]
    loaded = measured.get("weights_gib") or measured.get("weight_gib") or measured.get("load_weight_mem_usage_gb")
    if loaded is not None:
        yield ("weights", loaded, *_sum(fullest, lambda entry: entry.kind == "weights"))
    activation = measured.get("torch_peak_increase_gib") or measured.get("peak_activation_gib")
    if activation is not None:
        yield ("activation", activation, *_sum(last, lambda entry: entry.what in ACTIVATION))
    outside = measured.get("non_torch_forward_gib") or measured.get("non_torch_gib")
    if outside is not None:
        yield ("outside PyTorch", outside, *_sum(last, lambda entry: entry.what == "memory outside PyTorch"))
    whole = measured.get("total_vram_gb_approx")
    if whole is not None:
        yield ("all of the GPU", whole * 1e9 / GIB, *_sum(fullest, lambda entry: True))


ACTIVATION: Final = ("peak activation", "vision profile run")


def _sum(device: DeviceMemory, wanted: Any) -> tuple[float, float, float]:  # noqa: ANN401
    entries = [entry for entry in device.ledger if wanted(entry)]
    return (
        sum(entry.low_bytes for entry in entries) / GIB,
        sum(entry.bytes for entry in entries) / GIB,
        sum(entry.high_bytes for entry in entries) / GIB,
    )


def _measured_budget(measurement: dict[str, Any]) -> float | None:
    """The KV cache of the rank that has the least, as vLLM takes it for all; SGLang prints keys and values apart."""
    measured = measurement["measured"]
    ranks = measured.get("per_rank_nonkv_act_nontorch_weights")
    if ranks:
        return float(measured["requested_gib"]) - max(float(rank[0]) for rank in ranks)
    if "k_size_gb" in measured:
        return float(measured["k_size_gb"]) + float(measured["v_size_gb"])
    value = measured.get("available_kv_cache_gib")
    return None if value is None else float(value)


def priced(measurement: dict[str, Any]) -> Candidate | Rejection | str:
    """The estimate of a measured configuration, or why there is none."""
    name = measurement["model"].split("/")[-1].lower()
    model = next((ours for theirs, ours in MODELS.items() if name.startswith(theirs)), None)
    if model is None:
        return "no configuration of this model is at hand"
    settings = measurement.get("settings", {})
    count = measurement["n_gpu"]
    utilization = measurement.get("gpu_memory_utilization") or settings.get("gpu_memory_utilization")
    given: dict[str, Any] = {
        "gpu": [f"{min(count, 8)}x{GPUS.get(measurement['gpu'], measurement['gpu'])}"],
        "nodes": max(count // 8, 1),
        "engine": {"vLLM": "vllm", "SGLang": "sglang"}.get(measurement["engine"], "ktransformers"),
        "engine_version": _version(measurement["engine_version"]),
        "context": measurement.get("max_model_len") or measurement.get("context") or 16384,
        "gpu_memory_utilization": str(utilization or settings.get("mem_fraction_static") or "").split(" ")[0] or None,
    }
    if given["engine"] == "ktransformers":
        given |= {"ram": "1TiB", "cpu": "2xepyc-9004", "gpu_memory_utilization": None}
    given |= {key: value for key, value in measurement["parallel"].items() if value and key in ("tp", "pp", "dp", "ep")}
    if measurement.get("kv_cache_dtype", "auto") != "auto":
        given["kv_dtype"] = measurement["kv_cache_dtype"]
    try:
        plan: Plan = estimate(model, **given)
    except (BadRequest, Undetermined) as error:
        return str(error).partition("; known:")[0]
    if plan.candidates:
        return plan.candidates[0]
    rejection = plan.rejected[0]
    return rejection if rejection.memory is not None else rejection.reason


def _version(text: str) -> str:
    """The version of a row; of an era, its first."""
    if text in UNDATED:
        return UNDATED[text]
    return "".join(character for character in text.split("-")[0] if character.isdigit() or character == ".")


def _case(measurement: dict[str, Any]) -> str:
    layout = " ".join(f"{name}{ranks}" for name, ranks in measurement.get("parallel", {}).items() if ranks)
    return f"{measurement['model'].split('/')[-1]}, {layout or 'one GPU'}, {measurement['engine_version']}"


def summary(rows: list[Row]) -> list[str]:
    """Errors by engine, hardware and term."""
    lines = [
        "| engine | GPU | term | rows | mean absolute error, GiB | worst, GiB | median, % | worst, % | in range |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    kinds = dict.fromkeys((row.engine, row.hardware.partition(" ")[2], row.term) for row in rows)
    for engine, gpu, term in sorted(kinds):
        members = [row for row in rows if (row.engine, row.hardware.partition(" ")[2], row.term) == (engine, gpu, term)]
        errors = sorted(abs(row.error) for row in members)
        relative = sorted(abs(row.error / row.measured) for row in members if row.measured)
        inside = sum(row.low - 0.005 <= row.measured <= row.high + 0.005 for row in members)
        lines.append(
            f"| {engine} | {gpu} | {term} | {len(members)} | {sum(errors) / len(errors):.2f} | {errors[-1]:.2f} | "
            f"{relative[len(relative) // 2]:.1%} | {relative[-1]:.1%} | {inside} of {len(members)} |"
        )
    return lines


def memory_sections() -> list[str]:
    """The memory part of the document."""
    rows, left = compared()
    lines = ["## Memory per GPU", "", *summary(rows), ""]
    for term in dict.fromkeys(row.term for row in rows):
        lines += [f"### {term[0].upper()}{term[1:]}", ""]
        lines += ["| case | GPU | engine | measured, GiB | predicted, GiB | error |", "|---|---|---|--:|--:|--:|"]
        for row in rows:
            if row.term == term:
                exact = row.low == row.expected == row.high
                predicted = f"{row.expected:.2f}" if exact else f"{row.low:.2f} - {row.expected:.2f} - {row.high:.2f}"
                where = f"| {row.case} | {row.hardware} | {row.engine} "
                lines.append(f"{where}| {row.measured:.2f} | {predicted} | {row.error:+.2f} |")
        lines.append("")
    if left:
        lines += ["### Published and not compared", "", "| case | why |", "|---|---|"]
        lines += [f"| {case} | {reason} |" for case, reason in left]
        lines.append("")
    return lines
