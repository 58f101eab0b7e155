"""Which files of a repository are which GGUF quantization: known by their names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from moeplan.text_safe import printable, shortened
from planner.errors import BadRequest

MAX_LISTED = 20

_SHARD = re.compile(r"(?P<stem>.+)-[0-9]{5}-of-[0-9]{5}")
_QUANTIZATION = re.compile(
    r"(?:UD-)?(?:I?Q[1-8]_[A-Z0-9]+(?:_[A-Z0-9]+)*|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
# Beside the weights: vision towers, and statistics for quantizing.
_NOT_A_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)


class GgufSet(NamedTuple):
    """The files of one quantization, in order. ``name`` is its path without shard number and suffix."""

    name: str
    quantization: str
    paths: tuple[str, ...]


def gguf_sets(files: Iterable[str]) -> tuple[GgufSet, ...]:
    """The GGUF models among the paths of a repository, by name.

    The quantization is the last one that the file's name holds, else its folder's, else the whole name.

    >>> gguf_sets(["UD-Q2_K_XL/K2-UD-Q2_K_XL-00001-of-00002.gguf", "UD-Q2_K_XL/K2-UD-Q2_K_XL-00002-of-00002.gguf"])
    ... # doctest: +ELLIPSIS
    (GgufSet(name='UD-Q2_K_XL/K2-UD-Q2_K_XL', quantization='UD-Q2_K_XL', paths=('UD-Q2_K_XL/K2-UD-Q2_K_XL-00001...
    """
    sets: dict[str, list[str]] = {}
    for path in sorted(files):
        name = path.removesuffix(".gguf")
        if name != path and not _NOT_A_MODEL.search(PurePosixPath(path).name):
            shard = _SHARD.fullmatch(name)
            sets.setdefault(shard["stem"] if shard else name, []).append(path)
    return tuple(GgufSet(name, _quantization(name), tuple(paths)) for name, paths in sets.items())


def _quantization(name: str) -> str:
    for part in reversed(PurePosixPath(name).parts):
        if found := _QUANTIZATION.findall(part):
            return str(found[-1]).upper()
    return PurePosixPath(name).name


def choose(repository: str, sets: Sequence[GgufSet], text: str | None) -> GgufSet:
    """The set that ``text`` means: a quantization, with or without its ``UD-``, or a file's name without its suffix.

    Raises ``BadRequest`` with what there is, for None too.
    """
    if text is None:
        raise BadRequest(f"{repository} holds GGUF files; choose one: {_listed(repository, sets)}")
    wanted = text.casefold()
    for spelling in (wanted, f"ud-{wanted}"):
        found = [one for one in sets if one.quantization.casefold() == spelling]
        if len(found) > 1:
            raise BadRequest(f"{repository} holds several {shortened(text)}: {_listed(repository, found)}")
        if found:
            return found[0]
    named = [one for one in sets if PurePosixPath(one.name).name.casefold() == wanted]
    if len(named) == 1:
        return named[0]
    raise BadRequest(f"{repository} has no {shortened(text)}; there are {_listed(repository, sets)}")


def _listed(repository: str, sets: Sequence[GgufSet]) -> str:
    """``org/name:Q4_K_M, Q8_0 and 3 more``; sets of one quantization are told apart by the names of their files."""
    labels = [one.quantization for one in sets]
    texts = [
        one.quantization if labels.count(one.quantization) == 1 else PurePosixPath(one.name).name
        for one in sets[:MAX_LISTED]
    ]
    more = f" and {len(sets) - MAX_LISTED} more" if len(sets) > MAX_LISTED else ""
    return f"{repository}:{', '.join(map(printable, texts))}{more}"
