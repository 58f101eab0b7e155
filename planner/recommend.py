"""The inverse of a plan: from a target to the least costly hardware that meets it, by rent and by purchase.

Offers are searched cheapest first, with as many copies as it takes, by the search that ranks every plan. What cannot
hold the weights or read them in time is excluded by its bytes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from heapq import heapify, heappop, heappush
from math import ceil, inf
from typing import Final, NamedTuple

from formulas.units import GIB
from planner import recommend_report as out
from planner.assemble import candidate, quality_told
from planner.cost_report import ApiWay, Mix
from planner.costing import api_ways
from planner.engines import ENGINE_NAMES
from planner.hardware import describe, machine_of
from planner.machine import Machine
from planner.offers import (
    Offer,
    cheapest_first,
    holds_weights,
    memory_bytes,
    memory_price,
    options_of,
    plan_flags,
    reads_fast_enough,
    spot_of,
)
from planner.options import Options
from planner.plan import Candidate, Range
from planner.request import Bounds, PricedRelease, Request
from planner.search import Found, broken_bound, score, search, too_lossy
from profiles.cpus import parse_cpu
from profiles.prices import STALE_DAYS, Prices, staleness

Progress = Callable[[int, int], None]
CONFIGURATIONS: Final = 2800
REQUANTIZED_CONFIGURATIONS: Final = 300
LAST_CONFIGURATIONS: Final = 1200
"""Configurations that the searches of a list evaluate, about: with the maker's weights, with others, and where neither
met the target, with all that engines of data centres load. What is dearer than the machines that this allows is counted
and not searched."""
COPIES: Final = 64
"""Copies of one machine at most."""
REQUANTIZED: Final = 2
"""Ways with re-quantized weights in each list; the rest keep the maker's weights."""
SIZES: Final = 8
"""Re-quantized releases that are searched; `moeplan plan` on the machine shows them all."""
RISKY_SHARE: Final = 0.02
"""Less of a device's memory than this free at the low end is called tight."""


class Terms(NamedTuple):
    """How the money is counted."""

    hours_per_day: float = 24.0
    years: float = 3.0
    top: int = 3


class Met(NamedTuple):
    """An offer that meets the target with so many copies."""

    offer: Offer
    copies: int
    request: Request
    found: Found


class Tally(NamedTuple):
    """What became of the offers of a list."""

    met: list[Met]
    without_bytes: int
    without_bandwidth: int
    searched: int
    dearer: int


def cheapest_ways(request: Request, offers: Sequence[Offer], terms: Terms, progress: Progress | None = None) -> Tally:
    """The cheapest offers of different GPUs that meet the request: with the maker's weights, and with smaller ones."""
    native = tuple([one for one in request.releases if one.release.by_maker])
    others = _thinned([one for one in request.releases if not one.release.by_maker])
    tallies: list[Tally] = []
    tiers = [(native, terms.top, CONFIGURATIONS), (others, REQUANTIZED, REQUANTIZED_CONFIGURATIONS)]
    if not native:
        tiers = [(others, terms.top, CONFIGURATIONS)]
    for place, (releases, top, most) in enumerate(tiers):
        if releases:
            watched = None if progress is None else _part(progress, place)
            # Re-quantized weights are worth a look only where they save money.
            ceiling = min([_usd(one, terms) for tally in tallies for one in tally.met], default=inf)
            cheap = [one for one in offers if one.usd_per_month(terms.hours_per_day, terms.years) < ceiling]
            tallies.append(_cheapest(replace(request, releases=releases), cheap, terms, top, most, watched))
    last = tuple([one for one in request.releases if not one.release.by_maker and one.release.container != "gguf"])
    if native and last and not any(tally.met for tally in tallies):
        # Weights for data-centre engines are few, and may be the only ones that are fast enough.
        asked = replace(request, releases=last)
        tallies.append(_cheapest(asked, offers, terms, REQUANTIZED, LAST_CONFIGURATIONS, None))
    met = [one for tally in tallies for one in tally.met]
    met.sort(key=lambda one: _usd(one, terms))
    return Tally(
        met,
        tallies[0].without_bytes if tallies else 0,
        tallies[0].without_bandwidth if tallies else 0,
        sum(tally.searched for tally in tallies),
        max([tally.dearer for tally in (tallies[:1] if met else tallies)], default=0),
    )


