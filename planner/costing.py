"""Local against API: a plan's candidate priced by rent and by purchase beside the hosted offers of the same model.

All figures are a month of the same machine. What no price is known for is left out and named, so that a local sum is
a floor where ``complete`` is false.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from math import ceil
from typing import Final, Literal, NamedTuple

from formulas.economics import (
    HOURS_PER_MONTH,
    break_even_tokens,
    requests_per_s,
    usd_per_million_tokens,
    usd_per_month_electricity,
    usd_per_month_owned,
)
from formulas.units import GIB
from planner import cost_report as out
from planner.cost import cheapest_rent
from planner.errors import Undetermined
from planner.offers import memory_price
from planner.plan import Candidate, Plan, Range
from profiles.gpus import load_gpu
from profiles.prices import ApiPrice, MemoryPrice, Prices, PurchasePrice, age_days, staleness

LASTING_DAYS: Final = 90
"""An API offer that is reported to end sooner is no alternative to a machine."""
SENSITIVE: Final = 0.25
"""By how much a local price is varied, up and down."""


class Assumptions(NamedTuple):
    """What is assumed beside the plan; None was not given, and its term is left out of the sum."""

    tokens_per_month: float | None = None
    utilization: float = 1.0
    cached_share: float | None = None
    years: float = 3.0
    usd_per_kwh: float | None = None
    operations_usd_per_month: float | None = None
    hardware_usd: float | None = None


def gpu_keys(plan: Plan, candidate: Candidate) -> tuple[str, ...]:
    """Hardware keys of the GPUs that a candidate occupies, over all its nodes."""
    used = [device for device in candidate.memory.devices if device.kind in ("gpu", "unified")]
    names = plan.hardware.gpus
    return tuple([names[min(device.index, len(names) - 1)] for device in used]) if names else ()


def cost_report(
    plan: Plan, candidate: Candidate, prices: Prices, given: Assumptions, today: date, generated_by: str
) -> out.CostReport:
    """The comparison. Raises ``Undetermined`` where neither a local price nor an API offer is known."""
    work = plan.workload
    share = work.prefix_cache_hit_rate if given.cached_share is None else given.cached_share
    mix = out.Mix(input_tokens=work.input_tokens, output_tokens=work.output_tokens, cached_share=share)
    capacity = capacity_tokens_per_month(candidate, work.concurrency, work.input_tokens, work.output_tokens)
    volume = given.tokens_per_month or capacity.expected * given.utilization
    keys = gpu_keys(plan, candidate)
    copies = max(1, ceil(volume / capacity.expected))
    api = api_ways(plan.model.id, mix, volume, prices.api)
    lasting = [one for one in api if not _ends_soon(one.ends, today)]
    best_api = min(lasting or api, key=lambda one: one.usd_per_month, default=None)
    local = _local_ways(plan, candidate, keys, copies, volume, capacity, best_api, prices, given)
    if not local and not api:
        raise Undetermined(
            f"no rent and no purchase price of {', '.join(dict.fromkeys(keys)) or 'this machine'} and no API offer of "
            f"{plan.model.id} is known; give --prices FILE or --hardware-usd"
        )
    best = min(local, key=lambda way: (not way.complete, way.usd_per_month.expected), default=None)
    verdict, why = _verdict(local, best_api, volume, bool(lasting))
    return out.CostReport(
        schema=out.COST_SCHEMA,
        generated_by=generated_by,
        computed_on=today.isoformat(),
        model=plan.model.id,
        hardware=plan.hardware.description,
        candidate=f"{candidate.engine.name} {candidate.engine.version}, {candidate.quantization.publisher}/"
        f"{candidate.quantization.name}",
        gpus=keys,
        mix=mix,
        capacity_tokens_per_month=capacity,
        tokens_per_month=volume,
        utilization=volume / (copies * capacity.expected),
        local=local,
        api=api,
        sensitivity=_sensitivity(best, best_api, mix, volume, capacity, copies),
        verdict=verdict,
        why=why,
        warnings=tuple(dict.fromkeys(_warnings(local, api, best_api, _counted_memory(plan, local, prices), today))),
    )


def capacity_tokens_per_month(candidate: Candidate, concurrency: int, input_tokens: int, output_tokens: int) -> Range:
    """Tokens, input and output, that a candidate serves in a month in which its planned requests never run out."""
    speed, each = candidate.performance, input_tokens + output_tokens
    rates = [
        requests_per_s(concurrency, ttft, tpot, output_tokens)
        for ttft, tpot in (
            (speed.ttft_s.high, speed.tpot_s.high),
            (speed.ttft_s.expected, speed.tpot_s.expected),
            (speed.ttft_s.low, speed.tpot_s.low),
        )
    ]
    low, expected, high = [rate * each * 3600 * HOURS_PER_MONTH for rate in rates]
    return Range(low=low, expected=expected, high=high)


def api_ways(model: str, mix: out.Mix, volume: float, prices: Sequence[ApiPrice]) -> tuple[out.ApiWay, ...]:
    """Every offer of the model, cheapest first at this mix."""
    found = []
    for price in prices:
        if price.model != model:
            continue
        cached = price.input if price.cached_input is None else price.cached_input
        each = usd_per_million_tokens(
            mix.input_tokens, mix.output_tokens, mix.cached_share, price.input, cached, price.output
        )
        found.append(
            out.ApiWay(
                provider=price.provider,
                model=price.model,
                usd_per_million_input_tokens=price.input,
                usd_per_million_cached_input_tokens=price.cached_input,
                usd_per_million_output_tokens=price.output,
                usd_per_million_tokens=each,
                usd_per_month=each * volume / 1e6,
                date=price.date,
                source=price.source,
                ends=price.ends,
                ends_source=price.ends_source,
                note=price.note,
            )
        )
    return tuple(sorted(found, key=lambda one: one.usd_per_month))


def purchase_of(keys: Sequence[str], prices: Sequence[PurchasePrice]) -> tuple[PurchasePrice, int] | None:
    """The cheapest item of this one kind of GPU, and how many are needed; None for mixed kinds and unknown prices.

    A price without a date is taken only where there is no other.
    """
    if len(set(keys)) != 1:
        return None
    offers = [one for one in prices if one.gpu == keys[0]]
    return min(
        [(one, ceil(len(keys) / one.gpus)) for one in offers],
        key=lambda pair: (not pair[0].date, pair[0].usd_high * pair[1]),
        default=None,
    )


def _local_ways(
    plan: Plan,
    candidate: Candidate,
    keys: tuple[str, ...],
    copies: int,
    volume: float,
    capacity: Range,
    api: out.ApiWay | None,
    prices: Prices,
    given: Assumptions,
) -> tuple[out.LocalWay, ...]:
    ways = []
    for key in dict.fromkeys(keys) if len(set(keys)) == 1 else ():
        rent = cheapest_rent(key, len(keys), prices.cloud)
        if rent is not None:
            monthly = rent.usd_per_hour * HOURS_PER_MONTH * copies
            term = out.CostTerm(
                what="rent", usd_per_month=_exactly(monthly), source=rent.offer.source,
                note=f"{_gpus(len(keys))} at {rent.offer.usd_per_gpu_hour:g} an hour each, day and night",
            )  # fmt: skip
            name = f"{rent.offer.provider}, {len(keys)}x {key}"
            offloads = candidate.offload.cpu_expert_layers or candidate.offload.disk_bytes
            without = ("an instance with the RAM of the plan: prices are of its GPUs",) if offloads else ()
            ways.append(
                _way("rent", name, rent.offer.date, rent.offer.source, copies, [term, _operations(given)], volume,
                     capacity, api, without)
            )  # fmt: skip
    bought = _bought(plan, keys, prices, given)
    if bought is not None:
        price, name, stated, source, left_out = bought
        worn = Range(
            low=usd_per_month_owned(price.low, given.years) * copies,
            expected=usd_per_month_owned(price.expected, given.years) * copies,
            high=usd_per_month_owned(price.high, given.years) * copies,
        )
        terms = [
            out.CostTerm(
                what="depreciation", usd_per_month=worn, source=source,
                note=f"{_span(price)} over {given.years:g} years, then worth nothing",
            ),
            _electricity(keys, copies, given),
            _operations(given),
        ]  # fmt: skip
        ways.append(_way("buy", name, stated, source, copies, terms, volume, capacity, api, left_out))
    return tuple(sorted(ways, key=lambda way: way.usd_per_month.expected))


def _bought(
    plan: Plan, keys: tuple[str, ...], prices: Prices, given: Assumptions
) -> tuple[Range, str, str, str, tuple[str, ...]] | None:
    """Price of the machine, its name, date and source, and what the price leaves out."""
    if given.hardware_usd is not None:
        return _exactly(given.hardware_usd), plan.hardware.description, "", "--hardware-usd", ()
    found = purchase_of(keys, prices.purchase) if keys else None
    if found is None:
        return None
    item, count = found
    low, high = item.usd_low * count, item.usd_high * count
    left_out = [] if item.kind == "system" else ["the machine around the GPUs: give its price with --hardware-usd"]
    ram = plan.hardware.host_memory_bytes
    if ram and item.kind != "system":
        memory = memory_price(prices, _cpu_of(plan))
        if memory is not None:
            low += memory.usd_per_gib_low * ram / GIB * plan.hardware.nodes
            high += memory.usd_per_gib_high * ram / GIB * plan.hardware.nodes
        else:
            why = "none is known for this CPU" if _cpu_of(plan) else "it depends on the plan's --cpu"
            left_out.append(f"{ram / GIB:,.0f} GiB of RAM: no price ({why}); [[memory]] of --prices takes one")
    name = f"{count}x {item.item}" + ("" if item.kind in item.item else f" ({item.kind})")
    return Range(low=low, expected=(low + high) / 2, high=high), name, item.date, item.source, tuple(left_out)


def _span(price: Range) -> str:
    return f"{price.low:,.0f}" + ("" if price.low == price.high else f"-{price.high:,.0f}")


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _cpu_of(plan: Plan) -> str:
    """The CPU of the plan's first node, empty where it is not known."""
    nodes = plan.inventory.get("nodes") or [{}]
    model = (nodes[0].get("cpu") or {}).get("model") or {}
    return str(model.get("value") or "")


