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
DASHES: Final = {"solid": None, "dash": "8 4", "dot": "3 3", "dashdot": "8 3 2 3", "longdash": "11 4"}
"""Dashes by plotly's names, as a drawing has them."""
BREAKS: Final = 22
NO_LAYER: Final = "rgba(0,0,0,0)"

Figure = dict[str, Any]


class Key(NamedTuple):
    """A sign of the legend: ``box``, ``disc``, ``diamond``, ``whisker``, or a line by its dash."""

    name: str
    colour: str
    sign: str = "box"


class Chart(NamedTuple):
    """``summary`` says in words what the picture shows."""

    name: str
    title: str
    summary: str
    figure: Figure
    table: Html
    keys: tuple[Key, ...] = ()


def drawn(chart: Chart) -> Html:
    """A place for the picture, and its figures, open until a script has drawn it."""
    return el(
        "figure",
        el("figcaption", el("strong", chart.title), " ", el("span", chart.summary)),
        el(
            "div",
            el("ul", *[el("li", _sign(key), key.name) for key in chart.keys], class_="keys") if chart.keys else None,
            el(
                "div", id=f"plot-{chart.name}", class_="plot", role="img",
                aria_label=f"Chart: {chart.title}. {chart.summary}",
            ),
            class_="picture",
            hidden=True,
        ),
        details("The figures of this chart", chart.table, open_=True),
        class_="chart",
        id=f"chart-{chart.name}",
    )  # fmt: skip


def _sign(key: Key) -> Html:
    """A drawing of what stands for the name in the picture."""
    if key.sign == "box":
        shape = el("rect", x=2, y=1, width=12, height=12, fill=key.colour)
    elif key.sign == "disc":
        shape = el("circle", cx=8, cy=7, r=6, fill=key.colour)
    elif key.sign == "diamond":
        shape = el("path", d="M8 1l6 6-6 6-6-6z", fill=key.colour)
    elif key.sign == "whisker":
        shape = el("path", d="M2 3v8M14 3v8M2 7h12", stroke=key.colour, stroke_width=2, fill="none")
    else:
        dash = DASHES[key.sign]
        shape = el("path", d="M0 7h28", stroke=key.colour, stroke_width=3, stroke_dasharray=dash, fill="none")
    width = 28 if key.sign in DASHES else 16
    return el("svg", shape, viewBox=f"0 0 {width} 14", width=width, height=14, aria_hidden="true")


def label(*lines: str) -> str:
    """Lines for plotly, which reads markup in every text: what others wrote is escaped."""
    return "<br>".join(escape(printable(line), quote=False) for line in lines)


def narrowed(more: Figure) -> Figure:
    """An axis on a narrow screen: a long title takes two lines."""
    title = str(more.get("title", ""))
    half = title.find(" ", len(title) // 2 - 4) if len(title) > BREAKS else -1
    lines = (title,) if half < 0 else (title[:half], title[half + 1 :])
    return {
        "tickangle": 0,
        "tickfont": {"size": 11},
        "title": {"text": label(*lines), "standoff": 8, "font": {"size": 12}},
    }


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
            "showlegend": False,
            "xaxis": axis(x),
            "yaxis": axis(y),
            **layout,
        },
        "narrow": {"xaxis": narrowed(x), "yaxis": narrowed(y)},
    }


def axis(more: Figure) -> Figure:
    """An axis that makes room for its labels."""
    title = more.get("title")
    named = {"title": {"text": label(title), "standoff": 12, "font": {"size": 13}}} if title else {}
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
