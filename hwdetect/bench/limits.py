"""What a benchmark may use of a machine: its last-level cache to stay out of, and memory to stay within."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ASSUMED_CACHE_BYTES: Final = 64 << 20
MEMORY_SHARE: Final = 0.4
"""Of the memory that is free: weights are laid out once more while they are converted, and others live here too."""
_SIZE: Final = re.compile(r"(\d+)([KMG]?)")
_FACTOR: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_cache_bytes(root: Path = Path("/")) -> tuple[int, bool]:
    """Bytes of all last-level caches of this machine, and whether the kernel says so (else a guess).

    A cache is counted once for the processors that share it.
    """
    level = 0
    caches: dict[str, int] = {}
    for index in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            found = int((index / "level").read_text())
            size = _SIZE.fullmatch((index / "size").read_text().strip())
            shared = (index / "shared_cpu_list").read_text().strip()
        except (OSError, ValueError):
            continue
        if size is None:
            continue
        if found > level:
            level, caches = found, {}
        if found == level:
            caches[shared] = int(size[1]) * _FACTOR[size[2]]
    total = sum(caches.values())
    return (total, True) if total else (ASSUMED_CACHE_BYTES, False)


def memory_allowance_bytes(usable_bytes: int | None) -> int:
    """Memory that workers may fill: a share of what is free now, within what a container allows."""
    import psutil

    free: int = psutil.virtual_memory().available
    return int(MEMORY_SHARE * (free if usable_bytes is None else min(free, usable_bytes)))
