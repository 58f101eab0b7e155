"""The charts of `moeplan bench` in a real browser: drawn, with a mark for every row, and nothing loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.suite import Settings, run
from moeplan.bench_plot import page
from moeplan.bench_report import BenchReport, BenchSettings
from tests.support.browser import Browser

DENSE = kernel_case("cpu_dense", "Q8_0", in_=256, out=64)
CASES = [DENSE._replace(batch=batch) for batch in (1, 4, 16)]
EXPERTS = {"experts": 8, "experts_total": 8, "top_k": 2, "hidden": 256, "inter": 256}
CHARTS = """
return [...document.querySelectorAll(".plotly-graph-div")].map((place) => ({
  title: place.querySelector(".gtitle").textContent,
  marks: place.querySelectorAll(".scatterlayer .point").length,
  lines: place.querySelectorAll(".scatterlayer .js-line").length,
  names: [...place.querySelectorAll(".legendtext")].map((one) => one.textContent),
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


def test_both_charts_are_drawn_and_nothing_is_loaded(browser: Browser, report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "bench.html"
    path.write_text(page(report), encoding="utf-8")
    browser.open(path)
    assert browser.wait("document.querySelectorAll('.gtitle').length == 2")
    roofline, sweep = browser.run(CHARTS)
    assert (roofline["title"], sweep["title"]) == ("Roofline", "Batch")
    assert roofline["marks"] == sweep["marks"] == len(report.rows)
    # The memory's ceiling; and one line for each kernel.
    assert (roofline["lines"], sweep["lines"]) == (1, 2)
    assert any(name.startswith("memory, ") for name in roofline["names"]) and len(sweep["names"]) == 2
    assert roofline["height"] > 200 and sweep["height"] > 200
    assert browser.run("return document.querySelectorAll('h1 b').length;") == 0
    said = browser.said()
    assert said.messages == ()
    assert said.requests == (path.resolve().as_uri(),)
