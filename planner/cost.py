"""Rent of a candidate's hardware from the price facts: the cheapest dated on-demand offer for its GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from planner.plan import Cost, Range
from planner.speed import Speed
from profiles.prices import CloudPrice, cloud_prices


class Rent(NamedTuple):
    """Dollars per hour of ``gpus`` GPUs and the offer they come from."""

    usd_per_hour: float
    offer: CloudPrice


def cheapest_rent(gpu_key: str, gpus: int, offers: Sequence[CloudPrice] | None = None) -> Rent | None:
    """The cheapest on-demand rent of ``gpus`` GPUs of one kind; None where no price is known.

    Offers come in multiples of their smallest size, so GPUs that stay unused are paid too. ``offers`` are those
    shipped with the project unless given.
    """
    best: Rent | None = None
    for offer in cloud_prices() if offers is None else offers:
        if offer.gpu != gpu_key or offer.kind != "on-demand" or not offer.date:
            continue
        rented = -(-gpus // offer.min_gpus) * offer.min_gpus
        dollars = rented * offer.usd_per_gpu_hour
        if best is None or dollars < best.usd_per_hour:
            best = Rent(dollars, offer)
    return best


def rent_cost(gpu_keys: Sequence[str], speed: Speed) -> Cost | None:
    """Cost of a candidate that uses these GPUs; None without GPUs or for mixed kinds without a price.

    Dollars per million output tokens assume that the machine is busy with the planned load all the time.
    """
    if not gpu_keys:
        return None
    rents = [cheapest_rent(key, gpu_keys.count(key)) for key in dict.fromkeys(gpu_keys)]
    known = [rent for rent in rents if rent is not None]
    if len(known) < len(rents):
        return Cost(
            usd_per_hour=None, usd_per_million_output_tokens=None, provider=None, date=None, source=None,
            note="no rent is known for this GPU",
        )  # fmt: skip
    dollars = sum([rent.usd_per_hour for rent in known])

    def per_million(rate: float) -> float:
        return dollars / 3600 / rate * 1e6

    low, expected, high = speed.decode_total
    return Cost(
        usd_per_hour=round(dollars, 4),
        usd_per_million_output_tokens=Range(
            low=per_million(high), expected=per_million(expected), high=per_million(low)
        ),
        provider=", ".join(rent.offer.provider for rent in known),
        date=min(rent.offer.date for rent in known),
        source=", ".join(dict.fromkeys(rent.offer.source for rent in known)),
        note="cheapest known on-demand rent, machine busy with the planned load",
    )
