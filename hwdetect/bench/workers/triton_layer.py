"""A whole decode layer on a GPU in one CUDA graph: this project's kernels for experts and attention, PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .blocks import activations
from .gpu import Device
from .gpu_attention import Shape, Tensors
from .gpu_experts import BITS, Buffers, pattern_rows
from .layers import EPSILON, Sizes, feed_forward, latent_attention, sizes_of
from .routing import Router, Slots, slots_needed
from .serve import CannotRun, Series
from .timing import Options, Prepared, relative_error
from .triton_gpu import experts, mla

BOUND = 0.05
MOST_COPIES = 64


def build(quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights of a layer."""
    of_experts, _, rest = quantization.partition("+")
    if not dims["gpu"]:
        raise CannotRun("our Triton kernels have no layer of a CPU")
    if of_experts not in BITS or rest != "bf16":
        raise CannotRun(f"a layer has experts in {', '.join(BITS)} and all else in bf16, not {quantization}")
    device = Device()
    torch, own, sizes = device.torch, device.options(options), sizes_of(dims)
    kind = torch.float32 if device.name == "cpu" else torch.bfloat16
    shapes = {**sizes.shapes(), "router": (sizes.experts, sizes.hidden)}
    patterns = {name: pattern_rows(columns, at + 3, torch) for at, (name, (_, columns)) in enumerate(shapes.items())}
    size = kind.itemsize * sum(rows * columns for rows, columns in shapes.values())
    copies = int(max(1, min(-(-4 * own.cache_bytes // size), MOST_COPIES)))
    room = Options(**{**vars(own), "memory_bytes": max(own.memory_bytes - copies * size, 0)})
    each = 3 * sizes.hidden * sizes.inter * BITS[of_experts] / 8
    count = slots_needed(each, sizes.top_k, sizes.experts, room)
    layer, matrices = experts(of_experts, dims, device, count)
    slots, router = Slots(count, options.seed), Router(sizes.experts, sizes.experts, sizes.top_k, options)
    reference = device.copy_reference()

    def loaded() -> dict[str, Any]:
        found = {
            name: patterns[name][torch.arange(rows) % len(patterns[name])].to(device.name).to(kind)
            for name, (rows, _) in shapes.items()
        }
        found["k_b"] = found["k_b"].view(sizes.heads, sizes.kv_lora, sizes.nope)
        found["v_b"] = found["v_b"].view(sizes.heads, sizes.v, sizes.kv_lora)
        return found

    weights = [loaded() for _ in range(copies)]

    def prepare(batch: int, cells: int) -> Prepared:
        if cells < 1:
            raise CannotRun("attention needs cached tokens")
        shape = Shape(batch, 1, cells, sizes.heads, 1, sizes.head, sizes.kv_lora, latent=True)
        values = activations((batch, sizes.hidden), options.seed)
        tokens = torch.from_numpy(values).to(device.name).to(kind)
        output = torch.zeros_like(tokens)
        buffers = Buffers(
            torch.zeros_like(tokens), torch.zeros((batch, sizes.top_k), dtype=torch.int32, device=device.name),
            torch.full((batch, sizes.top_k), 1 / sizes.top_k, device=device.name), torch.zeros_like(tokens),
        )  # fmt: skip
        routed, renew = layer(buffers)
        queries = torch.zeros((batch, 1, sizes.heads, sizes.head), device=device.name, dtype=kind)
        caches = [torch.randn((batch, cells, 1, sizes.head), device=device.name).to(kind) for _ in range(copies)]
        attend = mla(device, shape, cells)

        def whole(matrix: dict[str, Any], cache: Any) -> Callable[[], object]:
            attention = attend(Tensors(queries, cache, cache[..., : sizes.kv_lora]))

            def compute() -> None:
                after = tokens + _attention(torch, sizes, matrix, tokens, queries, attention)
                given = _normed(torch, after)
                torch.topk(torch.sigmoid(given @ matrix["router"].T), sizes.top_k)
                buffers.tokens.copy_(given)
                routed()
                output.copy_(after + buffers.output + _shared(torch, sizes, matrix, given))

            return compute

        def place() -> tuple[Any, int, int]:
            placed, distinct, busiest = slots.place(router.draw(batch))
            buffers.slots.copy_(torch.from_numpy(placed))
            if renew is not None:
                renew(placed)
            return placed, distinct, busiest

        place()
        replays = [device.captured(whole(*pair)) for pair in zip(weights, caches, strict=True)]
        turn = 0
        prepared: Prepared

        def next_step() -> Callable[[], object]:
            nonlocal turn
            _, distinct, busiest = place()
            prepared.distinct.append(distinct)
            prepared.busiest.append(busiest)
            turn += 1
            return replays[turn % len(replays)]

        def error() -> float:
            placed, _, _ = place()
            replays[0]()
            plain = {name: one.double().numpy() for name, one in patterns.items()}
            exact = tokens.double().cpu().numpy()
            cached = caches[0][:, :, 0].double().cpu().numpy()
            after = exact + latent_attention(sizes, plain, exact, cached)
            shares = np.full(placed.shape, 1 / sizes.top_k)
            added = feed_forward(sizes, plain, matrices.wide, matrices.narrow, after, placed, shares)
            return relative_error(output.double().cpu().numpy() - exact, after + added - exact)

        note = f"one CUDA graph, {copies} copies of what is not an expert"
        prepared = Prepared(
            next_step, error, BOUND, reference=reference, clock="device", seconds_of=device.seconds_of, note=note
        )
        return prepared

    return prepare


def _normed(torch: Any, rows: Any) -> Any:
    return torch.nn.functional.rms_norm(rows, rows.shape[-1:], eps=EPSILON)


def _attention(
    torch: Any, sizes: Sizes, matrix: dict[str, Any], tokens: Any, queries: Any, attention: Callable[[], Any]
) -> Any:
    """What attention adds; ``queries`` is the buffer that ``attention`` reads."""
    wide = _normed(torch, tokens) @ matrix["qkv_a"].T
    asked = _normed(torch, wide[:, : sizes.q_lora]) @ matrix["q_b"].T
    asked = asked.view(len(tokens), sizes.heads, sizes.nope + sizes.rope)
    latent = torch.bmm(asked[..., : sizes.nope].transpose(0, 1), matrix["k_b"].transpose(1, 2)).transpose(0, 1)
    queries[:, 0].copy_(torch.cat([latent, asked[..., sizes.nope :]], dim=2))
    mixed = attention().view(len(tokens), sizes.heads, sizes.kv_lora).transpose(0, 1)
    found = torch.bmm(mixed, matrix["v_b"].transpose(1, 2)).transpose(0, 1)
    return found.reshape(len(tokens), -1) @ matrix["o"].T


def _shared(torch: Any, sizes: Sizes, matrix: dict[str, Any], given: Any) -> Any:
    if not sizes.shared:
        return 0
    both = given @ matrix["gate_up"].T
    return (torch.nn.functional.silu(both[:, : sizes.shared]) * both[:, sizes.shared :]) @ matrix["down"].T
