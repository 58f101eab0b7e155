"""An expert layer on a GPU, whoever's kernels compute it: weights, routing, check and CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .blocks import GROUP, ROWS, activations, expert_layer, int4_rows
from .gpu import Device
from .routing import Array, Router, Slots, slots_needed
from .serve import CannotRun, Series
from .timing import Options, Prepared, relative_error

CHECKED_TOKENS = 2
BOUND = 0.01
BITS = {"bf16": 16.0, f"int4_g{GROUP}": 4.5, "fp8_block128": 8.0}


class Buffers(NamedTuple):
    """Tensors of one batch whose addresses a CUDA graph keeps."""

    tokens: Any
    slots: Any
    shares: Any
    output: Any


class Matrices(NamedTuple):
    """Rows of the two patterns as float64: of gate and up, and of down."""

    wide: Array
    narrow: Array


Layer = Callable[[Buffers], "tuple[Callable[[], object], Callable[[Array], None] | None]"]
"""From buffers to what computes the layer, and what has to be renewed for other routing."""


def series(
    quantization: str,
    dims: dict[str, int],
    options: Options,
    make: Callable[[Device, int, Options], tuple[Layer, Matrices]],
) -> Series:
    """A series whose weights ``make`` loads for so many slots."""
    if quantization not in BITS:
        raise CannotRun(f"{quantization} is none of {', '.join(BITS)}")
    device = Device()
    torch, own = device.torch, device.options(options)
    hidden, inter, top_k = dims["hidden"], dims["inter"], dims["top_k"]
    count = slots_needed(3 * hidden * inter * BITS[quantization] / 8, top_k, dims["experts"], own)
    layer, matrices = make(device, count, own)
    slots, router = Slots(count, options.seed), Router(dims["experts"], dims["experts_total"], top_k, options)
    reference = device.copy_reference()

    def prepare(batch: int, _: int) -> Prepared:
        kind = torch.float32 if device.name == "cpu" else torch.bfloat16
        values = activations((batch, hidden), options.seed)
        buffers = Buffers(
            torch.from_numpy(values).to(device.name).to(kind),
            torch.zeros((batch, top_k), dtype=torch.int32, device=device.name),
            torch.full((batch, top_k), 1 / top_k, dtype=torch.float32, device=device.name),
            torch.zeros((batch, hidden), dtype=kind, device=device.name),
        )
        compute, renew = layer(buffers)

        def place() -> tuple[Array, int, int]:
            placed, distinct, busiest = slots.place(router.draw(batch))
            buffers.slots.copy_(torch.from_numpy(placed))
            if renew is not None:
                renew(placed)
            return placed, distinct, busiest

        place()
        replay = device.captured(compute)
        prepared: Prepared

        def next_step() -> Callable[[], object]:
            _, distinct, busiest = place()
            prepared.distinct.append(distinct)
            prepared.busiest.append(busiest)
            return replay

        def error() -> float:
            placed, _, _ = place()
            replay()
            checked = slice(0, CHECKED_TOKENS)
            given = buffers.tokens[checked].float().cpu().numpy()
            shares = np.full(placed[checked].shape, 1 / top_k)
            wanted = expert_layer(matrices.wide, matrices.narrow, given, placed[checked], shares)
            return relative_error(buffers.output[checked].float().cpu().numpy(), wanted)

        prepared = Prepared(
            next_step, error, BOUND, reference=reference, clock="device", seconds_of=device.seconds_of,
            note="CUDA graph" if device.name == "cuda" else "interpreted: no time of a GPU",
        )  # fmt: skip
        return prepared

    return prepare


def int4_nibbles(columns: int, seed: int) -> tuple[Array, Array, Array]:
    """Pattern rows of INT4 as one nibble a byte, scales, and the numbers they mean."""
    rows = int4_rows(columns, seed)
    nibbles = np.empty((ROWS, columns), dtype=np.uint8)
    nibbles[:, ::2], nibbles[:, 1::2] = rows.packed & 15, rows.packed >> 4
    return nibbles, rows.scales, rows.values


def repeated(pattern: Any, slot: int, rows: int, first: int, torch: Any) -> Any:
    """Rows of the tensor of one slot: the pattern's, from where the slot before ended."""
    return pattern[(torch.arange(rows, device=pattern.device) + slot * rows + first) % len(pattern)]
