"""Scenario files: a machine's NVIDIA driver and kernel files, and what `moeplan check` must find there.

A file is TOML: `description`; `base`, a scenario it differs from; a table for the system, for every GPU ("gpu*"), for
one ("gpu3") or for its MIG devices; `old_driver`, a library without the newer functions; `files`, what stands in /dev,
/proc and /sys; `findings` without a plan and `plan_findings` with one for 8x H200, each "status code subject".
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "scenarios"
_OURS = frozenset({"description", "base", "old_driver", "files", "findings", "plan_findings"})


class Scenario(NamedTuple):
    """One machine. `lines` are what the library answers from: SUBJECT KEY VALUE."""

    name: str
    description: str
    lines: tuple[str, ...]
    old_driver: bool
    files: dict[str, str]
    findings: tuple[str, ...] | None
    plan_findings: tuple[str, ...] | None

    def write(self, folder: Path) -> Path:
        """The lines as a file of this folder, and below it under ROOT/NAME the machine's files."""
        for name, text in self.files.items():
            path = self.root(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        place = folder / f"{self.name}.scenario"
        place.write_text("\n".join(self.lines) + "\n")
        return place

    def root(self, folder: Path) -> Path:
        """What stands for "/" on this machine."""
        return folder / "roots" / self.name


def names() -> tuple[str, ...]:
    """Every scenario."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@cache
def load(name: str) -> Scenario:
    """A scenario with everything its bases say. Raises FileNotFoundError for one that is not there."""
    table: dict[str, Any] = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    base = load(table["base"]) if "base" in table else None
    lines = [
        f"{subject} {key} {value}"
        for subject, keys in table.items()
        if subject not in _OURS
        for key, value in _flat(keys, "")
    ]
    return Scenario(
        name=name,
        description=table["description"],
        lines=((*base.lines, *lines) if base else tuple(lines)),
        old_driver=table.get("old_driver", bool(base and base.old_driver)),
        files={**(base.files if base else {}), **table.get("files", {})},
        findings=tuple(table["findings"]) if "findings" in table else None,
        plan_findings=tuple(table["plan_findings"]) if "plan_findings" in table else None,
    )


def _flat(keys: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """``pcie.width = 8`` as ("pcie.width", 8); ``value`` is a key's own where it has keys below it."""
    for key, value in keys.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield (prefix.rstrip(".") if key == "value" else f"{prefix}{key}"), value
