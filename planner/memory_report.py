"""The result of the memory calculator, ``moeplan memory --json``."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from planner.plan import Evidence, Record
from planner.quality import QualityView

MEMORY_SCHEMA: Final = "moeplan.memory/1"


class ParameterCounts(Record):
    """Parameters of the checkpoint; ``active`` counts the embedding, ``active_without_embedding`` does not."""

    total: int
    active: int
    active_without_embedding: int


class WeightsRow(Record):
    """Weights of one release. ``active_bytes_per_token`` is what one decode step of one token reads."""

    quantization: str
    publisher: str
    release: str
    status: Literal["published", "hypothetical"]
    bytes: int
    bytes_by_class: dict[str, int]
    active_bytes_per_token: int
    evidence: Evidence
    includes_vision: bool
    note: str = ""


class KvCacheRow(Record):
    """KV cache of one layout and dtype for ``sequences`` sequences of ``tokens`` tokens, whole model, one rank."""

    layout: str
    dtype: str
    bytes_per_token: float
    bytes: int
    tokens: int
    sequences: int
    note: str = ""


class ClaimVerdict(Record):
    """One claim, checked. ``verdict`` is right, wrong or not_checkable; ``off_by`` says by how much."""

    claim: str
    claimed: str
    computed: str
    verdict: Literal["right", "wrong", "not_checkable"]
    off_by: str = ""
    reason: str
    source: str


class MemoryReport(Record):
    """Weights by release and class, KV by layout and dtype; claims and quality if they were asked for."""

    schema_: Literal["moeplan.memory/1"] = Field(MEMORY_SCHEMA, alias="schema")
    generated_by: str
    model: str
    name: str
    family: str
    max_context: int
    parameters: ParameterCounts
    weights: tuple[WeightsRow, ...]
    kv_cache: tuple[KvCacheRow, ...]
    claims: tuple[ClaimVerdict, ...] = ()
    quality: QualityView | None = None
    notes: tuple[str, ...] = ()

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as JSON."""
        return self.model_dump_json(indent=indent, by_alias=True)
