"""The plots of the plan screen: a candidate at other contexts and under other loads, in the words of the screens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from moeplan.screens import hardware_of, options_of, refusals
from tui.program import Alive, Curve, Line, Machine, Refused, Values

if TYPE_CHECKING:
    from rich.console import RenderableType

    from planner.curves import ContextPoint, Curves, LoadPoint
    from planner.plan import Candidate
    from planner.speed import Speed

COMPARED: Final = ("gqa", "mha")
MOST_TICKS: Final = 5


def curves(values: Values, machine: Machine | None, candidate: Candidate, alive: Alive) -> tuple[Curve, ...]:
    """KV cache and speed against context, and speed against requests at a time. Raises ``Refused``."""
    from moeplan.pipeline import calibrated_request, read_model
    from planner.curves import curves_of

    options = options_of(values)
    with refusals():
        model = read_model(options.model, alive)
        request = calibrated_request(options, model, *hardware_of(options, machine))
        found = curves_of(request, candidate, alive)
    if found is None:
        raise Refused("there are no plots of a configuration that runs on a part of the machines")
    return curves_in_words(found, request.demand.context, request.demand.concurrency)


def curves_in_words(found: Curves, context: int, concurrency: int) -> tuple[Curve, ...]:
    """The three plots. ``context`` and ``concurrency`` are those of the plan."""
    return (
        _kv_curve(found.contexts, context),
        _context_curve(found.contexts, context, concurrency),
        _load_curve(found.loads, concurrency),
    )


def _kv_curve(points: Sequence[ContextPoint], context: int) -> Curve:
    from formulas.units import GIB

    own = points[0].layouts[0]
    lines = []
    for place, row in enumerate(points[0].layouts):
        if place == 0 or row.layout in COMPARED:
            sizes = [(float(point.context), point.layouts[place].bytes / GIB) for point in points]
            lines.append(Line(row.layout.upper(), tuple(sizes)))
    here = tuple((float(point.context), point.kv_bytes / GIB) for point in points)
    if any(abs(point.kv_bytes / point.layouts[0].bytes - 1) > 0.02 for point in points if point.layouts[0].bytes):
        lines.insert(0, Line("a rank here", here))
    return Curve(
        name="KV cache",
        title=f"KV cache of one sequence, GiB ({own.dtype})",
        across="context, tokens",
        lines=tuple(lines),
        ticks=_ticks([point.context for point in points]),
        here=float(context),
        table=_kv_table(points),
    )


def _kv_table(points: Sequence[ContextPoint]) -> RenderableType:
    from moeplan.text import bullets, stacked, table
    from moeplan.text_numbers import gib

    layouts = points[0].layouts
    columns = (">context\ntokens", ">a rank\nhere", *(f">{row.layout.replace('_', chr(10))}" for row in layouts))
    rows = [
        [f"{point.context:,}", gib(point.kv_bytes, 2), *(gib(row.bytes, 2) for row in point.layouts)]
        for point in points
    ]
    notes = [f"{row.layout}, {row.dtype}: {row.note}" for row in layouts]
    return stacked(
        table(columns, rows),
        bullets(["GiB of one sequence; layouts are of the whole model on one rank", *notes]),
    )


def _context_curve(points: Sequence[ContextPoint], context: int, concurrency: int) -> Curve:
    from moeplan.text import bullets, stacked, table
    from moeplan.text_numbers import plural

    known = [(float(point.context), point.speed) for point in points if point.speed is not None]
    rows = [[f"{point.context:,}", *_speeds(point.speed)] for point in points]
    requests = plural(concurrency, "request")
    return Curve(
        name="Speed by context",
        title=f"tok/s, {requests} of a full context",
        across="context, tokens",
        lines=_rates(known),
        ticks=_ticks([point.context for point in points]),
        here=float(context),
        table=stacked(
            table((">context\ntokens", *_SPEEDS), rows),
            bullets([f"{requests} at a time, each of the whole context; empty where they do not fit together"]),
        ),
    )


def _load_curve(points: Sequence[LoadPoint], concurrency: int) -> Curve:
    from moeplan.text import bullets, stacked, table

    known = [(float(point.requests), point.speed) for point in points]
    rows = [[f"{point.requests:,}", *_speeds(point.speed)] for point in points]
    return Curve(
        name="Speed by load",
        title="tok/s, requests of the workload",
        across="requests at a time",
        lines=_rates(known),
        ticks=_ticks([point.requests for point in points]),
        here=float(concurrency),
        table=stacked(
            table((">requests", *_SPEEDS), rows),
            bullets(["beyond what runs at a time, requests wait, which the first token shows"]),
        ),
    )


_SPEEDS: Final = (">tok/s each", ">tok/s in total", ">first token, s", ">run at\na time", "bound by")


def _speeds(speed: Speed | None) -> list[str]:
    from moeplan.text_numbers import span

    if speed is None:
        return [""] * len(_SPEEDS)
    ends = (speed.decode_per_request, speed.decode_total, speed.ttft_s)
    return [*(span(low, high) for low, _, high in ends), f"{speed.effective_concurrency:,.0f}", speed.bound_by]


def _rates(points: Sequence[tuple[float, Speed]]) -> tuple[Line, ...]:
    """What all requests get together, and each of them."""
    totals = [(place, speed.decode_total) for place, speed in points]
    each = [(place, speed.decode_per_request) for place, speed in points]
    return tuple(
        Line(name, *(tuple((place, rate[end]) for place, rate in rates) for end in (1, 0, 2)))
        for name, rates in (("in total", totals), ("each", each))
    )


def _ticks(places: Sequence[int]) -> tuple[tuple[float, str], ...]:
    """A few powers of two."""
    powers = [place for place in places if place & (place - 1) == 0]
    step = max(-(-len(powers) // MOST_TICKS), 1)
    return tuple((float(place), _short(place)) for place in powers[::-1][::step][::-1])


def _short(number: int) -> str:
    return f"{number >> 20}M" if number >= 1 << 20 else f"{number >> 10}k" if number >= 1 << 10 else str(number)
