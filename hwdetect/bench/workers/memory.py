"""Reading memory as fast as it goes: the ceiling that other kernels are put beside."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


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


def reference_reader(size: int, threads: int) -> Callable[[], float]:
    """What reads ``size`` bytes, each call another part of four such, and returns bytes per second."""
    room = filled(4 * size)
    quarters = np.array_split(room, 4)
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    clock = time.perf_counter if threads > 1 else time.process_time
    turn = 0

    def read() -> float:
        nonlocal turn
        chunks = np.array_split(quarters[turn % 4], threads)
        turn += 1
        started = clock()
        read_once(chunks, pool)
        return float(quarters[0].nbytes / (clock() - started))

    return read
