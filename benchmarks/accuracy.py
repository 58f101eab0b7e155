"""Predictions beside published measurements: `python benchmarks/accuracy.py` writes docs/accuracy.md.

The rows are those of profiles/measured. Nothing here is fitted row by row; what the model's constants were taken from
is said in their own source lines, so these rows are partly what it was calibrated on and partly not.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy_memory import memory_sections  # noqa: E402
from benchmarks.accuracy_speed import sections  # noqa: E402
from moeplan import estimate  # noqa: E402
from planner.errors import BadRequest, Undetermined  # noqa: E402
from planner.plan import Candidate, Plan, Rejection  # noqa: E402

MEASURED = ROOT / "profiles" / "measured"
CONFIGS = ROOT / "tests" / "profiles" / "data" / "configs"
BUILT_IN = {
    "deepseek-r1": "deepseek-r1",
    "deepseek-v3": "deepseek-v3",
    "qwen3-235b-a22b-instruct": "qwen3-235b-a22b",
    "qwen3-235b-a22b-fp8": f"{CONFIGS}/Qwen3-235B-A22B-FP8.json",
    "llama-3.1-70b": "llama-3.1-70b",
    "llama-3.1-8b": f"{CONFIGS}/Meta-Llama-3.1-8B.json",
    "mixtral-8x7b": f"{CONFIGS}/Mixtral-8x7B-v0.1.json",
    "qwen3-32b": f"{CONFIGS}/Qwen3-32B.json",
    "gpt-oss-120b": f"{CONFIGS}/gpt-oss-120b.json",
    "kimi-k2-instruct": "kimi-k2",
    "kimi-k2.5": "kimi-k2.5",
    "glm-5-fp8": f"{CONFIGS}/GLM-5-FP8.json",
    "minimax-m2.5": f"{CONFIGS}/MiniMax-M2.5.json",
}
GPUS = {
    "A100 80GB": "A100-80", "AMD MI300X": "mi300x", "H200 141GB": "H200", "H100-80GB": "H100", "H100 80GB": "H100",
    "H100 80GB (79.18 GiB)": "H100",
}  # fmt: skip
GIB = 1 << 30


class Row(NamedTuple):
    """One comparison."""

    case: str
    measured: float
    low: float
    expected: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the measurement lies in the predicted range."""
        return self.low <= self.measured <= self.high

    @property
    def error(self) -> float:
        """Expected over measured, minus one."""
        return self.expected / self.measured - 1


def rows_of(name: str) -> list[dict[str, Any]]:
    """Measurements of one file."""
    rows: list[dict[str, Any]] = json.loads((MEASURED / name).read_text(encoding="utf-8"))
    return rows


def model_of(text: str) -> str | None:
    """Our name of a measured model; None when it has no configuration here."""
    name = text.split("/")[-1].lower()
    return next((ours for theirs, ours in BUILT_IN.items() if name.startswith(theirs)), None)


def priced(row: dict[str, Any], **options: str | float) -> Candidate | Rejection | str:
    """The estimate of a measured configuration, or why there is none."""
    model = model_of(row["model"])
    if model is None:
        return "no configuration of this model is at hand"
    count = row["n_gpu"]
    gpu = GPUS.get(row["gpu"], row["gpu"])
    given = {key: value for key, value in row.get("parallel", {}).items() if key in ("tp", "pp", "dp", "ep", "dcp")}
    if "dcp" in row.get("settings", {}):
        given["dcp"] = row["settings"]["dcp"]
    try:
        plan: Plan = estimate(
            model,
            gpu=[f"{min(count, 8)}x{gpu}"],
            nodes=max(count // 8, 1),
            engine=row["engine"].lower(),
            **given,
            **options,
        )
    except (BadRequest, Undetermined) as error:
        return str(error)
    return plan.candidates[0] if plan.candidates else plan.rejected[0]


def table(title: str, unit: str, results: list[tuple[str, Row | str]]) -> list[str]:
    """One section of the document."""
    rows = [row for _, row in results if isinstance(row, Row)]
    errors = sorted(abs(row.error) for row in rows)
    spread = sorted(row.high / row.low for row in rows if row.low > 0)
    lines = [f"## {title}", ""]
    if errors:
        inside = sum(row.inside for row in rows)
        p90 = errors[min(len(errors) - 1, math.ceil(0.9 * len(errors)) - 1)]
        absolute = sum(abs(row.expected - row.measured) for row in rows) / len(rows)
        lines += [
            f"{len(rows)} rows: median error {errors[len(errors) // 2]:.1%}, 90th percentile {p90:.1%}, "
            f"mean absolute error {absolute:.2f} {unit}; {inside} of {len(rows)} lie in the predicted range"
            + (f" (median high / low {spread[len(spread) // 2]:.2f})." if spread else "."),
            "",
        ]
    lines += [f"| case | measured, {unit} | predicted, {unit} | error | in range |", "|---|--:|--:|--:|---|"]
    for case, row in results:
        if isinstance(row, str):
            lines.append(f"| {case} | | {row} | | |")
        else:
            predicted = f"{row.low:.2f} - {row.expected:.2f} - {row.high:.2f}"
            inside_text = "yes" if row.inside else "no"
            lines.append(f"| {case} | {row.measured:.2f} | {predicted} | {row.error:+.0%} | {inside_text} |")
    return [*lines, ""]


def unique(results: Iterator[tuple[str, Row | str]]) -> list[tuple[str, Row | str]]:
    """Without repeats of the same case and measurement."""
    return list(dict.fromkeys(results))


def main() -> None:
    """Write docs/accuracy.md."""
    text = [
        "# Predictions beside published measurements",
        "",
        "Written by `python benchmarks/accuracy.py` from `profiles/measured`. Predicted is low - expected - high.",
        "The constants of the model come from some of these rows (their source lines say which), so this is a check of",
        "the mechanism, not a blind test. Queueing rows depend on the load generator as much as on the machine.",
        "Kernels measured on a machine and a real llama.cpp there: `accuracy-bench.md`.",
        "",
        "Checkpoints and files beside their published sizes: [accuracy-weights.md](accuracy-weights.md).",
        "",
        *memory_sections(),
        *sections(),
    ]
    path = ROOT / "docs" / "accuracy.md"
    path.write_text("\n".join(text), encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
