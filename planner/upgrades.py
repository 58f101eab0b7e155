"""What would help a machine at hand: one more GPU, more RAM, faster RAM, a smaller quantization, by gain for the money.

Every change is planned by the same search as today's machine; nothing is scaled by a rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from formulas.units import GIB
from planner import recommend_report as out
from planner.assemble import candidate, quality_of_release, quality_told, verdict_of
from planner.hardware import describe, machine_of, summary_text
from planner.machine import Machine, Node
from planner.offers import memory_price
from planner.options import Options
from planner.plan import Range
from planner.request import Bounds, Request
from planner.search import Found, bits_per_parameter, broken_bound, score, search
from profiles.prices import Prices

FASTER_RAM: Final = 2.0
"""Twice the bandwidth: a platform with twice the channels."""
RAM_STEPS: Final = (2, 4)
MORE_BITS: Final = 1.05
"""More bits per parameter than this many times today's are a better quantization."""
SMALLER: Final = 3
"""Smaller quantizations shown."""


class _Change(NamedTuple):
    """A changed machine; ``usd`` is what the change is known to cost, None where nothing is."""

    what: str
    request: Request
    usd: Range | None


def have_report(request: Request, prices: Prices) -> out.Have:
    """The machine of the request as it is, and its upgrades."""
    today = _fastest(request)
    shown = candidate(request, today, 1) if today is not None else None
    broken = None if today is None else broken_bound(request, today.speed)
    verdict = "no" if today is None else verdict_of(request, today)
    waits = today is not None and today.speed.effective_concurrency < request.demand.concurrency
    why = (
        "nothing that was searched starts on it"
        if today is None
        else broken[0]
        if broken is not None
        else "only some of the requests run at a time"
        if waits
        else ""
    )
    same = request if today is None else replace(request, releases=(today.release,))
    # More GPUs may hold the weights as the maker published them.
    makers = [one for one in request.releases if one.release.by_maker and today is not None]
    wider = same if today is None else replace(same, releases=tuple(dict.fromkeys((today.release, *makers))))
    rows = [_row(request, change, today) for change in _changes(request, same, wider, today, prices)]
    met = verdict == "fits" and not why
    return out.Have(
        description=summary_text(request.machine),
        meets_target=met,
        verdict=verdict,
        why=why,
        candidate=shown,
        upgrades=tuple(sorted(rows, key=_worth)),
    )


def _fastest(request: Request) -> Found | None:
    """The best configuration, whether or not it keeps the bounds of speed."""
    bounds = Bounds(max_kld=request.bounds.max_kld, quality_suite=request.bounds.quality_suite)
    free = replace(request, bounds=bounds, releases=tuple([one.afresh() for one in request.releases]))
    return min(search(free).found, key=lambda one: score(free, one), default=None)


