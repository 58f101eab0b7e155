"""What an engine's start-up log shows: measured memory, term by term, and the configuration it was started with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from hwdetect.facts import Model, Natural, Text

Engine = Literal["vllm", "sglang", "ktransformers", "llama.cpp"]
Term = Literal[
    "visible",
    "weights",
    "weights_on_gpus",
    "activation",
    "non_torch",
    "graphs",
    "graphs_reserved",
    "compute_on_gpu",
    "compute_in_ram",
    "outputs",
    "kv_cache",
    "kv_tokens",
]
Unit = Literal["bytes", "tokens"]

LEAST: Final = frozenset({"visible", "kv_cache", "kv_tokens"})
"""Terms of which a deployment has what its worst-off rank has; of the others it needs what its fullest rank needs."""
SUMMED: Final = frozenset({"weights", "weights_on_gpus", "kv_cache", "compute_in_ram", "outputs"})
"""Terms that llama.cpp spreads over buffers; the whole is their sum."""

# A size of 2^62 bytes is beyond any machine, and so is the sum of a thousand of them in a float's range.
Amount = Annotated[int, Field(ge=-(2**62), le=2**62)]


class Reading(Model):
    """One printed value: ``place`` is the rank or the buffer that it is of, empty where the log does not say."""

    place: Text
    value: Amount


class Measurement(Model):
    """All values of one term. ``resolution`` is the last printed digit, in the same unit."""

    term: Term
    unit: Unit
    value: Amount
    resolution: Natural
    readings: tuple[Reading, ...]


class Observation(Model):
    """One start-up. ``settings`` are the log's own arguments by the names of the command line's flags, as text.

    ``unpriced`` are arguments that move memory and that no prediction takes into account. ``failure`` is why the
    start-up ended for want of memory, missing where it did not.
    """

    engine: Engine
    version: Text | None = None
    model: Text | None = None
    settings: dict[str, str | bool]
    unpriced: tuple[Text, ...] = ()
    measurements: tuple[Measurement, ...]
    failure: Text | None = None
    notes: tuple[Text, ...] = ()

    def values(self) -> Mapping[Term, int]:
        """The value of each term that was measured."""
        return {measurement.term: measurement.value for measurement in self.measurements}
