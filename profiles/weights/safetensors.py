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
from profiles.weights.comparison import Comparison, Difference, compare, compare_names, implied_tensors


def holds_safetensors(folder: Path) -> bool:
    """Whether a folder has safetensors files, or an index of them."""
    with os_errors_as_bad_file(folder):
        return any(path.name.endswith((".safetensors", ".safetensors.index.json")) for path in folder.iterdir())


def model_from_safetensors(path: Path, spec: ModelSpec, undeclared: UnknownQuantization | None = None) -> ModelSpec:
    """``spec``, read from the ``config.json``, with the tensors and the one release that the files at ``path`` hold.

    ``path`` is a ``.safetensors`` file, an index or a folder. Where headers and configuration differ the headers win,
    and a note says how. Where only the index is there its names and its total are compared. ``undeclared`` says why the
    configuration's quantization is not in ``spec``, which then gives only shapes and needs headers. Raises
    ``BadModelFile``, also for files of another model, ``undeclared`` without headers, and ``UnknownQuantization`` for
    MLX's own quantization.
    """
    files = read_safetensors(path)
    # Only MLX packs into unsigned words; its names would pass for those of unquantized weights.
    if any(kind.type_name == "U32" for header in files.headers or () for kind in header.kinds):
        raise UnknownQuantization(f"{path}: weights quantized by MLX have no exact reader")
    if undeclared is not None and files.headers is None:
        raise undeclared
    implied = implied_tensors(spec)
    if 2 * len(files.names) < implied:
        # Here and not after the comparison, which for absurd configurations would take forever.
        raise _other_model(path, f"it holds {len(files.names):,}, of the {implied:,} or more")
    folder = path if path.is_dir() else path.parent
    if files.headers is None:
        comparison = compare_names(spec, files.names)
        notes, release_note = _index_notes(spec, files, comparison)
    else:
        comparison = compare(spec, files.headers)
        notes = (
            _header_notes(spec, comparison) if undeclared is None else [f"read from the headers alone: {undeclared}"]
        )
        release_note = ""
    if files.lacks_index:
        notes.append(
            f"no index names the {len(files.files)} shards: they are complete by their numbers; transformers loads"
            " them only with a model.safetensors.index.json"
        )
    if 2 * comparison.found < comparison.expected and comparison.missing is not None:
        first = quoted(comparison.missing.first)
        raise _other_model(path, f"of {comparison.expected:,} it has {comparison.found:,}, and not {first}")
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


def _other_model(path: Path, why: str) -> BadModelFile:
    return BadModelFile(path, f"has not the tensors that the config.json beside it describes: {why}")


def _header_notes(spec: ModelSpec, comparison: Comparison) -> list[str]:
    notes = [
        *_told(comparison.extra, "in the files and not explained by config.json"),
        *_told(comparison.missing, "not in the files", "that config.json implies "),
        *_told(comparison.otherwise, "stored otherwise than config.json says"),
    ]
    if notes:
        implied = sum(group.bytes for group in spec.tensors)
        held = sum(group.bytes for group in comparison.groups)
        notes.append(f"the files hold {held:,} bytes of tensors, where config.json implies {implied:,}")
    return notes


def _index_notes(spec: ModelSpec, files: SafetensorsFiles, comparison: Comparison) -> tuple[list[str], str]:
    notes = [
        *_told(comparison.extra, "in the index and not explained by config.json"),
        *_told(comparison.missing, "not in the index", "that config.json implies "),
    ]
    implied = sum(group.bytes for group in spec.tensors)
    release_note = "only the index is there, no weight file"
    if files.total_bytes is None:
        release_note += f", and it states no total_size: {implied:,} bytes follow from config.json"
    elif files.total_bytes == implied:
        release_note += "; its total_size is what config.json implies"
    else:
        notes.append(f"the index states {files.total_bytes:,} bytes of tensors, where config.json implies {implied:,}")
    return notes, release_note


def _told(difference: Difference | None, what: str, which: str = "") -> list[str]:
    """One sentence on a difference. Bytes are left out where the files do not give them."""
    if difference is None:
        return []
    count = difference.tensors
    if count == 1:
        size = f" of {difference.bytes:,} bytes" if difference.bytes and not which else ""
        return [f"1 tensor{size} {which}is {what}: {quoted(difference.first)}"]
    size = f" of {difference.bytes // count:,} bytes" if difference.equal else f", {difference.bytes:,} bytes in all,"
    if which or not difference.bytes:
        size = ""
    return [f"{count:,} tensors{size} {which}are {what}, first {quoted(difference.first)}"]
