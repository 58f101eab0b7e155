"""Two to four configurations side by side for people: what differs first, then what is the same in all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from moeplan.text import DOUBTFUL, FAINT, GOOD, HEADING, VERDICT_STYLES
from moeplan.text_ledger import free_style, tightest
from moeplan.text_numbers import gib, gib_span, span_of
from moeplan.text_plan import layout, release_name
from moeplan.text_safe import printable
from planner.plan import Candidate, Plan, Range

if TYPE_CHECKING:
    from planner.plan import DeviceMemory

LETTERS = "ABCD"
BETTER = f"{HEADING} {GOOD}"


class Compared(NamedTuple):
    """A configuration, the plan that it is of, and the knobs that were set for that, by label."""

    candidate: Candidate
    plan: Plan
    knobs: Mapping[str, str]
    is_current: bool


class Aspect(NamedTuple):
    """A row: its cells, and which of them is surely better than all others."""

    name: str
    cells: tuple[Text, ...]
    best: int | None = None

    @property
    def differs(self) -> bool:
        """Whether not all cells say the same."""
        return len({cell.plain for cell in self.cells}) > 1


def compare_view(compared: Sequence[Compared]) -> RenderableType:
    """The table. Bold and green is what is better than all others, whatever happens within the ranges."""
    found = aspects(compared)
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column(Text("what differs", style=FAINT), no_wrap=True)
    for letter, one in zip(LETTERS, compared, strict=False):
        now = "" if one.is_current else ", pinned"
        table.add_column(Text(f"{letter}: rank {one.candidate.rank}{now}"), ratio=1, overflow="fold")
    for aspect in found:
        if aspect.differs:
            _add(table, aspect)
    table.add_section()
    table.add_row(Text("the same in all", style=FAINT))
    for aspect in found:
        if not aspect.differs and aspect.cells[0].plain:
            table.add_row(Text(aspect.name, style=FAINT), Text(aspect.cells[0].plain, style=FAINT))
    return table


def _add(table: Table, aspect: Aspect) -> None:
    cells = [cell.copy() for cell in aspect.cells]
    if aspect.best is not None:
        cells[aspect.best].stylize(BETTER)
        cells[aspect.best].append(" +", style=BETTER)
    table.add_row(Text(aspect.name), *cells)


def aspects(compared: Sequence[Compared]) -> list[Aspect]:
    """Every row, in the order of the questions that people ask."""
    rows = [*_what(compared), *_memory(compared), *_speed(compared), *_rest(compared)]
    return [row for row in rows if any(cell.plain for cell in row.cells)]


def _what(compared: Sequence[Compared]) -> list[Aspect]:
    named = dict.fromkeys(name for one in compared for name in one.knobs)
    knobs = [_said(f"knob: {name}", compared, lambda one, name=name: one.knobs.get(name, "-")) for name in named]  # type: ignore[misc]
    return [
        *knobs,
        _said("model", compared, lambda one: one.plan.model.name),
        _said("hardware", compared, lambda one: one.plan.hardware.description),
        _said("engine", compared, lambda one: f"{one.candidate.engine.name} {one.candidate.engine.version}"),
        _said("weights", compared, lambda one: release_name(one.candidate)),
        _said("layout", compared, lambda one: layout(one.candidate)),
        _said("KV cache", compared, lambda one: f"{one.candidate.kv_cache.dtype} {one.candidate.kv_cache.layout}"),
        Aspect("verdict", tuple(_verdict(one.candidate) for one in compared)),
    ]


def _verdict(candidate: Candidate) -> Text:
    return Text(candidate.verdict, style=VERDICT_STYLES[candidate.verdict])


def _memory(compared: Sequence[Compared]) -> list[Aspect]:
    devices = [tightest(one.candidate.memory) for one in compared]
    sizes: tuple[tuple[str, Callable[[DeviceMemory], int]], ...] = (
        ("weights, GiB", lambda device: device.weights_bytes),
        ("KV cache, GiB", lambda device: device.kv_cache_bytes),
        ("compute, GiB", lambda device: device.compute_bytes),
        ("overhead, GiB", lambda device: device.overhead_bytes),
        ("may use, GiB", lambda device: device.usable_bytes),
    )
    free = [
        Text("")
        if device is None
        else Text(gib_span(device.free_low_bytes, device.free_high_bytes), style=free_style(device))
        for device in devices
    ]
    rooms = [None if device is None else (device.free_low_bytes, device.free_high_bytes) for device in devices]
    tightest_names = tuple(Text(printable(device.name) if device is not None else "") for device in devices)
    tokens = [one.candidate.kv_cache.tokens for one in compared]
    sequences = [one.candidate.kv_cache.max_sequences_at_context for one in compared]
    return [
        Aspect("tightest device", tightest_names),
        *[
            Aspect(f"  {name}", tuple(Text(gib(size(device)) if device is not None else "") for device in devices))
            for name, size in sizes
        ],
        Aspect("  free, GiB", tuple(free), _surest(rooms, more_is_better=True)),
        Aspect(
            "KV tokens", tuple(Text(f"{each:,}") for each in tokens),
            _surest([(each, each) for each in tokens], more_is_better=True),
        ),
        Aspect("sequences", tuple(Text(f"{each:,}") for each in sequences)),
    ]  # fmt: skip


def _speed(compared: Sequence[Compared]) -> list[Aspect]:
    speeds = [one.candidate.performance for one in compared]
    return [
        _range("tok/s each", [speed.decode_tokens_per_s_per_request for speed in speeds], more_is_better=True),
        _range("tok/s in total", [speed.decode_tokens_per_s_total for speed in speeds], more_is_better=True),
        _range("ms a token", [speed.tpot_s for speed in speeds], more_is_better=False, scale=1e3),
        _range("first token, s", [speed.ttft_s for speed in speeds], more_is_better=False),
        _range("prompt tok/s", [speed.prefill_tokens_per_s for speed in speeds], more_is_better=True),
        Aspect("run at a time", tuple(Text(f"{speed.effective_concurrency:,.3g}") for speed in speeds)),
        Aspect("bound by", tuple(Text(printable(speed.bound_by)) for speed in speeds)),
        Aspect("speed known", tuple(Text(printable(speed.evidence)) for speed in speeds)),
    ]


def _rest(compared: Sequence[Compared]) -> list[Aspect]:
    costs = [one.candidate.cost for one in compared]
    hourly = [cost.usd_per_hour if cost is not None else None for cost in costs]
    tokens = [cost.usd_per_million_output_tokens if cost is not None else None for cost in costs]
    return [
        Aspect(
            "USD an hour", tuple(Text("" if each is None else f"{each:,.2f}") for each in hourly),
            _surest([None if each is None else (each, each) for each in hourly], more_is_better=False),
        ),
        _range("USD/M tokens", tokens, more_is_better=False),
        _said("quality", compared, _quality),
        Aspect("warnings", tuple(_warnings(one.candidate) for one in compared)),
        _said("why", compared, lambda one: one.candidate.why),
    ]  # fmt: skip


def _quality(one: Compared) -> str:
    quality = one.candidate.quality
    facts = [f"{fact.metric} {fact.value:g} ({fact.suite})" for fact in quality.facts[:1]]
    return "; ".join([*([quality.note] if quality.note else []), *facts])


def _warnings(candidate: Candidate) -> Text:
    if not candidate.warnings:
        return Text("none")
    return Text("\n").join([Text(f"- {printable(text)}", style=DOUBTFUL) for text in candidate.warnings])


def _said(name: str, compared: Sequence[Compared], words: Callable[[Compared], str]) -> Aspect:
    return Aspect(printable(name), tuple(Text(printable(words(one))) for one in compared))


def _range(name: str, ranges: Sequence[Range | None], *, more_is_better: bool, scale: float = 1.0) -> Aspect:
    cells = tuple(Text("" if one is None else span_of(one, scale)) for one in ranges)
    ends = [None if one is None else (one.low, one.high) for one in ranges]
    return Aspect(name, cells, _surest(ends, more_is_better=more_is_better))


def _surest(ends: Sequence[tuple[float, float] | None], *, more_is_better: bool) -> int | None:
    """The one whose worst end is better than the best end of every other; None where ranges overlap or are missing.

    >>> _surest([(1, 2), (3, 4)], more_is_better=True), _surest([(1, 3), (2, 4)], more_is_better=True)
    (1, None)
    """
    known = [pair for pair in ends if pair is not None]
    if len(known) < len(ends):
        return None
    sign = 1 if more_is_better else -1
    spans = [(min(sign * low, sign * high), max(sign * low, sign * high)) for low, high in known]
    for place, (worst, _) in enumerate(spans):
        if all(worst > best for other, (_, best) in enumerate(spans) if other != place):
            return place
    return None
