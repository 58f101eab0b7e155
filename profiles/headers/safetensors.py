"""Reader of safetensors headers: one file, or a sharded checkpoint through its index. Weights are never read.

Source: the public safetensors format description and the rules that its reference implementation enforces.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import cast

from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.modelfile import os_errors_as_bad_file
from profiles.headers.safetensors_header import Header, read_header
from profiles.headers.strictjson import JsonValue, load_json_object
from profiles.headers.tensorinfo import MAX_NAME_BYTES, MAX_SHARDS, MAX_TENSORS, TensorInfo

MAX_INDEX_BYTES = 40_000_000
"""The index of Kimi K2.5 has about 23 million."""
MAX_SET_HEADER_BYTES = 256_000_000
"""Over all shards. Those of Kimi K2.5 have about 31 million."""

_INDEX_SUFFIX = ".safetensors.index.json"
_SHARD_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5,6})-of-(?P<count>[0-9]{5,6})\.safetensors", re.DOTALL)
_PLAIN_FILE_NAME = re.compile(r"[^./\\:][^/\\:]{0,240}\.safetensors", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SafetensorsFiles:
    """A checkpoint as its headers describe it.

    `names` are those of all tensors, in the order of the shards and, within one, of their data. `tensors`
    tells more of each, or is None where only the index is there. `metadata` is the index's or the single
    file's. `total_bytes` counts the tensors; where only the index is there it is the index's own `total_size`
    or None. `files` are those whose headers were read.
    """

    names: tuple[str, ...]
    tensors: tuple[TensorInfo, ...] | None
    metadata: dict[str, JsonValue]
    total_bytes: int | None
    files: tuple[Path, ...]


def read_safetensors(path: str | PathLike[str]) -> SafetensorsFiles:
    """Read the headers of a checkpoint: a `.safetensors` file, an index, any shard, or a folder with one.

    In a folder `model.safetensors.index.json` comes before `model.safetensors`, and both before any other
    name, which must then be the only one. A shard is read with the rest of its set, or refused if there is no
    index beside it.

    Raises `BadModelFile` for anything that is not a complete, consistent checkpoint.
    """
    path = Path(path)
    with os_errors_as_bad_file(path), _garbage_collection_paused():
        if path.is_dir():
            path = _main_file(path)
        if path.name.endswith(".json"):
            return _read_indexed(path)
        shard = _SHARD_NAME.fullmatch(path.name)
        if shard and int(shard["count"]) > 1:
            index = path.with_name(shard["prefix"] + _INDEX_SUFFIX)
            if not index.exists():
                raise BadModelFile(
                    path,
                    f"one shard of {int(shard['count'])} without {quoted(index.name)} beside it, as needed",
                )
            return _read_indexed(index)
        header = read_header(path)
        return _checkpoint([header], dict(header.metadata))


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Walking hundreds of thousands of tuples, none in a cycle, again and again is a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _main_file(folder: Path) -> Path:
    for name in ("model" + _INDEX_SUFFIX, "model.safetensors"):
        if (folder / name).exists():
            return folder / name
    for suffix in (_INDEX_SUFFIX, ".safetensors"):
        found = sorted(file for file in folder.iterdir() if file.name.endswith(suffix))
        if len(found) == 1:
            return found[0]
        if found:
            raise BadModelFile(folder, f"holds {len(found)} files named *{suffix}; name the one to read")
    raise BadModelFile(folder, f"holds no *.safetensors and no *{_INDEX_SUFFIX}; a folder with either is allowed")


def _read_indexed(index: Path) -> SafetensorsFiles:
    content = load_json_object(index, MAX_INDEX_BYTES, "safetensors index")
    metadata = content.get("metadata", {})
    if not isinstance(metadata, dict):
        raise BadModelFile(index, "metadata must be an object")
    weight_map = _weight_map(index, content.get("weight_map"))
    shard_names = sorted(set(weight_map.values()))
    if len(shard_names) > MAX_SHARDS:
        raise BadModelFile(index, f"names {len(shard_names):,} shards; {MAX_SHARDS:,} are allowed")
    for name in shard_names:
        if not _PLAIN_FILE_NAME.fullmatch(name) or not name.isprintable():
            raise BadModelFile(
                index, f"names the shard {quoted(name)}; *.safetensors files of the same folder are allowed"
            )
    folder = index.parent.resolve()
    shards = [folder / name for name in shard_names]
    # A link that leads nowhere is there: it is refused below, with the reason.
    missing = [shard for shard in shards if not shard.exists() and not shard.is_symlink()]
    if len(missing) == len(shards):
        return SafetensorsFiles(tuple(weight_map), None, metadata, _stated_total(index, metadata), ())
    if missing:
        raise BadModelFile(
            index,
            f"{len(missing)} of its {len(shards)} shards are missing, {quoted(missing[0].name)} first;"
            " all or none may be there",
        )
    for shard in shards:
        _refuse_link_outside(index, folder, shard)
    headers = _headers(index, shards)
    _check_against_headers(index, weight_map, headers)
    return _checkpoint(headers, metadata)


def _weight_map(index: Path, weight_map: JsonValue) -> dict[str, str]:
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadModelFile(index, "has no weight_map; an object of tensor names and shard files is needed")
    if len(weight_map) > MAX_TENSORS:
        raise BadModelFile(index, f"names {len(weight_map):,} tensors; {MAX_TENSORS:,} are allowed")
    if max(map(len, weight_map)) > MAX_NAME_BYTES or not "".join(weight_map).isprintable():
        raise BadModelFile(index, f"has a tensor name that is not printable text of 1 to {MAX_NAME_BYTES} bytes")
    if set(map(type, weight_map.values())) != {str}:
        raise BadModelFile(index, "weight_map names a shard that is not a string; file names are allowed")
    return cast("dict[str, str]", weight_map)


def _stated_total(index: Path, metadata: dict[str, JsonValue]) -> int | None:
    total = metadata.get("total_size")
    if isinstance(total, float) and total.is_integer():  # published indexes exist that write it so
        total = int(total)
    if total is None or (type(total) is int and total >= 0):
        return total
    raise BadModelFile(index, f"total_size is {quoted(str(total))}; a whole number of bytes is allowed")


def _refuse_link_outside(index: Path, folder: Path, shard: Path) -> None:
    """A downloaded folder must not make the program read files elsewhere.

    The Hugging Face cache is allowed: its `snapshots/REVISION/` links into the `blobs/` of the same model.
    """
    with os_errors_as_bad_file(shard):
        real = Path(os.path.realpath(shard, strict=True))
    in_cache = folder.parent.name == "snapshots" and real.parent == folder.parent.parent / "blobs"
    if not real.is_relative_to(folder) and not in_cache:
        raise BadModelFile(index, f"its shard {quoted(shard.name)} links outside the folder, which is not allowed")


def _headers(index: Path, shards: list[Path]) -> list[Header]:
    headers: list[Header] = []
    header_bytes = tensor_count = 0
    for shard in shards:
        header = read_header(shard)
        headers.append(header)
        header_bytes += header.header_bytes
        tensor_count += len(header.tensors)
        if header_bytes > MAX_SET_HEADER_BYTES or tensor_count > MAX_TENSORS:
            raise BadModelFile(
                index,
                f"its shards exceed the {MAX_SET_HEADER_BYTES:,} bytes of headers or {MAX_TENSORS:,} tensors"
                " that are allowed",
            )
    return headers


def _checkpoint(headers: list[Header], metadata: dict[str, JsonValue]) -> SafetensorsFiles:
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return SafetensorsFiles(
        names=tuple(tensor.name for tensor in tensors),
        tensors=tensors,
        metadata=metadata,
        total_bytes=sum(header.data_bytes for header in headers),
        files=tuple(header.path for header in headers),
    )


def _check_against_headers(index: Path, weight_map: dict[str, str], headers: list[Header]) -> None:
    shard_of: dict[str, str] = {}
    for header in headers:
        shard_of.update(dict.fromkeys((tensor.name for tensor in header.tensors), header.path.name))
    if len(shard_of) < sum(len(header.tensors) for header in headers):
        raise BadModelFile(index, "two of its shards hold a tensor of the same name; one may")
    if shard_of == weight_map:
        return
    for name, shard in weight_map.items():
        if shard_of.get(name) != shard:
            raise BadModelFile(index, f"shard {quoted(shard)} does not hold tensor {quoted(name)}, as it must")
