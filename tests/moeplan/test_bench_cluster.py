"""Results of many nodes as one report: who is slower than its peers, who gave none, and what a person sees."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from hwdetect.bench.result import BenchRow, Correctness
from moeplan.bench_report import BENCH_SCHEMA, BenchReport, BenchSettings, ClusterBench
from moeplan.benching_cluster import gathered
from moeplan.cli import main
from moeplan.cli.schema import FOLDER
from moeplan.ray_nodes import Answer, RayNode
from moeplan.text import drawn
from moeplan.text_cluster import cluster_bench_view


def row(seconds: float, *, stable: bool = True, version: str = "numpy 2.4.0", threads: int = 1) -> BenchRow:
    return BenchRow(
        provider="machine", version=version, ours=True, device="cpu", kernel="memory_read", quantization="bf16",
        series="memory_read/bf16/bytes268435456", shape={"bytes": 268435456}, batch=1, context=0, threads=threads,
        routing=None, clock="cpu", samples_s=(seconds,), median_s=seconds, low_s=seconds, high_s=seconds, iqr_s=0.0,
        wall_median_s=seconds, bytes=1e9, flops=0.0, reference_bytes_per_s=None, pulse_s=None,
        fraction_of_roofline=None, fraction_of_nominal=None, stable=stable, unstable_because=None,
        correctness=Correctness(max_relative_error=0.0, bound=0.0), not_run=(), note="", date="2026-11-26T01:02:03Z",
    )  # fmt: skip


def answer(name: str, *rows: BenchRow, machine: str = "Xeon") -> Answer:
    report = BenchReport(
        schema=BENCH_SCHEMA, generated_by="test", date="2026-11-26T01:02:03Z", fingerprint="f" * 16, machine=machine,
        settings=BenchSettings(
            quick=True, threads=1, seconds=0.4, routing="uniform", cache_bytes=1, memory_bytes=1, pythons=()
        ),
        ended="done", rows=rows, not_measured=(),
    )  # fmt: skip
    return Answer(RayNode(name * 8, name, True), "answered", report.to_json())


PEERS = tuple(answer(name, row(0.1)) for name in "abc")


def found(report: ClusterBench) -> list[tuple[str, str]]:
    return [(finding.code, finding.node) for finding in report.findings]


def test_a_node_slower_than_its_peers_is_named() -> None:
    report = gathered("plan.json", (*PEERS, answer("d", row(0.13))))
    assert found(report) == [("cluster_outlier", "d")]
    (finding,) = report.findings
    assert finding.subject == "memory_read/bf16/bytes268435456, batch 1, machine, 1 threads"
    assert finding.actual == "7.7 GB/s, 23% slower"


@pytest.mark.parametrize(
    "last",
    [
        answer("d", row(0.105)),
        answer("d", row(0.13, stable=False)),
        answer("d", row(0.13, threads=2)),
        answer("d", row(0.13), machine="another processor"),
    ],
    ids=["within the limit", "unstable", "other threads", "no peer"],
)
def test_what_is_no_outlier(last: Answer) -> None:
    assert gathered("plan.json", (*PEERS, last)).findings == ()


def test_two_nodes_do_not_say_which_is_the_odd_one() -> None:
    assert gathered("plan.json", (PEERS[0], answer("d", row(0.5)))).findings == ()


def test_another_version_of_a_provider_is_named() -> None:
    report = gathered("plan.json", (*PEERS, answer("d", row(0.1, version="numpy 1.26.0"))))
    assert found(report) == [("cluster_versions", "d")]


def test_a_node_without_a_result_is_the_worst_finding() -> None:
    lost = Answer(RayNode("e" * 8, "e", True), "timeout", detail="no answer within 1 s")
    report = gathered("plan.json", (lost, *PEERS, answer("d", row(0.13))))
    assert found(report) == [("node_report", "e"), ("cluster_outlier", "d")]
    assert [one.node for one in report.nodes] == ["a", "b", "c", "d"]
    schema = json.loads((FOLDER / "cluster-bench.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(json.loads(report.to_json()))
    text = " ".join(drawn(cluster_bench_view(report), 120).split())
    assert "plan.json on 4 nodes" in text
    assert "e: timeout: no answer within 1 s" in text
    assert "23% slower" in text


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--cluster", "slurm"), "--cluster: 'slurm' is not known; ray is"),
        (("--node-timeout", "1m"), "--node-timeout needs --cluster"),
        (("--cluster", "ray", "--output", "x.html"), "--cluster: --output writes JSON; charts are of one machine"),
        (
            ("--cluster", "ray", "--calibration", "x.json"),
            "--cluster: --calibration auto and none are allowed; each node keeps its own",
        ),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], line: str) -> None:
    assert main(["bench", *flags]) == 2
    assert capsys.readouterr().err == f"moeplan: {line}\n"
