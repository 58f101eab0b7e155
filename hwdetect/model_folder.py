"""Where engines keep the models they download: the cache of huggingface_hub, its file system, and what is in it.

Layout: models--ORGANISATION--NAME/blobs holds the files, each once; a name that ends in ".incomplete" is being
downloaded. Source: huggingface_hub documentation, "Understand caching".
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from hwdetect.disks import ANSWER_TIMEOUT_S, disk_of
from hwdetect.facts import BoolFact, IntFact, printable
from hwdetect.host_parts import Checkpoint, ModelFolder

MAX_REPOSITORIES = 512
MAX_FILES = 20_000
_PREFIX = "models--"


def model_folder(given: str | None = None, environment: Mapping[str, str] = os.environ) -> ModelFolder:
    """The folder, which need not be there yet, and the checkpoints in it. given: what takes the cache's place.

    A file system that does not answer within `ANSWER_TIMEOUT_S` is described by its path alone.
    """
    path, source = _place(given, environment)
    empty = ModelFolder(path=printable(str(path)), source=source)
    answers: list[ModelFolder] = []

    def describe() -> None:
        try:
            answers.append(_described(path, source))
        except OSError:  # a folder that may not be looked into
            answers.append(empty)

    thread = threading.Thread(target=describe, daemon=True)
    thread.start()
    thread.join(2 * ANSWER_TIMEOUT_S)
    return answers[0] if answers else empty


def _place(given: str | None, environment: Mapping[str, str]) -> tuple[Path, str]:
    """The order in which huggingface_hub looks."""
    if given:
        return Path(given).absolute(), "as given"
    for name, below in (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):
        if environment.get(name):
            return (Path(environment[name]) / below).absolute(), name
    return Path.home() / ".cache/huggingface/hub", "default of huggingface_hub"


def _described(path: Path, source: str) -> ModelFolder:
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    writable = os.access(there, os.W_OK | os.X_OK)
    return ModelFolder(
        path=printable(str(path)),
        source=source,
        disk=disk_of(there.resolve()),
        writable=BoolFact.reported(writable, printable(f"access {there}")),
        checkpoints=_checkpoints(path),
    )


def _checkpoints(folder: Path) -> tuple[Checkpoint, ...]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.startswith(_PREFIX))
    except OSError:
        return ()
    return tuple(_checkpoint(folder / name) for name in names[:MAX_REPOSITORIES])


def _checkpoint(folder: Path) -> Checkpoint:
    source = printable(f"{folder.name}/blobs")
    size, unfinished = 0, False
    try:
        for number, entry in enumerate(os.scandir(folder / "blobs")):
            if number >= MAX_FILES:
                raise OSError(None, f"more than {MAX_FILES:,} files")
            size += entry.stat().st_size
            unfinished = unfinished or entry.name.endswith(".incomplete")
        held = IntFact.reported(size, source)
        complete = BoolFact.reported(not unfinished, source)
    except OSError as error:
        reason = printable(error.strerror or str(error))
        held, complete = IntFact.missing(source, reason), BoolFact.missing(source, reason)
    repository = folder.name.removeprefix(_PREFIX).replace("--", "/", 1)
    return Checkpoint(repository=printable(repository), bytes=held, complete=complete)
