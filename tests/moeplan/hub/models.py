"""Repositories of models of full size, of which only headers exist."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from profiles.cards import CARDS_FOLDER
from profiles.library import load_model
from profiles.model import TensorGroup
from tests.moeplan.hub.server import File, Repo
from tests.support.gguf_models import Mixture, kimi_k25_spec
from tests.support.gguf_writer import write_gguf

LLAMA_BYTES = 141_107_412_992
"""Llama 3.1 70B in bf16: total_size of the published index."""
LLAMA_CONFIG = (CARDS_FOLDER / "configs" / "llama-3.1-70b.json").read_bytes()
HEAD_BYTES = 8 << 20


def checkpoint(
    *,
    shards: int = 1,
    index: bool = True,
    total_size: int | None = LLAMA_BYTES,
    extra: Sequence[tuple[str, tuple[int, ...]]] = (),
) -> Repo:
    """Llama 3.1 70B in ``shards`` safetensors files with true headers, and ``extra`` tensors (name, shape) in bf16.

    ``total_size`` is what the index states.
    """
    tensors = [*_tensors(load_model("llama-3.1-70b").tensors), *extra]
    single = shards == 1 and not index
    repo = Repo({"config.json": File(LLAMA_CONFIG), "README.md": File(b"# Llama")})
    weight_map: dict[str, str] = {}
    for number in range(shards):
        part = tensors[number * len(tensors) // shards : (number + 1) * len(tensors) // shards]
        name = "model.safetensors" if single else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        weight_map |= {tensor: name for tensor, _ in part}
        repo.files[name] = _safetensors(part)
    if index:
        metadata = {} if total_size is None else {"total_size": total_size}
        text = json.dumps({"metadata": metadata, "weight_map": weight_map})
        repo.files["model.safetensors.index.json"] = File(text.encode(), large=True)
    return repo


def _tensors(groups: tuple[TensorGroup, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for group in groups:
        assert (group.per_layer, group.format) == (1, "bf16")
        for layer in group.layers or (0,):
            yield group.name.format(layer=layer), group.shape


def _safetensors(tensors: list[tuple[str, tuple[int, ...]]]) -> File:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors:
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return File(len(text).to_bytes(8, "little") + text, 8 + len(text) + end, large=True)


def kimi_gguf(folder: Path, path: str, mixture: Mixture, *, splits: int = 1, vocabulary: bool = False) -> Repo:
    """Kimi K2.5 as llama.cpp has it, at ``path`` of a repository; with a whole vocabulary the header has megabytes."""
    spec = kimi_k25_spec(mixture)
    target = folder / Path(path).name
    files = write_gguf(target, replace(spec, tokenizer="gpt2") if vocabulary else spec, data="sparse", splits=splits)
    parent = Path(path).parent
    repo = Repo()
    for file in files:
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        repo.files[(parent / file.name).as_posix()] = File(head, file.stat().st_size, large=True)
        file.unlink()
    return repo
