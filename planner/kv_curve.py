"""The KV cache of a plan's candidate at other contexts and numbers of sequences, and of its model in other layouts."""

from __future__ import annotations

from typing import Final, NamedTuple

from formulas.kv_cache import UnsupportedKvDtype
from planner.calculator import comparison_rows, own_row
from planner.memory_report import KvCacheRow
from planner.plan import Candidate, KvCache, Plan
from profiles.model import ModelSpec

SHORTEST: Final = 4096
MORE_SEQUENCES: Final = 8
"""How many times the requests at a time the curve of many sequences carries."""


class KvPoint(NamedTuple):
    """Bytes at a context, in tokens."""

    context: int
    bytes: int


class KvLoad(NamedTuple):
    """What ``sequences`` sequences of equal length take on one rank, over the context."""

    sequences: int
    points: tuple[KvPoint, ...]


class KvRoom(NamedTuple):
    """How many sequences of that context the candidate's cache holds on all ranks."""

    context: int
    sequences: int


class KvForm(NamedTuple):
    """One sequence in one layout, all layers on one rank."""

    layout: str
    dtype: str
    note: str
    points: tuple[KvPoint, ...]


class KvCurves(NamedTuple):
    """``forms`` are empty where the model is not at hand; ``loads`` and ``room`` where tokens do not all cost the same.

    The latter holds for sliding windows, compressed states and linear attention.
    """

    loads: tuple[KvLoad, ...]
    room: tuple[KvRoom, ...]
    forms: tuple[KvForm, ...]


def kv_curves(plan: Plan, candidate: Candidate, model: ModelSpec | None) -> KvCurves:
    """The curves at every power of two from 4,096 tokens to the model's longest context, and at the plan's own."""
    contexts = curve_contexts(plan.model.max_context, plan.workload.context)
    cache = candidate.kv_cache
    even = cache.bytes_per_token_per_rank > 0 and (model is None or grows_evenly(model))
    replicas = max(candidate.parallel.dp, 1)
    asked = plan.workload.concurrency
    loads = tuple(
        [_load(cache, count, replicas, contexts) for count in dict.fromkeys((1, asked, asked * MORE_SEQUENCES))]
    )
    room = tuple([KvRoom(context, _held(cache, context, replicas, plan.workload.context)) for context in contexts])
    forms = _forms(model, cache.dtype, contexts) if model is not None else ()
    return KvCurves(loads, room, forms) if even else KvCurves((), (), forms)


def curve_contexts(longest: int, asked: int) -> tuple[int, ...]:
    """Contexts in ascending order.

    >>> curve_contexts(32768, 10000)
    (4096, 8192, 10000, 16384, 32768)
    """
    doubled = [SHORTEST << step for step in range(longest.bit_length()) if SHORTEST << step < longest]
    return tuple(sorted({context for context in (*doubled, asked, longest) if context > 0}))


def grows_evenly(model: ModelSpec) -> bool:
    """Whether every token takes the same, wherever in the context it stands."""
    return all(
        group.layout != "linear" and group.window is None and group.tokens_per_state == 1 and not group.state_bytes
        for group in model.kv_groups
    )


def _load(cache: KvCache, sequences: int, replicas: int, contexts: tuple[int, ...]) -> KvLoad:
    on_rank = -(-sequences // replicas)
    points = [KvPoint(context, round(cache.bytes_per_token_per_rank * context * on_rank)) for context in contexts]
    return KvLoad(sequences, tuple(points))


def _held(cache: KvCache, context: int, replicas: int, asked: int) -> int:
    # The plan's own figure counts the engine's blocks too.
    return cache.max_sequences_at_context if context == asked else cache.tokens // context * replicas


def _forms(model: ModelSpec, dtype: str, contexts: tuple[int, ...]) -> tuple[KvForm, ...]:
    """The model's own layout, and for MLA what GQA and MHA would take in the same dtype."""
    found: dict[str, list[KvCacheRow]] = {}
    try:
        for context in contexts:
            rows = [own_row(model, dtype, context, 1)]
            if model.uses_mla and model.nope_dim:
                rows += comparison_rows(model, dtype, context, 1)
            for row in rows:
                found.setdefault(row.layout, []).append(row)
    except UnsupportedKvDtype:
        return ()
    return tuple([
        KvForm(layout, rows[0].dtype, rows[0].note, tuple([KvPoint(row.tokens, row.bytes) for row in rows]))
        for layout, rows in found.items()
    ])  # fmt: skip
