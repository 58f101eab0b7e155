"""The charts of `moeplan bench` in a real browser: drawn, with a mark for every row, and nothing loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.suite import Settings, run
from moeplan.bench_plot import page
from moeplan.bench_report import BenchReport, BenchSettings
from tests.browser.test_pages import AXE, OVERFLOWING, PHONE, drawn, nothing_wrong
from tests.support.browser import Browser

DENSE = kernel_case("cpu_dense", "Q8_0", in_=256, out=64)
CASES = [DENSE._replace(batch=batch) for batch in (1, 4, 16)]
EXPERTS = {"experts": 8, "experts_total": 8, "top_k": 2, "hidden": 256, "inter": 256}
CHARTS = """
return [...document.querySelectorAll(".plot")].map((place) => ({
  name: place.id,
  marks: place.querySelectorAll(".scatterlayer .point").length,
  lines: place.querySelectorAll(".scatterlayer .js-line").length,
  whiskers: place.querySelectorAll(".scatterlayer .yerror").length,
  names: [...place.closest("figure").querySelectorAll(".keys li")].map((one) => one.textContent),
  rows: place.closest("figure").querySelectorAll("details tbody tr").length,
  height: place.querySelector(".main-svg").getBoundingClientRect().height,
}));
"""


@pytest.fixture(scope="module")
def report() -> BenchReport:
    """A real run at small sizes."""
    settings = Settings(pythons=(sys.executable,), seconds=0.0, cache_bytes=1 << 20, memory_bytes=256 << 20)
    experts: list[KernelCase] = [kernel_case("cpu_moe", "Q4_0", batch=batch, **EXPERTS) for batch in (1, 8)]
    outcome = run([*CASES, *experts], settings)
    assert len(outcome.rows) == 5, outcome.missing
    stated = BenchSettings(
        quick=True, threads=1, seconds=0.0, routing="uniform", cache_bytes=1 << 20, memory_bytes=256 << 20,
        pythons=(sys.executable,),
    )  # fmt: skip
    return BenchReport(
        schema="moeplan.bench/1", generated_by="a test", date="2026-11-26T00:00:00Z", fingerprint="0" * 16,
        machine="<b>a machine</b>", settings=stated, ended="done", rows=tuple(outcome.rows), not_measured=(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def written(report: BenchReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "bench.html"
    path.write_text(page(report), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1280, PHONE])
def test_both_charts_are_drawn_and_nothing_is_loaded(
    browser: Browser, report: BenchReport, written: Path, width: int
) -> None:
    drawn(browser, written, width=width)
    roofline, batch = browser.run(CHARTS)
    assert (roofline["name"], batch["name"]) == ("plot-roofline", "plot-batch")
    assert roofline["marks"] == batch["marks"] == batch["whiskers"] == len(report.rows)
    assert roofline["rows"] == batch["rows"] == len(report.rows)
    # The memory's ceiling; and one line for each kernel.
    assert (roofline["lines"], batch["lines"]) == (1, 2)
    assert any(name.startswith("memory of ") for name in roofline["names"]) and len(batch["names"]) == 2
    assert roofline["height"] > 200 and batch["height"] > 200
    assert browser.run("return document.querySelector('h1').textContent;") == report.machine
    nothing_wrong(browser, written)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (PHONE, False)])
def test_axe_finds_nothing(browser: Browser, written: Path, axe: str, width: int, dark: bool) -> None:
    drawn(browser, written, width=width, dark=dark)
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true;")
    browser.run(f"{axe}; window.axe = axe;")
    assert browser.run(AXE) == []


def test_a_phone_never_scrolls_sideways(browser: Browser, written: Path) -> None:
    drawn(browser, written, width=PHONE)
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true;")
    assert browser.run("return document.documentElement.scrollWidth;") == PHONE
    assert browser.run(OVERFLOWING) == []


def test_nothing_measured_is_a_page_without_a_script(browser: Browser, report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "nothing.html"
    path.write_text(page(report.model_copy(update={"rows": ()})), encoding="utf-8")
    browser.open(path)
    assert browser.run("return document.scripts.length;") == 0
    assert "Nothing was measured" in browser.run("return document.body.textContent;")
    nothing_wrong(browser, path)
