"""Pages of the report as people have them: on a screen, a phone and paper, by keyboard, without scripts, offline."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from moeplan.report import report_html
from planner.plan import Plan
from tests.browser.conftest import PLANS, WITHOUT_CHARTS, planned
from tests.support.browser import Browser

Pages = Callable[[str], Path]

PHONE = 360
CHARTED = [name for name in PLANS if name not in WITHOUT_CHARTS]
PAPERS = {"A4": (8.27, 11.69), "Letter": (8.5, 11.0)}
WIDE_PAPER_PX = 718
"""Of both papers, between the margins of the style sheet."""
SHAPES = """
return [...document.querySelectorAll(".plot")].map((place) => {
  const [picture] = place.querySelectorAll(".main-svg");
  const box = picture.getBoundingClientRect();
  const marks = place.querySelectorAll(".bars path, .scatterlayer .point, .scatterlayer .js-line");
  return { name: place.id, width: box.width, height: box.height, marks: marks.length,
           inside: box.left >= 0 && box.right <= document.documentElement.clientWidth + 1,
           texts: [...place.querySelectorAll("text")].map((one) => one.getBoundingClientRect())
             .filter((one) => one.width && (one.left < box.left - 2 || one.right > box.right + 2)).length,
           open: place.closest("figure").querySelector("details").open };
});
"""
AXE = """
const found = await axe.run(document, { resultTypes: ["violations"] });
if (found.passes.length < 20) return [`only ${found.passes.length} rules ran`];
return found.violations.map((one) => `${one.impact} ${one.id}: ${one.nodes.map((node) => node.html).join(" | ")}`);
"""
OVERFLOWING = """
const limit = document.documentElement.clientWidth;
return [...document.querySelectorAll("body *")].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.width && box.right > limit + 1 && !one.closest(".scroll, pre, svg, .skip");
}).map((one) => one.outerHTML.slice(0, 200));
"""


def drawn(browser: Browser, path: Path, *, width: int = 1280, dark: bool = False) -> None:
    """The page with every chart drawn."""
    browser.open(path, width=width, dark=dark)
    assert browser.wait("document.documentElement.dataset.charts") == "drawn"


def nothing_wrong(browser: Browser, path: Path) -> None:
    """No violation of the policy, no error, no message, and no request but for the page itself."""
    seen = browser.run("return seen;")
    assert seen == {"violations": [], "errors": [], "hit": 0}
    said = browser.said()
    assert said.messages == ()
    assert said.requests == (path.resolve().as_uri(),)
    assert browser.run("return performance.getEntriesByType('resource').length;") == 0


@pytest.mark.parametrize("width", [1280, PHONE])
@pytest.mark.parametrize("name", CHARTED)
def test_every_chart_is_drawn_and_nothing_is_loaded(browser: Browser, pages: Pages, name: str, width: int) -> None:
    path = pages(name)
    drawn(browser, path, width=width)
    shapes = browser.run(SHAPES)
    assert len(shapes) == browser.run("return document.querySelectorAll('figure').length;") >= 1
    for shape in shapes:
        assert shape["width"] > 0.8 * (width if width == PHONE else 900) and shape["height"] > 90, shape
        assert shape["marks"] > 0 and shape["inside"] and not shape["texts"] and not shape["open"], shape
    nothing_wrong(browser, path)


def test_a_page_without_charts_runs_no_script(browser: Browser, pages: Pages) -> None:
    path = pages("nothing")
    browser.open(path)
    assert browser.run("return document.scripts.length;") == 0
    nothing_wrong(browser, path)


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [
        *[("server", width, dark) for width in (1280, PHONE) for dark in (False, True)],
        *[(name, 1280, False) for name in PLANS if name != "server"],
        ("nothing", PHONE, True),
    ],
)
def test_axe_finds_nothing(browser: Browser, pages: Pages, axe: str, name: str, width: int, dark: bool) -> None:
    browser.open(pages(name), width=width, dark=dark)
    if name in CHARTED:
        browser.wait("document.documentElement.dataset.charts")
    # What is folded away is looked at too.
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true;")
    browser.run(f"{axe}; window.axe = axe;")
    assert browser.run(AXE) == []


@pytest.mark.parametrize("name", PLANS)
def test_a_phone_never_scrolls_sideways(browser: Browser, pages: Pages, name: str) -> None:
    browser.open(pages(name), width=PHONE, height=740)
    if name in CHARTED:
        browser.wait("document.documentElement.dataset.charts")
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true;")
    assert browser.run("return document.documentElement.scrollWidth;") == PHONE
    assert browser.run(OVERFLOWING) == []


def test_charts_follow_the_window(browser: Browser, pages: Pages) -> None:
    drawn(browser, pages("server"))
    browser.resize(PHONE, 740)
    narrow = "[...document.querySelectorAll('.plot .main-svg')].every((one) => one.clientWidth < 360)"
    assert browser.wait(narrow)
    assert browser.run("return document.documentElement.scrollWidth;") == PHONE
    browser.resize(1280, 900)
    assert browser.wait("[...document.querySelectorAll('.plot .main-svg')].every((one) => one.clientWidth > 900)")


INK = """
const of = (query) => getComputedStyle(document.querySelector(query));
return [
  of("body").backgroundColor, of(".plot .xtick text").fill, of(".plot .xtitle").fill,
  of(".plot .gridlayer path").stroke,
];
"""


def test_charts_follow_the_readers_colours_and_paper_is_light(browser: Browser, pages: Pages) -> None:
    drawn(browser, pages("server"))
    light = browser.run(INK)
    browser.emulate(dark=True)
    dark = browser.run(INK)
    assert not set(light) & set(dark)
    browser.emulate(dark=True, paper=True)
    assert browser.run(INK) == light
    browser.emulate()


@pytest.mark.parametrize(("name", "paper"), [*[(name, "A4") for name in PLANS], ("server", "Letter")])
def test_it_prints_whole(browser: Browser, pages: Pages, tmp_path: Path, name: str, paper: str) -> None:
    browser.open(pages(name), dark=True)
    if name in CHARTED:
        browser.wait("document.documentElement.dataset.charts")
    titles = browser.run("return [...document.querySelectorAll('h1, h2, h3')].map((one) => one.textContent);")
    (tmp_path / "page.pdf").write_bytes(browser.printed(*PAPERS[paper]))
    text = " ".join(text_of(tmp_path / "page.pdf").split())
    assert [title for title in titles if " ".join(title.split()) not in text] == []
    if name == "server":
        assert "output tokens per second of one request" in text, "charts are on the paper"
        assert "routed experts" in text, "ledgers are unfolded"
        assert "KV cache against context and concurrency, on one rank" not in text, "which a chart shows already"


def text_of(pdf: Path) -> str:
    done = subprocess.run(
        ["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.parametrize("name", CHARTED)
def test_no_chart_is_wider_than_the_paper(browser: Browser, pages: Pages, name: str) -> None:
    drawn(browser, pages(name), width=1600)
    browser.emulate(paper=True)
    browser.resize(WIDE_PAPER_PX, 1000)
    for shape in browser.run(SHAPES):
        assert shape["inside"] and 600 < shape["width"] <= WIDE_PAPER_PX, shape
    heights = "return [...document.querySelectorAll('figure')].map((one) => one.getBoundingClientRect().height);"
    assert max(browser.run(heights)) < 900, "a figure fits on a page"
    browser.emulate()


def test_without_scripts_the_tables_say_it(browser: Browser, pages: Pages, tmp_path: Path) -> None:
    browser.cdp("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages("server"))
        (tmp_path / "page.pdf").write_bytes(browser.printed(*PAPERS["A4"]))
    finally:
        browser.cdp("Emulation.setScriptExecutionDisabled", value=False)
    text = " ".join(text_of(tmp_path / "page.pdf").split())
    for caption in (
        "Memory of every device, GiB", "KV cache against context and concurrency, on one rank",
        "Speed: low / expected / high", "Throughput of a GPU against speed for a user",
        "way dollars per million tokens",
    ):  # fmt: skip
        assert caption in text, caption


def test_the_small_file_without_a_network_says_it_in_tables(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "small.html"
    path.write_text(report_html(planned("server"), cdn=True))
    browser.open(path)
    assert browser.wait("document.documentElement.dataset.charts") == "missing"
    assert browser.run("return [...document.querySelectorAll('figure details')].every((one) => one.open);")
    assert browser.run("return seen.violations;") == []
    asked = browser.said().requests
    assert len(asked) == 2 and asked[1].startswith("https://cdn.plot.ly/plotly-")


def test_what_gets_in_all_the_same_can_do_nothing(browser: Browser, pages: Pages) -> None:
    path = pages("server")
    drawn(browser, path)
    browser.run("""
      document.body.insertAdjacentHTML("beforeend", `<img src="https://example.invalid/a.png" onerror="seen.hit = 1">
        <b id="b" onclick="seen.hit = 2" style="color: red">b</b><iframe src="https://example.invalid/"></iframe>`);
      const script = document.createElement("script");
      script.textContent = "seen.hit = 3";
      document.body.append(script);
      document.getElementById("b").click();
      await fetch("https://example.invalid/").catch(() => null);
    """)
    blocked = "['img-src', 'script-src-attr', 'style-src-attr', 'frame-src', 'script-src-elem', 'connect-src'].every(" \
        "(rule) => seen.violations.some((one) => one.startsWith(rule)))"  # fmt: skip
    browser.wait(blocked)
    assert browser.run("return seen.hit;") == 0
    # The empty frame brings pictures of its own, as data.
    assert [url for url in browser.said().requests if not url.startswith("data:")] == [path.resolve().as_uri()]


HOSTILE = '</script><script>seen.hit=1</script><img src=x onerror="seen.hit=2"><a href="javascript:seen.hit=3">x</a>'


def hostile(plan: Plan) -> Plan:
    """Markup wherever a chart shows what others wrote."""
    candidates = []
    for one in plan.candidates:
        devices = tuple(device.model_copy(update={"name": HOSTILE}) for device in one.memory.devices)
        candidates.append(
            one.model_copy(
                update={
                    "memory": one.memory.model_copy(update={"devices": devices}),
                    "engine": one.engine.model_copy(update={"name": f"{one.engine.name}{HOSTILE}"}),
                    "quantization": one.quantization.model_copy(update={"name": HOSTILE, "publisher": HOSTILE}),
                }
            )
        )
    model = plan.model.model_copy(update={"name": HOSTILE})
    return plan.model_copy(update={"candidates": tuple(candidates), "model": model, "notes": (HOSTILE,)})


def test_names_are_text_in_the_page_and_in_its_charts(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(report_html(hostile(planned("server"))))
    drawn(browser, path)
    assert browser.run("return document.querySelectorAll('img, image, .plot a').length;") == 0
    assert browser.run("return document.querySelector('.plot .ytick').textContent;").count("<") >= 1
    nothing_wrong(browser, path)


def test_the_keyboard_gets_everywhere(browser: Browser, pages: Pages) -> None:
    drawn(browser, pages("server"))
    browser.press("\ue004")
    focused = "document.activeElement"
    assert browser.run(f"return {focused}.textContent;") == "Skip to the content"
    assert browser.run(f"return {focused}.getBoundingClientRect().left;") >= 0
    assert browser.run(f"return getComputedStyle({focused}).outlineStyle;") == "solid"
    browser.press("\ue007")
    browser.wait("document.activeElement.id === 'content'")
    hidden = """
      return [...document.querySelectorAll("a, summary, button")].filter((one) => one.tabIndex < 0).length;
    """
    assert browser.run(hidden) == 0


def test_a_command_is_copied(browser: Browser, pages: Pages) -> None:
    drawn(browser, pages("server"))
    command = browser.run("return document.querySelector('.command pre').textContent;")
    assert "moonshotai/Kimi-K2.5" in command
    browser.run("document.querySelector('.command button').click();")
    browser.wait("document.querySelector('.command button').textContent !== 'Copy'")
