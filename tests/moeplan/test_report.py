"""The report: what it says of sample plans, that nothing of a plan becomes markup, and how it reaches the disk."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable
from datetime import date
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from hwdetect.bench.case import kernel_case
from hwdetect.bench.result import BenchRow, Correctness, NotMeasured, NotRun
from moeplan import __version__
from moeplan.bench_report import BENCH_SCHEMA, BenchReport, BenchSettings
from moeplan.cli import main
from moeplan.report import report_html, write_report
from planner.cost_report import CostReport
from planner.costing import Assumptions, cost_report
from planner.errors import BadRequest
from planner.findings import CHECK_SCHEMA, CheckReport, Finding
from planner.plan import Fleet, FleetPool, Percentiles, Plan, Range, Record, Simulation
from profiles.prices import ApiPrice, CloudPrice, Prices

Golden = Callable[[str, str], None]
TODAY = date(2026, 11, 26)
VOID = {"meta", "br"}
BLOCKS = {
    "caption", "dd", "div", "dt", "figcaption", "figure", "h1", "h2", "h3", "header", "li", "p", "pre", "section",
    "summary", "td", "th", "tr",
}  # fmt: skip
HOSTILE = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)><a href="javascript:alert(3)">\u202e\x1b[2J'


class Page(HTMLParser):
    """A page taken apart: elements with their attributes, raw texts of scripts and style sheets, and what is read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.read = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))
        if tag == "br" or tag in BLOCKS:
            self.read += "\n"

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag in ("dt", "th", "td"):
            self.read += "\n"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            tag, attributes, text = self.raw.pop()
            self.raw.append((tag, attributes, text + data))
        else:
            self.read += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def policy(self) -> dict[str, list[str]]:
        (found,) = [one["content"] for one in self.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
        assert found is not None
        return {name: rest for name, *rest in (rule.split() for rule in found.split(";"))}

    @property
    def charts(self) -> dict[str, Any]:
        (text,) = [text for _, attributes, text in self.raw if attributes.get("id") == "charts"]
        value: dict[str, Any] = json.loads(text)
        return value

    @property
    def text(self) -> str:
        lines = (re.sub(r"\s+", " ", line).strip() for line in self.read.split("\n"))
        return "\n".join(line for line in lines if line) + "\n"


@pytest.fixture
def check() -> CheckReport:
    findings = (
        Finding(
            code="gpu_xid", status="fail", node="box", subject="GPU 2", evidence="/dev/kmsg", expected="no error",
            actual="Xid 95", action="reset it",
        ),
        Finding(
            code="host_shm", status="pass", node="box", subject="host", evidence="statvfs", expected="16 GiB",
            actual="64 GiB", action="",
        ),
    )  # fmt: skip
    return CheckReport(
        schema=CHECK_SCHEMA, generated_by="moeplan 0.1.0", verdict="no_go", strict=False,
        checked_at="2026-11-26T01:02:03Z", plan="Model A, int4", nodes=("box",),
        counts={"fail": 1, "warn": 0, "not_run": 0, "pass": 1}, findings=findings,
    )  # fmt: skip


@pytest.fixture
def bench() -> BenchReport:
    case = kernel_case("dense", "bf16", out=512, in_=7168)._replace(batch=8)
    row = BenchRow(
        provider="torch", version="2.9", ours=False, device="NVIDIA H200", kernel=case.kernel,
        quantization=case.quantization, series=case.series, shape=dict(case.dims), batch=8, context=0, threads=None,
        routing=None, clock="device", samples_s=(1e-4, 1.1e-4), median_s=1.05e-4, low_s=1e-4, high_s=1.1e-4,
        iqr_s=1e-5, wall_median_s=1.1e-4, bytes=7e6, flops=5e7, reference_bytes_per_s=4e12, pulse_s=None,
        fraction_of_roofline=0.62, fraction_of_nominal=None, stable=False, unstable_because="the middle half is wide",
        correctness=Correctness(max_relative_error=1e-3, bound=1e-2), not_run=(), note="", date="2026-11-26T01:02:03Z",
    )  # fmt: skip
    missing = NotMeasured(
        series="mla_decode/bf16/x", batch=1, context=4096, reasons=(NotRun(provider="vllm", reason="not installed"),)
    )
    return BenchReport(
        schema=BENCH_SCHEMA, generated_by="moeplan 0.1.0", date="2026-11-26T01:02:03Z", fingerprint="f" * 16,
        machine="8x NVIDIA H200", settings=BenchSettings(
            quick=True, threads=1, seconds=0.4, routing="uniform", cache_bytes=1, memory_bytes=1, pythons=()
        ), ended="done", rows=(row,), not_measured=(missing,), notes=("a note",),
    )  # fmt: skip


def cost_of(plan: Plan, rank: int) -> CostReport:
    """With prices that no new fact changes."""
    prices = Prices(
        cloud=(CloudPrice("Somebody", "h200-sxm-141", 3.5, 1, "on-demand", "2026-10-01", "https://a.org/list"),),
        api=(ApiPrice("Hosted", "model-a", 0.5, 2.5, None, "2026-11-01", "a page", ""),),
        purchase=(),
        memory=(),
    )
    return cost_report(plan, plan.candidates[rank - 1], prices, Assumptions(), TODAY, "moeplan 0.1.0")


@pytest.fixture
def cost(plan: Plan) -> CostReport:
    return cost_of(plan, 1)


def page_of(plan: Plan, **more: Any) -> Page:  # noqa: ANN401
    return Page(report_html(plan, today=TODAY, **more))


def said(page: Page) -> str:
    return page.text.replace(f"moeplan {__version__}", "moeplan VERSION")


def test_what_it_says(plan: Plan, check: CheckReport, bench: BenchReport, cost: CostReport, golden: Golden) -> None:
    golden("report.txt", said(page_of(plan, check=check, bench=bench, cost=cost)))


def test_of_another_rank_that_is_tight(plan: Plan, golden: Golden) -> None:
    golden("report_tight.txt", said(page_of(plan, rank=2, cost=cost_of(plan, 2))))


def test_where_nothing_fits(empty_plan: Plan, golden: Golden) -> None:
    golden("report_nothing.txt", said(page_of(empty_plan)))


def test_an_estimate_that_does_not_fit_shows_its_memory(refused_estimate: Plan) -> None:
    page = page_of(refused_estimate)
    assert list(page.charts) == ["memory"]
    assert page.charts["memory"]["layout"]["shapes"], "the line of all that may be used"
    assert "which is 4.9-8.4 GiB more than its 72.9" in page.text


def test_every_node_has_its_command(two_node_plan: Plan) -> None:
    text = page_of(two_node_plan).text
    assert "Start node 0 of 2, 8 GPUs" in text and "Start node 1 of 2, 8 GPUs" in text
    assert '--dist-init-addr "${HEAD_ADDRESS}":5000' in text
    assert r"export B='it'\''s'" in text or "export B='it'\"'\"'s'" in text


def test_a_fleet_and_a_simulation_have_their_tables(plan: Plan) -> None:
    rate = Range(low=432_000, expected=540_000, high=675_000)
    pool = FleetPool(
        description="8x h200-sxm-141", nodes=1001, node_names=("n0",), gpus_per_node=8, candidate_rank=1,
        nodes_per_replica=2, replicas=500, spare_nodes=1, stranded_gpus=8, idle_gpus_per_replica=0, concurrency=4000,
        decode_tokens_per_s_total=rate, why="2 nodes together hold one replica",
    )  # fmt: skip
    fleet = Fleet(
        pools=(pool,), nodes=1001, gpus=8008, replicas=500, stranded_gpus=8, concurrency=4000,
        decode_tokens_per_s_total=rate,
    )  # fmt: skip
    seen = Percentiles(mean=1.0, p50=0.9, p95=1.5, p99=2.0)
    simulation = Simulation(
        arrival_rate_per_s=2.5, length_variation=0.5, requests=960, ttft_s=seen, tpot_s=seen, latency_s=seen,
        queue_s=seen, mean_running=8.0, mean_waiting=1.0, output_tokens_per_s=640.0, requests_per_s=2.4,
        goodput_share=0.75, goodput_requests_per_s=1.8, preemptions=3, saturated=True, evidence="modelled",
    )  # fmt: skip
    first = plan.candidates[0].model_copy(update={"simulation": simulation})
    text = page_of(plan.model_copy(update={"candidates": (first,), "fleet": fleet})).text
    assert "2 nodes together hold one replica" in text and "1,001, 1 spare" in text and "432,000-675,000" in text
    assert "2.5 requests per second, lengths that vary by 50%; 960 requests." in text
    assert "0.9 / 1.5 / 2" in text and "75%, and the queue grows" in text


def test_without_an_api_offer_the_cost_says_so(plan: Plan) -> None:
    assert "No API offer of this model is known" in page_of(plan).text


def test_it_is_a_document_that_can_be_walked(plan: Plan, check: CheckReport, bench: BenchReport) -> None:
    page = page_of(plan, check=check, bench=bench)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = [one["href"] or "" for one in page.all("a") if (one["href"] or "").startswith("#")]
    assert len(inside) > 10 and {href[1:] for href in inside} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.all("html") == [{"lang": "en"}]
    assert [len(page.all(name)) for name in ("header", "nav", "main", "footer", "title")] == [1, 1, 1, 1, 1]


def test_every_chart_has_a_summary_and_its_figures_in_a_table(plan: Plan, cost: CostReport) -> None:
    html = report_html(plan, cost=cost, today=TODAY)
    page = Page(html)
    assert list(page.charts) == ["memory", "speed", "kv-load", "pareto", "cost"]
    places = {one["id"]: one for one in page.all("div") if one.get("class") == "plot"}
    assert set(places) == {f"plot-{name}" for name in page.charts}
    for place in places.values():
        assert place["role"] == "img" and len(place["aria-label"] or "") > 40
    figures = re.findall(r"<figure .*?</figure>", html, flags=re.DOTALL)
    assert len(figures) == len(places)
    assert all("<details open>" in one and "<tbody><tr>" in one for one in figures), "read where no script runs"


def test_plotly_knows_every_property_of_every_chart(plan: Plan, cost: CostReport) -> None:
    for chart in page_of(plan, cost=cost).charts.values():
        go.Figure({"data": chart["data"], "layout": chart["layout"]})
        assert set(chart) == {"data", "layout", "narrow"}


def test_the_pictures_show_the_plans_own_figures(plan: Plan) -> None:
    charts = page_of(plan).charts
    device = plan.candidates[0].memory.devices[0]
    bars = {trace["name"]: trace["x"][0] for trace in charts["memory"]["data"] if trace["type"] == "bar"}
    assert bars["weights"] == pytest.approx(100 * device.weights_bytes / device.usable_bytes, abs=1e-3)
    assert sum(bars.values()) == pytest.approx(100, abs=0.01)
    span, expected = charts["speed"]["data"]
    rates = [one.performance.decode_tokens_per_s_per_request for one in plan.candidates]
    assert span["base"] == [rate.low for rate in rates]
    assert [base + width for base, width in zip(span["base"], span["x"], strict=True)] == [one.high for one in rates]
    assert expected["x"] == [rate.expected for rate in rates]
    one, asked, _ = [trace for trace in charts["kv-load"]["data"] if "sequence" in trace.get("name", "")]
    assert one["y"][0] == pytest.approx(35136 * 4096 / 2**30)
    assert asked["y"][0] == pytest.approx(16 * one["y"][0])


def hashes(text: str) -> bytes:
    return sha256(text.encode()).digest()


@pytest.mark.parametrize("cdn", [False, True])
def test_the_policy_allows_what_is_there_and_nothing_else(plan: Plan, cdn: bool) -> None:
    html = report_html(plan, today=TODAY, cdn=cdn)
    page = Page(html)
    policy = page.policy
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert set(policy) == {"default-src", "base-uri", "form-action", "script-src", "style-src"}
    inline = [(tag, text) for tag, attributes, text in page.raw if "src" not in attributes and "type" not in attributes]
    allowed = {name: {b64decode(one[8:-1]) for one in policy[name] if one[0] == "'"} for name in policy}
    assert {hashes(text) for tag, text in inline if tag == "script"} == allowed["script-src"] - {b""}
    assert {hashes(text) for tag, text in inline if tag == "style"} | {hashes("")} == allowed["style-src"]
    loaded = [attributes for tag, attributes, _ in page.raw if "src" in attributes]
    if not cdn:
        assert loaded == [] and len(html) > len(get_plotlyjs())
        return
    (library,) = loaded
    assert [one for one in policy["script-src"] if one[0] != "'"] == [library["src"]]
    assert (library["src"] or "").startswith("https://cdn.plot.ly/plotly-")
    assert b64decode((library["integrity"] or "").removeprefix("sha256-")) == hashes(get_plotlyjs())
    assert library["crossorigin"] == "anonymous" and len(html) < 200_000


def test_nothing_loads_and_nothing_is_styled_or_scripted_in_place(plan: Plan, cost: CostReport) -> None:
    page = page_of(plan, cost=cost)
    for tag, attributes in page.elements:
        assert "style" not in attributes and not [name for name in attributes if name.startswith("on")]
        assert not {"src", "srcset", "action", "data", "background", "poster"} & set(attributes), tag
        assert tag not in ("img", "link", "iframe", "object", "embed", "form", "base")
        assert re.match(r"#|https://", attributes.get("href") or "#"), attributes


def test_the_library_cannot_end_its_element() -> None:
    assert "</script" not in get_plotlyjs().lower() and "<!--" not in get_plotlyjs()


def poisoned(value: Any, keep: frozenset[str]) -> Any:  # noqa: ANN401
    """The value with something hostile behind every text in it, but for those that choose between a few."""
    if isinstance(value, dict):
        return {key: each if key in keep else poisoned(each, keep) for key, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, keep) for each in value]
    return value + HOSTILE if isinstance(value, str) else value


