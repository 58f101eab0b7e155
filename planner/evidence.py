"""What is known of how fast a kernel runs: measured on this machine, tabulated for such a GPU, or transferred.

A series is a floor and a curve of efficiency, ``seconds = floor + roofline / efficiency(x)``, where the roofline is the
slower of bytes over bandwidth and operations over peak of the GPU it is asked for. The floor is what the kernel takes
when it has nothing to do. Efficiency is interpolated in log x between measured points and held outside. A calibration
of the target replaces tables under the same ``KernelCase.series``; a table of another shape, engine, version, format
or GPU stands in for a missing one, and every such step widens the range by a fact of ``profiles/engines/speed.toml``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cache
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Final, NamedTuple

from formulas.storage import storage_format
from hwdetect.bench.case import Kernel, KernelCase, kernel_case
from hwdetect.bench.measured import is_of_one_node
from planner.machine import Gpu
from profiles.engines import MissingFact, load_engine, version_tuple
from profiles.gpus import load_gpu
from profiles.kernels import KernelGroup, KernelRow, kernel_gpus, kernel_groups, kernel_rows

if TYPE_CHECKING:
    from hwdetect.bench.measured import MeasuredSeries

FLOOR_SHARE: Final = 0.85
"""Share of a kernel's fastest time at any shape that counts as floor: the rest is the little work it did."""
EXAMPLES: Final = {"bf16": "bf16", "fp8": "fp8_block128", "int4": "int4_g32", "nvfp4": "nvfp4", "mxfp4": "mxfp4"}
"""The storage format in which a table's class of formats was measured."""
_gpu_facts = cache(load_gpu)
MEASURED_LEAST_SPREAD: Final = 1.03
FOREIGN_AS: Final = 9.0
"""The compute capability whose tables stand in for GPUs of other vendors."""


class Curve(NamedTuple):
    """How one kernel runs: ``floor_s``, efficiencies over log x, its spread (a factor either way) and its source.

    ``format`` is the class of formats it was measured with, empty for a calibration, which has the case's own.
    """

    floor_s: float
    logs: tuple[float, ...]
    log_efficiencies: tuple[float, ...]
    spread: float
    source: str
    measured: bool = False
    format: str = ""

    def efficiency(self, x: float) -> float:
        """Fraction of the roofline at ``x``: its logarithm is interpolated in log x, and held outside."""
        logs, values = self.logs, self.log_efficiencies
        at = log(x) if x > 0 else logs[0]
        if at <= logs[0]:
            return exp(values[0])
        if at >= logs[-1]:
            return exp(values[-1])
        right = bisect_left(logs, at)
        share = (at - logs[right - 1]) / (logs[right] - logs[right - 1])
        return exp(values[right - 1] + share * (values[right] - values[right - 1]))

    @property
    def log_spread(self) -> float:
        """The spread's logarithm."""
        return log(self.spread)

    def seconds(self, x: float, roofline_s: float) -> float:
        """Time of the kernel where it would take ``roofline_s`` at full rate."""
        return self.floor_s + roofline_s / self.efficiency(x)


def format_class(name: str) -> str:
    """The class of formats that share kernels.

    >>> format_class("int4_g32"), format_class("fp8_block128"), format_class("Q4_K"), format_class("mxfp4")
    ('int4', 'fp8', 'gguf', 'mxfp4')
    """
    lower = name.lower()
    if lower.startswith(("int4", "awq", "gptq")):
        return "int4"
    if lower.startswith(("fp8", "int8", "mxfp8")):
        return "fp8"
    if lower.startswith("nvfp4"):
        return "nvfp4"
    if name == "mxfp4":
        return "mxfp4"
    return "bf16" if lower in ("bf16", "f16", "f32") else "gguf"


def peak_flops(gpu: Gpu, name: str) -> float | None:
    """Operations per second that kernels of this format could reach: weights below 8 bits are widened to bf16 first,
    unless the GPU computes in FP4.
    """
    rates, kind = gpu.flops, format_class(name)
    if kind == "fp8":
        return rates.get("fp8") or rates.get("bf16")
    if kind == "nvfp4":
        return rates.get("fp4") or rates.get("bf16")
    return rates.get("bf16")