def _thinned(releases: Sequence[PricedRelease]) -> tuple[PricedRelease, ...]:
    """``SIZES`` of the releases, the smallest and the largest among them, evenly by their rank in size."""
    ordered = sorted(releases, key=lambda one: one.tensors.bytes)
    if len(ordered) <= SIZES:
        return tuple(ordered)
    places = [round(place * (len(ordered) - 1) / (SIZES - 1)) for place in range(SIZES)]
    return tuple([ordered[place] for place in places])


def _usd(met: Met, terms: Terms) -> float:
    return met.offer.usd_per_month(terms.hours_per_day, terms.years) * met.copies


def _part(progress: Progress, place: int) -> Progress:
    return lambda done, total: progress(place * total + done, 2 * total)


class _Group(NamedTuple):
    """What the largest single machine of a group does: least time per token alone, and with all requests if it can."""

    alone_s: float
    all_s: float | None
    gpus: int


class _Searcher:
    """Searches of one list, counted with what they evaluate, and what they told of each group."""

    def __init__(self, request: Request, able: Sequence[Offer], most: int, progress: Progress | None) -> None:
        self.request, self.able, self.most, self.progress = request, able, most, progress
        self.searched = 0
        self.evaluated = 0
        self._groups: dict[tuple[str, str], _Group | None] = {}

    @property
    def spent(self) -> bool:
        return self.evaluated >= self.most

    def best(self, asked: Request) -> tuple[Found | None, float | None]:
        if self.progress is not None:
            self.progress(min(self.evaluated, self.most), self.most)
        self.searched += 1
        found, fastest_s, evaluated = _best(asked)
        self.evaluated += max(evaluated, 1)
        return found, fastest_s

    def group(self, offer: Offer) -> _Group | None:
        """None where not even one request alone runs within the bounds: then no size and no number of copies helps."""
        if offer.group not in self._groups:
            alike = [one for one in self.able if one.group == offer.group]
            fewest = min(one.nodes for one in alike)
            largest = max([one for one in alike if one.nodes == fewest], key=memory_bytes)
            wanted = self.request.demand.concurrency
            found, alone_s = self._alone(share(self.request, largest, wanted))
            all_s = alone_s
            if found is not None and wanted > 1:
                # An estimate of the copies needs one engine; what they are tried with is searched whole.
                together = share(self.request, largest, 1)
                engine = found.engine.name
                flat = 1 if engine == ENGINE_NAMES[0] else together.narrow.pp
                _, all_s = self.best(replace(together, narrow=replace(together.narrow, engine=engine, pp=flat)))
            passed = found is not None and alone_s is not None
            self._groups[offer.group] = _Group(alone_s or 0.0, all_s, largest.gpus) if passed else None
        return self._groups[offer.group]

    def _alone(self, asked: Request) -> tuple[Found | None, float | None]:
        """Of a single request, which copies, pipelines and a divided context help least: without them.

        By the first engine, and by the others where that finds nothing.
        """
        narrow = asked.narrow
        plain = replace(narrow, pp=narrow.pp or 1, dp=narrow.dp or 1, dcp=narrow.dcp or 1)
        if narrow.engine is None:
            found, fastest_s = self.best(replace(asked, narrow=replace(plain, engine=ENGINE_NAMES[0])))
            if found is not None:
                return found, fastest_s
            self.searched -= 1
        return self.best(replace(asked, narrow=plain))

    def copies(self, offer: Offer, group: _Group) -> int:
        """Copies to try first: requests that one holds lie on the line from alone to all, in proportion to its GPUs."""
        wanted, limit = self.request.demand.concurrency, self.request.bounds.tpot_s
        if limit is None or group.all_s is None or group.all_s <= limit or wanted == 1:
            return 1
        held = 1 + (limit - group.alone_s) / (group.all_s - group.alone_s) * (wanted - 1)
        return max(1, min(wanted, COPIES, ceil(wanted / max(1.0, held * offer.gpus / group.gpus))))


class _Tried(NamedTuple):
    """An offer in the queue: what its next number of copies costs; none before its group is known."""

    usd: float
    number: int
    copies: int | None


