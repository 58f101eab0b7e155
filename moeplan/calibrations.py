"""Where calibrations lie, and whether there can be any: all that a plan without one needs of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

NONE: Final = "none"
AUTO: Final = "auto"


def data_folder() -> Path:
    """Where this user's data of programs lies: XDG_DATA_HOME, or the platform's default."""
    given = os.environ.get("XDG_DATA_HOME", "")
    if given and Path(given).is_absolute():
        return Path(given) / "moeplan"
    home = Path.home()
    return (home / "Library/Application Support" if sys.platform == "darwin" else home / ".local/share") / "moeplan"


def place_of(choice: str, machine: str) -> Path | None:
    """The file that ``--calibration`` means for a machine's fingerprint; None for ``none``."""
    if choice == NONE:
        return None
    return data_folder() / "calibrations" / f"{machine}.json" if choice == AUTO else Path(choice)


def may_have_any(choice: str | None) -> bool:
    """Whether ``--calibration`` may mean a file that exists, without looking at the machine."""
    if choice in (None, AUTO):
        return (data_folder() / "calibrations").is_dir()
    return choice != NONE