def axis_value(case: KernelCase) -> float:
    """What the curve of a kernel is over: tokens per expert, tokens, cached tokens of all sequences, or bytes."""
    kernel = case.kernel
    if kernel in ("grouped_moe", "cpu_moe"):
        return case.batch * case.dim("top_k") / case.dim("experts_total")
    if kernel in ("mla_decode", "gqa_decode", "cpu_attention"):
        return max(case.batch * case.context, 1)
    if kernel in ("all_reduce", "all_to_all"):
        return 2.0 * case.batch * case.dim("hidden")
    return float(case.batch)


def measured_rate(kernels: Iterable[MeasuredSeries], kernel: Kernel) -> tuple[float, str] | None:
    """Bytes per second of a copy or read that was measured on this machine, with its source; None if none was."""
    best: tuple[float, str] | None = None
    for series in kernels:
        if series.series.startswith(f"{kernel}/") and not is_of_one_node(series.series):
            rate = max([point.bytes / point.median_s for point in series.counted], default=0.0)
            if rate > 0 and (best is None or rate > best[0]):
                best = rate, series.said
    return best


class Evidence:
    """The curves of one kind of GPU under one engine; ``measured`` are the series of a calibration of it."""

    def __init__(self, gpu: Gpu, engine: str, version: str, measured: Iterable[MeasuredSeries] = ()) -> None:
        self.gpu, self.engine, self.version = gpu, engine, version_tuple(version)
        self._given = measured
        ours = sorted(measured, key=lambda series: (engine in series.provider, series.routing in ("uniform", "none")))
        # Of several measurements of one series the engine's own kernels and even routing come last, and stay.
        self._measured = {series.series: series for series in ours if series.threads is None}
        self._curves: dict[tuple[str, str, tuple[tuple[str, int], ...]], Curve] = {}
        self._groups: dict[tuple[str, str, bool], tuple[KernelGroup, float]] = {}

    def curve(self, case: KernelCase) -> Curve:
        """The curve of a case's series. Raises ``MissingFact`` when nothing at all is known of its kernel."""
        key = case[:3]
        found = self._curves.get(key)
        if found is None:
            found = self._curves[key] = self._of_calibration(case) or self._of_tables(case)
        return found

    def _of_calibration(self, case: KernelCase) -> Curve | None:
        series = self._measured.get(case.series)
        points = series.counted if series is not None else ()
        if series is None or not points:
            return None
        known: dict[float, float] = {}
        spread = MEASURED_LEAST_SPREAD
        for point in points:
            at = case._replace(batch=point.batch, context=point.context)
            known[log(max(axis_value(at), 1e-9))] = (
                _roofline_s(self.gpu, case, point.bytes, point.flops) / point.median_s
            )
            spread = max(spread, sqrt(point.high_s / point.low_s) if point.low_s > 0 else spread)
        logs = tuple(sorted(known))
        return Curve(0.0, logs, tuple([log(max(known[at], 1e-6)) for at in logs]), spread, series.said, measured=True)

    def _of_tables(self, case: KernelCase) -> Curve:
        if case.kernel == "router":
            # A projection like any other, as far as the tables go.
            case = kernel_case("dense", case.quantization, out=case.dim("experts"), in_=case.dim("hidden"))
        # Both engines leave NVLink-less machines of more than two GPUs to NCCL.
        nccl = case.kernel == "all_reduce" and self.gpu.link == "pcie" and case.dim("ranks") > 2
        key = (case.kernel, case.quantization, nccl)
        if key not in self._groups:
            self._groups[key] = self._nearest_group(case, "nccl" if nccl else self.engine)
        group, widening = self._groups[key]
        row, apart = _nearest(case, group)
        widest = load_engine("speed").at("other_shape_spread", "1").value
        return table_curve(row, widening * (widest if apart > 0.1 else 1.0))

    def _nearest_group(self, case: KernelCase, reduced_by: str) -> tuple[KernelGroup, float]:
        """The tables that stand in for a kernel and format, and the factor by which that widens the range."""
        best: tuple[float, KernelGroup, float] | None = None
        for gpu, far in _donors(self.gpu, case.kernel == "all_reduce"):
            if best is not None and best[0] <= far[0]:
                break
            for group in kernel_groups(gpu).get(case.kernel, ()):
                distance, widening = self._distance(case, group, reduced_by)
                if best is None or far[0] + distance < best[0]:
                    best = (far[0] + distance, group, far[1] * widening)
        if best is None:
            raise MissingFact(f"no measured series of {case.kernel}")
        return best[1], best[2]

    def _distance(self, case: KernelCase, group: KernelGroup, reduced_by: str) -> tuple[float, float]:
        """How far a group of tables is from the case, and the factor by which that widens its range."""
        facts = load_engine("speed")
        distance, widening = 0.0, facts.at("table_spread", "1").value
        kind = format_class(case.quantization)
        if group.format != kind:
            distance += 20.0 + 10.0 * abs(log(_bits(group.format) / _bits(kind)))
            widening *= facts.at("other_format_spread", "1").value
        if group.kernel == "all_reduce":
            if group.engine != reduced_by:
                distance += 100.0 if "nccl" in (group.engine, reduced_by) else 4.0
        elif group.engine != self.engine:
            distance += 4.0
            widening *= facts.at("other_engine_spread", "1").value
        if group.engine == self.engine:
            # The newest table that is not newer than the engine, else the oldest.
            distance += 1e-3 * sum([abs(a - b) for a, b in zip(group.version, self.version, strict=False)])
            distance += 0.5 if group.version > self.version else 0.0
            distance += 10.0 if self.version < group.since else 0.0
        return distance, widening


