"""Predicted speed beside published runs, by regime: the sections of docs/accuracy.md that ``accuracy.py`` appends.

Rows are those of profiles/measured. The kernels come from tables that none of these deployments were measured for; what
was still taken from some of these rows (launches of prompts, shares of RAM bandwidth) is in speed.toml's source lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from moeplan.api import options_of  # noqa: E402
from planner.build import build_request  # noqa: E402
from planner.engines.base import Priced  # noqa: E402
from planner.errors import BadRequest  # noqa: E402
from planner.hardware import describe, machine_of  # noqa: E402
from planner.request import PricedRelease, Request  # noqa: E402
from planner.search import search  # noqa: E402
from planner.speed import Speed, speed_of  # noqa: E402
from profiles.library import load_model  # noqa: E402

MEASURED: Final = ROOT / "profiles" / "measured"
CONFIGS: Final = ROOT / "tests" / "profiles" / "data" / "configs"
MODELS: Final = {
    "deepseek-r1": "deepseek-r1",
    "deepseek-v3": "deepseek-v3",
    "qwen3-235b-a22b": "qwen3-235b-a22b",
    "llama-3.1-70b": "llama-3.1-70b",
    "gpt-oss-120b": f"{CONFIGS}/gpt-oss-120b.json",
    "kimi-k2-instruct": "kimi-k2",
    "kimi-k2-thinking": "kimi-k2.5",
    "kimi-k2.5": "kimi-k2.5",
    "glm-5-fp8": f"{CONFIGS}/GLM-5-FP8.json",
    "minimax-m2": f"{CONFIGS}/MiniMax-M2.5.json",
}
"""Our model of a measured one; Kimi K2 Thinking has the text tensors of K2.5, MiniMax M2.1 those of M2.5.

