"""The answer of ``moeplan recommend``, ``moeplan.recommend/1``. Money is US dollars, a month has 730 hours."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field

from planner.cost_report import ApiWay
from planner.plan import Candidate, Range, Record

RECOMMEND_SCHEMA: Final = "moeplan.recommend/1"


class Target(Record):
    """What has to be reached: ``concurrency`` requests at a time within the bounds, ``hours_per_day`` of every day."""

    workload: str
    context: int
    concurrency: int
    input_tokens: int
    output_tokens: int
    ttft_s: float | None
    tpot_s: float | None
    min_throughput: float | None
    max_kld: float | None
    quality_suite: str | None
    hours_per_day: float


class Spot(Record):
    """What the same GPUs cost where they may be taken away at any time."""

    provider: str
    usd_per_hour: float
    date: str
    source: str


class Nearest(Record):
    """What comes nearest to a target that nothing meets: the fastest priced machine, with its share of the requests.

    ``missed`` says by what, and is empty where it meets the target and the bounded search did not come so far;
    ``plan_flags`` plan it without the bounds.
    """

    name: str
    usd_per_month: float
    copies: int
    missed: str
    tpot_s: Range
    ttft_s: Range
    plan_flags: tuple[str, ...]


class Step(Record):
    """The next dearer way that is also faster or holds more."""

    name: str
    usd_per_month_more: float
    decode_tokens_per_s_total: Range
    tpot_s: Range


class Way(Record):
    """Hardware that meets the target: ``copies`` machines, each with its share of the requests.

    ``plan_flags`` reproduce the plan of one copy. ``margin_tpot`` is the time per token that is allowed over the one
    expected; ``free_low_bytes`` what stays free on the tightest device at the low end. ``complete`` is false where
    ``left_out`` names parts that no price is known for, and the sum is then a floor. ``spot`` is null where no such
    price is known that is lower.
    """

    kind: Literal["rent", "buy"]
    name: str
    gpu: str
    gpus_per_copy: int
    nodes_per_copy: int
    copies: int
    usd_per_hour: float | None
    usd_price: Range | None
    usd_per_month: float
    complete: bool
    left_out: tuple[str, ...]
    date: str
    source: str
    verdict: Literal["fits", "tight"]
    risks: tuple[str, ...]
    free_low_bytes: int
    margin_tpot: float | None
    plan_flags: tuple[str, ...]
    candidate: Candidate
    next_step: Step | None = None
    spot: Spot | None = None


class Upgrade(Record):
    """A change of the machine at hand. ``gain`` is the total rate over today's expected one; null where today has none.

    ``usd`` is what is known of its price, null where nothing is; ``gain_per_1000_usd`` is null then and for a change
    that costs nothing. ``quality`` names what the quantization loses, ``more_bits`` that it keeps more than today's.
    """

    what: str
    usd: Range | None
    verdict: Literal["fits", "tight", "no"]
    meets_target: bool
    candidate: str
    decode_tokens_per_s_total: Range | None
    tpot_s: Range | None
    gain: float | None
    gain_per_1000_usd: float | None
    more_bits: bool
    quality: str
    why: str


class Have(Record):
    """The machine at hand: whether it meets the target today, and what would help, most gain for the money first."""

    description: str
    meets_target: bool
    verdict: Literal["fits", "tight", "no"]
    why: str
    candidate: Candidate | None
    upgrades: tuple[Upgrade, ...]


class Searched(Record):
    """How many machines were looked at, and how many were excluded before the search and by what.

    The counts are those for the maker's weights, where there are any.
    """

    offers: int
    without_bytes: int
    without_bandwidth: int
    searched: int
    dearer_not_searched: int


class RecommendReport(Record):
    """The least costly ways to a target, each list cheapest first."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["moeplan.recommend/1"] = Field(RECOMMEND_SCHEMA, alias="schema")
    generated_by: str
    computed_on: str
    model: str
    target: Target
    tokens_per_month: float | None
    rent: tuple[Way, ...]
    buy: tuple[Way, ...]
    api: tuple[ApiWay, ...]
    have: Have | None
    searched: Searched
    why: str
    nearest: Nearest | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as ``moeplan.recommend/1`` JSON."""
        return self.model_dump_json(indent=indent, by_alias=True)
