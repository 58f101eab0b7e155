"""Reading memory as fast as it goes: the ceiling that other kernels are put beside."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PARTS = 8
LEAST_BYTES = 16 << 20


def read_once(chunks: list[Array], pool: ThreadPoolExecutor | None) -> None:
    """Read each chunk to its end: a maximum needs one instruction for each vector and writes nothing."""
    if pool is None:
        for chunk in chunks:
            chunk.max()
    else:
        list(pool.map(np.max, chunks))


def filled(size: int) -> Array:
    """Memory that is really there: pages never written would all be the one page of zeros."""
    room = np.empty(size // 4, dtype=np.int32)
    room.fill(1)
    return room


def reference_reader(cache_bytes: int, threads: int) -> Callable[[], float]:
    """What reads memory that is in no cache, each call the next part of it, and returns bytes per second."""
    room = filled(max(2 * cache_bytes, PARTS * LEAST_BYTES))
    parts = np.array_split(room, PARTS)
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    clock = time.perf_counter if threads > 1 else time.process_time
    turn = 0

    def read() -> float:
        nonlocal turn
        part = parts[turn % PARTS]
        turn += 1
        chunks = np.array_split(part, threads)
        started = clock()
        read_once(chunks, pool)
        return float(part.nbytes / (clock() - started))

    return read