R = TypeVar("R", bound=Record)
KEPT = frozenset({
    "schema", "kind", "evidence", "status", "verdict", "source", "routing", "launch", "counts", "ended", "clock",
    "series", "cheaper", "what", "inventory", "measured_on",
})  # fmt: skip


def hostile(one: R) -> R:
    """The same object, read back with something hostile in its texts."""
    return type(one).model_validate_json(json.dumps(poisoned(json.loads(one.model_dump_json(by_alias=True)), KEPT)))


def test_nothing_of_a_plan_becomes_markup(plan: Plan, check: CheckReport, bench: BenchReport, cost: CostReport) -> None:
    clean = page_of(plan, check=check, bench=bench, cost=cost)
    html = report_html(hostile(plan), check=hostile(check), bench=hostile(bench), cost=hostile(cost), today=TODAY)
    page = Page(html)
    assert page.text.count("alert(1)") > 100, "it is shown as what it is"
    tags = [tag for tag, _ in page.elements]
    for name in ("script", "style", "img", "a", "section", "template"):
        assert tags.count(name) == [tag for tag, _ in clean.elements].count(name), name
    assert "\x1b" not in html and "\u202e" not in html
    labels = json.dumps(page.charts)
    assert "alert(1)" in labels
    assert set(re.findall(r"<[^>]*>?", labels)) == {"<br>"}, "plotly reads markup in texts"


