"""The answer of ``moeplan verify``, ``moeplan.verify/1``: a running deployment beside its plan."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from planner.plan import Parallel, Range, Record

VERIFY_SCHEMA: Final = "moeplan.verify/1"


class Percentiles(Record):
    """Of the requests that succeeded, by the nearest rank."""

    p50: float
    p90: float
    p99: float


class LoadStep(Record):
    """All requests at one concurrency. ``errors`` counts the failed ones by kind; rates are of the whole step.

    ``sustained`` is false where fewer requests ran than it takes to keep the concurrency up, and the throughput is then
    not that of a server under this load.
    """

    concurrency: int
    requests: int
    failed: int
    errors: dict[str, int]
    input_tokens: float | None
    output_tokens: float | None
    tokens_counted_by_server: bool
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None
    output_tokens_per_s: float | None
    wall_s: float
    sustained: bool


class MeasuredLoad(Record):
    """What a calibration keeps of one verification: the configuration, and its loads.

    ``planned_version`` is the one that the plan was made for, which stands where a build names no version. ``served``
    has the settings of the plan's candidate that it was started with.
    """

    measured_at: str
    engine: str
    engine_version: str
    model: str
    quantization: str
    parallel: Parallel
    kv_tokens: int | None
    steps: tuple[LoadStep, ...]
    planned_version: str | None = None
    served: dict[str, Any] = Field(default_factory=dict)


class Compared(Record):
    """One term of the plan beside what was measured. ``outside`` is how far it lies beyond the nearer end, in parts.

    ``predicted_for`` is the load that the prediction was made for: the measured one, or the plan's own where that could
    not be priced again.
    """

    term: Literal["tpot", "ttft", "throughput", "kv_tokens", "context", "engine", "version", "model"]
    concurrency: int | None
    predicted: Range | None
    predicted_text: str
    observed: float | None
    observed_text: str
    verdict: Literal["holds", "better", "differs", "not_measured"]
    outside: float
    predicted_for: str
    action: str


class Check(Record):
    """A mode of the model, or its tool calls."""

    name: str
    status: Literal["pass", "warn", "fail", "not_run"]
    evidence: str
    action: str


class EndpointRef(Record):
    """What the server says of itself."""

    url: str
    models: tuple[str, ...]
    asked_model: str
    engine: str | None
    version: str | None
    max_model_len: int | None
    kv_tokens: int | None
    kv_source: str
    answered: tuple[str, ...]


class VerifyReport(Record):
    """What was measured, and where the plan holds."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["moeplan.verify/1"] = Field(VERIFY_SCHEMA, alias="schema")
    generated_by: str
    measured_at: str
    plan_candidate: str
    endpoint: EndpointRef
    steps: tuple[LoadStep, ...]
    compared: tuple[Compared, ...]
    checks: tuple[Check, ...]
    verdict: Literal["holds", "differs", "failed", "nothing_measured"]
    differs_in: tuple[str, ...]
    requests: int
    wall_s: float
    calibration: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as ``moeplan.verify/1`` JSON."""
        return self.model_dump_json(indent=indent, by_alias=True)
