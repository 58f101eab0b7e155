"""Reader of safetensors headers: one file, or a sharded checkpoint through its index. Weights are never read.

Source: the public safetensors format description and the rules that its reference implementation enforces.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from os import PathLike
from pathlib import Path

from profiles.headers.errors import BadModelFile, quoted
from profiles.headers.modelfile import os_errors_as_bad_file
from profiles.headers.safetensors_header import Header, Kinds, read_header
from profiles.headers.safetensors_index import read_index
from profiles.headers.strictjson import JsonValue
from profiles.headers.tensorinfo import MAX_SET_NAME_BYTES, MAX_SHARDS, MAX_TENSORS, TensorInfo

MAX_SET_HEADER_BYTES = 160_000_000
"""Over all shards. Those of Kimi K3 have about 75 million."""

_INDEX_SUFFIX = ".safetensors.index.json"
_SHARD_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5,6})-of-(?P<count>[0-9]{5,6})\.safetensors", re.DOTALL)
_PLAIN_FILE_NAME = re.compile(r"[^./\\:][^/\\:]{0,240}\.safetensors", re.DOTALL)


@dataclass(frozen=True)
class SafetensorsFiles:
    """A checkpoint as its headers describe it.

    `names` are those of all tensors, in the order of the shards and, within one, of their data. `headers` tell more of
    each, one header a file, or are None where only the index is there. `metadata` is the index's or the single file's.
    `total_bytes` counts the tensors; where only the index is there it is the index's own `total_size` or None.
    `lacks_index` says that the set is complete by the numbers in its names alone.
    """

    names: tuple[str, ...]
    headers: tuple[Header, ...] | None
    metadata: dict[str, JsonValue]
    total_bytes: int | None
    lacks_index: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose headers were read."""
        return tuple(header.path for header in self.headers or ())

    @cached_property
    def tensors(self) -> tuple[TensorInfo, ...] | None:
        """Every tensor by itself, in the order of `names`."""
        if self.headers is None:
            return None
        return tuple(tensor for header in self.headers for tensor in header.tensors())


def read_safetensors(path: str | PathLike[str]) -> SafetensorsFiles:
    """Read the headers of a checkpoint: a `.safetensors` file, an index, any shard, or a folder with one.

    In a folder `model.safetensors.index.json` comes before `model.safetensors`, and both before any other
    name, which must then be the only one, or the only set. A shard is read with the rest of its set: those that the
    index beside it names or, without one, every number up to the count in its name.

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
            return _read_indexed(index) if index.exists() else _read_numbered(path, shard)
        header = read_header(path, Kinds())
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
        sets = {_set_name(file) for file in found}
        if len(sets) == 1 and None not in sets:
            return found[0]
        if found:
            raise BadModelFile(folder, f"holds {len(found)} files named *{suffix}; name the one to read")
    raise BadModelFile(folder, f"holds no *.safetensors and no *{_INDEX_SUFFIX}; a folder with either is allowed")


def _set_name(shard: Path) -> tuple[str, str] | None:
    """What the names of all shards of a set have in common, None where the name is no shard's."""
    found = _SHARD_NAME.fullmatch(shard.name)
    return (found["prefix"], found["count"]) if found else None


def _read_numbered(path: Path, shard: re.Match[str]) -> SafetensorsFiles:
    """The set of a shard without its index. Each number must be there once: nothing else says what belongs to it."""
    count, digits = int(shard["count"]), len(shard["number"])
    if count > MAX_SHARDS:
        raise BadModelFile(path, f"is one of {count:,} shards; {MAX_SHARDS:,} are allowed")
    folder = path.parent.resolve()
    names = (f"{shard['prefix']}-{number:0{digits}}-of-{shard['count']}.safetensors" for number in range(1, count + 1))
    shards = [folder / name for name in names]
    if missing := [each for each in shards if not each.exists() and not each.is_symlink()]:
        raise BadModelFile(
            path,
            f"{len(missing)} of the {count} shards are missing, {quoted(missing[0].name)} first; without"
            f" {quoted(shard['prefix'] + _INDEX_SUFFIX)} all are needed",
        )
    for each in shards:
        _refuse_link_outside(path, folder, each)
    return replace(_checkpoint(_headers(path, shards, {}), {}), lacks_index=True)