def _cheapest(
    request: Request, offers: Sequence[Offer], terms: Terms, top: int, most: int, progress: Progress | None
) -> Tally:
    """Offers in order of what they cost with the copies they take, as far as that is known by then.

    One request alone and all of them are tried first on the largest of the machines that differ only in how much of
    the same they have: what is too slow or too small for one stays so in any number, and both give the copies to try.
    """
    holding = [one for one in offers if holds_weights(request, one)]
    able = [one for one in holding if reads_fast_enough(request, one)]
    order = cheapest_first(able, terms.hours_per_day, terms.years)
    usd = [one.usd_per_month(terms.hours_per_day, terms.years) for one in order]
    queue = [_Tried(each, number, None) for number, each in enumerate(usd)]
    heapify(queue)
    searcher = _Searcher(request, able, most, progress)
    met: list[Met] = []
    while queue and not searcher.spent and len(met) < top:
        tried = heappop(queue)
        offer = order[tried.number]
        if any(one.offer.gpu.key == offer.gpu.key for one in met):
            # More of the same GPU is the next step up of a way that is listed.
            continue
        group = searcher.group(offer)
        if group is None:
            continue
        copies = tried.copies
        if copies is None:
            copies = searcher.copies(offer, group)
            if copies > 1:
                heappush(queue, _Tried(usd[tried.number] * copies, tried.number, copies))
                continue
        asked = share(request, offer, copies)
        found, fastest_s = searcher.best(asked)
        if found is not None:
            met.append(Met(offer, copies, asked, found))
            continue
        more = _next_copies(asked, copies, group.alone_s, fastest_s, request.demand.concurrency)
        if more is not None:
            heappush(queue, _Tried(usd[tried.number] * more, tried.number, more))
    left = len({entry.number for entry in queue})
    return Tally(met, len(offers) - len(holding), len(holding) - len(able), searcher.searched, left)


def _next_copies(asked: Request, copies: int, alone_s: float, fastest_s: float | None, wanted: int) -> int | None:
    """How many copies to try after so many did not do: doubled until the time of all at once is known.

    Then the number on the straight line between one request and all of them; None where no more can be tried.
    """
    if copies >= min(wanted, COPIES):
        return None
    limit, each = asked.bounds.tpot_s, asked.demand.concurrency
    more = copies * 2
    if limit is not None and fastest_s is not None and fastest_s > limit > alone_s and each > 1:
        per_request_s = (fastest_s - alone_s) / (each - 1)
        more = max(ceil(copies * 1.25), ceil(wanted / (1 + (limit - alone_s) / per_request_s)))
    return min(more, wanted, COPIES)


def share(request: Request, offer: Offer, copies: int) -> Request:
    """The request of one copy, on its machine, with the releases that its memory can hold."""
    room = memory_bytes(offer)
    demand = replace(request.demand, concurrency=ceil(request.demand.concurrency / copies))
    bounds = request.bounds
    if bounds.min_throughput is not None:
        bounds = replace(bounds, min_throughput=bounds.min_throughput / copies)
    releases = tuple([one.afresh() for one in request.releases if one.tensors.bytes <= room])
    return replace(request, machine=_machine(offer), demand=demand, bounds=bounds, releases=releases)


def _machine(offer: Offer) -> Machine:
    return machine_of(describe(Options("", **options_of(offer))), "flags")  # type: ignore[arg-type]


def _best(request: Request) -> tuple[Found | None, float | None, int]:
    """The best configuration that holds the demand and keeps the bounds, the least time per token, and their number."""
    bounds = request.bounds
    free = replace(request, bounds=Bounds(max_kld=bounds.max_kld, quality_suite=bounds.quality_suite))
    outcome = search(free)
    serving = [one for one in outcome.found if _serves_all(request, one)]
    kept = [one for one in serving if broken_bound(request, one.speed) is None]
    best = min(kept, key=lambda one: score(request, one), default=None)
    return best, min([one.speed.tpot_s[1] for one in serving], default=None), outcome.evaluated


def _serves_all(request: Request, found: Found) -> bool:
    return found.speed.effective_concurrency >= request.demand.concurrency and not found.priced.config.disk_bytes


