"""Measured bandwidths against what healthy machines show. ``bench`` measures; nothing is timed here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hwdetect.inventory import FloatFact, Node
from planner.check_links import facts_of
from planner.findings import Findings
from profiles.gpus import GpuFacts
from profiles.health import Thresholds

_RANKS = re.compile(r"\branks([0-9]{1,4})\b")
_ACTION = "look at link widths, NVLink and other load on the node, then measure again"


class Measured(NamedTuple):
    """One bandwidth: bytes per second, the bytes that were moved, and where it stands."""

    bytes_per_s: float
    bytes: float
    source: str


def check_bandwidths(found: Findings, node: Node, thresholds: Thresholds, bench: Mapping[str, Any] | None) -> None:
    """Judge what ``bench`` measured on this kind of GPU; where it did not run, neither does the check."""
    gpus = [gpu for gpu in node.gpus if gpu.status == "ok"]
    facts = next(filter(None, map(facts_of, gpus)), None)
    if facts is None:
        return
    least = thresholds.bandwidths.get(facts.key)
    wanted: list[tuple[str, float | None, str, float]] = [
        ("memory_read", thresholds.memory_read.value * facts.bandwidth_bytes_per_s, thresholds.memory_read.source, 0.0)
    ]
    if least is not None:
        wanted.append(("host_to_device", least.least.get("host_to_device"), least.source, 0.0))
    if least is not None and len(gpus) > 1:
        wanted.append(("gpu_to_gpu", least.least.get("gpu_to_gpu"), least.source, 0.0))
        wanted.append(("all_reduce", least.least.get("all_reduce"), least.source, thresholds.least_all_reduce.value))
    for kernel, rate, source, least_bytes in wanted:
        if rate is not None:
            _judge(found, kernel, rate, source, measured_rate(node, bench, kernel, facts, least_bytes))


def measured_rate(
    node: Node, bench: Mapping[str, Any] | None, kernel: str, facts: GpuFacts, least_bytes: float = 0.0
) -> Measured | str:
    """The rate of a kernel by ``bench`` or, without one, by the node's own inventory; else why there is none."""
    if bench is not None:
        return best(bench, kernel, facts, least_bytes) or "not measured"
    own = [rate for rate in node.gpu_rates if rate.kernel == kernel and rate.device in (facts.key, facts.reported_name)]
    found = [
        Measured(rate.bytes_per_s.value, 0.0, _told(rate.bytes_per_s))
        for rate in own
        if rate.bytes_per_s.value is not None and rate.bytes_per_s.provenance == "measured"
    ]
    reasons = [rate.bytes_per_s.reason for rate in own if rate.bytes_per_s.reason is not None]
    return max(found, key=lambda one: one.bytes_per_s, default=next(iter(reasons), "not measured"))


def _told(fact: FloatFact) -> str:
    return fact.source if fact.at is None else f"{fact.source}, {fact.at:%Y-%m-%d %H:%M} UTC"


def _judge(found: Findings, kernel: str, rate: float, source: str, measured: Measured | str) -> None:
    code, expected = f"bandwidth_{kernel}", f"at least {rate / 1e9:,.0f} GB/s"
    if isinstance(measured, str):
        found.add(
            code, "not_run", "node", expected=expected, actual=f"not known: {measured}", evidence=source,
            action="measure it on this machine: moeplan bench", required=False,
        )  # fmt: skip
        return
    status = "pass" if measured.bytes_per_s >= rate else "fail"
    if kernel == "memory_read" and status == "fail":
        status = "warn"
    found.add(
        code, "pass" if status == "pass" else "warn" if status == "warn" else "fail", "node", expected=expected,
        actual=f"{measured.bytes_per_s / 1e9:,.0f} GB/s", evidence=f"{measured.source}; {source}", action=_ACTION,
        required=False,
    )  # fmt: skip


def best(bench: Mapping[str, Any] | None, kernel: str, facts: GpuFacts, least_bytes: float) -> Measured | None:
    """The best measured rate of a kernel in a result of ``bench`` or a calibration; None where there is none to trust.

    Unstable points, other kinds of GPUs and messages below ``least_bytes`` do not count. An all-reduce is judged by bus
    bandwidth, 2 (n - 1) / n x bytes / time (NCCL-tests, doc/PERFORMANCE.md).
    """
    rates = [one for one in _rates(bench or {}, kernel, facts) if one.bytes >= least_bytes]
    return max(rates, key=lambda one: one.bytes_per_s, default=None)


def _rates(bench: Mapping[str, Any], kernel: str, facts: GpuFacts) -> Iterator[Measured]:
    kernels = bench.get("kernels")
    for series in kernels if isinstance(kernels, list) else []:
        if not isinstance(series, dict):
            continue
        name, points = str(series.get("series", "")), series.get("points")
        device = str(series.get("device", ""))
        if name.partition("/")[0] != kernel or not isinstance(points, list):
            continue
        if device and device not in (facts.key, facts.reported_name):
            continue
        factor = _bus_factor(name) if kernel == "all_reduce" else 1.0
        for point in points:
            rate = _rate(point)
            if rate is not None and factor is not None:
                source = f"{name}, {series.get('provider', 'unknown')} {series.get('date', '')}".strip()
                yield Measured(factor * rate[0], rate[1], source)


def _rate(point: object) -> tuple[float, float] | None:
    if not isinstance(point, dict) or point.get("stable") is False:
        return None
    moved, seconds = point.get("bytes"), point.get("median_s")
    if not isinstance(moved, int | float) or not isinstance(seconds, int | float):
        return None
    if not 0 < seconds < 1e6 or not 0 < moved < 1e18:
        return None
    return moved / seconds, float(moved)


def _bus_factor(series: str) -> float | None:
    found = _RANKS.search(series)
    ranks = int(found[1]) if found else 0
    return 2 * (ranks - 1) / ranks if ranks > 1 else None
