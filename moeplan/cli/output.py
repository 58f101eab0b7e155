"""How results leave the program: JSON alone on stdout, remarks on stderr, files whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from moeplan.text_safe import printable
from planner.errors import BadRequest


def print_json(text: str) -> None:
    """JSON on stdout, as UTF-8 whatever the terminal's encoding is."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.write(text.rstrip("\n") + "\n")


def print_remarks(kind: str, lines: Iterable[str]) -> None:
    """One line each on stderr, every one once."""
    for line in dict.fromkeys(lines):
        print(f"moeplan: {kind}: {printable(line)}", file=sys.stderr)


def write_whole(path: Path, text: str, flag: str, *, mode: int = 0o666) -> None:
    """Write a file so that no reader ever sees half of it; an old one is replaced.

    Raises ``BadRequest`` when the place cannot be written.
    """
    temporary = None
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise BadRequest(f"{flag} {printable(str(path))}: not a regular file")
        temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        temporary.replace(target)
    except (OSError, ValueError) as error:
        if isinstance(error, BadRequest):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadRequest(f"{flag} {printable(str(path))}: {reason}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_folder(
    folder: Path, files: Mapping[str, str], flag: str, *, modes: Mapping[str, int], force: bool
) -> tuple[str, ...]:
    """Write the files of a folder, which is made where it is missing; the names that were in it before.

    All are written beside the folder first, so that what cannot be written leaves it as it was. Raises ``BadRequest``
    for files that are there without ``force``, and where the place cannot be written.
    """
    # Only who writes folders pays for loading them.
    import shutil
    import tempfile

    staged = None
    try:
        target = folder.resolve()
        before = tuple(sorted(path.name for path in target.iterdir())) if target.exists() else ()
        present = [name for name in files if name in before]
        if present and not force:
            raise BadRequest(f"{flag}: {printable(str(folder / present[0]))} exists; --force overwrites it")
        for name in present:
            if not (target / name).is_file():
                raise BadRequest(f"{flag} {printable(str(folder / name))}: not a regular file")
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".moeplan-", dir=target.parent))
        for name, text in files.items():
            descriptor = os.open(staged / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, modes[name])
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
        target.mkdir(exist_ok=True)
        for name in files:
            (staged / name).replace(target / name)
    except (OSError, ValueError) as error:
        if isinstance(error, BadRequest):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadRequest(f"{flag} {printable(str(folder))}: {reason}") from None
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
    return before