def _counted_memory(plan: Plan, local: Sequence[out.LocalWay], prices: Prices) -> MemoryPrice | None:
    """The price of RAM that the purchase counts."""
    bought = any(way.kind == "buy" and way.source != "--hardware-usd" for way in local)
    return memory_price(prices, _cpu_of(plan)) if bought and plan.hardware.host_memory_bytes else None


def _electricity(keys: tuple[str, ...], copies: int, given: Assumptions) -> out.CostTerm:
    if given.usd_per_kwh is None:
        return out.CostTerm(what="electricity", usd_per_month=None, note="give --electricity in dollars per kWh")
    watts = [load_gpu(key).tdp_w for key in keys]
    known = [watt for watt in watts if watt is not None]
    if not keys or len(known) < len(watts):
        return out.CostTerm(what="electricity", usd_per_month=None, note="the power of this hardware is not known")
    monthly = usd_per_month_electricity(sum(known), given.usd_per_kwh) * copies
    return out.CostTerm(
        what="electricity", usd_per_month=_exactly(monthly), source="profiles/hardware/gpu, tdp_w",
        note=f"{sum(known):,.0f} W of GPUs at their power limit; the rest of the machine and cooling are not known",
    )  # fmt: skip


def _operations(given: Assumptions) -> out.CostTerm:
    if given.operations_usd_per_month is None:
        return out.CostTerm(what="operations", usd_per_month=None, note="give --operations in dollars per month")
    return out.CostTerm(
        what="operations",
        usd_per_month=_exactly(given.operations_usd_per_month),
        note="as given",
        source="--operations",
    )


