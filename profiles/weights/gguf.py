"""A model from a GGUF file: the tensor list is the header's own, tensor by tensor, whatever mixture of types it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from profiles.families.fields import BadConfig, Fields
from profiles.headers import BadModelFile, GgufFile, read_gguf
from profiles.headers.errors import quoted
from profiles.headers.modelfile import os_errors_as_bad_file
from profiles.headers.tensorinfo import TensorInfo
from profiles.model import ModelSpec, Release
from profiles.weights.gguf_geometry import attention_of, read_geometry, read_layers
from profiles.weights.gguf_metadata import Hyperparameters, file_type_name
from profiles.weights.gguf_names import group_tensors
from profiles.weights.projector import ARCHITECTURE as PROJECTOR
from profiles.weights.projector import is_projector_name, projector_beside

_SPLIT: Final = re.compile(r"-[0-9]{5}-of-[0-9]{5}$")
_NO_MODEL: Final = {
    "adapter": "an adapter (LoRA), not a model",
    "imatrix": "an importance matrix, not a model",
    "vocab": "a vocabulary without weights",
}
_MAX_NAME: Final = 120


def model_from_gguf(path: Path) -> ModelSpec:
    """The model in a GGUF file, any shard standing for its set, with one release: these files.

    Its bytes are the sum over the headers. A vision projector in the same folder counts as vision. The file's own name
    is the model's name. Raises ``BadModelFile``, and ``UnknownFamily`` for an architecture without an exact reader.
    """
    file = read_gguf(path)
    first = file.files[0]
    try:
        return _model(file, first)
    except BadConfig as error:
        raise BadModelFile(first, str(error)) from error


def gguf_in(folder: Path) -> Path | None:
    """The one GGUF model in a folder, projectors aside, or None. Raises ``BadModelFile`` when there are several."""
    named: dict[str, Path] = {}
    with os_errors_as_bad_file(folder):
        paths = sorted(folder.iterdir())
    for path in paths:
        if path.name.casefold().endswith(".gguf") and not is_projector_name(path.name):
            named.setdefault(_SPLIT.sub("", path.stem), path)
    if len(named) > 1:
        names = ", ".join(quoted(path.name) for path in list(named.values())[:6])
        raise BadModelFile(folder, f"holds {len(named)} GGUF models: {names}; name the one to read")
    return next(iter(named.values()), None)


def _model(file: GgufFile, first: Path) -> ModelSpec:
    _refuse_other_content(file, first)
    architecture = Fields(file.metadata).text("general.architecture")
    attention = attention_of(architecture)
    keys = Hyperparameters(file.metadata, architecture)
    layers = read_layers(keys, attention)
    tensors = group_tensors(file.tensors, layers.decoder, layers.mtp, layers.linear)
    spec = read_geometry(keys, architecture, attention, layers, tensors)
    projector, notes = projector_beside(first, spec.hidden)
    groups = (*spec.tensors, *(projector.groups if projector else ()))
    quantization = file_type_name(file.metadata) or _dominant_type(file.tensors)
    release = Release(
        quantization=quantization,
        publisher="local",
        # Not resolved: the shards of a set are found by their names, which a link's target may not have.
        release=str(first.absolute()),
        container="gguf",
        # Not "native", which says that the maker published it so.
        mixture="header",
        published_bytes=sum(group.bytes for group in groups),
        size_evidence="exact",
        includes_vision=projector is not None,
        source=str(first),
        note=(
            f"with the vision projector {quoted(projector.path.name)}, {projector.bytes:,} bytes, which llama.cpp loads"
            " only with --mmproj"
            if projector
            else ""
        ),
    )
    return replace(
        spec,
        name=_SPLIT.sub("", first.stem)[:_MAX_NAME],
        tensors=groups,
        native_quantization=quantization,
        vision=projector.vision if projector else None,
        releases=(release,),
        sources=tuple(map(str, file.files[:1])),
        notes=(*_notes(spec, tensors.unknown, file.tensors), *notes),
    )


def _refuse_other_content(file: GgufFile, first: Path) -> None:
    kind = file.metadata.get("general.type")
    if file.metadata.get("general.architecture") == PROJECTOR or kind == "mmproj":
        raise BadModelFile(
            first, "a vision projector, not a model; name the model's GGUF file, beside which it is found"
        )
    if isinstance(kind, str) and kind in _NO_MODEL:
        raise BadModelFile(first, f"{_NO_MODEL[kind]}; a GGUF model is allowed")
    if not file.tensors:
        raise BadModelFile(first, "holds no tensors; a GGUF model is allowed")


def _dominant_type(tensors: Iterable[TensorInfo]) -> str:
    totals: dict[str, int] = {}
    for tensor in tensors:
        totals[tensor.type_name] = totals.get(tensor.type_name, 0) + tensor.nbytes
    return max(totals, key=lambda name: totals[name])


def _notes(spec: ModelSpec, unknown: tuple[str, ...], tensors: Iterable[TensorInfo]) -> list[str]:
    notes = []
    if unknown:
        names = frozenset(unknown)
        size = sum(tensor.nbytes for tensor in tensors if tensor.name in names)
        notes.append(
            f"{len(unknown):,} tensors of {size:,} bytes have no known part in this architecture (first"
            f" {quoted(unknown[0])}); they count with the norms"
        )
    if spec.nope_dim and not spec.uses_mla:
        notes.append(
            "an old conversion whose latent attention is not split: llama.cpp caches the keys and values of every head"
        )
    if spec.mtp_layers:
        notes.append(
            "llama.cpp leaves the layers for multi-token prediction (class mtp) in the file unless told otherwise"
        )
    return notes
