"""A model from safetensors files and the ``config.json`` beside them: geometry from the one, bytes from the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from profiles.families.fields import UnknownQuantization
from profiles.headers import BadModelFile, SafetensorsFiles, read_safetensors
from profiles.headers.errors import quoted
from profiles.headers.modelfile import os_errors_as_bad_file
from profiles.model import ModelSpec, Release
from profiles.quantization import native_name
from profiles.weights.comparison import Comparison, Difference, compare, compare_names


def holds_safetensors(folder: Path) -> bool:
    """Whether a folder has safetensors files, or an index of them."""
    with os_errors_as_bad_file(folder):
        return any(path.name.endswith((".safetensors", ".safetensors.index.json")) for path in folder.iterdir())


def model_from_safetensors(path: Path, spec: ModelSpec) -> ModelSpec:
    """``spec``, read from the ``config.json``, with the tensors and the one release that the files at ``path`` hold.

    ``path`` is a ``.safetensors`` file, an index or a folder. Where headers and configuration differ the headers win,
    and a note says how. Where only the index is there its names and its total are compared. Raises ``BadModelFile``,
    also for files of another model, and ``UnknownQuantization`` for MLX's own quantization.
    """
    files = read_safetensors(path)
    if files.metadata.get("format") == "mlx" and spec.native_quantization not in ("bf16", "f16", "f32"):
        raise UnknownQuantization(f"{path}: MLX's quantization has no exact reader")
    folder = path if path.is_dir() else path.parent
    if files.tensors is None:
        comparison = compare_names(spec, files.names)
        notes, release_note = _index_notes(spec, files, comparison)
    else:
        comparison = compare(spec, files.tensors)
        notes, release_note = _header_notes(spec, comparison), ""
    if 2 * comparison.found < comparison.expected and comparison.missing is not None:
        raise BadModelFile(
            path,
            f"holds other tensors than the config.json beside it describes: of {comparison.expected:,} it has"
            f" {comparison.found:,}, and not {quoted(comparison.missing.first)}",
        )
    quantization = native_name(comparison.groups, spec.native_quantization)
    release = Release(
        quantization=quantization,
        publisher="local",
        release=str(folder.absolute()),
        container="safetensors",
        mixture="native",
        published_bytes=files.total_bytes,
        size_evidence="computed" if files.total_bytes is None else "exact",
        source=str(path),
        note=release_note,
    )
    return replace(
        spec,
        tensors=comparison.groups,
        native_quantization=quantization,
        releases=(release,),
        sources=(str(folder / "config.json"), str(path)),
        notes=(*spec.notes, *notes),
    )


def _header_notes(spec: ModelSpec, comparison: Comparison) -> list[str]:
    notes = []
    if comparison.extra:
        size = _size(comparison.extra)
        notes.append(f"{size} are in the files and not explained by config.json, first {_first(comparison.extra)}")
    if comparison.missing:
        notes.append(
            f"{_counted(comparison.missing.tensors)} that config.json implies are not in the files, first"
            f" {_first(comparison.missing)}"
        )
    if comparison.otherwise:
        size = _size(comparison.otherwise)
        notes.append(f"{size} are stored otherwise than config.json says, first {_first(comparison.otherwise)}")
    if notes:
        implied = sum(group.bytes for group in spec.tensors)
        held = sum(group.bytes for group in comparison.groups)
        notes.append(f"the files hold {held:,} bytes of tensors, where config.json implies {implied:,}")
    return notes


def _index_notes(spec: ModelSpec, files: SafetensorsFiles, comparison: Comparison) -> tuple[list[str], str]:
    notes = []
    if comparison.extra:
        notes.append(
            f"{_counted(comparison.extra.tensors)} are in the index and not explained by config.json, first"
            f" {_first(comparison.extra)}"
        )
    if comparison.missing:
        notes.append(
            f"{_counted(comparison.missing.tensors)} that config.json implies are not in the index, first"
            f" {_first(comparison.missing)}"
        )
    implied = sum(group.bytes for group in spec.tensors)
    release_note = "only the index is there, no weight file"
    if files.total_bytes is None:
        release_note += f", and it states no total_size: {implied:,} bytes follow from config.json"
    elif files.total_bytes == implied:
        release_note += "; its total_size is what config.json implies"
    else:
        notes.append(f"the index states {files.total_bytes:,} bytes of tensors, where config.json implies {implied:,}")
    return notes, release_note


def _size(difference: Difference) -> str:
    """So many tensors of so many bytes; each, where they are equal."""
    count, each = difference.tensors, difference.bytes // difference.tensors
    if difference.equal and count > 1:
        return f"{count:,} tensors of {each:,} bytes"
    return f"{_counted(count)} of {difference.bytes:,} bytes{' in all' if count > 1 else ''}"


def _counted(count: int) -> str:
    return f"{count:,} tensor{'s' if count != 1 else ''}"


def _first(difference: Difference) -> str:
    return quoted(difference.first)
