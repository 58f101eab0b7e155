"""Reading memory as fast as it goes: the ceiling that other kernels are put beside."""

from __future__ import annotations

import ctypes
import mmap
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


def huge_pages(address: int | None, size: int) -> None:
    """Ask for huge pages where memory was not written yet; where the system has none, nothing happens.

    Small pages lie in physical memory as chance has it, and the same kernel on the same weights took from 21 to 25 ms
    in processes of their own (18.5 ms in huge pages, in each of them).
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or address is None:
        return
    first, end = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE, (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        # Refused is as good as unheard: the answer is not needed.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), advice)


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