@cache
def _bits(kind: str) -> float:
    return storage_format(EXAMPLES[kind]).bits_per_weight if kind in EXAMPLES else 4.5


def _nearest(case: KernelCase, group: KernelGroup) -> tuple[KernelRow, float]:
    """The series of nearest shape, and how far it is in logarithms of the dimensions."""
    wanted = [(name, log(size)) for name, size in case.dims if size > 0 and name in group.logs[0]]
    best, nearest = 0, float("inf")
    for place, logs in enumerate(group.logs):
        apart = sum([(at - logs[name]) ** 2 for name, at in wanted])
        if apart < nearest:
            best, nearest = place, apart
    return group.rows[best], sqrt(nearest)


def _donors(gpu: Gpu, by_link: bool) -> tuple[tuple[str, tuple[float, float]], ...]:
    """GPUs with tables, nearest first, each with its distance and its widening."""
    return _donors_of(gpu.key, gpu.compute_capability, gpu.vendor, gpu.bandwidth, gpu.link, by_link)


@cache
def _donors_of(
    key: str, capability: str, vendor: str, bandwidth: float, link: str, by_link: bool
) -> tuple[tuple[str, tuple[float, float]], ...]:
    facts = load_engine("speed")
    found = []
    for donor in kernel_gpus():
        other = _gpu_facts(donor)
        rates = 0.1 * abs(log(bandwidth / other.bandwidth_bytes_per_s))
        if by_link and (other.link is not None) != (link == "nvlink"):
            far = 400.0, facts.at("other_architecture_spread", "1").value
        elif donor == key:
            far = 0.0, 1.0
        elif vendor == "nvidia" and capability.split(".")[0] == other.compute_capability.split(".")[0]:
            minor = 0.0 if capability == other.compute_capability else 3.0
            far = 2.0 + rates + minor, facts.at("other_gpu_spread", "1").value
        else:
            ours = float(capability) if vendor == "nvidia" else FOREIGN_AS
            apart = abs(ours - float(other.compute_capability))
            far = 60.0 + rates + apart, facts.at("other_architecture_spread", "1").value
        found.append((donor, far))
    return tuple(sorted(found, key=lambda one: one[1]))


