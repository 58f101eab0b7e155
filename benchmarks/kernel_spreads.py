"""How far one kernel table predicts another: `python -m benchmarks.kernel_spreads` prints the spreads of speed.toml.

Every series of profiles/kernels is predicted from the one that would stand in for it if it were missing: of another
shape, engine, format, GPU of the architecture, or architecture. The median factor between prediction and table, over
points of up to 256 tokens, is what such a step is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log
from statistics import median

from planner.evidence import table_curve, table_points
from profiles.gpus import load_gpu
from profiles.kernels import KernelRow, kernel_gpus, kernel_rows

KERNELS = ("grouped_moe", "dense", "mla_decode", "gqa_decode")


def main() -> int:
    """Print one line for each kind of stand-in."""
    rows = [row for gpu in kernel_gpus() for kernel in KERNELS for row in kernel_rows(gpu).get(kernel, ())]
    kinds: dict[str, list[float]] = {}
    for row in rows:
        for kind, other in _stand_ins(row, rows):
            kinds.setdefault(kind, []).append(_factor(row, other))
    for kind, factors in sorted(kinds.items()):
        print(f"{kind:20} {len(factors):5} series, median factor {exp(median(factors)):.3f}")
    return 0


def _stand_ins(row: KernelRow, rows: list[KernelRow]) -> Iterator[tuple[str, KernelRow]]:
    family = load_gpu(row.gpu).compute_capability.split(".")[0]

    def alike(other: KernelRow, *, gpu: bool = True, engine: bool = True, form: bool = True) -> bool:
        return (
            other is not row and other.kernel == row.kernel and (other.gpu == row.gpu) == gpu
            and (other.engine == row.engine) == engine and (other.format == row.format) == form
        )  # fmt: skip

    same = [other for other in rows if other.dims == row.dims]
    shapes = [other for other in rows if alike(other) and other.dims != row.dims and other.version == row.version]
    if shapes:
        yield "other_shape_spread", min(shapes, key=lambda other: _apart(row, other))
    for other in same:
        if alike(other, engine=False):
            yield "other_engine_spread", other
        elif alike(other, form=False):
            yield "other_format_spread", other
        elif alike(other, gpu=False):
            theirs = load_gpu(other.gpu).compute_capability.split(".")[0]
            yield "other_gpu_spread" if theirs == family else "other_architecture_spread", other


def _apart(row: KernelRow, other: KernelRow) -> float:
    theirs = dict(other.dims)
    return sum([log(size / theirs[name]) ** 2 for name, size in row.dims])


def _factor(row: KernelRow, other: KernelRow) -> float:
    """The median logarithm of how far ``other`` is from ``row``."""
    curve = table_curve(other, 1.0)
    found = []
    for x, roofline, seconds in table_points(row):
        if row.axis != "batch" or x <= 256:
            found.append(abs(log(curve.seconds(x, roofline) / seconds)))
    return median(found) if found else 0.0


if __name__ == "__main__":
    raise SystemExit(main())
