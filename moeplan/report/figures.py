"""Charts as plotly understands them, each with a summary in words and the table of its figures.

Colours of text, grid and axes are the style sheet's, so that dark, light and paper need no script. What a chart says
is also in its table: the page is complete where no script runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final, NamedTuple

from moeplan.report.markup import Html, details, el
from moeplan.text_safe import printable

BLUE, ORANGE, GREEN, PINK, SKY, RED = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"
"""Okabe and Ito's colours, told apart by people of every colour vision."""
GREY: Final = "#808a94"
FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', Arial, sans-serif"
NO_LAYER: Final = "rgba(0,0,0,0)"

Figure = dict[str, Any]


class Chart(NamedTuple):
    """``summary`` says in words what the picture shows."""

    name: str
    title: str
    summary: str
    figure: Figure
    table: Html


def drawn(chart: Chart) -> Html:
    """A place for the picture, and its figures, open until a script has drawn it."""
    return el(
        "figure",
        el("figcaption", el("strong", chart.title), " ", el("span", chart.summary)),
        el(
            "div", id=f"plot-{chart.name}", class_="plot", role="img", hidden=True,
            aria_label=f"Chart: {chart.title}. {chart.summary}",
        ),
        details("The figures of this chart", chart.table, open_=True),
        class_="chart",
        id=f"chart-{chart.name}",
    )  # fmt: skip


def label(*lines: str) -> str:
    """Lines for plotly, which reads markup in every text: what others wrote is escaped."""
    return "<br>".join(escape(printable(line), quote=False) for line in lines)


def figure(traces: Sequence[dict[str, Any]], height: int, x: Figure, y: Figure, **layout: Any) -> Figure:  # noqa: ANN401
    """Traces with axes; nothing in the chart can be dragged or zoomed, so that a phone scrolls over it."""
    return {
        "data": list(traces),
        "layout": {
            "height": height,
            "autosize": True,
            "paper_bgcolor": NO_LAYER,
            "plot_bgcolor": NO_LAYER,
            "font": {"family": FONT, "size": 13},
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
            "dragmode": False,
            "hovermode": "closest",
            "hoverlabel": {"bgcolor": "#1b2733", "bordercolor": "#1b2733", "font": {"color": "#ffffff", "size": 13}},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "traceorder": "normal",
            },
            "xaxis": axis(x),
            "yaxis": axis(y),
            **layout,
        },
    }


def axis(more: Figure) -> Figure:
    """An axis that makes room for its labels."""
    title = more.get("title")
    named = {"title": {"text": label(title), "standoff": 12}} if title else {}
    return {"automargin": True, "fixedrange": True, "zeroline": False, "ticks": "", **more, **named}


def context_axis(contexts: Sequence[int]) -> Figure:
    """Contexts on a logarithmic scale; the plan's own context, which is no power of two, has no tick."""
    ticks = [context for context in contexts if context & (context - 1) == 0] or list(contexts)
    return {
        "title": "context, tokens (k is 1,024)",
        "type": "log",
        "tickvals": ticks,
        "ticktext": [tokens(context) for context in ticks],
    }


def tokens(count: int) -> str:
    """Tokens in few characters.

    >>> tokens(131072), tokens(1048576), tokens(10000)
    ('128k', '1M', '10,000')
    """
    if count % (1 << 20) == 0:
        return f"{count >> 20}M"
    return f"{count >> 10}k" if count % 1024 == 0 else f"{count:,}"
