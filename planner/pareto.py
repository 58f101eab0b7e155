"""The trade between throughput per GPU and speed per user, as the field draws it.

Every layout that fits is served at several concurrencies, of which its KV cache decides the largest; a point stays when
no other gives both more tokens per GPU and more per user. Bounds of the request hold for points as for candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from planner import plan as out
from planner.disaggregated import Split, best_split
from planner.references import parallel_ref, quantization_ref
from planner.request import Request
from planner.search import Found, broken_bound
from planner.speed import Speed, speed_of

CONCURRENCIES: Final = (1, 4, 16, 64, 256)
SEPARABLE: Final = ("vllm", "sglang")
"""Engines that hand a KV cache from one server to another."""
MOST_LAYOUTS: Final = 12
"""Best layouts whose curves are drawn; the front of more differs little and takes longer."""


class Point(NamedTuple):
    """A layout at a concurrency."""

    found: Found
    concurrency: int
    speed: Speed
    gpus: int

    split: Split | None = None

    @property
    def per_user(self) -> float:
        """Output tokens per second of one request."""
        return self.split.per_user if self.split is not None else self.speed.decode_per_request[1]

    @property
    def per_gpu(self) -> float:
        """Output tokens per second of one GPU."""
        return (self.split.total if self.split is not None else self.speed.decode_total[1]) / self.gpus


def pareto_points(request: Request, ranked: Sequence[Found], shown: Sequence[Found]) -> tuple[out.ParetoPoint, ...]:
    """The front of the best layouts, fastest for a user first; empty for an estimate and without GPUs."""
    if request.exact:
        return ()
    points: list[Point] = []
    layouts = [found for found in ranked if found.priced.config.world and found.priced.verdict == "fits"]
    for found in _worth_drawing(layouts):
        points += _curve(request, found)
    ranks = {id(found): rank for rank, found in enumerate(shown, 1)}
    return tuple([_shown(request, point, ranks.get(id(point.found))) for point in front(points)])


def _worth_drawing(layouts: Sequence[Found]) -> list[Found]:
    """The best by the objective, the fastest for a user, and those with the most tokens per GPU."""
    fastest = sorted(layouts, key=lambda found: found.speed.tpot_s[1])
    fullest = sorted(layouts, key=lambda found: -found.speed.decode_total[1] / found.priced.config.world)
    chosen = {id(found): found for some in (layouts, fastest, fullest) for found in some[: MOST_LAYOUTS // 3]}
    return list(chosen.values())


def _curve(request: Request, found: Found) -> list[Point]:
    """A layout at every concurrency that it admits without queueing."""
    points = []
    for concurrency in CONCURRENCIES:
        speed = speed_of(request, found.release, found.priced, concurrency)
        if speed.effective_concurrency < 0.98 * concurrency:
            break
        if broken_bound(request, speed) is None:
            points.append(Point(found, concurrency, speed, found.priced.config.world))
        if found.engine.name in SEPARABLE:
            apart = _apart(request, found, concurrency, speed)
            if apart is not None:
                points.append(apart)
    return points


def _apart(request: Request, found: Found, concurrency: int, speed: Speed) -> Point | None:
    """The layout on every node, with prompts and answers on nodes of their own; within the bounds."""
    group = found.priced.config.group
    nodes = len(group.nodes) if group is not None else 1
    split = best_split(request, found.release, found.priced, nodes, concurrency)
    bounds = request.bounds
    if split is None or (bounds.ttft_s is not None and split.ttft_s > bounds.ttft_s):
        return None
    if bounds.tpot_s is not None and 1 / split.per_user > bounds.tpot_s:
        return None
    if bounds.min_throughput is not None and split.total < bounds.min_throughput:
        return None
    return Point(found, concurrency, speed, found.priced.config.world * nodes, split)


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both rates, by falling rate per user."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (-one.per_user, -one.per_gpu)):
        if not kept or point.per_gpu > kept[-1].per_gpu:
            kept.append(point)
    return kept


def _shown(request: Request, point: Point, rank: int | None) -> out.ParetoPoint:
    config, speed, demand, split = point.found.priced.config, point.speed, request.demand, point.split
    tpot, ttft = speed.tpot_s, speed.ttft_s
    if split is not None:
        # The relative range of the same steps, of which only the expected sum is another.
        tpot = (tpot[0] / tpot[1] / split.per_user, 1 / split.per_user, tpot[2] / tpot[1] / split.per_user)
        ttft = (ttft[0] / ttft[1] * split.ttft_s, split.ttft_s, ttft[2] / ttft[1] * split.ttft_s)
    both = (demand.input_tokens + demand.output_tokens) / max(demand.output_tokens, 1)
    return out.ParetoPoint(
        tokens_per_s_per_user=point.per_user,
        tokens_per_s_per_gpu=point.per_gpu,
        total_tokens_per_s_per_gpu=point.per_gpu * both,
        concurrency=point.concurrency if split is None else max(round(split.concurrency), 1),
        tpot_s=_range(tpot),
        ttft_s=_range(ttft),
        engine=out.EngineRef(name=config.engine, version=config.version),
        quantization=quantization_ref(point.found.release),
        parallel=parallel_ref(config),
        kv_dtype=config.kv_dtype,
        gpus=point.gpus,
        bound_by=speed.bound_by,
        rank=rank if split is None else None,
        note=split.note if split is not None else "",
    )


def _range(values: tuple[float, float, float]) -> out.Range:
    return out.Range(low=values[0], expected=values[1], high=values[2])
