"""The answer of ``moeplan cost``, ``moeplan.cost/1``. Money is US dollars, a month has 730 hours."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field

from planner.plan import Range, Record

COST_SCHEMA: Final = "moeplan.cost/1"


class Mix(Record):
    """What a request consists of; ``cached_share`` of its input is found in a cache."""

    input_tokens: int
    output_tokens: int
    cached_share: float


class CostTerm(Record):
    """One part of a month's cost; null where nothing is known of it, and then ``note`` says what would tell."""

    what: Literal["rent", "depreciation", "electricity", "operations"]
    usd_per_month: Range | None
    note: str
    source: str = ""


class LocalWay(Record):
    """The plan's hardware, rented or bought, ``copies`` times.

    ``usd_per_million_tokens`` is at the ``tokens_per_month`` asked for, or at full use. ``break_even_tokens_per_month``
    is the volume of the cheapest lasting API offer for the same money; ``reachable`` whether the copies can serve it.
    """

    kind: Literal["rent", "buy"]
    name: str
    date: str
    source: str
    copies: int
    terms: tuple[CostTerm, ...]
    usd_per_month: Range
    usd_per_million_tokens: Range
    break_even_tokens_per_month: Range | None
    reachable: bool | None
    complete: bool
    left_out: tuple[str, ...]


class ApiWay(Record):
    """One provider's offer at the mix; ``ends`` is when the provider is reported to end this model."""

    provider: str
    model: str
    usd_per_million_input_tokens: float
    usd_per_million_cached_input_tokens: float | None
    usd_per_million_output_tokens: float
    usd_per_million_tokens: float
    usd_per_month: float
    date: str
    source: str
    ends: str | None
    ends_source: str
    note: str


class Sensitivity(Record):
    """The comparison with one assumption changed, for the cheapest local way and the cheapest lasting API offer."""

    what: str
    local_usd_per_million_tokens: float | None
    api_usd_per_million_tokens: float | None
    cheaper: Literal["local", "api", "undetermined"]


class CostReport(Record):
    """Local against API for a plan's candidate."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["moeplan.cost/1"] = Field(COST_SCHEMA, alias="schema")
    generated_by: str
    computed_on: str
    model: str
    hardware: str
    candidate: str
    gpus: tuple[str, ...]
    mix: Mix
    capacity_tokens_per_month: Range
    tokens_per_month: float
    utilization: float
    local: tuple[LocalWay, ...]
    api: tuple[ApiWay, ...]
    sensitivity: tuple[Sensitivity, ...]
    verdict: Literal["api", "local", "depends", "undetermined"]
    why: str
    warnings: tuple[str, ...] = ()

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as ``moeplan.cost/1`` JSON."""
        return self.model_dump_json(indent=indent, by_alias=True)
