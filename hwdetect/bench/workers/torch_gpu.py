"""PyTorch's own kernels on a GPU: bf16 projections, the router, and copies from pinned memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .gpu import Device, device_name, torch_version
from .serve import CannotRun, Provider, Series
from .timing import Options, Prepared, relative_error

BOUND = 0.01


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights of a series."""
    device = Device()
    if kernel == "host_to_device":
        return _copy(dims["bytes"], device)
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


PROVIDER = Provider(torch_version("torch"), build, device_name)
