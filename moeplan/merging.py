"""``moeplan merge``: files of many nodes into one inventory or one check report."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from hwdetect.cluster import read_listing
from hwdetect.inventory import Gpu, Inventory, from_json, known
from moeplan.pipeline import GENERATED_BY
from moeplan.text_safe import printable
from planner.errors import BadRequest
from planner.quantities import shown
from profiles.gpus import match_reported, resolve_gpu_name
from profiles.names import AmbiguousName, UnknownName

if TYPE_CHECKING:
    from moeplan.ray_nodes import Progress
    from planner.findings import CheckReport

MAX_FILE_BYTES: Final = 512 << 20
_SCHEMA = re.compile(r'"schema"\s*:\s*"moeplan\.([a-z]+)/([0-9]+)"')
_MAKER = re.compile(r"^(nvidia|amd)[-_ ]+(instinct[-_ ]+|geforce[-_ ]+)?|[-_ ]+oam$", re.IGNORECASE)


class Merged(NamedTuple):
    """One of the two: what the files were."""

    inventory: Inventory | None
    report: CheckReport | None


def merge_files(paths: Sequence[Path], *, types: dict[str, str], strict: bool, progress: Progress) -> Merged:
    """Read every file and put the nodes together; ``types`` says what a scheduler's word for a GPU means.

    Raises ``BadRequest`` with one line: files of different kinds, a file of none, a node in two of them.
    """
    from planner.cluster_check import merge_reports
    from planner.findings import CheckReport
    from planner.search import no_collection

    inventories: list[Inventory] = []
    reports: list[CheckReport] = []
    with no_collection():
        for done, path in enumerate(paths):
            progress(done, len(paths))
            text = _text(path)
            found = _SCHEMA.search(text, 0, 4096)
            kind = found[1] if found else ""
            if kind == "check":
                try:
                    reports.append(CheckReport.model_validate_json(text))
                except ValueError as error:
                    raise BadRequest(f"{printable(str(path))}: not a moeplan.check/1: {_first_line(error)}") from None
            elif kind in ("", "inventory"):
                inventories.append(_inventory(path, text, types))
            else:
                raise BadRequest(
                    f"{printable(str(path))}: a moeplan.{kind} cannot be merged; inventories and checks can"
                )
            if inventories and reports:
                raise BadRequest(f"{printable(str(path))}: inventories and check reports cannot be merged into one")
        progress(len(paths), len(paths))
        if reports:
            return Merged(None, merge_reports(reports, strict=strict, generated_by=GENERATED_BY))
        return Merged(_joined(inventories), None)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"{printable(str(path))}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise BadRequest(f"{printable(str(path))}: larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(f"{printable(str(path))}: not UTF-8 text") from None


def _inventory(path: Path, text: str, types: dict[str, str]) -> Inventory:
    try:
        listed = read_listing(text)
        if listed is not None:
            return _with_keys(path, listed, types)
        return from_json(text)
    except ValueError as error:
        if isinstance(error, BadRequest):
            raise
        raise BadRequest(
            f"{printable(str(path))}: neither an inventory or check of moeplan, nor nodes of kubectl, scontrol or Ray "
            f"({_first_line(error)})"
        ) from None


def _joined(inventories: Sequence[Inventory]) -> Inventory:
    nodes = [node for one in inventories for node in one.nodes]
    names: set[str] = set()
    for node in nodes:
        if node.name in names:
            raise BadRequest(f"two files have a node {node.name[:80]}; give each node one")
        names.add(node.name)
    notes = dict.fromkeys(note for one in inventories for note in one.notes)
    looked = [one.collected_at for one in inventories if one.collected_at is not None]
    return Inventory(
        collected_at=min(looked) if len(looked) == len(inventories) else None, nodes=tuple(nodes), notes=tuple(notes)
    )


def _with_keys(path: Path, inventory: Inventory, types: dict[str, str]) -> Inventory:
    """Every GPU with its hardware key: by name and memory, or by the type that a scheduler calls it."""
    keys: dict[tuple[str, int | None], str] = {}

    def keyed(gpu: Gpu) -> Gpu:
        name = known(gpu.name) or ""
        total = known(gpu.memory.total_bytes) if gpu.memory is not None else None
        if (name, total) not in keys:
            keys[name, total] = _key(path, name, total, types)
        return gpu.model_copy(update={"key": keys[name, total]})

    nodes = [node.model_copy(update={"gpus": tuple([keyed(gpu) for gpu in node.gpus])}) for node in inventory.nodes]
    return inventory.model_copy(update={"nodes": tuple(nodes)})


def _key(path: Path, name: str, total: int | None, types: dict[str, str]) -> str:
    meant = types.get(name.casefold())
    if meant is not None:
        return meant
    found = match_reported(name, total >> 20) if total is not None else None
    if found is not None:
        return found
    try:
        return resolve_gpu_name(_MAKER.sub("", name))
    except (UnknownName, AmbiguousName) as error:
        raise BadRequest(f"{printable(str(path))}: {error}; say --gpu-type {name}=KEY") from None


def gpu_types(given: Sequence[str]) -> dict[str, str]:
    """``--gpu-type a100=a100-sxm-80`` as a table. Raises ``BadRequest``."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, meant = text.partition("=")
        if not name.strip() or not equals:
            raise BadRequest(f"--gpu-type: {shown(text)} is not NAME=GPU, such as a100=a100-sxm-80")
        try:
            found[name.strip().casefold()] = resolve_gpu_name(meant.strip())
        except (UnknownName, AmbiguousName) as error:
            raise BadRequest(f"--gpu-type {shown(name)}: {error}") from None
    return found


def _first_line(error: ValueError) -> str:
    return json.dumps(str(error).strip().splitlines()[0])[1:-1][:200] if str(error).strip() else type(error).__name__