How the experts of M2.5 on vLLM 0.18 lay is not published; that version starts with whole ones alone.
"""
GPUS: Final = {"A100 80GB": "A100-80", "AMD MI300X": "mi300x", "H200 141GB": "H200"}
DRAFT_TOKENS: Final = 3
"""Of the runs with speculation: three steps (their notes)."""


class Case(NamedTuple):
    """One comparison: ``error`` is predicted over measured, minus one."""

    name: str
    deployment: str
    measured: float
    low: float
    expected: float
    high: float

    @property
    def error(self) -> float:
        """Expected over measured, minus one."""
        return self.expected / self.measured - 1

    @property
    def factor(self) -> float:
        """How many times too much or too little."""
        return max(self.expected / self.measured, self.measured / self.expected)

    @property
    def inside(self) -> bool:
        """Whether the measurement lies in the range."""
        return self.low <= self.measured <= self.high


def rows_of(name: str) -> list[dict[str, Any]]:
    """Measurements of one file."""
    rows: list[dict[str, Any]] = json.loads((MEASURED / name).read_text(encoding="utf-8"))
    return rows


def model_of(text: str) -> str | None:
    """Our name of a measured model."""
    name = text.split("/")[-1].lower()
    return next((ours for theirs, ours in MODELS.items() if name.startswith(theirs)), None)


def priced_one(model: str, **given: Any) -> tuple[Request, PricedRelease, Priced] | str:  # noqa: ANN401
    """The one configuration of these options, whatever its verdict, or why there is none."""
    options = options_of(model, given)
    try:
        request = build_request(options, load_model(model), machine_of(describe(options), "flags"), exact=True)
    except BadRequest as error:
        return str(error)
    outcome = search(request)
    found = [one.priced for one in outcome.found] + [miss.priced for miss in outcome.missed]
    if not found or found[0] is None:
        return outcome.missed[0].reason
    return request, request.releases[0], found[0]


def served(row: dict[str, Any]) -> Speed | str:
    """The predicted speed of a run of vLLM or SGLang."""
    model = model_of(row["model"])
    if model is None or not row.get("n_gpu"):
        return "no configuration of it is at hand"
    count = row["n_gpu"]
    version = (row.get("engine_version") or "").split(".post")[0]
    streams = row.get("effective_concurrency") or row.get("measured", {}).get("effective_concurrency")
    given: dict[str, Any] = {
        "gpu": f"{min(count, 8)}x{GPUS.get(row['gpu'], row['gpu'])}", "nodes": max(count // 8, 1),
        "engine": row["engine"].lower(), "concurrency": max(1, round(streams or row["concurrency"])),
        "input_tokens": row["isl"], "output_tokens": row["osl"], "context": max(16384, 2 * (row["isl"] + row["osl"])),
        **{name: ranks for name, ranks in row.get("parallel", {}).items() if ranks},
        **({"dcp": row["settings"]["dcp"]} if "dcp" in row.get("settings", {}) else {}),
    }  # fmt: skip
    if version.replace(".", "").isdigit() and version.count(".") > 1:
        given["engine_version"] = version
    found = priced_one(model, **given)
    if isinstance(found, str):
        return found
    request, release, priced = found
    if row.get("speculation"):
        request = replace(request, settings=replace(request.settings, draft_tokens=DRAFT_TOKENS))
    # The KV cache is the ledger's matter: how many ran at a time was measured.
    roomy = priced._replace(pool=priced.pool._replace(tokens=1 << 40))
    return speed_of(request, release, roomy)


def name_of(row: dict[str, Any]) -> tuple[str, str]:
    """The name of a run, and of its deployment (the same machine, model and engine)."""
    deployment = (
        f"{row['model'].split('/')[-1]} {row.get('quant') or row.get('precision')}, {row.get('n_gpu')}x {row['gpu']}, "
        f"{row['engine']}{', ' + row['speculation'] if row.get('speculation') else ''}"
    )
    return f"{deployment}, {row['isl']}/{row['osl']} tokens, {row['concurrency']} streams", deployment


def single_streams() -> Iterator[Case | tuple[str, str]]:
    """Time per token, milliseconds, of one request on eight GPUs."""
    for row in rows_of("speed.json"):
        measured = row["measured"].get("mean_tpot_ms")
        if measured and row["concurrency"] == 1 and row["n_gpu"] == 8:
            yield _case(row, measured, lambda speed: tuple([at * 1e3 for at in speed.tpot_s]))


def loads() -> Iterator[Case | tuple[str, str]]:
    """Tokens per second of a user, at 8k in and 1k out."""
    for row in rows_of("load.json"):
        if row.get("n_gpu") and row.get("tpot_ms") and not row.get("admission_limited"):
            yield _case(row, 1e3 / row["tpot_ms"], lambda speed: speed.decode_per_request)


def batches() -> Iterator[Case | tuple[str, str]]:
    """Output tokens per second of all requests, other lengths and engines."""
    for row in rows_of("speed.json"):
        measured = row["measured"].get("output_tok_s")
        if measured and row["concurrency"] > 1 and row["engine"] in ("vLLM", "SGLang"):
            yield _case(row, measured, _output_rate(row))


def _output_rate(row: dict[str, Any]) -> Callable[[Speed], tuple[float, ...]]:
    """Requests each take their first token's time and the others'."""

    def rate(speed: Speed) -> tuple[float, ...]:
        streams = row["measured"].get("effective_concurrency") or row["concurrency"]
        seconds = [first + (row["osl"] - 1) * each for first, each in zip(speed.ttft_s, speed.tpot_s, strict=True)]
        return tuple([streams * row["osl"] / at for at in reversed(seconds)])

    return rate


def _case(row: dict[str, Any], measured: float, value: Callable[[Speed], tuple[float, ...]]) -> Case | tuple[str, str]:
    name, deployment = name_of(row)
    speed = served(row)
    if isinstance(speed, str):
        return name, speed
    low, expected, high = value(speed)
    return Case(name, deployment, measured, low, expected, high)


class Hybrid(NamedTuple):
    """How a run with experts in RAM is asked for; ``prefill`` and ``decode`` name its measurements."""

    identity: str
    options: dict[str, Any]
    context: int = 512
    decode: str = "decode_tok_s"
    prompts: tuple[tuple[str, int], ...] = ()


SPR2: Final = {"cpu": "2xxeon-spr", "cores": 64, "ram": "1024GiB"}
DUAL_8488C: Final = {"cpu": "2xxeon-spr", "cores": 96, "ram": "2048GiB"}
EPYC_9355: Final = {"ram_bandwidth": "598GB/s", "cores": 32, "ram": "768GiB"}
TR_7965: Final = {"cpu": "tr-pro-7000", "cores": 24, "ram": "256GiB"}
ALL_LAYERS: Final = {"engine": "llama.cpp", "n_cpu_moe": 999, "context": 32768}
LAYERWISE: Final = (("prefill_tok_s_2048", 2048), ("prefill_tok_s_8192", 8192), ("prefill_tok_s_32768", 32768))
KT: Final = {"engine": "ktransformers", "max_num_batched_tokens": 32768, "context": 40960}
HYBRIDS: Final = (
    Hybrid("v3-kt021-p969", {**SPR2, **ALL_LAYERS, "gpu": "rtx-4090", "quant": "Q4_K_M"}, 969),
    Hybrid("v3-kt021-p7678", {**SPR2, **ALL_LAYERS, "gpu": "rtx-4090", "quant": "Q4_K_M"}, 7678),
    Hybrid("v3-kt02-dual", {**SPR2, **ALL_LAYERS, "gpu": "rtx-4090d-24", "quant": "Q4_K_M"}),
    Hybrid("v3-kt02-single", {"cpu": "xeon-spr", "cores": 32, "ram": "512GiB", **ALL_LAYERS, "gpu": "rtx-4090d-24",
                              "quant": "Q4_K_M"}),
    Hybrid("v3-llamacpp-6454s", {**SPR2, **ALL_LAYERS, "gpu": "rtx-4090d-24", "quant": "Q4_K_M"}),
    Hybrid("r1-kt-9274f", {"cpu": "epyc-9004", "cores": 24, "ram": "576GiB", **ALL_LAYERS, "gpu": "rtx-4090",
                           "quant": "UD-Q2_K_XL"}),
    Hybrid("r1-ik-7965wx-0", {**TR_7965, "ram_bandwidth": "237GB/s", "engine": "llama.cpp", "n_cpu_moe": 54,
                              "context": 32768, "gpu": "rtx-a6000", "quant": "UD-Q2_K_XL"}, 64),
    Hybrid("r1-ik-7965wx-8192", {**TR_7965, "ram_bandwidth": "237GB/s", "engine": "llama.cpp", "n_cpu_moe": 54,
                                 "context": 32768, "gpu": "rtx-a6000", "quant": "UD-Q2_K_XL"}, 8192),
    Hybrid("v3-lcpp-2x9355", {"cpu": "2xepyc-9005-6000", "cores": 64, "ram": "736GiB", "ram_bandwidth": "720GB/s",
                              **ALL_LAYERS, "gpu": "RTX-PRO-6000", "quant": "UD-Q4_K_XL"}),
    Hybrid("ik-d357-L804", {**TR_7965, "ram_bandwidth": "237GB/s", "engine": "llama.cpp", "n_cpu_moe": 77,
                            "context": 32768, "gpu": "rtx-a6000", "quant": "Q8_0"}, 64),
    Hybrid("ik-i629-L2220", {**EPYC_9355, "engine": "llama.cpp", "n_cpu_moe": 86, "context": 32768, "gpu": "rtx-5090",
                             "quant": "Q8_0", "ubatch": 2048}, 64),
    *(Hybrid(f"m21-kt-{count}x{gpu}",
             {**host, **KT, "gpu": f"{count}x{card}", "tp": count, "quant": "fp8", "engine": "ktransformers"}, 2048,
             "decode_tok_s_2048", LAYERWISE[1:])
      for gpu, card, host in (("4090", "rtx-4090-48-mod", DUAL_8488C),
                              ("5090", "rtx-5090", {"cpu": "2xepyc-9005-6000", "cores": 64, "ram": "1024GiB"}))
      for count in (1, 2)),
    *(Hybrid(f"k2t-kt-prefill-{count}x4090",
             {**DUAL_8488C, **KT, "gpu": f"{count}x rtx-4090-48-mod".replace(" ", ""), "tp": count, "quant": "int4"},
             2048, "", LAYERWISE)
      for count in (1, 2, 4, 8)),
)  # fmt: skip
"""Published runs whose machine is told well enough and is in the catalogue (Xeons before Ice Lake are not, nor is the
mixture of IQ3_K). KTransformers 0.2 ran GGUF files with llama.cpp's kernels."""


