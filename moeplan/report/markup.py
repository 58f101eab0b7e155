"""HTML that is escaped by construction: text becomes ``Html`` only through ``el``, which escapes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, NamedTuple

from moeplan.text_safe import printable

VOID: Final = frozenset({"meta", "br"})
_LINK: Final = re.compile(r"https://[!-~]+")
_TRAILING: Final = ".,;:)"
_UNBROKEN: Final = re.compile(r"(?<![\w/.-])(?=[\w.,-]{3,26}(?![\w/.,-]))(?:--)?\w[\w.,]*(?:-[\w.,]+)*(?![\w/-])")
"""Short words with hyphens: ranges, dates, flags and keys, which a line must not end in the middle of."""


class Html(str):
    """Markup. A plain ``str`` is text and is escaped where it meets markup."""

    __slots__ = ()


Child = str | None
Attribute = str | int | float | bool | None


def text(value: str) -> Html:
    """Text that others may have written, on one line and escaped."""
    return Html(escape(printable(value), quote=True))


def flowing(value: str) -> Html:
    """Text of a paragraph: short words with hyphens stay on one line.

    >>> print(flowing("12-16 of <b>"))
    <span class="nb">12-16</span> of &lt;b&gt;
    """
    parts: list[Html] = []
    end = 0
    for found in _UNBROKEN.finditer(value):
        if "-" not in found[0]:
            continue
        parts += [text(value[end : found.start()]), Html(f'<span class="nb">{text(found[0])}</span>')]
        end = found.end()
    return Html("".join([*parts, text(value[end:])]))


def joined(children: Iterable[Child], between: Html | None = None) -> Html:
    """Children one after the other; None is left out."""
    kept = [child if isinstance(child, Html) else flowing(child) for child in children if child is not None]
    return Html((between or "").join(kept))


def el(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """An element. Attributes are spelled with underscores (``class_``, ``aria_label``); None and False leave one out.

    >>> print(el("p", "a < b", el("br"), class_="x", hidden=True, id=None))
    <p class="x" hidden>a &lt; b<br></p>
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelled = key.rstrip("_").replace("_", "-")
        written.append(f" {spelled}" if value is True else f' {spelled}="{text(str(value))}"')
    start = f"<{name}{''.join(written)}>"
    return Html(start if name in VOID else f"{start}{joined(children)}</{name}>")


def verbatim(value: str) -> Html:
    """Lines that keep their breaks and their spaces."""
    return Html("\n".join(text(line) for line in value.split("\n")))


def linked(value: str) -> Html:
    """Text whose web addresses can be followed.

    >>> print(linked("see https://a.org/b."))
    see <a href="https://a.org/b" rel="noreferrer">https://a.org/b</a>.
    """
    parts: list[Child] = []
    end = 0
    for found in _LINK.finditer(value):
        address = found[0].rstrip(_TRAILING)
        parts += [value[end : found.start()], el("a", text(address), href=address, rel="noreferrer")]
        end = found.start() + len(address)
    return joined([*parts, value[end:]])


class Column(NamedTuple):
    """Head of a column; numbers stand on the right."""

    name: str
    number: bool = False


def columns(*names: str) -> tuple[Column, ...]:
    """Columns by name; one that begins with ``>`` holds numbers."""
    return tuple(Column(name.removeprefix(">"), name.startswith(">")) for name in names)


def table(caption: str, heads: Sequence[Column], rows: Iterable[Sequence[Child]], *, stack: bool = False) -> Html:
    """A table whose first column names the row. It scrolls in itself; with ``stack`` a phone shows rows as cards."""
    header = el("tr", *[el("th", head.name, scope="col", class_="n" if head.number else None) for head in heads])
    body = [el("tr", *[_cell(heads[place], cell, place, stack) for place, cell in enumerate(row)]) for row in rows]
    drawn = el(
        "table", el("caption", caption), el("thead", header), el("tbody", *body), class_="stack" if stack else None
    )
    return el("div", drawn, class_="scroll", tabindex=0, role="group", aria_label=caption)


def _cell(head: Column, cell: Child, place: int, stack: bool) -> Html:
    if stack and cell and place:
        # As one element it is one cell of the card's grid.
        cell = el("div", cell)
    attributes: dict[str, Attribute] = {"class_": "n" if head.number else None, "data_label": head.name}
    return el("td", cell, **attributes) if place else el("th", cell, scope="row", **attributes)


def pairs(rows: Iterable[tuple[str, Child]]) -> Html:
    """Names and values; a row without a value is left out."""
    drawn = [el("div", el("dt", name), el("dd", value)) for name, value in rows if value]
    return el("dl", *drawn, class_="pairs")


def bullets(lines: Iterable[Child]) -> Html:
    """A list, each line once."""
    return el("ul", *[el("li", line) for line in dict.fromkeys(lines)])


def details(summary: str, *children: Child, open_: bool = False) -> Html:
    """What is folded away until it is asked for."""
    return el("details", el("summary", summary), *children, open=open_)


def bar(share: float) -> Html:
    """A share of the whole as a bar, drawn without a script and without a style."""
    width = round(100 * min(max(share, 0.0), 1.0), 1)
    whole = el("rect", width=100, height=8, class_="track")
    part = el("rect", width=width, height=8, class_="part")
    return el("svg", whole, part, viewBox="0 0 100 8", class_="bar", aria_hidden="true")