def _way(
    kind: Literal["rent", "buy"],
    name: str,
    stated: str,
    source: str,
    copies: int,
    terms: list[out.CostTerm],
    volume: float,
    capacity: Range,
    api: out.ApiWay | None,
    left_out: tuple[str, ...],
) -> out.LocalWay:
    known = [term.usd_per_month for term in terms if term.usd_per_month is not None]
    total = Range(
        low=sum(term.low for term in known),
        expected=sum(term.expected for term in known),
        high=sum(term.high for term in known),
    )
    even = _break_even(total, api)
    unknown = [f"{term.what}: {term.note}" for term in terms if term.usd_per_month is None]
    # Operations are a choice of the reader; a machine without its chassis or its electricity is only a part.
    complete = not left_out and all(term.usd_per_month is not None for term in terms if term.what != "operations")
    return out.LocalWay(
        kind=kind,
        name=f"{copies} times {name}" if copies > 1 else name,
        date=stated,
        source=source,
        copies=copies,
        terms=tuple(terms),
        usd_per_month=total,
        usd_per_million_tokens=_scaled(total, 1e6 / volume),
        break_even_tokens_per_month=even,
        reachable=None if even is None else even.expected <= copies * capacity.expected,
        complete=complete,
        left_out=(*left_out, *unknown),
    )


def _break_even(total: Range, api: out.ApiWay | None) -> Range | None:
    if api is None or api.usd_per_million_tokens <= 0:
        return None
    low, expected, high = [
        break_even_tokens(usd, api.usd_per_million_tokens) for usd in (total.low, total.expected, total.high)
    ]
    return Range(low=low, expected=expected, high=high)


