"""Kernels of an installed vLLM, in its own interpreter: Marlin experts in INT4, FlashMLA decode.

Written against vLLM 0.19 and 0.33, whose signatures differ; what differs in other versions fails the check against
float64 or is reported as the error it raises. Not yet run on a GPU by this project.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from .blocks import GROUP
from .gpu import Device, device_name, torch_version
from .gpu_experts import Buffers, Layer, Matrices, int4_nibbles, repeated, series
from .serve import CannotRun, Provider, Series
from .timing import Options, Prepared, relative_error

MLA_BOUND = 0.01
PAGE = 64
CHECKED_HEADS = 4


def build(kernel: str, quantization: str, dims: dict[str, int], options: Options) -> Series:
    """Load the weights of a series."""
    if kernel == "grouped_moe":
        if quantization != f"int4_g{GROUP}":
            raise CannotRun(f"vLLM is asked for INT4 in groups of {GROUP}, not {quantization}")
        return series(quantization, dims, options, lambda device, count, _: marlin(dims, device, count))
    if kernel == "mla_decode":
        if quantization != "bf16":
            raise CannotRun(f"FlashMLA is asked for a bf16 cache, not {quantization}")
        from vllm.v1.attention.ops import flashmla

        supported, reason = flashmla.is_flashmla_dense_supported()
        if not supported:
            raise CannotRun(str(reason))
        return flash_mla(flashmla, dims, options)
    raise CannotRun(f"vLLM is not asked for {kernel}")


def _fused_marlin() -> Callable[..., Any]:
    import importlib

    for name in ("experts.marlin_moe", "fused_marlin_moe"):
        try:
            module = importlib.import_module(f"vllm.model_executor.layers.fused_moe.{name}")
        except ImportError:
            continue
        found: Callable[..., Any] = module.fused_marlin_moe
        return found
    raise CannotRun("this vLLM has no fused Marlin experts")


def marlin(dims: dict[str, int], device: Device, count: int) -> tuple[Layer, Matrices]:
    """INT4 weights as Marlin lays them out, and its fused layer."""
    from vllm import _custom_ops as ops
    from vllm.model_executor.layers.quantization.utils.marlin_utils import (
        marlin_make_workspace_new,
        marlin_moe_permute_scales,
    )
    from vllm.scalar_type import scalar_types

    torch, fused = device.torch, _fused_marlin()
    hidden, inter = dims["hidden"], dims["inter"]
    wide, narrow = int4_nibbles(hidden, 1), int4_nibbles(inter, 2)

    def laid_out(rows: tuple[Any, Any, Any], of_slot: Callable[[Any, int], Any], columns: int, wide_rows: int) -> Any:
        nibbles, scales = (torch.from_numpy(one).to(device.name) for one in rows[:2])
        words, grouped = [], []
        shifts = torch.arange(0, 32, 4, device=device.name, dtype=torch.int32)
        for slot in range(count):
            # Eight neighbouring columns share a word, words of a row lie in the columns of the result (GPTQ).
            eights = of_slot(nibbles, slot).to(torch.int32).view(wide_rows, columns // 8, 8)
            words.append((eights << shifts).sum(dim=2, dtype=torch.int32).T.contiguous())
            grouped.append(of_slot(scales, slot).T.contiguous().to(torch.bfloat16))
        packed = torch.stack(words)
        arguments = [packed, columns, wide_rows, 4]
        if "perm" in inspect.signature(ops.gptq_marlin_moe_repack).parameters:
            arguments.insert(1, torch.empty((count, 0), dtype=torch.int32, device=device.name))
        return ops.gptq_marlin_moe_repack(*arguments), marlin_moe_permute_scales(
            torch.stack(grouped), columns, wide_rows, GROUP
        )

    both = laid_out(
        wide,
        lambda one, slot: torch.cat([repeated(one, slot, inter, 0, torch), repeated(one, slot, inter, 1, torch)]),
        hidden, 2 * inter,
    )  # fmt: skip
    down = laid_out(narrow, lambda one, slot: repeated(one, slot, hidden, 0, torch), inter, hidden)
    workspace = marlin_make_workspace_new(torch.device("cuda", 0), 4)

    def layer(buffers: Buffers) -> tuple[Callable[[], object], None]:
        def compute() -> None:
            result = fused(
                buffers.tokens, both[0], down[0], None, None, both[1], down[1], topk_weights=buffers.shares,
                topk_ids=buffers.slots, quant_type_id=scalar_types.uint4b8.id, global_num_experts=count,
                workspace=workspace,
            )  # fmt: skip
            buffers.output.copy_(result)

        return compute, None

    return layer, Matrices(wide[2], narrow[2])


def flash_mla(library: Any, dims: dict[str, int], options: Options) -> Series:
    """FlashMLA's decode over a paged bf16 cache, by whoever ``library`` has it from."""
    device = Device()
    torch, own = device.torch, device.options(options)
    heads, lora, rope = dims["heads"], dims["kv_lora"], dims["rope"]
    reference = device.copy_reference()

    def prepare(batch: int, context: int) -> Prepared:
        pages = -(-context // PAGE)
        size = batch * pages * PAGE * (lora + rope) * 2
        if size > own.memory_bytes:
            raise MemoryError(f"the KV cache needs {size / 1e9:.1f} GB")
        copies = int(max(1, min(-(-4 * own.cache_bytes // size), own.memory_bytes // size, 64)))
        shape = (batch * pages, PAGE, 1, lora + rope)
        caches = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
        queries = (3 * torch.randn((batch, 1, heads, lora + rope), device="cuda")).to(torch.bfloat16)
        table = torch.arange(batch * pages, dtype=torch.int32, device="cuda").view(batch, pages)
        lengths = torch.full((batch,), context, dtype=torch.int32, device="cuda")
        scale = (lora + rope) ** -0.5
        try:
            metadata = library.get_mla_metadata(lengths, heads, 1)
        except TypeError:
            metadata = library.get_mla_metadata()

        def over(cache: Any) -> Callable[[], Any]:
            return lambda: library.flash_mla_with_kvcache(
                queries, cache, table, lengths, lora, *metadata, softmax_scale=scale, causal=False
            )[0]

        replays = [device.captured(over(cache)) for cache in caches]
        turn = 0

        def next_step() -> Callable[[], object]:
            nonlocal turn
            turn += 1
            return replays[turn % len(replays)]

        def error() -> float:
            found = over(caches[0])()[-1, 0, :CHECKED_HEADS].double().cpu().numpy()
            asked = queries[-1, 0, :CHECKED_HEADS].double().cpu().numpy()
            rows = caches[0].view(batch, pages * PAGE, lora + rope)[-1, :context].double().cpu().numpy()
            scores = asked @ rows.T * scale
            chances = np.exp(scores - scores.max(axis=1, keepdims=True))
            return relative_error(found, chances / chances.sum(axis=1, keepdims=True) @ rows[:, :lora])

        note = f"pages of {PAGE}, rotated over {copies} KV caches"
        return Prepared(
            next_step, error, MLA_BOUND, reference=reference, clock="device", seconds_of=device.seconds_of, note=note
        )

    return prepare


PROVIDER = Provider(torch_version("vllm"), build, device_name)
