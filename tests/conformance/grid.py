"""The plans and single configurations whose commands are put to the engines.

Models are every one that is built in; a new card is asked about without being named here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any, Final

import moeplan
from profiles.library import load_model, model_ids
from tests.conformance.engines import Answer, EngineParser
from tests.conformance.starts import Models, Start, starts_of

MODELS: Final = model_ids()
FIRST: Final = "kimi-k2.5"
HARDWARE: Final[tuple[dict[str, Any], ...]] = (
    {"gpu": "8xH100"},
    {"gpu": "8xH100", "nodes": 2},
    {"gpu": "8xH200", "context": 131_072, "concurrency": 64},
    {"gpu": "8xH200", "nodes": 2},
    {"gpu": "8xH200", "nodes": 3},
    {"gpu": "8xH20", "nodes": 2},
    {"gpu": "8xB200"},
    {"gpu": "8xB200", "nodes": 2, "concurrency": 256},
    {"gpu": "4xGB300", "nodes": 4},
    {"gpu": "8xA100-80", "nodes": 2},
    {"gpu": "8xL20", "nodes": 4},
    {"gpu": "8xRTX4090", "context": 8_192},
    {"gpu": "8xRTX-PRO-6000", "nodes": 2},
    {"gpu": "8xMI300X"},
    {"gpu": "8xMI300X", "nodes": 2},
)
"""Machines, with the work where it is not the default."""
EVERY: Final = 3
"""Each machine is asked about for one in three models, but for the first model always."""

FEATURES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"enforce_eager": True},
    {"kv_dtype": "fp8"},
    {"gpu_memory_utilization": "0.85", "max_model_len": 8192},
    {"max_num_seqs": 17, "max_num_batched_tokens": 4096},
)

Differences = Callable[[Start, Answer], dict[str, str]]


def machines(model: str) -> tuple[dict[str, Any], ...]:
    """The machines on which the model is planned."""
    return HARDWARE if model == FIRST else HARDWARE[MODELS.index(model) % EVERY :: EVERY]


def planned(model: str, engine: str, options: Iterable[dict[str, Any]]) -> Iterator[Start]:
    """The starts of plans: all of the first model's, a selection of the others'."""
    for given in options:
        starts = starts_of(moeplan.plan(model, engine=engine, top=1000, **possible(model, given)))
        yield from starts if model == FIRST else covering(starts)


def possible(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with the longest context that the model was made for where they ask for more."""
    limit = load_model(model).max_context
    return options | ({"context": limit} if options.get("context", 0) > limit else {})


def covering(starts: Iterable[Start]) -> Iterator[Start]:
    """Starts until every two settings that occur together have been seen together."""
    seen: set[tuple[tuple[str, Any], ...]] = set()
    for start in starts:
        pairs = set(combinations(settings_of(start), 2))
        if not pairs <= seen:
            seen |= pairs
            yield start


def settings_of(start: Start) -> list[tuple[str, Any]]:
    """What distinguishes the starts of one plan."""
    candidate = start.candidate
    return [
        *candidate.parallel.model_dump().items(),
        ("quantization", candidate.quantization.release),
        ("KV", candidate.kv_cache.dtype),
        ("utilization", candidate.settings["memory_utilization"]),
        ("GPUs", start.gpus),
        ("first node", start.first_node),
    ]


def problems(
    parser: EngineParser, models: Models, starts: Iterable[Start], differences: Differences
) -> tuple[int, list[str]]:
    """How many starts there were, and a line for each that the engine refuses or understands otherwise."""
    found = []
    number = 0
    for start in starts:
        number += 1
        answer = parser.ask(start.argv, models.of(start), start.gpu, start.node_gpus)
        wrong = differences(start, answer) if answer.accepted else {"refused": answer.error}
        if wrong:
            found.append(f"{wrong}: {start}")
    return number, found


def check(
    parser: EngineParser, models: Models, starts: Iterable[Start], differences: Differences, at_least: int
) -> None:
    """Fails with the first problems, and where there were fewer starts than ``at_least``."""
    number, found = problems(parser, models, starts, differences)
    assert not found, f"{len(found)} of {number}:\n" + "\n".join(found[:5])
    assert number >= at_least, f"only {number} starts"