def hybrids() -> Iterator[Case | tuple[str, str]]:
    """Tokens per second of one request, decode and prompt, with experts in RAM or all weights there."""
    rows = {row["id"]: row for row in rows_of("speed.json")}
    for hybrid in HYBRIDS:
        row = rows[hybrid.identity]
        deployment = f"{row['model']} {row['quant']}, {row['n_gpu']}x {row['gpu']}, {row['cpu']}, {row['engine']}"
        wanted = [(hybrid.decode, hybrid.context)] if hybrid.decode else []
        for key, tokens in (*wanted, *hybrid.prompts):
            name = f"{deployment}, {'prompt of' if 'prefill' in key else 'decode at'} {tokens:,} tokens"
            model = model_of(row["model"])
            assert model is not None
            found = priced_one(model, concurrency=1, input_tokens=tokens, output_tokens=64, **hybrid.options)
            if isinstance(found, str):
                yield name, found
                continue
            speed = speed_of(*found)
            rates = speed.prefill if "prefill" in key else speed.decode_per_request
            yield Case(name, deployment, row["measured"][key], *rates)


class Regime(NamedTuple):
    """A section: what is compared, and what it should reach."""

    title: str
    unit: str
    target: str
    cases: Callable[[], Iterator[Case | tuple[str, str]]]