def _changes(request: Request, same: Request, wider: Request, today: Found | None, prices: Prices) -> Iterator[_Change]:
    """Changes of the hardware with today's weights (``same``), and smaller weights.

    More GPUs also with the maker's weights (``wider``), more RAM with all.
    """
    machine = request.machine
    node = machine.nodes[0]
    if node.gpus and not node.gpus[0].unified:
        for count in dict.fromkeys((1, len(node.gpus))):
            gpu = node.gpus[0]
            numbered = [gpu._replace(driver_index=len(node.gpus) + place, link=gpu.link) for place in range(count)]
            usd = _gpu_price(gpu.key, count * len(machine.nodes), prices)
            more = f"{count} more {gpu.key}" if len(machine.nodes) == 1 else f"{count} more {gpu.key} in each node"
            yield _Change(more, _on(wider, lambda one, new=numbered: one._replace(gpus=(*one.gpus, *new))), usd)
    host = node.host
    if host.ram is not None:
        for factor in RAM_STEPS:
            grown = host.ram * factor
            usd = _ram_price((grown - host.ram) * len(machine.nodes), host.name, prices)
            yield _Change(f"{grown / GIB:,.0f} GiB of RAM", _with_host(request, ram=grown), usd)
        if host.bandwidth is not None:
            rate = host.bandwidth * FASTER_RAM
            yield _Change(f"RAM of {rate / 1e9:,.0f} GB/s", _with_host(same, bandwidth=rate), None)
    limit = min([one.tensors.bytes for one in request.releases], default=0) - 1
    if today is not None:
        limit = today.release.tensors.bytes
    smaller = sorted([one for one in request.releases if one.tensors.bytes < limit], key=lambda one: -one.tensors.bytes)
    for release in smaller[:: max(1, len(smaller) // SMALLER)][:SMALLER]:
        name = f"{release.release.publisher}/{release.release.quantization}"
        yield _Change(f"quantization {name}", replace(request, releases=(release,)), Range(low=0, expected=0, high=0))


def _on(request: Request, change: object) -> Request:
    nodes = tuple([change(node) for node in request.machine.nodes])  # type: ignore[operator]
    return replace(request, machine=request.machine._replace(nodes=nodes))


def _with_host(request: Request, *, ram: int | None = None, bandwidth: float | None = None) -> Request:
    def changed(node: Node) -> Node:
        host = node.host
        return node._replace(
            host=host._replace(
                ram=host.ram if ram is None else ram, bandwidth=host.bandwidth if bandwidth is None else bandwidth
            )
        )

    return _on(request, changed)


def _gpu_price(key: str, count: int, prices: Prices) -> Range | None:
    items = [one for one in prices.purchase if one.gpu == key and one.gpus == 1]
    item = min(items, key=lambda one: one.usd_high, default=None)
    if item is None:
        return None
    low, high = item.usd_low * count, item.usd_high * count
    return Range(low=low, expected=(low + high) / 2, high=high)


def _ram_price(size: int, cpu: str, prices: Prices) -> Range | None:
    price = memory_price(prices, cpu)
    if price is None:
        return None
    low, high = [rate * size / GIB for rate in (price.usd_per_gib_low, price.usd_per_gib_high)]
    return Range(low=low, expected=(low + high) / 2, high=high)


def _row(request: Request, change: _Change, today: Found | None) -> out.Upgrade:
    found = _fastest(change.request)
    if found is None:
        return out.Upgrade(
            what=change.what, usd=change.usd, verdict="no", meets_target=False, candidate="",
            decode_tokens_per_s_total=None, tpot_s=None, gain=None, gain_per_1000_usd=None, more_bits=False, quality="",
            why="still nothing starts",
        )  # fmt: skip
    low, expected, high = found.speed.decode_total
    gain = None if today is None else expected / today.speed.decode_total[1]
    usd = change.usd
    each = None
    if gain is not None and usd is not None and usd.expected > 0:
        each = (gain - 1) / usd.expected * 1000
    broken = broken_bound(request, found.speed)
    verdict = verdict_of(change.request, found)
    waits = found.speed.effective_concurrency < request.demand.concurrency
    release = found.release.release
    tpot = found.speed.tpot_s
    return out.Upgrade(
        what=change.what,
        usd=usd,
        verdict=verdict,
        meets_target=verdict == "fits" and broken is None and not waits,
        candidate=f"{found.engine.name}, {release.publisher}/{release.quantization}",
        decode_tokens_per_s_total=Range(low=low, expected=expected, high=high),
        tpot_s=Range(low=tpot[0], expected=tpot[1], high=tpot[2]),
        gain=gain,
        gain_per_1000_usd=each,
        more_bits=today is not None
        and bits_per_parameter(found.release) > MORE_BITS * bits_per_parameter(today.release),
        quality=quality_told(quality_of_release(request, found.release.release)),
        why=broken[0] if broken is not None else "only some of the requests run at a time" if waits else "",
    )


def _worth(row: out.Upgrade) -> tuple[float, ...]:
    """What costs nothing first, then the most gain for the money, then what has no known price by its gain."""
    gain = row.gain or (2.0 if row.meets_target else 0.0)
    free = row.usd is not None and row.usd.expected == 0
    priced = row.gain_per_1000_usd
    return (0.0 if free else 1.0 if priced is not None else 2.0, -(priced if priced is not None else gain), -gain)


def machine_at_hand(options: dict[str, object]) -> Machine:
    """The machine that hardware options describe."""
    return machine_of(describe(Options("", **options)), "flags")  # type: ignore[arg-type]