def _verdict(
    ways: Sequence[out.LocalWay], api: out.ApiWay | None, volume: float, lasts: bool
) -> tuple[Literal["api", "local", "depends", "undetermined"], str]:
    """Who is cheaper and why; a sum that leaves out a part decides only where the part alone is too dear."""
    if not ways:
        return "undetermined", "no price of this hardware is known: give --hardware-usd or --prices"
    if api is None:
        return "undetermined", "no API offer of this model is known; the machine has nothing to be compared with"
    there = api.usd_per_month
    against = f"against {there:,.0f} from {api.provider}, for {volume / 1e9:,.3g} billion tokens a month"
    whole = [way for way in ways if way.complete]
    parts = [way for way in ways if not way.complete]
    best = min(whole, key=lambda way: way.usd_per_month.expected, default=None)
    if best is not None and best.usd_per_month.high < there:
        floors = [way for way in parts if way.usd_per_month.low < best.usd_per_month.low]
        beside = f"; {_named(floors[0])} before what is not counted" if floors else ""
        done = "renting" if best.kind == "rent" else "buying"
        return "local", f"{done} is cheaper: {_named(best)} {against}{beside}"
    cheap = min(parts, key=lambda way: way.usd_per_month.expected, default=None)
    if cheap is not None and cheap.usd_per_month.low < there:
        spare = there - cheap.usd_per_month.expected
        also = f"; {_named(best)}, which is more" if best is not None and best.usd_per_month.low > there else ""
        return "depends", (
            f"{_named(cheap)} {against}: it pays if what is not counted costs less than {spare:,.0f} a month{also}"
        )
    if best is not None and best.usd_per_month.low <= there:
        return "depends", f"the ranges overlap: {_named(best)} {against}"
    dear = min(ways, key=lambda way: way.usd_per_month.low)
    if not lasts:
        return "local", f"the API is cheaper but every known offer is reported to end soon: {_named(dear)} {against}"
    return "api", f"the API is the sensible choice: {_named(dear)} {against}"


def _named(way: out.LocalWay) -> str:
    floor = "" if way.complete else "at least "
    return f"{way.kind} ({way.name}) costs {floor}{way.usd_per_month.expected:,.0f} a month"


def _sensitivity(
    local: out.LocalWay | None, api: out.ApiWay | None, mix: out.Mix, volume: float, capacity: Range, copies: int
) -> tuple[out.Sensitivity, ...]:
    if local is None and api is None:
        return ()
    monthly = local.usd_per_month.expected if local is not None else None
    full = copies * capacity.expected

    def row(what: str, usd: float | None, tokens: float, hosted: float | None) -> out.Sensitivity:
        here = None if usd is None else usd / tokens * 1e6
        cheaper: Literal["local", "api", "undetermined"]
        cheaper = "undetermined" if here is None or hosted is None else "local" if here < hosted else "api"
        return out.Sensitivity(
            what=what, local_usd_per_million_tokens=here, api_usd_per_million_tokens=hosted, cheaper=cheaper
        )

    def hosted(share: float, answer: float = 1.0) -> float | None:
        if api is None:
            return None
        cached = api.usd_per_million_cached_input_tokens
        return usd_per_million_tokens(
            mix.input_tokens, mix.output_tokens * answer, share, api.usd_per_million_input_tokens,
            api.usd_per_million_input_tokens if cached is None else cached, api.usd_per_million_output_tokens,
        )  # fmt: skip

    base = hosted(mix.cached_share)
    rows = [
        row("as asked", monthly, volume, base),
        row("busy all the time", monthly, full, base),
        row("busy a quarter of the time", monthly, full / 4, base),
        row("all the time, at the low end of the speed", monthly, copies * capacity.low, base),
        row("all the time, at the high end of the speed", monthly, copies * capacity.high, base),
    ]
    if monthly is not None:
        rows += [
            row(f"machine {SENSITIVE:.0%} cheaper", monthly * (1 - SENSITIVE), volume, base),
            row(f"machine {SENSITIVE:.0%} dearer", monthly * (1 + SENSITIVE), volume, base),
        ]
    rows += [
        row("nothing cached at the API", monthly, volume, hosted(0.0)),
        row("80% of the input cached at the API", monthly, volume, hosted(0.8)),
    ]
    return tuple(rows)


def _warnings(
    local: tuple[out.LocalWay, ...],
    api: tuple[out.ApiWay, ...],
    best: out.ApiWay | None,
    memory: MemoryPrice | None,
    today: date,
) -> list[str]:
    found = []
    for way in local:
        if way.source != "--hardware-usd":
            found.append(staleness(f"{way.kind}, {way.name}", way.date, today))
    if memory is not None:
        found.append(staleness(memory.item, memory.date, today))
    if best is not None:
        found.append(staleness(f"API, {best.provider}", best.date, today))
    for one in api:
        if one.ends is not None:
            # Counted from the end to today: what is over is negative.
            left = -(age_days(one.ends, today) or 0)
            when = f"ends on {one.ends}" if left >= 0 else f"ended on {one.ends}"
            found.append(f"{one.provider} is reported to have announced that its {one.model} {when}: {one.ends_source}")
    return [text for text in found if text is not None]


def _ends_soon(ends: str | None, today: date) -> bool:
    age = age_days(ends, today) if ends is not None else None
    return age is not None and age > -LASTING_DAYS


def _exactly(value: float) -> Range:
    return Range(low=value, expected=value, high=value)


def _scaled(value: Range, factor: float) -> Range:
    return Range(low=value.low * factor, expected=value.expected * factor, high=value.high * factor)