REGIMES: Final = (
    Regime("One stream on eight GPUs", "ms per token", "median error 15 %", single_streams),
    Regime("Speed per user under load, 8k in and 1k out", "tok/s per user", "median error 15 %", loads),
    Regime("Experts in RAM", "tok/s", "median error 25 %", hybrids),
    Regime("Other batches", "output tok/s", "median factor 1.3, 90th percentile 1.6", batches),
)


def section(regime: Regime) -> tuple[list[str], list[Case]]:
    """Lines of the document, and the cases in them."""
    results = list(regime.cases())
    cases = [one for one in results if isinstance(one, Case)]
    lines = [f"## {regime.title}", "", summary(cases, regime.target), ""]
    lines += [f"| run | measured, {regime.unit} | predicted | error | in range |", "|---|--:|--:|--:|---|"]
    for one in results:
        if isinstance(one, Case):
            predicted = f"{one.low:.3g} - {one.expected:.3g} - {one.high:.3g}"
            inside = "yes" if one.inside else "no"
            lines.append(f"| {one.name} | {one.measured:.3g} | {predicted} | {one.error:+.0%} | {inside} |")
        else:
            lines.append(f"| {one[0]} | | {one[1]} | | |")
    return [*lines, ""], cases


def summary(cases: list[Case], target: str) -> str:
    """Errors of the rows and, since a deployment with many rows would outweigh the others, of the deployments."""
    errors = sorted(abs(case.error) for case in cases)
    factors = sorted(case.factor for case in cases)
    by_deployment: dict[str, list[float]] = {}
    for case in cases:
        by_deployment.setdefault(case.deployment, []).append(abs(case.error))
    each = [median(found) for found in by_deployment.values()]
    ninth = min(len(cases) - 1, -(-9 * len(cases) // 10) - 1)
    inside = sum(case.inside for case in cases)
    width = median([case.high / case.low for case in cases])
    return (
        f"{len(cases)} runs of {len(each)} deployments: median error {median(errors):.1%} (of the deployments' "
        f"medians {median(each):.1%}), 90th percentile {errors[ninth]:.1%}; median factor {median(factors):.2f}, "
        f"90th percentile {factors[ninth]:.2f}. {inside} of {len(cases)} lie in the range, whose median high / low "
        f"is {width:.2f}. Aim: {target}."
    )


def sections() -> list[str]:
    """All regimes, for docs/accuracy.md."""
    lines: list[str] = []
    everything: list[Case] = []
    for regime in REGIMES:
        text, cases = section(regime)
        lines += text
        everything += cases
    inside = sum(case.inside for case in everything)
    width = median([case.high / case.low for case in everything])
    return [
        "# Speed",
        "",
        f"Over all regimes {inside} of {len(everything)} runs ({inside / len(everything):.0%}) lie in the predicted "
        f"range; its median high / low is {width:.2f}. Kernels are timed from tables of single kernels "
        "(profiles/kernels), of which none were measured in these deployments.",
        "",
        *lines,
    ]


if __name__ == "__main__":
    print("\n".join(sections()))
