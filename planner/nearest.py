"""What comes nearest to a target that no priced machine meets, and by what it misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from planner import recommend_report as out
from planner.assemble import candidate
from planner.offers import Offer, holds_weights, plan_flags
from planner.recommend import COPIES, Terms, narrow_flags, share, work_flags
from planner.request import Bounds, Request
from planner.search import Found, broken_bound, search

TRIED: Final = 4
"""Machines that are planned, of different GPUs: those with the most memory bandwidth."""


def nearest_to(request: Request, offers: Sequence[Offer], terms: Terms) -> out.Nearest | None:
    """The fastest of the machines that hold the weights, with as many copies as there are requests, up to ``COPIES``.

    None where none holds them. It may meet the target after all, since the search that missed it is bounded.
    """
    tried = [_planned(request, offer) for offer in _fastest(request, offers)]
    found = [one for one in tried if one is not None]
    if not found:
        return None
    offer, asked, best = min(found, key=lambda one: _misses(request, one[2]))
    copies = _copies(request)
    free = replace(asked, bounds=_quality_only(asked.bounds))
    shown = candidate(free, best, 1)
    broken = broken_bound(asked, best.speed)
    held = best.speed.effective_concurrency
    wanted = asked.demand.concurrency
    waits = f"about {held:.0f} of {wanted} requests run at a time" if held < wanted else ""
    return out.Nearest(
        name=f"{copies} times {offer.name}" if copies > 1 else offer.name,
        usd_per_month=offer.usd_per_month(terms.hours_per_day, terms.years) * copies,
        copies=copies,
        missed=broken[0] if broken is not None else waits,
        tpot_s=shown.performance.tpot_s,
        ttft_s=shown.performance.ttft_s,
        plan_flags=(*plan_flags(offer), *narrow_flags(free, shown), *work_flags(free)),
    )


def _copies(request: Request) -> int:
    return min(request.demand.concurrency, COPIES)


def _fastest(request: Request, offers: Sequence[Offer]) -> list[Offer]:
    """One machine of each of the fastest GPUs: of as few nodes as hold the weights, with the most bandwidth."""

    def key(one: Offer) -> tuple[float, ...]:
        return one.nodes, -one.gpus * one.gpu.bandwidth_bytes_per_s, one.usd_per_month(24.0, 3.0)

    best: dict[str, Offer] = {}
    for offer in sorted([one for one in offers if holds_weights(request, one)], key=key):
        best.setdefault(offer.gpu.key, offer)
    fastest = sorted(best.values(), key=lambda one: -one.gpus * one.gpu.bandwidth_bytes_per_s)
    return fastest[:TRIED]


def _planned(request: Request, offer: Offer) -> tuple[Offer, Request, Found] | None:
    asked = share(request, offer, _copies(request))
    found = search(replace(asked, bounds=_quality_only(asked.bounds))).found
    best = min(found, key=lambda one: _misses(asked, one), default=None)
    return None if best is None else (offer, asked, best)


def _quality_only(bounds: Bounds) -> Bounds:
    return Bounds(max_kld=bounds.max_kld, quality_suite=bounds.quality_suite)


def _misses(request: Request, found: Found) -> tuple[float, ...]:
    """How far a configuration is from the bounds, the farthest first; then its time per token."""
    bounds, speed = request.bounds, found.speed
    ratios = [
        0.0 if bounds.tpot_s is None else speed.tpot_s[1] / bounds.tpot_s,
        0.0 if bounds.ttft_s is None else speed.ttft_s[1] / bounds.ttft_s,
        0.0 if bounds.min_throughput is None else bounds.min_throughput / speed.decode_total[1],
        request.demand.concurrency / speed.effective_concurrency,
    ]
    tight = 0.0 if found.priced.verdict == "fits" else 1.0
    return (tight, max(1.0, *ratios), speed.tpot_s[1])
