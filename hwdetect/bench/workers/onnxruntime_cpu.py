"""ONNX Runtime's MatMulNBits on a CPU: INT4 in groups of 32, activations rounded to 8 bits (accuracy level 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import onnx_model as onnx
from .blocks import GROUP, Int4Rows, activations, expert_layer, int4_rows
from .memory import reference_reader
from .routing import Router, Slots, slots_needed
from .serve import CannotRun, Provider, Series, cpu_device
from .timing import Options, Prepared, relative_error

BOUND = 0.03
CHECKED_TOKENS = 2
BYTES_PER_WEIGHT = 0.5 + 4 / GROUP
"""Scales are float32 here."""


def _version(_: Options) -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def _expert(wide: Int4Rows, narrow: Int4Rows, slot: int) -> bytes:
    hidden, inter = wide.values.shape[1], narrow.values.shape[1]
    nodes, constants = [], []
    for name, given, rows, first, source in (
        ("gate", "tokens", inter, slot * inter, wide),
        ("up", "tokens", inter, slot * inter + 1, wide),
        ("down", "inner", hidden, slot * hidden, narrow),
    ):
        packed, scales = source.tensor(rows, first)
        constants.append(onnx.initializer(f"{name}_weight", packed.reshape(rows, -1, GROUP // 2)))
        constants.append(onnx.initializer(f"{name}_scale", scales.reshape(-1)))
        product = onnx.node(
            "MatMulNBits", [given, f"{name}_weight", f"{name}_scale"], name, "com.microsoft",
            K=source.values.shape[1], N=rows, bits=4, block_size=GROUP, accuracy_level=4,
        )  # fmt: skip
        if name == "down":
            nodes.append(onnx.node("Sigmoid", ["gate"], "sigmoid"))
            nodes.append(onnx.node("Mul", ["gate", "sigmoid"], "silu"))
            nodes.append(onnx.node("Mul", ["silu", "up"], "inner"))
        nodes.append(product)
    return onnx.model(nodes, constants, onnx.value("tokens", hidden), onnx.value("down", hidden))


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the experts of a series, each a session of its own."""
    if kernel == "cpu_router":
        return _router(quantization, dims, options)
    if kernel != "cpu_moe":
        raise CannotRun(f"onnxruntime is asked for experts and routers only, not for {kernel}")
    if quantization != f"int4_g{GROUP}" or dims["experts"] != dims["experts_total"]:
        raise CannotRun(f"onnxruntime is asked for all experts of a layer in INT4 with groups of {GROUP} only")
    import onnxruntime

    hidden, inter, top_k = dims["hidden"], dims["inter"], dims["top_k"]
    wide, narrow = int4_rows(hidden, 1), int4_rows(inter, 2)
    count = slots_needed(3 * hidden * inter * BYTES_PER_WEIGHT, top_k, dims["experts"], options)
    settings = _settings(options)
    sessions = [
        onnxruntime.InferenceSession(_expert(wide, narrow, slot), settings, providers=["CPUExecutionProvider"])
        for slot in range(count)
    ]
    slots, router = Slots(count, options.seed), Router(dims["experts"], dims["experts_total"], top_k, options)
    reader = reference_reader(options.cache_bytes, options.threads)

    def prepare(batch: int, _: int) -> Prepared:
        values = activations((batch, hidden), options.seed)
        output = np.zeros((batch, hidden), dtype=np.float32)
        work: list[tuple[int, Any]] = []

        def compute() -> None:
            output[:] = 0
            for slot, rows in work:
                output[rows] += sessions[slot].run(None, {"tokens": values[rows]})[0] / np.float32(top_k)

        def place() -> tuple[Any, int, int]:
            placed, distinct, busiest = slots.place(router.draw(batch))
            work[:] = [(int(slot), np.nonzero(placed == slot)[0]) for slot in np.unique(placed)]
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
            shares = np.full(placed[checked].shape, 1 / top_k)
            wanted = expert_layer(wide.values, narrow.values, values[checked], placed[checked], shares)
            return relative_error(output[checked], wanted)

        prepared = Prepared(next_step, error, BOUND, reference=reader)
        return prepared

    return prepare


def _settings(options: Options) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = options.threads, 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return settings


def _router(quantization: str, dims: dict[str, int], options: Options) -> Series:
    if quantization.upper() != "F32":
        raise CannotRun(f"onnxruntime has routers in float32, not in {quantization}")
    import onnxruntime

    rows, columns, top_k = dims["experts"], dims["hidden"], dims["top_k"]
    copies = int(max(2, -(-4 * options.cache_bytes // (4 * rows * columns))))
    if 4 * copies * rows * columns > options.memory_bytes:
        raise MemoryError(f"{4 * copies * rows * columns / 1e9:.1f} GB are needed to stay out of the cache")
    weight = activations((columns, rows), 5) / np.float32(columns**0.5)
    nodes = [
        onnx.node("MatMul", ["tokens", "weight"], "logits"),
        onnx.node("Sigmoid", ["logits"], "chances"),
        onnx.node("TopK", ["chances", "top_k"], "largest", more="ids"),
    ]
    constants = [onnx.initializer("weight", weight), onnx.initializer("top_k", np.array([top_k], dtype=np.int64))]
    model = onnx.model(
        nodes, constants, onnx.value("tokens", columns), onnx.value("largest", top_k),
        onnx.value("ids", top_k, onnx.INT64),
    )  # fmt: skip
    sessions = [
        onnxruntime.InferenceSession(model, _settings(options), providers=["CPUExecutionProvider"])
        for _ in range(copies)
    ]
    reader = reference_reader(options.cache_bytes, options.threads)

    def prepare(batch: int, _: int) -> Prepared:
        tokens = activations((batch, columns), options.seed)
        turn = 0

        def next_step() -> Callable[[], object]:
            nonlocal turn
            turn += 1
            session = sessions[turn % copies]
            return lambda: session.run(None, {"tokens": tokens})

        def error() -> float:
            exact = 1 / (1 + np.exp(-(tokens.astype(np.float64) @ weight.astype(np.float64))))
            wanted = -np.sort(-exact, axis=1)[:, :top_k]
            chances, ids = sessions[0].run(None, {"tokens": tokens})
            return max(relative_error(chances, wanted), relative_error(np.take_along_axis(exact, ids, axis=1), wanted))

        return Prepared(next_step, error, BOUND, reference=reader)

    return prepare


PROVIDER = Provider(_version, build, cpu_device)
