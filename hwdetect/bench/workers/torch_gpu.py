"""PyTorch's own kernels on a GPU: bf16 projections, the router, attention, copies from the host and between GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .gpu import Device, device_name, torch_version
from .gpu_attention import Attend, Shape, Tensors
from .gpu_attention import series as attention_series
from .serve import CannotRun, Provider, Series
from .timing import Options, Prepared, relative_error

BOUND = 0.01


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights of a series."""
    if kernel in ("gqa_decode", "gqa_prefill", "mla_prefill"):
        return attention_series(kernel, quantization, dims, options, scaled_dot_product)
    device = Device()
    if kernel == "host_to_device":
        return _copy(dims["bytes"], device)
    if kernel == "gpu_to_gpu":
        return _peer_copy(dims["bytes"], device)
    if kernel not in ("dense", "router"):
        raise CannotRun(f"torch on a GPU is not asked for {kernel}")
    if quantization.lower() not in ("bf16", "f32"):
        raise CannotRun(f"torch multiplies bf16 and float32, not {quantization}")
    kind = device.torch.bfloat16 if quantization.lower() == "bf16" else device.torch.float32
    rows = dims["out"] if kernel == "dense" else dims["experts"]
    columns = dims["in"] if kernel == "dense" else dims["hidden"]
    return _product(rows, columns, kind, dims.get("top_k"), device, device.options(options))


def _product(rows: int, columns: int, kind: Any, top_k: int | None, device: Device, options: Options) -> Series:
    torch = device.torch
    size = rows * columns * kind.itemsize
    copies = int(max(2, min(-(-4 * options.cache_bytes // size), 256)))
    if copies * size > options.memory_bytes:
        raise MemoryError(f"{copies * size / 1e9:.1f} GB of weights are needed to stay out of the cache")
    weights = [torch.randn((rows, columns), device=device.name, dtype=kind) / columns**0.5 for _ in range(copies)]
    reference = device.copy_reference()

    def prepare(batch: int, _: int) -> Prepared:
        tokens = torch.randn((batch, columns), device=device.name, dtype=kind)
        output = torch.empty((batch, rows), device=device.name, dtype=kind)

        def with_weight(weight: Any) -> Callable[[], object]:
            def compute() -> None:
                torch.matmul(tokens, weight.T, out=output)
                if top_k is not None:
                    torch.topk(torch.sigmoid(output), top_k)

            return device.captured(compute)

        replays = [with_weight(weight) for weight in weights]
        turn = 0

        def next_step() -> Callable[[], object]:
            nonlocal turn
            turn += 1
            return replays[turn % len(replays)]

        def error() -> float:
            replays[0]()
            wanted = tokens.double().cpu().numpy() @ weights[0].double().cpu().numpy().T
            return relative_error(output.double().cpu().numpy(), wanted)

        return Prepared(
            next_step, error, BOUND, reference=reference, clock="device", seconds_of=device.seconds_of,
            note="CUDA graph",
        )  # fmt: skip

    return prepare


def _copy(size: int, device: Device) -> Series:
    torch = device.torch
    if device.name == "cpu":
        raise CannotRun("a copy to a GPU needs one")
    source = torch.ones(size, dtype=torch.uint8).pin_memory()
    target = torch.zeros(size, dtype=torch.uint8, device=device.name)

    def prepare(batch: int, _: int) -> Prepared:
        def error() -> float:
            target.copy_(source, non_blocking=True)
            torch.cuda.synchronize()
            return float((target != 1).float().mean())

        return Prepared(
            lambda: lambda: target.copy_(source, non_blocking=True), error, 0.0, repeats=batch, clock="device",
            seconds_of=device.seconds_of, note="pinned memory",
        )  # fmt: skip

    return prepare


def _peer_copy(size: int, device: Device) -> Series:
    """From the first GPU to the second, over whatever link they have."""
    torch = device.torch
    if torch.cuda.device_count() < 2:
        raise CannotRun("a copy between GPUs needs two, and PyTorch sees one")
    source = torch.ones(size, dtype=torch.uint8, device="cuda:0")
    target = torch.zeros(size, dtype=torch.uint8, device="cuda:1")
    direct = torch.cuda.can_device_access_peer(0, 1)

    def prepare(batch: int, _: int) -> Prepared:
        def error() -> float:
            target.copy_(source, non_blocking=True)
            torch.cuda.synchronize()
            return float((target != 1).float().mean())

        return Prepared(
            lambda: lambda: target.copy_(source, non_blocking=True), error, 0.0, repeats=batch, clock="device",
            seconds_of=device.seconds_of, note="GPU to GPU directly" if direct else "through the host's memory",
        )  # fmt: skip

    return prepare


def scaled_dot_product(device: Device, shape: Shape, stored: int) -> Attend:
    """``scaled_dot_product_attention``, by whichever of its kernels PyTorch takes."""
    from torch.nn.attention.bias import causal_lower_right

    torch = device.torch
    mask = None if shape.queries == 1 else causal_lower_right(shape.queries, shape.cells)

    def attend(given: Tensors) -> Callable[[], Any]:
        # Heads before tokens, as PyTorch has it.
        queries, keys, values = (one.transpose(1, 2) for one in given)

        def compute() -> Any:
            found = torch.nn.functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, scale=shape.scale, enable_gqa=shape.heads != shape.kv_heads
            )
            return found.transpose(1, 2)

        return compute

    return attend


PROVIDER = Provider(torch_version("torch"), build, device_name)
