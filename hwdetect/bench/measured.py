"""What a benchmark leaves behind for the planner: times of kernels by series, as data.

A calibration file holds a list of ``MeasuredSeries`` under ``kernels``; the planner reads them, nothing else does.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

_ONE_NODE: Final = re.compile(r"^memory_read/.*\.node\d")
_ALL_NODES: Final = re.compile(r"^memory_read/.*\.nodes(\d+)")


def is_of_one_node(series: str) -> bool:
    """Whether it reads the memory of one NUMA node of several.

    >>> is_of_one_node("memory_read/bf16/bytes8.node1"), is_of_one_node("memory_read/bf16/bytes8.nodes2")
    (True, False)
    """
    return _ONE_NODE.match(series) is not None


def nodes_read(series: str) -> int | None:
    """Over how many NUMA nodes memory was read; None where it was not put on each of them.

    >>> nodes_read("memory_read/bf16/bytes8.nodes2"), nodes_read("memory_read/bf16/bytes8")
    (2, None)
    """
    found = _ALL_NODES.match(series)
    return int(found[1]) if found is not None else None


class MeasuredPoint(BaseModel):
    """One measured case of a series: seconds (median, quartiles), and the work it was measured on.

    ``distinct_experts`` is the mean over the iterations, null for kernels without experts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    batch: int
    context: int = 0
    median_s: float
    low_s: float
    high_s: float
    bytes: float
    flops: float
    distinct_experts: float | None = None
    stable: bool = True


class MeasuredSeries(BaseModel):
    """All points of one kernel at one shape, measured by one provider on one machine.

    ``series`` is ``KernelCase.series``; ``threads`` are the CPU threads used, null on a GPU. ``reference_bytes_per_s``
    is the memory bandwidth measured between the points, null where none was. ``measured_at`` is when the last point
    was, null in files of before it was kept. The ``device`` of a disk is its mount point. ``python`` is the
    interpreter that ran it, by which its versions are compared with those that it has now.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    series: str
    provider: str
    version: str
    date: str
    measured_at: str | None = None
    python: str | None = None
    device: str
    routing: Literal["uniform", "power_law", "replay", "none"] = "none"
    threads: int | None = None
    reference_bytes_per_s: float | None = None
    points: tuple[MeasuredPoint, ...]

    @property
    def counted(self) -> tuple[MeasuredPoint, ...]:
        """Points that a plan counts with: the stable ones, or all where none is.

        A file may hold anything; what took no time or moved nothing tells nothing.
        """
        possible = tuple([point for point in self.points if point.median_s > 0 and point.bytes > 0])
        return tuple([point for point in possible if point.stable]) or possible

    @property
    def said(self) -> str:
        """Whose measurement it is, for the source of a figure; and that it was unstable, where no point was stable."""
        unstable = "" if any(point.stable for point in self.counted) else ", unstable"
        return f"measured by {self.provider} {self.version} on {self.date}{unstable}"