def test_a_command_that_no_file_should_hold_is_not_shown(plan: Plan) -> None:
    first = plan.candidates[0]
    launch = first.launch.model_copy(update={"argv": ("vllm", "serve", "a\nrm -rf /")})
    bad = plan.model_copy(update={"candidates": (first.model_copy(update={"launch": launch}),)})
    assert "the plan's command holds a control character" in page_of(bad).text


def test_a_plan_without_figures_is_shown_as_it_is(plan: Plan) -> None:
    work = plan.workload.model_copy(update={"context": 0, "concurrency": 0, "input_tokens": 0})
    first = plan.candidates[0]
    devices = tuple(one.model_copy(update={"usable_bytes": 0}) for one in first.memory.devices)
    bare = first.model_copy(
        update={
            "memory": first.memory.model_copy(update={"devices": devices}),
            "parallel": first.parallel.model_copy(update={"dp": 0}),
            "kv_cache": first.kv_cache.model_copy(update={"bytes_per_token_per_rank": 1e-300}),
        }
    )
    text = page_of(plan.model_copy(update={"workload": work, "candidates": (bare,)})).text
    assert "Not compared with an API: the plan has lengths, times or shares that no machine has." in text


def test_only_addresses_of_the_web_can_be_followed(plan: Plan) -> None:
    notes = ("see https://a.org/x?y=1&z=2.", "javascript:alert(1)", "http://plain.org", 'https://b.org/"onclick=x')
    page = page_of(plan.model_copy(update={"notes": notes, "candidates": ()}))
    outside = [one["href"] for one in page.all("a") if (one["href"] or "").startswith("h")]
    assert outside == ["https://a.org/x?y=1&z=2", 'https://b.org/"onclick=x']


