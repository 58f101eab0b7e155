"""Reading memory as fast as it goes: the ceiling that other kernels are put beside.

The kernel puts memory on the NUMA node of the thread that writes it first. So each thread stays on one node, fills what
it will read, and all nodes take part.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PARTS = 8
LEAST_BYTES = 16 << 20


def nodes_here(root: Path = Path("/"), allowed: frozenset[int] | None = None) -> dict[int, frozenset[int]]:
    """CPUs of each NUMA node that this process may use; nothing where the system does not say."""
    if allowed is None:
        allowed = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
    found = {}
    for folder in (root / "sys/devices/system/node").glob("node[0-9]*"):
        with suppress(OSError, ValueError):
            cpus = allowed & cpus_of((folder / "cpulist").read_text())
            if cpus:
                found[int(folder.name[4:])] = cpus
    return dict(sorted(found.items()))


def cpus_of(text: str) -> frozenset[int]:
    """The numbers of a kernel's list.

    >>> sorted(cpus_of("0-2,8\\n"))
    [0, 1, 2, 8]
    """
    found: set[int] = set()
    for part in text.strip().split(",") if text.strip() else []:
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def shared_out(threads: int, nodes: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """The CPUs of each thread: each stays on a node, and the nodes have as many as they have CPUs, or nearly.

    >>> [sorted(cpus) for cpus in shared_out(3, [frozenset({0, 1}), frozenset({2, 3})])]
    [[0, 1], [2, 3], [0, 1]]
    """
    given = [0] * len(nodes)
    found = []
    for _ in range(threads):
        best = min(range(len(nodes)), key=lambda at: (given[at] / len(nodes[at]), at))
        given[best] += 1
        found.append(nodes[best])
    return found


class Readers:
    """Threads that each filled a part of so many bytes, on all NUMA nodes or on one, and read it."""

    def __init__(self, size: int, threads: int, nodes: Sequence[frozenset[int]] = ()) -> None:
        self.size = size // (4 * threads) * 4 * threads
        places = shared_out(threads, nodes) if nodes else []
        # One thread needs no place of its own, unless it is to be on one node of several.
        self._pools = [ThreadPoolExecutor(1) for _ in range(threads)] if threads > 1 or places else []
        made = [
            pool.submit(_own, self.size // threads, places[at] if places else None)
            for at, pool in enumerate(self._pools)
        ]
        self._parts = [one.result() for one in made] or [filled(self.size)]

    def read(self, turn: int, parts: int) -> None:
        """Read one of so many parts to its end: a maximum needs one instruction for each vector and writes nothing."""
        chunks = [own[len(own) // parts * turn : len(own) // parts * (turn + 1)] for own in self._parts]
        if not self._pools:
            chunks[0].max()
            return
        for one in [pool.submit(np.max, chunk) for pool, chunk in zip(self._pools, chunks, strict=True)]:
            one.result()


def _own(size: int, cpus: frozenset[int] | None) -> Array:
    if cpus is not None:
        # Of the thread that calls, not of the process.
        os.sched_setaffinity(0, cpus)
    return filled(size)


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
    nodes = list(nodes_here().values())
    # As the kernel's own threads, that are bound to no node, one thread is left where it is.
    readers = Readers(
        max(2 * cache_bytes, PARTS * LEAST_BYTES), threads, nodes if len(nodes) > 1 and threads > 1 else ()
    )
    clock = time.perf_counter if threads > 1 else time.process_time
    turn = 0

    def read() -> float:
        nonlocal turn
        turn += 1
        started = clock()
        readers.read(turn % PARTS, PARTS)
        return float(readers.size / PARTS / (clock() - started))

    return read