def way_of(met: Met, terms: Terms, prices: Prices | None = None) -> out.Way:
    """A met offer with its plan, its margin and its risks."""
    offer, request, found = met.offer, met.request, met.found
    shown = candidate(request, found, 1)
    devices = [one for one in shown.memory.devices if one.kind in ("gpu", "unified", "host")]
    tightest = min(devices, key=lambda one: one.free_low_bytes)
    tpot = request.bounds.tpot_s
    price = offer.usd_price
    return out.Way(
        kind=offer.kind,
        name=f"{met.copies} times {offer.name}" if met.copies > 1 else offer.name,
        gpu=offer.gpu.key,
        gpus_per_copy=offer.gpus,
        nodes_per_copy=offer.nodes,
        copies=met.copies,
        usd_per_hour=None if offer.usd_per_hour is None else offer.usd_per_hour * met.copies,
        usd_price=None
        if price is None
        else Range(low=price.low * met.copies, expected=price.expected * met.copies, high=price.high * met.copies),
        usd_per_month=offer.usd_per_month(terms.hours_per_day, terms.years) * met.copies,
        complete=not offer.left_out,
        left_out=offer.left_out,
        date=offer.date,
        source=offer.source,
        verdict="fits" if shown.fits else "tight",
        risks=tuple(_risks(shown, request)),
        free_low_bytes=tightest.free_low_bytes,
        margin_tpot=None if tpot is None else tpot / shown.performance.tpot_s.expected,
        plan_flags=(*plan_flags(offer), *narrow_flags(request, shown), *work_flags(request)),
        candidate=shown,
        spot=_spot(met, prices) if prices is not None and offer.kind == "rent" else None,
    )


