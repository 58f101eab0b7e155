"""Experts of KTransformers on a CPU: kt-kernel's RAWINT4, which runs the INT4 of Kimi K2.5 as published."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np

from .blocks import GROUP, activations, expert_layer, int4_rows
from .memory import reference_reader
from .routing import Router, Slots, slots_needed
from .serve import CannotRun, Provider, Series, cpu_device
from .timing import Options, Prepared, relative_error

BOUND = 0.03
"""Activations are rounded to 8 bits before each of the two products."""
CHUNK = 512
CHECKED_TOKENS = 2


def _library() -> tuple[Any, Any]:
    import kt_kernel
    import torch

    return kt_kernel, torch


def _version(options: Options) -> str:
    kt, torch = _library()
    torch.set_num_threads(options.threads)
    return f"kt-kernel {importlib.metadata.version('kt-kernel')} ({kt.__cpu_variant__})"


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the experts of a series."""
    if kernel != "cpu_moe":
        raise CannotRun(f"kt-kernel has no {kernel}")
    if quantization != f"int4_g{GROUP}":
        raise CannotRun(f"RAWINT4 is INT4 in groups of {GROUP}, not {quantization}")
    kt, torch = _library()
    from kt_kernel.utils.amx import _select_rawint4_backend

    extension = kt.kt_kernel_ext
    hidden, inter, top_k = dims["hidden"], dims["inter"], dims["top_k"]
    wide, narrow = int4_rows(hidden, 1), int4_rows(inter, 2)
    size = 3 * hidden * inter * 4.5 / 8
    # The library copies the weights into a layout of its own, and both are there while it does.
    room = Options(**{**vars(options), "memory_bytes": options.memory_bytes // 2})
    count = slots_needed(size, top_k, dims["experts"], room)
    pool = extension.WorkerPoolConfig()
    pool.subpool_count, pool.subpool_numa_map, pool.subpool_thread_count = 1, [0], [options.threads]
    infer = extension.CPUInfer(pool)
    config = extension.moe.MOEConfig(count, top_k, hidden, inter, 0)
    config.pool = infer.backend_
    config.max_len = max(CHUNK, options.largest_batch)
    config.quant_config.bits, config.quant_config.group_size, config.quant_config.zero_point = 4, GROUP, False
    held: list[Any] = []

    def laid_out(source: Any, rows: int, first: int) -> tuple[list[int], list[int]]:
        weights, scales = [], []
        for slot in range(count):
            packed, scale = source.tensor(rows, slot * rows + first)
            packed = torch.from_numpy(np.ascontiguousarray(packed))
            scale = torch.from_numpy(np.ascontiguousarray(scale)).to(torch.bfloat16)
            held.extend((packed, scale))
            weights.append(packed.data_ptr())
            scales.append(scale.data_ptr())
        return weights, scales

    gate, up, down = laid_out(wide, inter, 0), laid_out(wide, inter, 1), laid_out(narrow, hidden, 0)
    config.gate_projs, config.gate_scales = [gate[0]], [gate[1]]
    config.up_projs, config.up_scales = [up[0]], [up[1]]
    config.down_projs, config.down_scales = [down[0]], [down[1]]
    backend = _select_rawint4_backend(GROUP)
    if backend is None:
        raise CannotRun("kt-kernel has no RAWINT4 for this CPU")
    moe = backend(config)
    order = torch.arange(count, dtype=torch.int64)
    infer.submit(moe.load_weights_task(order.data_ptr()))
    infer.sync()
    held.clear()
    slots = Slots(count, options.seed)
    router = Router(dims["experts"], dims["experts_total"], top_k, options)
    reader = reference_reader(options.cache_bytes, options.threads)

    def prepare(batch: int, _: int) -> Prepared:
        values = activations((batch, hidden), options.seed)
        tokens = torch.from_numpy(values).to(torch.bfloat16)
        output = torch.zeros((batch, hidden), dtype=torch.bfloat16)
        shares = torch.full((batch, top_k), 1 / top_k, dtype=torch.float32)
        ids = torch.zeros((batch, top_k), dtype=torch.int64)
        count_of_tokens = torch.tensor([batch], dtype=torch.int32)

        def compute() -> None:
            infer.submit(
                moe.forward_task(
                    count_of_tokens.data_ptr(), top_k, ids.data_ptr(), shares.data_ptr(), tokens.data_ptr(),
                    output.data_ptr(), False,
                )
            )  # fmt: skip
            infer.sync()

        def place() -> tuple[Any, int, int]:
            placed, distinct, busiest = slots.place(router.draw(batch))
            ids.copy_(torch.from_numpy(placed.astype(np.int64)))
            return placed, distinct, busiest

        prepared: Prepared

        def next_step() -> Callable[[], object]:
            _, distinct, busiest = place()
            prepared.distinct.append(distinct)
            prepared.busiest.append(busiest)
            return compute

        def error() -> float:
            placed, _, _ = place()
            compute()
            checked = slice(0, CHECKED_TOKENS)
            wanted = expert_layer(
                wide.values, narrow.values, tokens[checked].float().numpy(), placed[checked], shares[checked].numpy()
            )
            return relative_error(output[checked].float().numpy(), wanted)

        # Its threads wait for each other by spinning, so that CPU time counts the waiting too.
        prepared = Prepared(next_step, error, BOUND, reference=reader, clock="wall", note=f"{backend.__name__}")
        return prepared

    return prepare


PROVIDER = Provider(_version, build, cpu_device)
