"""Local against API: the arithmetic of a month, what is left out, and who is said to be cheaper."""

from __future__ import annotations

from datetime import date

import pytest

from moeplan.api import plan as planned
from planner.assemble import make_plan
from planner.cost_report import CostReport
from planner.costing import Assumptions, capacity_tokens_per_month, cost_report, purchase_of
from planner.errors import Undetermined
from planner.plan import Plan
from planner.search import search
from profiles.prices import ApiPrice, CloudPrice, MemoryPrice, Prices, PurchasePrice
from tests.planner.planning import request_of

TODAY = date(2026, 11, 26)
API = ApiPrice("Host", "kimi-k2.5", 0.6, 3.0, 0.1, "2026-11-23", "list", "")
RENT = CloudPrice("Cloud", "h200-sxm-141", 4.0, 1, "on-demand", "2026-11-20", "list")
MODULE = PurchasePrice("H200", "h200-sxm-141", 1, 28e3, 32e3, "module", "2026-11-01", "list")


@pytest.fixture(scope="module")
def plan() -> Plan:
    request = request_of(gpu="8xH200", ram="1TiB", concurrency=50)
    return make_plan(request, search(request), {}, "test")


def report(plan: Plan, prices: Prices, **given: float) -> CostReport:
    return cost_report(plan, plan.candidates[0], prices, Assumptions(**given), TODAY, "test")


def prices(*, cloud: bool = True, api: tuple[ApiPrice, ...] = (API,), purchase: bool = False) -> Prices:
    return Prices((RENT,) if cloud else (), api, (MODULE,) if purchase else ())


def test_rent_is_a_month_of_every_gpu_and_breaks_even_at_the_api_s_price(plan: Plan) -> None:
    (way,) = report(plan, prices(), tokens_per_month=2e9).local
    assert way.usd_per_month.expected == pytest.approx(8 * 4.0 * 730)
    each = (4096 * 0.6 + 1024 * 3.0) / 5120
    assert way.break_even_tokens_per_month is not None
    assert way.break_even_tokens_per_month.expected == pytest.approx(8 * 4.0 * 730 / each * 1e6)
    assert way.complete


def test_a_small_volume_is_the_api_s_and_it_is_said(plan: Plan) -> None:
    answer = report(plan, prices(), tokens_per_month=1e8)
    assert answer.verdict == "api"
    assert "the API is the sensible choice" in answer.why


def test_a_machine_without_its_chassis_never_wins_outright(plan: Plan) -> None:
    volume = report(plan, prices()).capacity_tokens_per_month.expected
    answer = report(plan, prices(cloud=False, purchase=True), tokens_per_month=volume, usd_per_kwh=0.1)
    (way,) = answer.local
    assert (answer.verdict, way.complete) == ("depends", False)
    assert any("machine around the GPUs" in text for text in way.left_out)
    assert any("GiB of RAM" in text for text in way.left_out)
    whole = report(
        plan, prices(cloud=False, purchase=True), tokens_per_month=volume, usd_per_kwh=0.1, hardware_usd=300e3
    )
    assert whole.local[0].complete and whole.verdict == "local"


def test_more_tokens_than_a_machine_serves_take_more_machines(plan: Plan) -> None:
    volume = report(plan, prices()).capacity_tokens_per_month.expected * 2.5
    answer = report(plan, prices(), tokens_per_month=volume)
    assert answer.local[0].copies == 3
    assert answer.local[0].usd_per_month.expected == pytest.approx(3 * 8 * 4.0 * 730)


def test_an_offer_that_ends_soon_is_shown_and_not_compared_with(plan: Plan) -> None:
    ending = API._replace(provider="Maker", input=0.01, output=0.01, ends="2026-12-31", ends_source="a page")
    answer = report(plan, prices(api=(API, ending)), tokens_per_month=1e8)
    assert [one.provider for one in answer.api] == ["Maker", "Host"]
    assert "from Host" in answer.why
    assert any("ends on 2026-12-31" in text for text in answer.warnings)