def test_it_is_written_whole_or_not_at_all(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    size = write_report(path, plan)
    assert path.stat().st_size == size
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    path.write_text("mine")
    with pytest.raises(BadRequest, match="exists"):
        write_report(path, plan)
    assert path.read_text() == "mine"
    with pytest.raises(BadRequest, match="--rank: 7 is not in the plan; 1, 2 are"):
        write_report(path, plan, rank=7, overwrite=True)
    assert path.read_text() == "mine"
    write_report(path, plan, overwrite=True, cdn=True)
    assert path.read_text().startswith("<!doctype html>")
    with pytest.raises(BadRequest, match="missing"):
        write_report(tmp_path / "missing" / "report.html", plan)
    with pytest.raises(BadRequest, match="not a regular file"):
        write_report(tmp_path, plan, overwrite=True)


@pytest.fixture
def plan_file(plan: Plan, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    return path


def test_the_command(
    plan_file: Path, check: CheckReport, bench: BenchReport, cost: CostReport, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = plan_file.parent
    argv = ["report", str(plan_file), "-o", str(folder / "r.html")]
    for name, one in (("check", check), ("bench", bench), ("cost", cost)):
        (folder / f"{name}.json").write_text(one.to_json())
        argv += [f"--{name}", str(folder / f"{name}.json")]
    assert main([*argv, "--json"]) == 0
    shown = capsys.readouterr()
    size = (folder / "r.html").stat().st_size
    assert json.loads(shown.out) == {
        "schema": "moeplan.report/1", "rank": 1, "file": str(folder / "r.html"), "bytes": size,
    }  # fmt: skip
    assert shown.err == f"moeplan: wrote: {folder / 'r.html'}\n"
    page = Page((folder / "r.html").read_text())
    assert "Check of the machine" in page.text and "Benchmark of the machine" in page.text and "Hosted" in page.text
    assert main(argv) == 2
    assert capsys.readouterr().err == f"moeplan: {folder / 'r.html'} exists; --force overwrites it\n"
    assert main([*argv, "--force", "--cdn", "--rank", "2"]) == 0
    assert capsys.readouterr().out == ""
    assert (folder / "r.html").stat().st_size < 200_000


def test_a_plan_where_nothing_fits_is_written_too(empty_plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(empty_plan.to_json())
    assert main(["report", str(tmp_path / "plan.json"), "-o", str(tmp_path / "r.html")]) == 0
    assert "Nothing that was tried runs Model A" in Page((tmp_path / "r.html").read_text()).text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rank", "3"], "--rank: 3 is not in the plan; 1, 2 are"),
        (["--rank", "x"], "--rank: 'x' is not a whole number from 1 to 1000000"),
        (["--check", "PLAN"], "--check PLAN: not a moeplan.check/1; its schema is 'moeplan.plan/1'"),
        (["--bench", "PLAN"], "--bench PLAN: not a moeplan.bench/1; its schema is 'moeplan.plan/1'"),
        (["--cost", "BROKEN"], "--cost BROKEN: not a moeplan.cost/1: generated_by: Field required"),
        (["--check", "missing.json"], "missing.json"),
    ],
)
def test_bad_input_is_one_line_and_no_file(
    plan_file: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (plan_file.parent / "broken.json").write_text('{"schema": "moeplan.cost/1"}')
    names = {"PLAN": str(plan_file), "BROKEN": str(plan_file.parent / "broken.json")}
    target = plan_file.parent / "r.html"
    assert main(["report", str(plan_file), "-o", str(target), *[names.get(flag, flag) for flag in flags]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for name, path in names.items():
        said = said.replace(name, path)
    assert said in line
    assert not target.exists()
