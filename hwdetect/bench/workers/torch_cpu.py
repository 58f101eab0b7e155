"""PyTorch's own kernels on a CPU: bf16 matrices, and INT4 in groups of 32 as torchao uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .blocks import GROUP, activations, expert_layer, int4_rows
from .memory import reference_reader
from .routing import Router, Slots, slots_needed
from .serve import CannotRun, Provider, Series, cpu_device
from .timing import Options, Prepared, relative_error

BOUND = 0.01
CHECKED_TOKENS = 2


def _version(options: Options) -> str:
    import torch

    torch.set_num_threads(options.threads)
    return f"torch {torch.__version__}"


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights of a series."""
    if kernel == "cpu_router":
        return _router(quantization, dims, options)
    if kernel != "cpu_moe":
        raise CannotRun(f"torch is asked for experts and routers only, not for {kernel}")
    if dims["experts"] != dims["experts_total"]:
        raise CannotRun("torch is asked for all experts of a layer only")
    import torch

    hidden, inter, top_k = dims["hidden"], dims["inter"], dims["top_k"]
    wide, narrow = int4_rows(hidden, 1), int4_rows(inter, 2)
    bits = {"bf16": 16.0, f"int4_g{GROUP}": 4.5 + 0.5}.get(quantization)
    if bits is None:
        raise CannotRun(f"torch has bf16 and INT4 in groups of {GROUP}, not {quantization}")
    count = slots_needed(3 * hidden * inter * bits / 8, top_k, dims["experts"], options)
    whole = [torch.from_numpy(rows.values).to(torch.bfloat16) for rows in (wide, narrow)]

    def matrix(source: int, rows: int, first: int) -> Callable[[Any], Any]:
        if quantization == "bf16":
            weight = whole[source][(torch.arange(rows) + first) % len(whole[source])].contiguous()
            return lambda tokens: torch.nn.functional.linear(tokens, weight)
        rows_of = (wide, narrow)[source]
        packed, scales = rows_of.tensor(rows, first)
        nibbles = np.empty((rows, 2 * packed.shape[1]), dtype=np.int32)
        nibbles[:, ::2], nibbles[:, 1::2] = packed & 15, packed >> 4
        laid = torch._convert_weight_to_int4pack_for_cpu(torch.from_numpy(nibbles), 1)
        # Scale and zero of each group: the zero is of the middle of the range, which is eight here as well.
        pairs = torch.stack([torch.from_numpy(scales.T.copy()), torch.zeros(scales.T.shape)], dim=2)
        pairs = pairs.to(torch.bfloat16).contiguous()
        return lambda tokens: torch._weight_int4pack_mm_for_cpu(tokens, laid, GROUP, pairs)

    experts = [
        (matrix(0, inter, slot * inter), matrix(0, inter, slot * inter + 1), matrix(1, hidden, slot * hidden))
        for slot in range(count)
    ]
    slots, router = Slots(count, options.seed), Router(dims["experts"], dims["experts_total"], top_k, options)
    reader = reference_reader(options.cache_bytes, options.threads)

    def prepare(batch: int, _: int) -> Prepared:
        values = activations((batch, hidden), options.seed)
        tokens = torch.from_numpy(values).to(torch.bfloat16)
        output = torch.zeros((batch, hidden), dtype=torch.float32)
        work: list[tuple[int, Any]] = []

        def compute() -> None:
            output.zero_()
            with torch.inference_mode():
                for slot, rows in work:
                    gate, up, down = experts[slot]
                    given = tokens[rows]
                    out = down(torch.nn.functional.silu(gate(given)) * up(given))
                    output.index_add_(0, rows, out.float(), alpha=1 / top_k)

        def place() -> tuple[Any, int, int]:
            placed, distinct, busiest = slots.place(router.draw(batch))
            work[:] = [
                (int(slot), torch.from_numpy(np.nonzero(placed == slot)[0])) for slot in np.unique(placed)
            ]  # fmt: skip
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
            rows = [part.float().numpy().astype(np.float64) for part in whole]
            if quantization != "bf16":
                rows = [wide.values, narrow.values]
            shares = np.full(placed[checked].shape, 1 / top_k)
            wanted = expert_layer(rows[0], rows[1], tokens[checked].float().numpy(), placed[checked], shares)
            return relative_error(output[checked].numpy(), wanted)

        prepared = Prepared(next_step, error, BOUND, reference=reader)
        return prepared

    return prepare


def _router(quantization: str, dims: dict[str, int], options: Options) -> Series:
    import torch

    kind = {"F32": torch.float32, "BF16": torch.bfloat16}.get(quantization.upper())
    if kind is None:
        raise CannotRun(f"torch has routers in float32 and bf16, not in {quantization}")
    rows, columns, top_k = dims["experts"], dims["hidden"], dims["top_k"]
    size = rows * columns * kind.itemsize
    copies = int(max(2, -(-4 * options.cache_bytes // size)))
    if copies * size > options.memory_bytes:
        raise MemoryError(f"{copies * size / 1e9:.1f} GB of weights are needed to stay out of the cache")
    plain = activations((rows, columns), 5) / np.float32(columns**0.5)
    weights = [torch.from_numpy(plain).to(kind).clone() for _ in range(copies)]
    reader = reference_reader(options.cache_bytes, options.threads)

    def prepare(batch: int, _: int) -> Prepared:
        tokens = torch.from_numpy(activations((batch, columns), options.seed)).to(kind)
        turn = 0

        def routed(weight: Any) -> tuple[Any, Any]:
            with torch.inference_mode():
                return tuple(torch.topk(torch.sigmoid(torch.nn.functional.linear(tokens, weight).float()), top_k))

        def next_step() -> Callable[[], object]:
            nonlocal turn
            turn += 1
            weight = weights[turn % copies]
            return lambda: routed(weight)

        def error() -> float:
            exact = tokens.double().numpy() @ weights[0].double().numpy().T
            wanted = -np.sort(-1 / (1 + np.exp(-exact)), axis=1)[:, :top_k]
            chances, ids = routed(weights[0])
            taken = np.take_along_axis(1 / (1 + np.exp(-exact)), ids.numpy(), axis=1)
            return max(relative_error(chances.double().numpy(), wanted), relative_error(taken, wanted))

        return Prepared(next_step, error, BOUND, reference=reader)

    return prepare


PROVIDER = Provider(_version, build, cpu_device)
