"""A page of this program: sections in order, the charts' data, and the policy that keeps everything else out.

The policy allows exactly the scripts and the style sheet of this page, by their hashes. plotly.js makes a style sheet
that is empty and fills it through its interface, which the hash of nothing allows. It would also add the style sheet of
its maps, which are not drawn here, unless an element with that sheet's id is there: ``_stand_ins`` puts one there.
``tests/browser`` holds the pages to not a single violation.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

from moeplan.report.figures import Chart
from moeplan.report.markup import Html, el, text

_SHEET: Final = re.compile(r'document\.getElementById\("([0-9a-f]{64})"\)')
CDN: Final = "https://cdn.plot.ly/plotly-{version}.min.js"


class Section(NamedTuple):
    """A part of the page."""

    name: str
    title: str
    body: Html


def document(
    title: str,
    generator: str,
    header: Html,
    sections: Sequence[Section],
    charts: tuple[Chart, ...],
    footer: Html,
    *,
    cdn: bool = False,
) -> str:
    """The whole file. With ``cdn`` the library of its charts is loaded; without charts there is no script at all."""
    cdn = cdn and bool(charts)
    scripts = [_library(cdn=cdn), el_script(asset("page.js"))] if charts else []
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy(cdn=cdn)),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="generator", content=generator),
        el("title", text(title)),
        Html(f"<style>{asset('page.css')}</style>"),
    )
    body = el(
        "body",
        el("a", "Skip to the content", href="#content", class_="skip"),
        header,
        _contents(sections),
        el("main", *[_drawn(section) for section in sections], id="content", tabindex=-1),
        footer,
        Html(f'<script type="application/json" id="charts">{data(charts)}</script>') if charts else None,
        *_stand_ins(charts),
        *scripts,
    )
    return f'<!doctype html>\n<html lang="en">\n{head}\n{body}\n</html>\n'


def _contents(sections: Sequence[Section]) -> Html:
    links = [el("li", el("a", section.title, href=f"#{section.name}")) for section in sections]
    return el("nav", el("ul", *links), aria_label="Sections")


def _drawn(section: Section) -> Html:
    head = f"{section.name}-title"
    return el("section", el("h2", section.title, id=head), section.body, id=section.name, aria_labelledby=head)


def data(charts: tuple[Chart, ...]) -> str:
    """The figures as JSON that cannot end its element."""
    written = json.dumps({chart.name: chart.figure for chart in charts}, allow_nan=False, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def el_script(code: str) -> Html:
    """A script as it stands; its text must not hold the end of the element."""
    if "</script" in code.lower() or "<!--" in code:
        raise ValueError("a script that would end its element")
    return Html(f"<script>{code}</script>")


def _library(*, cdn: bool) -> Html:
    from plotly.offline import get_plotlyjs

    if not cdn:
        return el_script(get_plotlyjs())
    digest = b64encode(sha256(get_plotlyjs().encode()).digest()).decode()
    return el("script", src=cdn_address(), integrity=f"sha256-{digest}", crossorigin="anonymous")


def _stand_ins(charts: tuple[Chart, ...]) -> list[Html]:
    """Empty elements with the ids of style sheets that the library would add."""
    from plotly.offline import get_plotlyjs

    return [el("template", id=name) for name in dict.fromkeys(_SHEET.findall(get_plotlyjs()))] if charts else []


def cdn_address() -> str:
    """Where the very version of the installed library is published."""
    from plotly.offline import get_plotlyjs_version

    return CDN.format(version=get_plotlyjs_version())


def policy(*, cdn: bool) -> str:
    """The content security policy."""
    from plotly.offline import get_plotlyjs

    library = cdn_address() if cdn else hashed(get_plotlyjs())
    rules = (
        "default-src 'none'",
        f"script-src {library} {hashed(asset('page.js'))}",
        f"style-src {hashed(asset('page.css'))} {hashed('')}",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def hashed(code: str) -> str:
    """A source of the policy.

    >>> hashed("")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'"


@cache
def asset(name: str) -> str:
    """A file beside this one."""
    return (files("moeplan.report") / name).read_text(encoding="utf-8")
