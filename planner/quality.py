"""What quantizations cost in quality, suite by suite; values of different suites are never put beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from planner.build import price_releases
from planner.plan import Record
from planner.request import PricedRelease
from planner.search import bits_per_parameter
from profiles.library import quality_of
from profiles.model import ModelSpec, QualityLoss


class QualityRow(Record):
    """One release in a suite. ``measured_on`` is its own mixture of types, or its main type alone throughout.

    ``loss`` is the distance from the suite's own baseline, null where it has none.
    """

    quantization: str
    publisher: str
    bytes: int
    bits_per_parameter: float
    value: float
    loss: float | None
    measured_on: Literal["release", "type"]
    note: str


class Suite(Record):
    """All that one suite measured by one metric, best first."""

    suite: str
    metric: str
    baseline: float | None
    lower_is_better: bool
    source: str
    rows: tuple[QualityRow, ...]


class Requantized(Record):
    """A release that keeps more bits than the maker published: larger, and no better than its source."""

    quantization: str
    publisher: str
    bits_per_parameter: float
    larger_by_bytes: int


class QualityView(Record):
    """The native weights, which lose nothing by definition, every suite, and what nobody measured."""

    native: str
    native_bits_per_parameter: float | None
    suites: tuple[Suite, ...]
    larger_than_native: tuple[Requantized, ...]
    not_measured: tuple[str, ...]


def quality_view(model: ModelSpec) -> QualityView:
    """The view of a model's published releases. Raises ``BadRequest`` for a mixture that no rule reads."""
    releases = price_releases(model, [one for one in model.releases if one.status == "published"])
    native = [one for one in releases if one.release.by_maker]
    suites: dict[tuple[str, str], list[tuple[PricedRelease, QualityLoss]]] = {}
    unknown = []
    for one in releases:
        losses = quality_of(model.id, one.release)
        if not losses and not one.release.by_maker:
            unknown.append(_name(one))
        for loss in losses:
            suites.setdefault((loss.suite, loss.metric), []).append((one, loss))
    return QualityView(
        native=", ".join(_name(one) for one in native),
        native_bits_per_parameter=bits_per_parameter(native[0]) if native else None,
        suites=tuple([_suite(suite, metric, found) for (suite, metric), found in sorted(suites.items())]),
        larger_than_native=_larger(releases, native),
        not_measured=tuple(sorted(unknown)),
    )


def _suite(suite: str, metric: str, found: Sequence[tuple[PricedRelease, QualityLoss]]) -> Suite:
    lower = lower_is_better(metric)
    rows = [_row(one, loss) for one, loss in found]
    rows.sort(key=lambda row: row.value if lower else -row.value)
    return Suite(
        suite=suite,
        metric=metric,
        baseline=next((loss.baseline for _, loss in found if loss.baseline is not None), None),
        lower_is_better=lower,
        source="; ".join(dict.fromkeys(loss.source for _, loss in found)),
        rows=tuple(rows),
    )


def _row(one: PricedRelease, loss: QualityLoss) -> QualityRow:
    return QualityRow(
        quantization=one.release.quantization,
        publisher=one.release.publisher,
        bytes=one.tensors.bytes,
        bits_per_parameter=bits_per_parameter(one),
        value=loss.value,
        loss=None if loss.baseline is None else abs(loss.value - loss.baseline),
        measured_on="release" if loss in one.release.quality else "type",
        note=loss.note,
    )


def lower_is_better(metric: str) -> bool:
    """Divergence and perplexity fall with quality, scores rise.

    >>> lower_is_better("kld"), lower_is_better("gsm8k")
    (True, False)
    """
    return metric.casefold().startswith(("kl", "ppl", "perplexity"))


def _larger(releases: Sequence[PricedRelease], native: Sequence[PricedRelease]) -> tuple[Requantized, ...]:
    if not native:
        return ()
    least = min(native, key=lambda one: one.tensors.bytes)
    return tuple([
        Requantized(
            quantization=one.release.quantization,
            publisher=one.release.publisher,
            bits_per_parameter=bits_per_parameter(one),
            larger_by_bytes=one.tensors.bytes - least.tensors.bytes,
        )
        for one in sorted(releases, key=lambda one: one.tensors.bytes)
        if not one.release.by_maker and one.tensors.bytes > least.tensors.bytes
    ])  # fmt: skip


def _name(one: PricedRelease) -> str:
    return f"{one.release.publisher}/{one.release.quantization}"