def table_curve(row: KernelRow, spread: float) -> Curve:
    """The curve of a table."""
    return _plain_curve(row)._replace(spread=spread)


@cache
def _plain_curve(row: KernelRow) -> Curve:
    floor = _floor_s(row)
    logs, efficiencies = [], []
    for x, roofline, seconds in table_points(row):
        logs.append(log(x))
        efficiencies.append(log(min(max(roofline / (seconds - floor), 1e-4), 1.2)))
    names = ".".join([f"{name}{size}" for name, size in row.dims])
    version = ".".join([str(number) for number in row.version])
    return Curve(
        floor, tuple(logs), tuple(efficiencies), 1.0,
        f"{row.kernel}/{row.format}/{names}, {row.engine} {version}: {row.source}", format=row.format,
    )  # fmt: skip


def table_points(row: KernelRow) -> list[tuple[float, float, float]]:
    """Points of a table as x, seconds of the roofline of its GPU, and seconds."""
    gpu = _gpu_facts(row.gpu)
    flops = dict(gpu.dense_flops_per_s)
    found = []
    for at, seconds in row.points:
        x, roofline = _table_point(row, at, gpu.bandwidth_bytes_per_s, flops, gpu.link)
        found.append((x, roofline, seconds))
    return found


def _floor_s(row: KernelRow) -> float:
    """Seconds a kernel takes with next to no work: of the fastest point of its like, whatever the shape."""
    ranks = row.dims if row.kernel == "all_reduce" else ()
    return _fastest_s(row.gpu, row.kernel, row.format, row.engine, row.version, ranks) * FLOOR_SHARE


@cache
def _fastest_s(
    gpu: str, kernel: str, kind: str, engine: str, version: tuple[int, ...], dims: tuple[tuple[str, int], ...]
) -> float:
    return min([
        seconds
        for row in kernel_rows(gpu)[kernel]
        if (row.format, row.engine, row.version) == (kind, engine, version) and (not dims or row.dims == dims)
        for _, seconds in row.points
    ])  # fmt: skip


def _table_point(
    row: KernelRow, at: float, bandwidth: float, flops: dict[str, float], link: object
) -> tuple[float, float]:
    """The x of a table's point, and the roofline of its GPU there."""
    dims = dict(row.dims)
    if row.kernel == "all_reduce":
        rate = getattr(link, "bytes_per_s_per_direction", None) or PCIE_OF_TABLES[row.gpu]
        return at, 2 * (dims["ranks"] - 1) / dims["ranks"] * at / rate
    kernel: Kernel = row.kernel  # type: ignore[assignment]
    attention = row.axis == "cached" or row.kernel.endswith("prefill")
    case = kernel_case(kernel, row.format if attention else EXAMPLES[row.format], **dims)
    distinct = None
    if row.axis == "cached":
        case = case._replace(batch=max(1, min(64, round(at) // 1024)))
        case = case._replace(context=max(1, round(at / case.batch)))
    else:
        case = case._replace(batch=round(at))
        if row.kernel == "grouped_moe":
            distinct = float(min(dims["experts"], at * dims["top_k"]))
    work = case.work(distinct)
    peak = {"fp8": flops.get("fp8"), "nvfp4": flops.get("fp4")}.get(row.format) or flops.get("bf16")
    time = work.bytes / bandwidth
    return axis_value(case), max(time, work.flops / peak) if peak else time


PCIE_OF_TABLES: Final = {"l40s-48": 32e9, "rtx-pro-6000-server-96": 63e9}
"""One direction of the PCIe slot of those table GPUs that have no other link (their hardware facts)."""


def _roofline_s(gpu: Gpu, case: KernelCase, moved: float, flops: float) -> float:
    if case.kernel in ("all_reduce", "all_to_all"):
        ranks = case.dim("ranks")
        return max(2 * (ranks - 1) / ranks * moved / gpu.link_bytes_per_s, 1e-12)
    peak = peak_flops(gpu, case.quantization)
    return max(moved / gpu.bandwidth, flops / peak if peak else 0.0, 1e-12)
