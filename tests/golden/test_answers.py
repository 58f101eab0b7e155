"""The answers to the questions that people ask about Kimi K2.5, in words, one file each.

A test fails when an answer changes. Read the difference; where the new answer is the better one, run
``pytest tests/golden --update-golden`` and commit the file. The verdict stands in the case itself: it does not change
with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from moeplan import estimate, plan
from planner.plan import Candidate, Plan, Rejection

FOLDER = Path(__file__).parent
GIB = 1 << 30


class Case(NamedTuple):
    """A question, what is known about its answer, and why that is so."""

    name: str
    ask: Callable[..., Plan]
    options: dict[str, Any]
    answer: str
    why: str


SMALL: dict[str, Any] = {"gpu_memory_utilization": 0.95, "max_model_len": 8192, "max_num_seqs": 64}
VLLM_TP8: dict[str, Any] = {"engine": "vllm", "quant": "moonshotai/int4", "tp": 8}
SMALL_PLAN: dict[str, Any] = {
    "engine": "vllm", "quant": "moonshotai/int4", "gpu_memory_utilization": 0.95, "context": "8k", "concurrency": 1,
    "max_num_seqs": 64,
}  # fmt: skip

CASES = (
    Case(
        "fp16-on-8xh100",
        estimate,
        {"gpu": "8xH100", "engine": "vllm", "quant": "fp16", "tp": 8, "gpu_memory_utilization": 0.9},
        "no",
        "2,054 GB of weights against 8 x 85.5 GB: three times too much for the article's machine.",
    ),
    Case(
        "int4-on-2xh100-without-offload",
        plan,
        {"gpu": "2xH100", "quant": "moonshotai/int4"},
        "no",
        "595 GB against 171 GB. Without RAM to offload to no engine starts it.",
    ),
    Case(
        "int4-on-8xa100-at-0.90",
        estimate,
        {"gpu": "8xA100-80", "gpu_memory_utilization": 0.9, **VLLM_TP8},
        "no",
        "72 GiB of weights per GPU leave nothing of 0.9 x 79 GiB for activation, graphs and KV cache.",
    ),
    Case(
        "int4-on-8xh100-at-0.90",
        estimate,
        {"gpu": "8xH100", "gpu_memory_utilization": 0.9, **VLLM_TP8},
        "no",
        "Published start-ups fail at 0.90 and start at 0.95 with a short context and few sequences.",
    ),
    Case(
        "int4-on-8xh100-at-0.95",
        estimate,
        {"gpu": "8xH100", **SMALL, **VLLM_TP8},
        "tight",
        "Published runs start like this with about ten thousand KV tokens: within the model's range, not certain.",
    ),
    Case(
        "int4-on-8xa100-at-0.95",
        estimate,
        {"gpu": "8xA100-80", **SMALL, **VLLM_TP8},
        "tight",
        "As on H100: the A100 shows the engine the same 79 GiB.",
    ),
    Case(
        "plan-int4-on-8xh100-at-0.95",
        plan,
        {"gpu": "8xH100", **SMALL_PLAN},
        "tight",
        "The search finds what the estimate finds, and layouts that divide the KV cache.",
    ),
    Case(
        "plan-int4-on-8xa100-at-0.95",
        plan,
        {"gpu": "8xA100-80", **SMALL_PLAN},
        "tight",
        "MLA with fp8 KV has no kernel on compute capability 8.0, so the KV cache stays in bf16.",
    ),
    Case(
        "int4-on-8xh200",
        plan,
        {"gpu": "8xH200", "engine": "vllm", "quant": "moonshotai/int4"},
        "fits",
        "72 GiB of weights per GPU of 139 GiB: TP 8 with room for hundreds of thousands of tokens.",
    ),
    Case(
        "anything-on-8xh200",
        plan,
        {"gpu": "8xH200"},
        "fits",
        "The maker's own INT4 weights fit, so nothing re-quantized is proposed before them.",
    ),
    Case(
        "ud-q2-k-xl-on-4xa100-and-256gib",
        plan,
        {"gpu": "4xA100-80", "ram": "256GiB", "quant": "unsloth/UD-Q2_K_XL"},
        "fits",
        "375 GB against 4 x 80 GB and 256 GiB: experts of some layers stay in RAM.",
    ),
    Case(
        "ud-tq1-0-on-24gb-and-256gib",
        plan,
        {"gpu": "rtx-4090", "ram": "256GiB", "quant": "unsloth/UD-TQ1_0"},
        "fits",
        "240 GB in RAM, attention and a few experts on the card; no page comes from disk.",
    ),
    Case(
        "nvfp4-on-4xb200",
        plan,
        {"gpu": "4xB200", "quant": "nvidia/nvfp4"},
        "fits",
        "591 GB on four cards of 178 GiB.",
    ),
    Case(
        "int4-on-2-nodes-of-8xh100",
        plan,
        {"gpu": "8xH100", "nodes": 2, "network": "400Gb/s", "quant": "moonshotai/int4"},
        "fits",
        "Half the weights per node leave tens of GiB per GPU.",
    ),
    Case(
        "anything-on-m3-ultra-512gib",
        plan,
        {"gpu": "m3-ultra", "ram": "512GiB"},
        "fits",
        "Unified memory: the INT4 weights do not fit beside the system, a 3-bit quantization does; llama.cpp only.",
    ),
    Case(
        "anything-on-a-64gib-laptop",
        plan,
        {"gpu": "none", "ram": "64GiB"},
        "no",
        "The smallest release takes 210 GB; 64 GiB hold less than a third of it.",
    ),
)


def layout(candidate: Candidate) -> str:
    ranks = candidate.parallel
    words = [f"{name} {getattr(ranks, name)}" for name in ("tp", "pp", "dp", "ep", "dcp") if getattr(ranks, name) > 1]
    if candidate.settings.get("attention_data_parallel"):
        words.append("attention data parallel")
    if candidate.settings.get("layers_per_gpu"):
        words.append("layers " + "+".join(map(str, candidate.settings["layers_per_gpu"])))
    offload = candidate.offload
    if offload.cpu_expert_layers:
        words.append(f"experts of {offload.cpu_expert_layers} layers in RAM")
    if offload.disk:
        words.append(f"{offload.disk_bytes / 1e9:.0f} GB paged from disk")
    return ", ".join(words) or "one GPU or none"


def found(candidate: Candidate) -> Iterator[str]:
    weights = candidate.quantization
    tightest = min((device for device in candidate.memory.devices), key=lambda device: device.free_low_bytes)
    yield f"engine: {candidate.engine.name} {candidate.engine.version}"
    yield f"weights: {weights.publisher}/{weights.name}, {weights.bytes:,} bytes, {weights.evidence}"
    yield f"layout: {layout(candidate)}"
    yield f"KV cache: {candidate.kv_cache.dtype}, {candidate.kv_cache.tokens:,} tokens"
    yield (
        f"tightest device: {tightest.kind} {tightest.name}, {tightest.free_bytes / GIB:.2f} GiB free, "
        f"{tightest.free_low_bytes / GIB:.2f} at worst"
    )


def missed(rejection: Rejection) -> Iterator[str]:
    yield f"- {rejection.engine}, {rejection.quantization}"
    yield f"  reason: {rejection.reason}"
    if rejection.device is not None and rejection.short_by_bytes is not None:
        yield f"  device: {rejection.device}, short by {rejection.short_by_bytes / GIB:.2f} GiB"
    if rejection.remedy:
        yield f"  remedy: {rejection.remedy}"


def answered(case: Case, result: Plan) -> str:
    """The answer in words: the best candidate, or the nearest miss of every engine."""
    asked = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in case.options.items())
    best = result.candidates[0] if result.candidates else None
    lines = [
        f"asked: {case.ask.__name__} kimi-k2.5 {asked}",
        f"hardware: {result.hardware.description}",
        f"answer: {best.verdict if best else 'no'}",
        f"because: {case.why}",
    ]
    if best is not None:
        lines += found(best)
    nearest: dict[str, Rejection] = {}
    for rejection in result.rejected:
        nearest.setdefault(rejection.engine, rejection)
    if best is None:
        lines.append("nearest:")
        for rejection in nearest.values():
            lines += missed(rejection)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_the_one_written_down(case: Case, update_golden: bool) -> None:
    result = case.ask("kimi-k2.5", **case.options)
    answer = result.candidates[0].verdict if result.candidates else "no"
    assert answer == case.answer, case.why
    text = answered(case, result)
    path = FOLDER / f"{case.name}.txt"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path.name} is missing: run pytest tests/golden --update-golden"
    assert text == path.read_text(encoding="utf-8")


def test_every_answer_belongs_to_a_question() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {case.name for case in CASES}