def test_old_prices_warn_and_fresh_ones_do_not(plan: Plan) -> None:
    assert report(plan, prices(), tokens_per_month=1e8).warnings == ()
    old = Prices((RENT._replace(date="2026-08-01"),), (API,), ())
    (warning,) = report(plan, old, tokens_per_month=1e8).warnings
    assert "117 days old" in warning


def test_without_any_price_nothing_is_decided(plan: Plan) -> None:
    with pytest.raises(Undetermined, match="--prices FILE"):
        report(plan, Prices((), (), ()))
    assert report(plan, prices(api=())).verdict == "undetermined"


def test_a_dated_price_comes_before_a_lower_one_without_a_date() -> None:
    dated = PurchasePrice("H200", "h200-sxm-141", 1, 28e3, 31e3, "module", "2026-11-01", "list")
    found = purchase_of(["h200-sxm-141"] * 8, (dated._replace(usd_low=1.0, usd_high=1.0, date=""), dated))
    assert found == (dated, 8)


@pytest.mark.parametrize(
    ("cpu", "said"), [("2xepyc-9004", ""), ("2xepyc-7003", "none is known for this CPU"), (None, "the plan's --cpu")]
)
def test_ram_is_counted_where_the_cpu_tells_its_modules(cpu: str | None, said: str) -> None:
    described = {} if cpu is None else {"cpu": cpu, "cores": 128}
    made = planned("kimi-k2.5", gpu="8xH200", ram="2TiB", top=1, **described)  # type: ignore[arg-type]
    modules = MemoryPrice(10.0, 12.0, "2026-11-01", "list", "RDIMM", ("epyc-9004",))
    known = prices(purchase=True)._replace(memory=(modules,))
    (way,) = [one for one in report(made, known, tokens_per_month=1e9).local if one.kind == "buy"]
    plain = next(one for one in report(made, prices(purchase=True), tokens_per_month=1e9).local if one.kind == "buy")
    missing = [text for text in way.left_out if "GiB of RAM" in text]
    more = way.usd_per_month.low - plain.usd_per_month.low
    if said:
        assert said in missing[0] and more == 0
    else:
        assert not missing and more == pytest.approx(10.0 * 2048 / 36)


def test_capacity_counts_the_wait_for_the_first_token(plan: Plan) -> None:
    best = plan.candidates[0]
    speed = best.performance
    capacity = capacity_tokens_per_month(best, 50, 4096, 1024)
    seconds = speed.ttft_s.expected + 1024 * speed.tpot_s.expected
    assert capacity.expected == pytest.approx(50 / seconds * 5120 * 3600 * 730)
    assert capacity.low < capacity.expected < capacity.high


def test_the_cached_share_is_cheaper_only_where_the_provider_says_so(plan: Plan) -> None:
    plain = API._replace(provider="Plain", cached_input=None)
    answer = report(plan, prices(api=(API, plain)), tokens_per_month=1e9, cached_share=0.8)
    by = {one.provider: one.usd_per_million_tokens for one in answer.api}
    assert by["Plain"] == pytest.approx((4096 * 0.6 + 1024 * 3.0) / 5120)
    assert by["Host"] == pytest.approx((4096 * (0.2 * 0.6 + 0.8 * 0.1) + 1024 * 3.0) / 5120)


def test_a_rented_gpu_is_not_the_ram_that_the_plan_needs() -> None:
    request = request_of(gpu="1xRTX4090", ram="256GiB", cpu="desktop-ddr5-am5", cores=16, concurrency=1)
    offloaded = make_plan(request, search(request), {}, "test")
    rented = Prices((rent_of("rtx-4090-24", 0.4),), (API,), ())
    (way,) = report(offloaded, rented, tokens_per_month=1e7).local
    assert not way.complete
    assert "RAM of the plan" in way.left_out[0]


def rent_of(gpu: str, usd: float) -> CloudPrice:
    return RENT._replace(gpu=gpu, usd_per_gpu_hour=usd)
