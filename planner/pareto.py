"""The trade between throughput per GPU and speed per user, as the field draws it.

Every layout that fits is served at several concurrencies, of which its KV cache decides the largest; a point stays when
no other gives both more tokens per GPU and more per user. Bounds of the request hold for points as for candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from planner import plan as out
from planner.references import parallel_ref, quantization_ref
from planner.request import Request
from planner.search import Found, broken_bound
from planner.speed import Speed, speed_of

CONCURRENCIES: Final = (1, 4, 16, 64, 256)
MOST_LAYOUTS: Final = 12
"""Best layouts whose curves are drawn; the front of more differs little and takes longer."""


class Point(NamedTuple):
    """A layout at a concurrency."""

    found: Found
    concurrency: int
    speed: Speed
    gpus: int

    @property
    def per_user(self) -> float:
        """Output tokens per second of one request."""
        return self.speed.decode_per_request[1]

    @property
    def per_gpu(self) -> float:
        """Output tokens per second of one GPU."""
        return self.speed.decode_total[1] / self.gpus


def pareto_points(request: Request, ranked: Sequence[Found], shown: Sequence[Found]) -> tuple[out.ParetoPoint, ...]:
    """The front of the best layouts, fastest for a user first; empty for an estimate and without GPUs."""
    if request.exact:
        return ()
    points: list[Point] = []
    layouts = [found for found in ranked if found.priced.config.world and found.priced.verdict == "fits"]
    for found in layouts[:MOST_LAYOUTS]:
        points += _curve(request, found)
    ranks = {id(found): rank for rank, found in enumerate(shown, 1)}
    return tuple([_shown(request, point, ranks.get(id(point.found))) for point in front(points)])


def _curve(request: Request, found: Found) -> list[Point]:
    """A layout at every concurrency that it admits without queueing."""
    points = []
    for concurrency in CONCURRENCIES:
        speed = speed_of(request, found.release, found.priced, concurrency)
        if speed.effective_concurrency < 0.98 * concurrency:
            break
        if broken_bound(request, speed) is None:
            points.append(Point(found, concurrency, speed, found.priced.config.world))
    return points


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both rates, by falling rate per user."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (-one.per_user, -one.per_gpu)):
        if not kept or point.per_gpu > kept[-1].per_gpu:
            kept.append(point)
    return kept


def _shown(request: Request, point: Point, rank: int | None) -> out.ParetoPoint:
    config, speed, demand = point.found.priced.config, point.speed, request.demand
    both = (demand.input_tokens + demand.output_tokens) / max(demand.output_tokens, 1)
    return out.ParetoPoint(
        tokens_per_s_per_user=point.per_user,
        tokens_per_s_per_gpu=point.per_gpu,
        total_tokens_per_s_per_gpu=point.per_gpu * both,
        concurrency=point.concurrency,
        tpot_s=_range(speed.tpot_s),
        ttft_s=_range(speed.ttft_s),
        engine=out.EngineRef(name=config.engine, version=config.version),
        quantization=quantization_ref(point.found.release),
        parallel=parallel_ref(config),
        kv_dtype=config.kv_dtype,
        gpus=point.gpus,
        bound_by=speed.bound_by,
        rank=rank,
    )


def _range(values: tuple[float, float, float]) -> out.Range:
    return out.Range(low=values[0], expected=values[1], high=values[2])
