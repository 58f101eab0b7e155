"""The vision projector that llama.cpp keeps in a GGUF file of its own, ``mmproj-*.gguf``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from profiles.families.fields import BadConfig
from profiles.headers import BadModelFile, GgufFile, read_gguf
from profiles.headers.errors import quoted
from profiles.headers.modelfile import os_errors_as_bad_file
from profiles.headers.tensorinfo import TensorInfo
from profiles.model import Role, TensorGroup, Vision
from profiles.weights.gguf_metadata import Hyperparameters

ARCHITECTURE: Final = "clip"
_BLOCK: Final = re.compile(r"(?<=blk\.)[0-9]+(?=\.)")
_COLUMN: Final = ("attn_q", "attn_k", "attn_v", "attn_qkv", "ffn_up", "ffn_gate")
_ROW: Final = ("attn_out", "ffn_down")


class Projector(NamedTuple):
    """A projector file: its tensors in groups, and the vision tower's geometry where the header has all of it."""

    path: Path
    groups: tuple[TensorGroup, ...]
    vision: Vision | None

    @property
    def bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(group.bytes for group in self.groups)


def is_projector_name(name: str) -> bool:
    """Whether a file is named as projectors are.

    >>> is_projector_name("mmproj-F16.gguf"), is_projector_name("Kimi-K2.5-UD-TQ1_0.gguf")
    (True, False)
    """
    return name.casefold().endswith(".gguf") and "mmproj" in name.casefold()


def projector_beside(model: Path, hidden: int) -> tuple[Projector | None, tuple[str, ...]]:
    """The projector in the folder of ``model`` that leads to ``hidden``, and notes on what was passed over.

    Publishers put the same one there in several types; of those the one in F16 is taken. Raises ``BadModelFile`` for
    a projector that cannot be read.
    """
    with os_errors_as_bad_file(model.parent):
        paths = sorted(path for path in model.parent.iterdir() if is_projector_name(path.name))
    found = [projector for path in paths if (projector := _read(path, hidden)) is not None]
    if len(found) < 2:
        return (found[0] if found else None), ()
    in_f16 = [each for each in found if re.search(r"(?<!b)f16", each.path.name.casefold())]
    names = ", ".join(quoted(each.path.name) for each in found[:8])
    if len(in_f16) == 1:
        return in_f16[0], (f"of the vision projectors {names} the one in F16 is counted",)
    return None, (f"no vision projector is counted: {names} all fit; leave one in the folder",)


def _read(path: Path, hidden: int) -> Projector | None:
    """The projector in a file; None when it belongs to a model of another width."""
    file = read_gguf(path)
    keys = Hyperparameters(file.metadata, ARCHITECTURE)
    if file.metadata.get("general.architecture") != ARCHITECTURE:
        raise BadModelFile(path, "is named like a vision projector and is none; general.architecture must be 'clip'")
    try:
        if keys.integer("vision.projection_dim", hidden) != hidden:
            return None
        return Projector(path, _groups(file), _vision(keys))
    except BadConfig as error:
        raise BadModelFile(path, str(error)) from error


def _groups(file: GgufFile) -> tuple[TensorGroup, ...]:
    members: dict[tuple[str, tuple[int, ...], str], int] = {}
    for tensor in file.tensors:
        if not tensor.nbytes:
            raise BadConfig(f"tensor {quoted(tensor.name)} has no elements; at least one is needed")
        key = _pattern(tensor)
        members[key] = members.get(key, 0) + 1
    return tuple(
        TensorGroup(name, shape, _role(name), "vision", type_name, per_layer=count)
        for (name, shape, type_name), count in members.items()
    )


def _pattern(tensor: TensorInfo) -> tuple[str, tuple[int, ...], str]:
    return _BLOCK.sub("{block}", tensor.name), tensor.shape or (1,), tensor.type_name


def _role(name: str) -> Role:
    if name.startswith("mm."):
        return "projector"
    module, _, kind = name.rpartition(".")
    part = module.rpartition(".")[2]
    if part in _COLUMN:
        return "vision_column"
    # The bias of a row-parallel matrix is added once, after the ranks are summed: it is not divided.
    return "vision_row" if part in _ROW and kind == "weight" else "vision_other"


def _vision(keys: Hyperparameters) -> Vision | None:
    needed = ("block_count", "embedding_length", "attention.head_count", "feed_forward_length", "patch_size")
    if not all(keys.has(f"vision.{key}") for key in needed):
        return None
    layers, hidden, heads, ffn, patch = (keys.integer(f"vision.{key}") for key in needed)
    merge = keys.integer("vision.spatial_merge_size", 0, low=0) or keys.integer("vision.projector.scale_factor", 1)
    return Vision(layers, hidden, heads, ffn, patch, merge)
