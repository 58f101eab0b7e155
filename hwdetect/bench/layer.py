"""A whole decode layer and the kernels that it is made of: whether the parts add up to the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.result import BenchRow
from hwdetect.facts import Model

BETWEEN: Final = "+"
"""In the quantization of a layer: the format of its experts, then that of everything else."""


class LayerSum(Model):
    """A measured layer: its time, the sum of its parts' times in the same run, and that sum over the whole.

    ``missing`` are the parts that were not measured; the sum is null where there are any.
    """

    series: str
    batch: int
    context: int
    provider: str
    whole_s: float
    parts_s: float | None
    parts_over_whole: float | None
    missing: tuple[str, ...]


def layer_parts(layer: KernelCase) -> list[KernelCase]:
    """The kernels of a layer of latent attention and experts, as a plan names them, at the layer's batch and context.

    >>> layer = kernel_case("decode_layer", "Q4_K+Q8_0", context=96, hidden=7168, heads=64, q_lora=1536, kv_lora=512,
    ...                     rope=64, nope=128, v=128, experts=384, top_k=8, inter=2048, shared=2048, gpu=0)
    >>> [part.series for part in layer_parts(layer)][:2]
    ['cpu_dense/Q8_0/in7168.out2112', 'cpu_dense/Q8_0/in1536.out12288']
    """
    experts, _, rest = layer.quantization.partition(BETWEEN)
    dims = dict(layer.dims)
    hidden, heads, lora, rope = dims["hidden"], dims["heads"], dims["kv_lora"], dims["rope"]
    on_gpu = bool(dims["gpu"])

    def dense(columns: int, rows: int) -> KernelCase:
        return kernel_case("dense" if on_gpu else "cpu_dense", rest, layer.batch, in_=columns, out=rows)

    if on_gpu:
        attention = kernel_case(
            "mla_decode", "bf16", layer.batch, layer.context, heads=heads, kv_lora=lora, rope=rope, nope=dims["nope"],
            v=dims["v"],
        )  # fmt: skip
    else:
        attention = kernel_case(
            "cpu_attention", "f16", layer.batch, layer.context, heads=heads, kv_heads=1, head=lora + rope, v=lora
        )
    parts = [
        dense(hidden, dims["q_lora"] + lora + rope),
        dense(dims["q_lora"], heads * (dims["nope"] + rope)),
        dense(dims["nope"], heads * lora),
        attention,
        dense(lora, heads * dims["v"]),
        dense(heads * dims["v"], hidden),
        kernel_case(
            "router" if on_gpu else "cpu_router", "bf16" if on_gpu else "F32", layer.batch, experts=dims["experts"],
            hidden=hidden, top_k=dims["top_k"],
        ),
        kernel_case(
            "grouped_moe" if on_gpu else "cpu_moe", experts, layer.batch, experts=dims["experts"],
            experts_total=dims["experts"], top_k=dims["top_k"], hidden=hidden, inter=dims["inter"],
        ),
    ]  # fmt: skip
    if dims["shared"]:
        parts += [dense(hidden, 2 * dims["shared"]), dense(dims["shared"], hidden)]
    return parts


def layer_sums(rows: Sequence[BenchRow]) -> tuple[LayerSum, ...]:
    """Every measured layer beside its parts, by the same provider where it measured them, with as many threads."""
    found = []
    for whole in rows:
        if whole.kernel != "decode_layer":
            continue
        dims = tuple(sorted(whole.shape.items()))
        case = KernelCase("decode_layer", whole.quantization, dims, whole.batch, whole.context)
        seconds, missing = 0.0, []
        for part in layer_parts(case):
            measured = [row for row in rows if row.is_of(part) and row.threads == whole.threads]
            # The first in a row's order is the provider's that a plan goes by.
            own = [row for row in measured if row.provider == whole.provider] or measured
            if own:
                seconds += own[0].median_s
            else:
                missing.append(part.series)
        found.append(
            LayerSum(
                series=whole.series, batch=whole.batch, context=whole.context, provider=whole.provider,
                whole_s=whole.median_s, parts_s=None if missing else seconds,
                parts_over_whole=None if missing else seconds / whole.median_s, missing=tuple(missing),
            )
        )  # fmt: skip
    return tuple(found)
