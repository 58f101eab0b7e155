"""DeepGEMM, by itself or inside vLLM: FP8 in blocks of 128 x 128, grouped over experts and plain.

The activations are rounded to FP8 as the engines round them, one scale for 128 columns of a token, in PyTorch's own
operations inside the CUDA graph; the engines have faster kernels for that. Written against the DeepGEMM of vLLM 0.33
and of SGLang 0.5.23 (sgl-deep-gemm 0.2.3). Not yet run on a GPU by this project.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .gpu import Device, device_name
from .gpu_experts import FP8_BLOCK, Buffers, Layer, Matrices, fp8_experts, series
from .routing import Array
from .serve import CannotRun, Provider, Series
from .timing import Options, Prepared, relative_error

PLACES = ("deep_gemm", "vllm.third_party.deep_gemm")
BOUND = 0.08
"""Activations of three bits after the point: 4-6 % after two products and what multiplies between them."""
LARGEST_FP8 = 448.0
ALIGNMENT = 128
"""Rows of which a tile of the grouped kernel belongs to one expert."""


def library() -> Any:
    """The module, from the first place that has it. Raises ``ImportError``."""
    try:
        return importlib.import_module(PLACES[0])
    except ImportError as problem:
        try:
            return importlib.import_module(PLACES[1])
        except ImportError:
            raise problem from None


def _version(_: Options) -> str:
    found = library()
    torch = Device().torch
    return f"{found.__name__} {getattr(found, '__version__', '')}, torch {torch.__version__}"


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights of a series."""
    if quantization != f"fp8_block{FP8_BLOCK}":
        raise CannotRun(f"DeepGEMM is asked for FP8 in blocks of {FP8_BLOCK}, not {quantization}")
    if kernel == "grouped_moe":
        return series(quantization, dims, options, lambda device, count, _: grouped(dims, device, count), bound=BOUND)
    if kernel == "dense":
        return dense(dims["in"], dims["out"], options)
    raise CannotRun(f"DeepGEMM is not asked for {kernel}")


def rounded(values: Any, torch: Any) -> tuple[Any, Any]:
    """Rows in FP8 and their scales, one for each block of columns."""
    blocks = values.float().view(values.shape[0], -1, FP8_BLOCK)
    scales = blocks.abs().amax(dim=2).clamp(min=1e-4) / LARGEST_FP8
    return (blocks / scales[:, :, None]).to(torch.float8_e4m3fn).view(values.shape), scales


def rows_by_expert(placed: Array, experts: int) -> tuple[Array, Array, Array]:
    """Rows in tiles of one expert each: the pair in each row, its expert (-1 in unused rows), the row of each pair.

    All three are as long as the worst routing needs. Pairs of nobody here lie in the last row, which is unused.
    """
    flat = placed.reshape(-1)
    length = (min(len(flat), experts) * (ALIGNMENT - 1) + len(flat)) // ALIGNMENT * ALIGNMENT + 2 * ALIGNMENT
    pair_of_row, expert_of_row = np.zeros(length, dtype=np.int64), np.full(length, -1, dtype=np.int32)
    row_of_pair = np.full(len(flat), length - 1, dtype=np.int64)
    row = 0
    for expert in np.unique(flat[flat >= 0]):
        pairs = np.nonzero(flat == expert)[0]
        pair_of_row[row : row + len(pairs)], row_of_pair[pairs] = pairs, np.arange(row, row + len(pairs))
        end = row + -(-len(pairs) // ALIGNMENT) * ALIGNMENT
        expert_of_row[row:end], row = expert, end
    return pair_of_row, expert_of_row, row_of_pair


def grouped(dims: dict[str, int], device: Device, count: int) -> tuple[Layer, Matrices]:
    """Both products grouped by expert, what lies between them in PyTorch."""
    deep_gemm, torch = library(), device.torch
    hidden, inter, top_k = dims["hidden"], dims["inter"], dims["top_k"]
    both, both_scales, down, down_scales, matrices = fp8_experts(hidden, inter, device, count)

    def layer(buffers: Buffers) -> tuple[Callable[[], object], Callable[[Array], None]]:
        batch = buffers.tokens.shape[0]
        plan = [
            torch.from_numpy(one).to(device.name)
            for one in rows_by_expert(np.zeros((batch, top_k), dtype=np.int32), count)
        ]
        pair_of_row, expert_of_row, row_of_pair = plan
        here = torch.ones((batch, top_k), device=device.name)
        kind = buffers.tokens.dtype
        gate_up = torch.zeros((len(pair_of_row), 2 * inter), dtype=kind, device=device.name)
        spread = torch.zeros((len(pair_of_row), hidden), dtype=kind, device=device.name)

        def compute() -> None:
            given = rounded(buffers.tokens[pair_of_row // top_k], torch)
            deep_gemm.m_grouped_fp8_gemm_nt_contiguous(given, (both, both_scales), gate_up, expert_of_row)
            inner = torch.nn.functional.silu(gate_up[:, :inter]) * gate_up[:, inter:]
            deep_gemm.m_grouped_fp8_gemm_nt_contiguous(
                rounded(inner, torch), (down, down_scales), spread, expert_of_row
            )
            each = spread[row_of_pair].view(batch, top_k, hidden)
            torch.sum(each * (buffers.shares * here)[:, :, None].to(kind), dim=1, out=buffers.output)

        def renew(placed: Array) -> None:
            for old, new in zip(plan, rows_by_expert(placed, count), strict=True):
                old.copy_(torch.from_numpy(new))
            here.copy_(torch.from_numpy((placed >= 0).astype(np.float32)))

        return compute, renew

    return layer, matrices


def dense(columns: int, rows: int, options: Options) -> Series:
    """One projection."""
    deep_gemm, device = library(), Device()
    torch, own = device.torch, device.options(options)
    if columns % FP8_BLOCK:
        raise CannotRun(f"{columns} columns are no multiple of the {FP8_BLOCK} of a block")
    size = rows * columns
    copies = int(max(2, min(-(-4 * own.cache_bytes // size), 256)))
    if copies * size > own.memory_bytes:
        raise MemoryError(f"{copies * size / 1e9:.1f} GB of weights are needed to stay out of the cache")
    scale = columns**-0.5
    scales = torch.full((-(-rows // FP8_BLOCK), columns // FP8_BLOCK), scale, device=device.name)
    weights = [
        torch.randn((rows, columns), device=device.name).to(torch.float8_e4m3fn) for _ in range(copies)
    ]  # fmt: skip
    reference = device.copy_reference()

    def prepare(batch: int, _: int) -> Prepared:
        tokens = torch.randn((batch, columns), device=device.name, dtype=torch.bfloat16)
        output = torch.empty((batch, rows), device=device.name, dtype=torch.bfloat16)

        def over(weight: Any) -> Callable[[], object]:
            return lambda: deep_gemm.fp8_gemm_nt(rounded(tokens, torch), (weight, scales), output)

        replays = [device.captured(over(weight)) for weight in weights]
        turn = 0

        def next_step() -> Callable[[], object]:
            nonlocal turn
            turn += 1
            return replays[turn % len(replays)]

        def error() -> float:
            replays[0]()
            wanted = tokens.double().cpu().numpy() @ (weights[0].double() * scale).cpu().numpy().T
            return relative_error(output.double().cpu().numpy(), wanted)

        return Prepared(
            next_step, error, BOUND, reference=reference, clock="device", seconds_of=device.seconds_of,
            note="activations rounded by PyTorch",
        )  # fmt: skip

    return prepare


PROVIDER = Provider(_version, build, device_name)
