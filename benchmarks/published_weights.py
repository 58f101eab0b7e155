"""Bytes and parameters of every release beside what was published of it.

Run `python benchmarks/published_weights.py`: it writes docs/accuracy-weights.md. Published bytes are those of the
models' cards, with their sources; published counts of parameters are those of profiles/measured/weights.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from profiles.library import load_model, model_ids  # noqa: E402
from profiles.mixtures import release_tensors  # noqa: E402
from profiles.model import ModelSpec, Release, TensorGroup  # noqa: E402

COUNTS: Final = ROOT / "profiles" / "measured" / "weights.json"
BLOCKS: Final = {"fp8_block128": (128, 128), "fp8_block128_bf16": (128, 128), "mxfp8": (1, 32)}
"""Rows and columns that share a scale, of the formats whose scales the hub counts as parameters."""


def main() -> None:
    """Write docs/accuracy-weights.md."""
    checkpoints, files = list(_bytes("safetensors")), list(_bytes("gguf"))
    counts = list(_counts())
    text = [
        "# Weights beside published sizes",
        "",
        "Written by `python benchmarks/published_weights.py`. Ours follows from a model's own configuration and the",
        "storage format of each tensor; no size is fitted. Published is the size of the tensors, without the files'",
        "headers, as the model's card in `profiles/models` has it with its source.",
        "",
        "## Checkpoints",
        "",
        _summary(checkpoints),
        "",
        "| model | release | format | ours, bytes | published, bytes | difference | source |",
        "|---|---|---|--:|--:|--:|---|",
        *(row for row, _ in checkpoints),
        "",
        "Kimi K2's difference is 61 tensors that its configuration does not explain; none is invented.",
        "",
        "## Parameters",
        "",
        _summary(counts),
        "",
        "| model | release | what is counted | ours | published | difference | source |",
        "|---|---|---|--:|--:|--:|---|",
        *(row for row, _ in counts),
        "",
        "## GGUF files",
        "",
        "Files whose tensor types are known, by the publisher's statement or the plain rules of llama.cpp. A file of",
        "unknown types (a dynamic one) takes its published size and has no line here. A size that its publisher",
        "rounded differs by as much.",
        "",
        _summary(files),
        "",
        "| model | release | format | ours, bytes | published, bytes | difference | source |",
        "|---|---|---|--:|--:|--:|---|",
        *(row for row, _ in files),
        "",
    ]
    path = ROOT / "docs" / "accuracy-weights.md"
    path.write_text("\n".join(text), encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


def _bytes(container: str) -> Iterator[tuple[str, float | None]]:
    """A line for every published release in a container, and its relative difference where a size was published."""
    for model_id in model_ids():
        model = load_model(model_id)
        for release in model.releases:
            if release.container == container and release.status == "published" and release.mixture_known:
                yield _line(model, release)


def _line(model: ModelSpec, release: Release) -> tuple[str, float | None]:
    ours = release_tensors(model, release).bytes
    head = [model.id, release.release, release.quantization, f"{ours:,}"]
    published = release.published_bytes
    if published is None:
        return _row(*head, "not found", "", release.source), None
    rounded = " (rounded)" if release.size_evidence == "stated" else ""
    return _row(*head, f"{published:,}{rounded}", _difference(ours, published), release.source), ours / published - 1


def _counts() -> Iterator[tuple[str, float | None]]:
    for fact in json.loads(COUNTS.read_text(encoding="utf-8")):
        model = load_model(fact["model"])
        groups = next(
            release_tensors(model, release).groups
            for release in model.releases
            if release.container == "safetensors" and release.release in (fact["release"], _instructed(fact["release"]))
        )
        ours = sum(group.parameters for group in groups)
        if fact["counts"] == "parameters and scales":
            ours += sum(_scales(group) for group in groups)
        published = fact["published"]
        yield (
            _row(
                model.id, fact["release"], fact["counts"], f"{ours:,}", f"{published:,}",
                _difference(ours, published), fact["url"],
            ),
            ours / published - 1,
        )  # fmt: skip


def _instructed(repository: str) -> str:
    """The repository of the same model after instruction, which a card may name instead."""
    return f"{repository.removesuffix('-v0.1')}-Instruct{'-v0.1' * repository.endswith('-v0.1')}"


def _scales(group: TensorGroup) -> int:
    block = BLOCKS.get(group.format)
    if block is None:
        return 0
    return group.instances * -(-group.shape[-2] // block[0]) * -(-group.shape[-1] // block[1])


def _difference(ours: int, published: int) -> str:
    return "0" if ours == published else f"{ours - published:+,} ({ours / published - 1:+.4%})"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _summary(rows: list[tuple[str, float | None]]) -> str:
    known = [abs(difference) for _, difference in rows if difference is not None]
    exact = sum(difference == 0 for difference in known)
    return (
        f"{len(rows)} lines, {len(known)} with a published figure: {exact} equal it exactly, "
        f"the largest difference of the others is {max(known):.4%}."
    )


if __name__ == "__main__":
    main()