def _read_indexed(path: Path) -> SafetensorsFiles:
    index = read_index(path)
    shard_names = sorted(set(index.weight_map.values()))
    if len(shard_names) > MAX_SHARDS:
        raise BadModelFile(path, f"names {len(shard_names):,} shards; {MAX_SHARDS:,} are allowed")
    for name in shard_names:
        if not _PLAIN_FILE_NAME.fullmatch(name) or not name.isprintable():
            raise BadModelFile(
                path, f"names the shard {quoted(name)}; *.safetensors files of the same folder are allowed"
            )
    folder = path.parent.resolve()
    shards = [folder / name for name in shard_names]
    # A link that leads nowhere is there: it is refused below, with the reason.
    missing = [shard for shard in shards if not shard.exists() and not shard.is_symlink()]
    if len(missing) == len(shards):
        return SafetensorsFiles(tuple(index.weight_map), None, index.metadata, _stated_total(path, index.metadata))
    if missing:
        raise BadModelFile(
            path,
            f"{len(missing)} of its {len(shards)} shards are missing, {quoted(missing[0].name)} first;"
            " all or none may be there",
        )
    for shard in shards:
        _refuse_link_outside(path, folder, shard)
    return _checkpoint(_headers(path, shards, index.weight_map), index.metadata)


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


def _headers(index: Path, shards: list[Path], weight_map: dict[str, str]) -> list[Header]:
    """The headers of all shards. Each tensor that is found is taken out of `weight_map`, which frees its memory."""
    headers: list[Header] = []
    header_bytes = tensor_count = name_bytes = 0
    kinds = Kinds()
    is_complete = True
    for shard in shards:
        header = read_header(shard, kinds)
        headers.append(header)
        header_bytes += header.header_bytes
        tensor_count += len(header.names)
        name_bytes += sum(map(len, header.names))
        if header_bytes > MAX_SET_HEADER_BYTES or tensor_count > MAX_TENSORS or name_bytes > MAX_SET_NAME_BYTES:
            raise BadModelFile(
                index,
                f"its shards exceed the {MAX_SET_HEADER_BYTES:,} bytes of headers, {MAX_TENSORS:,} tensors or"
                f" {MAX_SET_NAME_BYTES:,} bytes of names that are allowed",
            )
        is_complete &= _take_out(index, weight_map, header)
    # Each tensor of the index was found once and is gone from it: only what it lacks can be there twice.
    if not is_complete and len({name for header in headers for name in header.names}) < tensor_count:
        raise BadModelFile(index, "two of its shards hold a tensor of the same name; one may")
    for name, shard_name in weight_map.items():
        raise _not_held(index, name, shard_name)
    return headers


def _take_out(index: Path, weight_map: dict[str, str], header: Header) -> bool:
    """Take the tensors of a shard out of the index, and say whether it had them all."""
    found = list(map(weight_map.pop, header.names, repeat(None)))
    if found.count(header.path.name) == len(found):
        return True
    for name, shard_name in zip(header.names, found, strict=True):
        if shard_name not in (None, header.path.name):
            raise _not_held(index, name, str(shard_name))
    return False


def _not_held(index: Path, name: str, shard: str) -> BadModelFile:
    return BadModelFile(index, f"shard {quoted(shard)} does not hold tensor {quoted(name)}, as it must")


def _checkpoint(headers: list[Header], metadata: dict[str, JsonValue]) -> SafetensorsFiles:
    return SafetensorsFiles(
        names=tuple(name for header in headers for name in header.names),
        headers=tuple(headers),
        metadata=metadata,
        total_bytes=sum(header.data_bytes for header in headers),
    )
