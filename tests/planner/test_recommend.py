"""From a target to hardware: the cheapest that meets it, its copies, and what is excluded before a search."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import cache
from typing import Any

import pytest

from planner.machine import Machine
from planner.offers import Offer, holds_weights, memory_price, purchases, reads_fast_enough, rents
from planner.recommend import Terms, cheapest_ways, recommend, way_of
from planner.recommend_report import RecommendReport
from planner.request import Request
from planner.search import broken_bound, search
from planner.upgrades import have_report
from profiles.cpus import load_cpu
from profiles.prices import CloudPrice, MemoryPrice, Prices, PurchasePrice
from tests.planner.planning import machine_from, request_of

TODAY = date(2026, 11, 26)
NOTHING = Machine((), None, "flags")


def rent(gpu: str, usd: float, least: int = 1) -> CloudPrice:
    return CloudPrice("Cloud", gpu, usd, least, "on-demand", "2026-11-20", "list")


PRICES = Prices(
    (rent("h200-sxm-141", 4.0), rent("b200-sxm-180", 6.0), rent("h100-sxm-80", 3.0), rent("l4-24", 0.1)), (),
    (
        PurchasePrice("RTX PRO 6000", "rtx-pro-6000-ws-96", 1, 8e3, 9e3, "card", "2026-11-01", "list"),
        PurchasePrice("H200", "h200-sxm-141", 1, 28e3, 32e3, "module", "2026-11-01", "list"),
    ),
)  # fmt: skip


def request(**given: Any) -> Request:  # noqa: ANN401
    return request_of(machine=NOTHING, **given)


@cache
def report(concurrency: int, tpot: str, quant: str | None = None) -> RecommendReport:
    asked = request(concurrency=concurrency, tpot=tpot, **({"quant": quant} if quant else {}))
    offers = tuple(rents(PRICES)), tuple(purchases(PRICES))
    return recommend(asked, *offers, PRICES, Terms(), None, TODAY, "test")


def test_every_way_meets_the_target_and_its_plan_is_that_of_a_search() -> None:
    answer = report(20, "33ms")
    assert answer.rent
    for way in (*answer.rent, *answer.buy):
        assert way.candidate.performance.tpot_s.expected <= 0.033
        assert way.candidate.verdict in ("fits", "tight")
        assert way.margin_tpot is not None and way.margin_tpot >= 1.0
    assert [way.usd_per_month for way in answer.rent] == sorted(way.usd_per_month for way in answer.rent)
    first = answer.rent[0]
    flags = dict(zip(first.plan_flags[::2], first.plan_flags[1::2], strict=True))
    again = request_of(
        gpu=flags["--gpu"], nodes=flags.get("--nodes", "1"), concurrency=flags["--concurrency"], tpot="33ms"
    )
    rates = {found.speed.tpot_s[1] for found in search(again).found}
    assert first.candidate.performance.tpot_s.expected in rates


def test_no_cheaper_offer_of_the_list_would_have_done() -> None:
    """Every machine cheaper than the first way, one copy of it, misses the target when it is planned by itself."""
    first = report(20, "33ms", "int4").rent[0]
    for offer in rents(PRICES):
        monthly = offer.usd_per_month(24, 3)
        if monthly >= first.usd_per_month or not holds_weights(request(quant="int4"), offer):
            continue
        flags: dict[str, Any] = dict(offer.flags)
        alone = request_of(concurrency=20, tpot="33ms", quant="int4", **flags)
        assert not [one for one in search(alone).found if one.speed.effective_concurrency >= 20], offer.name


def test_more_requests_take_more_copies_and_cost_so_much_more() -> None:
    prices = Prices((rent("h200-sxm-141", 4.0),), (), ())
    asked = request(concurrency=100, tpot="33ms", quant="int4")
    (met,) = cheapest_ways(asked, tuple(rents(prices)), Terms()).met
    way = way_of(met, Terms())
    assert way.copies > 1 and way.usd_per_hour is not None
    assert way.usd_per_hour == pytest.approx(4.0 * way.gpus_per_copy * way.copies)
    assert way.usd_per_month == pytest.approx(way.usd_per_hour * 730)
    assert way.copies * int(way.plan_flags[-1]) >= 100


def test_what_cannot_hold_the_weights_or_read_them_is_never_searched() -> None:
    asked = request(concurrency=1, tpot="5ms", quant="int4")
    for offer in (*rents(PRICES), *purchases(PRICES)):
        flags: dict[str, Any] = dict(offer.flags)
        planned = search(request_of(concurrency=1, quant="int4", **flags)).found
        if not holds_weights(asked, offer):
            assert not planned, offer.name
        elif not reads_fast_enough(asked, offer):
            assert all(broken_bound(asked, one.speed) for one in planned), offer.name


def test_an_impossible_target_finds_nothing_and_says_so() -> None:
    answer = report(1, "1us")
    assert (answer.rent, answer.buy, answer.searched.searched) == ((), (), 0)
    assert "nothing meets the target: " in answer.why and "cannot read the active weights in time at all" in answer.why


def test_an_impossible_target_is_told_what_comes_nearest() -> None:
    near = report(1, "1us").nearest
    assert near is not None
    assert "more than --tpot" in near.missed
    flags: dict[str, Any] = {
        name.removeprefix("--").replace("-", "_"): value
        for name, value in zip(near.plan_flags[::2], near.plan_flags[1::2], strict=True)
    }
    assert "tpot" not in flags
    rates = {found.speed.tpot_s[1] for found in search(request_of(**flags)).found}
    assert near.tpot_s.expected in rates
    # No other machine of the list is faster for one request alone.
    for offer in rents(PRICES):
        if offer.nodes == 1 and holds_weights(request(), offer):
            described: dict[str, Any] = dict(offer.flags)
            alone = request_of(concurrency=1, **described)
            native = [one for one in search(alone).found if one.priced.verdict == "fits"]
            assert all(one.speed.tpot_s[1] >= near.tpot_s.expected for one in native), offer.name


def test_a_target_that_is_met_has_nothing_nearest() -> None:
    assert report(20, "33ms").nearest is None


def test_without_a_priced_machine_there_is_nothing_nearest() -> None:
    answer = recommend(request(), (), (), Prices((), (), ()), Terms(), None, TODAY, "test")
    assert answer.nearest is None and "no machine has a price" in answer.why


def test_what_may_be_taken_away_is_shown_beside_the_rent_and_never_chosen() -> None:
    spot = rent("h200-sxm-141", 1.0)._replace(kind="spot", provider="Spot")
    prices = PRICES._replace(cloud=(*PRICES.cloud, spot))
    (met,) = cheapest_ways(request(concurrency=1, quant="int4"), tuple(rents(prices)), Terms(top=1)).met[:1]
    assert met.offer.name.startswith("Cloud, ")
    way = way_of(met, Terms(), prices)
    known = [one for one in prices.cloud if one.kind == "spot" and one.gpu == way.gpu]
    assert (way.spot is not None) == bool(known)
    assert way_of(met, Terms(), PRICES).spot is None
    eight = way_of(met._replace(offer=next(one for one in rents(prices) if one.gpus == 8 and "h200" in one.name)),
                   Terms(), prices)  # fmt: skip
    assert eight.spot is not None and eight.spot.usd_per_hour == pytest.approx(8.0 * met.copies)
    dear = PRICES._replace(cloud=(*PRICES.cloud, spot._replace(usd_per_gpu_hour=4.0)))
    assert way_of(met._replace(offer=next(one for one in rents(dear) if one.gpus == 8 and "h200" in one.name)), Terms(),
                  dear).spot is None  # fmt: skip


def test_bought_machines_name_what_is_not_priced_and_ram_counts_once_it_has_a_price() -> None:
    offers = list(purchases(PRICES))
    assert all(offer.left_out for offer in offers)
    priced = PRICES._replace(memory=(MemoryPrice(10.0, 12.0, "2026-11-01", "list"),))
    ram = [offer for offer in purchases(priced) if offer.ram]
    assert all("RAM" not in " ".join(offer.left_out) for offer in ram)
    by_flags = {offer.flags: offer for offer in offers}
    for offer in ram:
        plain = by_flags[offer.flags].usd_price
        assert offer.usd_price is not None and plain is not None and offer.ram is not None
        assert offer.usd_price.low - plain.low == pytest.approx(10.0 * offer.ram / 2**30)


def test_ram_has_the_price_of_the_modules_that_its_cpu_takes() -> None:
    row = MemoryPrice(10.0, 12.0, "2026-11-01", "list", "RDIMM", ("epyc-9004",))
    priced = PRICES._replace(memory=(row,))
    for offer in purchases(priced):
        cpu = dict(offer.flags).get("cpu")
        if cpu is not None:
            assert any("RAM" in text for text in offer.left_out) == ("epyc-9004" not in cpu)
    assert memory_price(priced, "AMD EPYC 9354 32-Core Processor") == row
    assert memory_price(priced, load_cpu("epyc-9004").family) == row
    assert memory_price(priced, "AMD EPYC 7763 64-Core Processor") is None
    assert memory_price(priced, "") is None


def test_a_dated_price_comes_before_one_without_a_date() -> None:
    undated = PurchasePrice("H200", "h200-sxm-141", 1, 20e3, 20e3, "list", "", "list")
    offers = [one for one in purchases(PRICES._replace(purchase=(*PRICES.purchase, undated))) if "H200" in one.name]
    assert offers and all(one.date for one in offers)


def test_a_complete_server_leaves_nothing_out_and_stands_beside_its_modules() -> None:
    server = PurchasePrice("server with eight H200", "h200-sxm-141", 8, 350e3, 360e3, "system", "2026-11-01", "list")
    offers = [
        one for one in purchases(PRICES._replace(purchase=(*PRICES.purchase, server))) if one.gpu.key == server.gpu
    ]
    whole = [one for one in offers if not one.left_out]
    assert [(one.per_node, one.nodes) for one in whole] == [(8, 1)]
    assert any("in a server" in one.name and one.left_out for one in offers)


def test_the_hours_of_a_day_count_for_rent_only() -> None:
    (offer,) = [one for one in rents(PRICES) if one.gpus == 8 and one.gpu.key == "h200-sxm-141"]
    assert offer.usd_per_month(24, 3) == pytest.approx(3 * offer.usd_per_month(8, 3))
    bought: Offer = next(purchases(PRICES))
    assert bought.usd_per_month(8, 3) == bought.usd_per_month(24, 3)


def test_one_request_and_all_of_them_are_the_same_for_one_user() -> None:
    tally = cheapest_ways(request(concurrency=1, quant="int4"), tuple(rents(PRICES)), Terms())
    assert tally.met and all(one.copies == 1 for one in tally.met)


def test_upgrades_are_plans_of_the_changed_machine_and_ranked_by_gain_for_the_money() -> None:
    machine = machine_from(gpu="1xRTX-PRO-6000", ram="768GiB", cpu="2xepyc-9004", cores=128)
    asked = replace(request_of(machine=machine, concurrency=1, context="32k"), top=1)
    have = have_report(asked, PRICES)
    assert have.candidate is not None
    today = have.candidate.performance.decode_tokens_per_s_total.expected
    for row in have.upgrades:
        assert row.decode_tokens_per_s_total is not None and row.gain is not None
        assert row.gain == pytest.approx(row.decode_tokens_per_s_total.expected / today)
    each = [row.gain_per_1000_usd for row in have.upgrades if row.gain_per_1000_usd is not None]
    assert each == sorted(each, reverse=True)
    assert have.upgrades and all(row.gain is not None and row.gain > 0 for row in have.upgrades)


def test_more_gpus_may_hold_the_makers_weights() -> None:
    machine = machine_from(gpu="4xRTX-PRO-6000", ram="512GiB", cpu="tr-pro-9000", cores=64)
    have = have_report(request_of(machine=machine, concurrency=4, context="64k"), PRICES)
    assert have.candidate is not None and not have.candidate.quality.native
    rows = {row.what: row for row in have.upgrades}
    four = rows["4 more rtx-pro-6000-ws-96"]
    assert four.candidate.endswith("moonshotai/int4") and four.more_bits
    assert four.quality == "weights as the model's maker published them"
    assert four.gain is not None and four.gain > rows["1 more rtx-pro-6000-ws-96"].gain  # type: ignore[operator]


def test_faster_ram_helps_where_the_ram_is_the_bound_and_has_no_known_price() -> None:
    machine = machine_from(gpu="1xRTX4090", ram="1TiB", ram_bandwidth="80GB/s", cores=96)
    have = have_report(request_of(machine=machine, concurrency=1, context="32k", quant="Q8_0"), PRICES)
    (row,) = [row for row in have.upgrades if row.what.startswith("RAM of")]
    assert row.usd is None and row.gain_per_1000_usd is None
    assert row.gain is not None and row.gain > 1.1


def test_a_machine_on_which_nothing_starts_is_told_what_would() -> None:
    machine = machine_from(gpu="1xRTX4090", ram="64GiB")
    have = have_report(request_of(machine=machine, concurrency=1, context="8k"), PRICES)
    assert (have.verdict, have.meets_target, have.candidate) == ("no", False, None)
    assert any(row.what == "256 GiB of RAM" and row.verdict != "no" for row in have.upgrades)
