"""Main memory and disk, measured with numpy and the system alone."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .memory import Readers, nodes_here
from .serve import CannotRun, Provider, Series, cpu_device
from .timing import Options, Prepared

BLOCK_BYTES = 4 << 20
READERS = 4
"""Requests in flight: one at a time leaves an NVMe disk idle between them."""


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Memory or a file of the size that is to be read."""
    if kernel == "disk_read":
        return _disk(dims["bytes"], options)
    if kernel != "memory_read":
        raise CannotRun(f"{kernel} is no reading of memory or disk")
    return _memory(dims["bytes"], options, dims.get("node"), dims.get("nodes"))


def _memory(size: int, options: Options, node: int | None, spread: int | None) -> Series:
    """Memory of all NUMA nodes, of one, or wherever the system puts it where there is one only."""
    parts = max(-(-4 * options.cache_bytes // size), 1)
    room_bytes = parts * size
    if room_bytes > options.memory_bytes:
        raise MemoryError(f"{room_bytes / 1e9:.1f} GB have to be read to stay out of the cache")
    here = nodes_here()
    if node is not None and node not in here:
        raise CannotRun(f"this process may use no CPU of NUMA node {node}")
    if spread is not None and (len(here) != spread or options.threads < spread):
        raise CannotRun(f"{options.threads} threads are on {len(here)} NUMA nodes, and {spread} are to be read")
    places = [here[node]] if node is not None else [*here.values()] if spread is not None else []
    # Threads of one node only: the others could read across.
    threads = min(options.threads, len(here[node])) if node is not None else options.threads
    readers = Readers(room_bytes, threads, places)
    turn = 0

    def next_step() -> Callable[[], object]:
        nonlocal turn
        turn += 1
        return lambda: readers.read(turn % parts, parts)

    note = f"{threads} threads of NUMA node {node}" if node is not None else ""
    if spread is not None:
        note = f"each thread reads what it filled, on {spread} NUMA nodes"

    def prepare(batch: int, _: int) -> Prepared:
        # Reading computes nothing that could be wrong.
        return Prepared(next_step, lambda: 0.0, 0.0, repeats=batch, note=note)

    return prepare


def _disk(size: int, options: Options) -> Series:
    if options.path is None:
        raise CannotRun("no folder is named in which a file may be written and read")
    path, made = _file(Path(options.path), size)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
    except OSError as error:
        _remove(path, made)
        raise CannotRun(f"{path.parent}: cannot read past the page cache (O_DIRECT): {error.strerror}") from None
    _remove(path, made)
    # Anonymous memory is aligned to pages, as O_DIRECT demands.
    buffers = [mmap.mmap(-1, BLOCK_BYTES) for _ in range(READERS)]
    pool = ThreadPoolExecutor(READERS)
    whole = os.fstat(descriptor).st_size // BLOCK_BYTES

    def read_all() -> None:
        def lane(number: int) -> None:
            for block in range(number, whole, READERS):
                os.preadv(descriptor, [buffers[number]], block * BLOCK_BYTES)

        list(pool.map(lane, range(READERS)))

    def seconds_of(step: Callable[[], object]) -> float:
        started = time.perf_counter()
        step()
        # The case is about ``size`` bytes; a file is whole blocks.
        return (time.perf_counter() - started) * size / (whole * BLOCK_BYTES)

    note = "direct reads, past the page cache" if hasattr(os, "O_DIRECT") else "through the page cache"

    def prepare(batch: int, _: int) -> Prepared:
        return Prepared(
            lambda: read_all, lambda: 0.0, 0.0, repeats=batch, clock="wall", seconds_of=seconds_of, note=note
        )

    return prepare


def _file(given: Path, size: int) -> tuple[Path, bool]:
    """A file to read: the one given if it is large enough, else a new one of random bytes in that folder."""
    if given.is_file():
        if given.stat().st_size < max(size, BLOCK_BYTES):
            raise CannotRun(f"{given}: smaller than the {size} bytes that are to be read")
        return given, False
    path = given / f".moeplan-bench-{os.getpid()}"
    block = np.random.default_rng(1).bytes(BLOCK_BYTES)
    try:
        with path.open("xb") as file:
            for _ in range(-(-size // BLOCK_BYTES)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _remove(path, True)
        raise CannotRun(f"{given}: a file of {size / 1e6:.0f} MB cannot be written: {error.strerror}") from None
    return path, True


def _remove(path: Path, made: bool) -> None:
    """An open file can be read after its name is gone, and then nobody has to clear up."""
    if made:
        with contextlib.suppress(OSError):
            path.unlink()


PROVIDER = Provider(lambda _: f"numpy {np.__version__}", build, cpu_device)
