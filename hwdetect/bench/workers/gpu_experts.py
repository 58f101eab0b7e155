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
FP8_BLOCK = 128
BITS = {"bf16": 16.0, f"int4_g{GROUP}": 4.5, f"fp8_block{FP8_BLOCK}": 8.0}


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
    *,
    bound: float = BOUND,
) -> Series:
    """A series whose weights ``make`` loads for so many slots; ``bound`` is what its result may be off."""
    if quantization not in BITS:
        raise CannotRun(f"{quantization} is none of {', '.join(BITS)}")
    device = Device()
    torch, own = device.torch, device.options(options)
    hidden, inter, top_k = dims["hidden"], dims["inter"], dims["top_k"]
    count = slots_needed(3 * hidden * inter * BITS[quantization] / 8, top_k, dims["experts"], own)
    layer, matrices = make(device, count, own)
    slots = Slots(count, options.seed, warm=options.warm)
    router = Router(dims["experts"], dims["experts_total"], top_k, options)
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
            next_step, error, bound, reference=reference, clock="device", seconds_of=device.seconds_of,
            note=("CUDA graph" if device.name == "cuda" else "interpreted: no time of a GPU")
            + (", the same experts each time" if options.warm else ""),
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


def local_ids(
    dims: dict[str, int], device: Device, count: int
) -> tuple[Callable[[Buffers], tuple[Any, Callable[[Array], None]]], Any]:
    """Expert ids as engines take them, and their map from all experts to those here, None where all are here.

    The slot -1 of an expert of another rank is no index: engines pass the id of an expert that their map says is
    elsewhere.
    """
    torch = device.torch
    if dims["experts"] == dims["experts_total"]:
        return lambda buffers: (buffers.slots, lambda _: None), None
    mapped = torch.arange(count + 1, dtype=torch.int32, device=device.name)
    mapped[count] = -1

    def ids_of(buffers: Buffers) -> tuple[Any, Callable[[Array], None]]:
        ids = torch.zeros_like(buffers.slots)

        def renew(placed: Array) -> None:
            ids.copy_(torch.from_numpy(np.where(placed < 0, np.int32(count), placed)))

        return ids, renew

    return ids_of, mapped


def marlin_words(
    dims: dict[str, int], device: Device, count: int, repack: Callable[[Any, Any, int, int], Any]
) -> tuple[Any, Any, Matrices]:
    """Gate and up, and down, as ``repack`` lays them out from words, scales, columns and rows.

    Eight neighbouring columns share a word, and the words of a row lie in the columns of the result (GPTQ).
    """
    torch, hidden, inter = device.torch, dims["hidden"], dims["inter"]
    wide, narrow = int4_nibbles(hidden, 1), int4_nibbles(inter, 2)
    shifts = torch.arange(0, 32, 4, device=device.name, dtype=torch.int32)

    def laid_out(pattern: tuple[Array, Array, Array], of_slot: Callable[[Any, int], Any], columns: int) -> Any:
        nibbles, scales = (torch.from_numpy(one).to(device.name) for one in pattern[:2])
        words, grouped = [], []
        for slot in range(count):
            rows = of_slot(nibbles, slot).to(torch.int32)
            eights = rows.view(len(rows), columns // 8, 8)
            words.append((eights << shifts).sum(dim=2, dtype=torch.int32).T.contiguous())
            grouped.append(of_slot(scales, slot).T.contiguous().to(torch.bfloat16))
        return repack(torch.stack(words), torch.stack(grouped), columns, words[0].shape[1])

    both = laid_out(wide, lambda one, slot: _gate_up(one, slot, inter, torch), hidden)
    down = laid_out(narrow, lambda one, slot: repeated(one, slot, hidden, 0, torch), inter)
    return both, down, Matrices(wide[2], narrow[2])


def plain_experts(hidden: int, inter: int, device: Device, count: int) -> tuple[Any, Any, Matrices]:
    """Gate above up, and down, in bf16 (float32 where it is interpreted)."""
    torch = device.torch
    kind = torch.float32 if device.name == "cpu" else torch.bfloat16
    wide, narrow = pattern_rows(hidden, 1, torch), pattern_rows(inter, 2, torch)
    both, down = _stacked(wide.to(device.name).to(kind), narrow.to(device.name).to(kind), hidden, inter, count, torch)
    return both, down, Matrices(wide.double().numpy(), narrow.double().numpy())


def fp8_experts(hidden: int, inter: int, device: Device, count: int) -> tuple[Any, Any, Any, Any, Matrices]:
    """Gate above up and their scales, down and its scales, in FP8 with one scale a block. Raises ``CannotRun``."""
    torch = device.torch
    if hidden % FP8_BLOCK or inter % FP8_BLOCK:
        raise CannotRun(f"{hidden} and {inter} are no multiples of the {FP8_BLOCK} of a block")
    wide, narrow = (pattern_rows(size, seed, torch) * size**0.5 for size, seed in ((hidden, 1), (inter, 2)))
    stored = [one.to(device.name).to(torch.float8_e4m3fn) for one in (wide, narrow)]
    both, down = _stacked(stored[0], stored[1], hidden, inter, count, torch)
    scales = [
        torch.full((count, rows // FP8_BLOCK, columns // FP8_BLOCK), columns**-0.5, device=device.name)
        for rows, columns in ((2 * inter, hidden), (hidden, inter))
    ]
    exact = [(one.cpu().double() * one.shape[1] ** -0.5).numpy() for one in stored]
    return both, scales[0], down, scales[1], Matrices(exact[0], exact[1])


def pattern_rows(columns: int, seed: int, torch: Any) -> Any:
    """Pattern rows that bf16 holds exactly."""
    values = np.random.default_rng(seed).standard_normal((13, columns)) / columns**0.5
    return torch.from_numpy(values).to(torch.bfloat16).float()


def _gate_up(pattern: Any, slot: int, inter: int, torch: Any) -> Any:
    return torch.cat([repeated(pattern, slot, inter, 0, torch), repeated(pattern, slot, inter, 1, torch)])


def _stacked(wide: Any, narrow: Any, hidden: int, inter: int, count: int, torch: Any) -> tuple[Any, Any]:
    both = torch.stack([_gate_up(wide, slot, inter, torch) for slot in range(count)])
    return both, torch.stack([repeated(narrow, slot, hidden, 0, torch) for slot in range(count)])
