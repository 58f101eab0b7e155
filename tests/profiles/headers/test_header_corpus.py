"""Replay of the fuzzing corpus: valid seeds are accepted, and nothing that was ever found is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.targets import CORPUS, TARGETS, check

FILES = sorted(path for target in TARGETS for path in (CORPUS / target).iterdir())


def test_every_reader_has_seeds() -> None:
    assert {path.parent.name for path in FILES if path.name.startswith("valid-")} == set(TARGETS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_replays(tmp_path: Path, path: Path) -> None:
    check(path.parent.name, path.read_bytes(), tmp_path)


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.name.startswith("valid-")],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_accepts_the_valid_seeds(tmp_path: Path, path: Path) -> None:
    target = TARGETS[path.parent.name]
    copy = tmp_path / target.file_name
    copy.write_bytes(path.read_bytes())
    target.check(copy)