def _spot(met: Met, prices: Prices) -> out.Spot | None:
    price = spot_of(met.offer.gpu.key, met.offer.gpus, prices)
    if price is None:
        return None
    usd = price.usd_per_gpu_hour * -(-met.offer.gpus // price.min_gpus) * price.min_gpus
    if met.offer.usd_per_hour is not None and usd >= met.offer.usd_per_hour:
        return None
    return out.Spot(
        provider=price.provider,
        usd_per_hour=usd * met.copies,
        date=price.date,
        source=price.source,
    )


def work_flags(request: Request) -> tuple[str, ...]:
    """The work and the bounds of one copy as arguments of ``moeplan plan``."""
    demand, bounds, settings = request.demand, request.bounds, request.settings
    flags = ["--workload", demand.name, "--context", str(demand.context), "--input-tokens", str(demand.input_tokens)]
    flags += ["--output-tokens", str(demand.output_tokens)]
    if demand.images:
        flags += ["--images", str(demand.images)]
    if demand.routing != "uniform":
        flags += ["--routing", demand.routing]
    for name, seconds in (("--tpot", bounds.tpot_s), ("--ttft", bounds.ttft_s)):
        if seconds is not None:
            flags += [name, f"{seconds * 1e3:.9g}ms"]
    if bounds.min_throughput is not None:
        flags += ["--min-throughput", f"{bounds.min_throughput:.9g}"]
    if bounds.max_kld is not None and bounds.quality_suite is not None:
        flags += ["--max-kld", f"{bounds.max_kld:.9g}", "--quality-suite", bounds.quality_suite]
    if request.drafter is not None:
        flags += ["--speculative", request.drafter.method, "--speculative-tokens", str(settings.draft_tokens)]
        if settings.accept_length is not None:
            flags += ["--accept-length", f"{settings.accept_length:.9g}"]
    return (*flags, "--concurrency", str(demand.concurrency))


def narrow_flags(request: Request, shown: Candidate) -> tuple[str, ...]:
    """What narrows a plan to the configuration of a way, so that the plan's first row is that configuration."""
    weights = shown.quantization
    flags = ["--engine", shown.engine.name]
    if weights.publisher != "local":
        # A file of the user's has one quantization, its own.
        flags += ["--quant", f"{weights.publisher}/{weights.name}"]
    if request.narrow.engine_version is not None:
        flags += ["--engine-version", request.narrow.engine_version]
    flags += ["--kv-dtype", shown.kv_cache.dtype]
    if shown.engine.name == "llama.cpp":
        # It has no ranks; those that were asked for of every engine are repeated.
        asked = {name: getattr(request.narrow, name) for name in ("tp", "pp", "dp", "ep", "dcp")}
    else:
        asked = shown.parallel.model_dump()
    return (*flags, *[word for name, ways in asked.items() if ways is not None for word in (f"--{name}", str(ways))])


def _risks(shown: Candidate, request: Request) -> list[str]:
    found = []
    devices = [one for one in shown.memory.devices if one.kind != "disk"]
    tightest = min(devices, key=lambda one: one.free_low_bytes)
    if not shown.fits:
        found.append("tight: it may not start with these settings")
    elif tightest.free_low_bytes < RISKY_SHARE * tightest.capacity_bytes:
        found.append(f"tight: {tightest.free_low_bytes / GIB:.1f} GiB free on {tightest.name} at the low end")
    for limit, speed, what in (
        (request.bounds.tpot_s, shown.performance.tpot_s, "time per token"),
        (request.bounds.ttft_s, shown.performance.ttft_s, "time to the first token"),
    ):
        if limit is not None and speed.high > limit:
            found.append(f"the slow end of the {what} misses the target ({speed.high:.3g} s of {limit:.3g} s)")
    if not shown.quality.native:
        found.append(f"re-quantized weights ({shown.quantization.name}): {quality_told(shown.quality)}")
    return found


def with_next_steps(ways: Sequence[out.Way]) -> tuple[out.Way, ...]:
    """Every way with the next dearer one that gives more in total."""
    finished = []
    for place, way in enumerate(ways):
        rate = way.candidate.performance.decode_tokens_per_s_total.expected * way.copies
        for other in ways[place + 1 :]:
            total = other.candidate.performance.decode_tokens_per_s_total
            if total.expected * other.copies > rate:
                step = out.Step(
                    name=other.name,
                    usd_per_month_more=other.usd_per_month - way.usd_per_month,
                    decode_tokens_per_s_total=Range(
                        low=total.low * other.copies,
                        expected=total.expected * other.copies,
                        high=total.high * other.copies,
                    ),
                    tpot_s=other.candidate.performance.tpot_s,
                )
                way = way.model_copy(update={"next_step": step})
                break
        finished.append(way)
    return tuple(finished)


def recommend(
    request: Request,
    rented: Sequence[Offer],
    bought: Sequence[Offer],
    prices: Prices,
    terms: Terms,
    have: out.Have | None,
    today: date,
    generated_by: str,
    progress: Progress | None = None,
) -> out.RecommendReport:
    """The report. The machine of ``request`` is not used."""

    def halves(half: int) -> Progress | None:
        return None if progress is None else lambda done, total: progress(half * total + done, 2 * total)

    tallies = [cheapest_ways(request, offers, terms, halves(half)) for half, offers in enumerate((rented, bought))]
    rent, buy = [with_next_steps([way_of(met, terms, prices) for met in tally.met]) for tally in tallies]
    volume = _tokens_per_month(request, [*rent, *buy], terms)
    demand = request.demand
    mix = Mix(
        input_tokens=demand.input_tokens, output_tokens=demand.output_tokens, cached_share=demand.prefix_cache_hit_rate
    )
    api = api_ways(request.model.id, mix, volume, prices.api) if volume is not None else ()
    nearest = None
    if not rent and not buy:
        # Only a target that is missed pays for loading it.
        from planner.nearest import nearest_to

        nearest = nearest_to(request, (*rented, *bought), terms)
    return out.RecommendReport(
        schema=out.RECOMMEND_SCHEMA,
        generated_by=generated_by,
        computed_on=today.isoformat(),
        model=request.model.id,
        target=target_of(request, terms),
        tokens_per_month=volume,
        rent=rent,
        buy=buy,
        api=api,
        have=have,
        searched=out.Searched(
            offers=len(rented) + len(bought),
            without_bytes=sum(tally.without_bytes for tally in tallies),
            without_bandwidth=sum(tally.without_bandwidth for tally in tallies),
            searched=sum(tally.searched for tally in tallies),
            dearer_not_searched=sum(tally.dearer for tally in tallies),
        ),
        why=_why(rent, buy, api, tallies),
        nearest=nearest,
        warnings=tuple(dict.fromkeys((*_unmeasured(request), *_warnings([*rent, *buy], api, prices, today)))),
    )


def target_of(request: Request, terms: Terms) -> out.Target:
    """What was asked for."""
    demand, bounds = request.demand, request.bounds
    return out.Target(
        workload=demand.name,
        context=demand.context,
        concurrency=demand.concurrency,
        input_tokens=demand.input_tokens,
        output_tokens=demand.output_tokens,
        ttft_s=bounds.ttft_s,
        tpot_s=bounds.tpot_s,
        min_throughput=bounds.min_throughput,
        max_kld=bounds.max_kld,
        quality_suite=bounds.quality_suite,
        hours_per_day=terms.hours_per_day,
    )


def _tokens_per_month(request: Request, ways: Sequence[out.Way], terms: Terms) -> float | None:
    """Tokens that the users ask for: each request takes its time at the target's speed, or at that of the best way."""
    demand, bounds = request.demand, request.bounds
    speed = ways[0].candidate.performance if ways else None
    tpot = bounds.tpot_s or (speed.tpot_s.expected if speed is not None else None)
    if tpot is None:
        return None
    ttft = bounds.ttft_s or (speed.ttft_s.expected if speed is not None else 0.0)
    each = demand.input_tokens + demand.output_tokens
    busy_s = terms.hours_per_day * 3600 * 730 / 24
    return demand.concurrency / (ttft + demand.output_tokens * tpot) * each * busy_s


def _why(rent: Sequence[out.Way], buy: Sequence[out.Way], api: Sequence[ApiWay], tallies: Sequence[Tally]) -> str:
    told = []
    if api:
        told.append(f"API: {api[0].provider} for {api[0].usd_per_month:,.0f} a month")
    for name, ways, tally in (("rent", rent, tallies[0]), ("buy", buy, tallies[1])):
        if ways:
            first = ways[0]
            floor = "" if first.complete else "at least "
            without = f", not counting {' and '.join(first.left_out)}" if first.left_out else ""
            told.append(f"{name}: {first.name} for {floor}{first.usd_per_month:,.0f} a month{without}")
        else:
            told.append(f"{name}: {_nothing(tally)}")
    return "; ".join(told)


def _bought_flags(ways: Sequence[out.Way]) -> list[tuple[str, ...]]:
    """The flags of bought machines that have RAM of their own."""
    return [way.plan_flags for way in ways if way.kind == "buy" and "--cpu" in way.plan_flags]


def _nothing(tally: Tally) -> str:
    """Why a list has nothing: what was excluded by its bytes and rates alone, and what a search refused."""
    parts = []
    if tally.searched:
        parts.append(f"{tally.searched} searches found none" if tally.searched > 1 else "one search found none")
    if tally.without_bandwidth:
        parts.append(f"{tally.without_bandwidth} machines cannot read the active weights in time at all")
    if tally.without_bytes:
        parts.append(f"{tally.without_bytes} cannot hold the weights")
    if tally.dearer:
        parts.append(f"{tally.dearer} dearer ones were not searched")
    return "nothing meets the target: " + (", ".join(parts) or "no machine has a price")


def _unmeasured(request: Request) -> list[str]:
    """The weights that ``--max-kld`` leaves out because nobody measured them in that suite."""
    if request.bounds.max_kld is None:
        return []
    reasons = [too_lossy(request, one) for one in request.releases]
    unknown = sum("not measured" in reason for reason in reasons)
    lossy = sum(bool(reason) for reason in reasons) - unknown
    told = []
    if unknown:
        told.append(f"--max-kld leaves out {unknown} releases that nobody measured in {request.bounds.quality_suite}")
    if lossy:
        told.append(f"--max-kld leaves out {lossy} releases that lose more")
    return told


def _warnings(ways: Sequence[out.Way], api: Sequence[ApiWay], prices: Prices, today: date) -> list[str]:
    found = []
    for cpu in dict.fromkeys(words[words.index("--cpu") + 1] for words in _bought_flags(ways)):
        memory = memory_price(prices, parse_cpu(cpu)[1])
        aged = None if memory is None else staleness(memory.item, memory.date, today)
        if aged is not None:
            found.append(aged)
    for kind in ("rent", "buy"):
        stale = [way for way in ways if way.kind == kind and staleness("", way.date, today) is not None]
        if stale:
            names = "; ".join(f"{way.name} ({way.date or 'no date'})" for way in stale)
            found.append(f"{kind}, prices older than {STALE_DAYS} days or without a date: {names}")
    old = [staleness(f"API, {one.provider}", one.date, today) for one in api[:1]]
    found += [text for text in old if text is not None]
    found += [f"API, {one.provider}: reported to end on {one.ends} ({one.ends_source})" for one in api if one.ends]
    if api:
        found.append("the speed of hosted APIs is not among the facts: measure it before you rely on the target")
    return found
