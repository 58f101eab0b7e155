"""``moeplan merge``: nodes of many files as one inventory or one report, and nodes beside their peers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from hwdetect.inventory import Inventory, TextFact, described, to_json
from moeplan.cli import main
from planner.check import check
from planner.findings import CheckReport
from planner.hardware import describe
from planner.options import Options


def machine(name: str, gpu: str = "8xH200", *, driver: str = "580.95", ram_rate: float | None = 400e9) -> Inventory:
    """A described node with a driver and a measured bandwidth of its main memory."""
    found = describe(Options("", gpu=(gpu,), ram="2TiB"))
    node = found.nodes[0]
    memory = node.memory
    if ram_rate is not None:
        memory = memory.model_copy(update={"bandwidth_bytes_per_s": described(ram_rate, "bench", "measured")})
    changed = {"name": name, "driver_version": TextFact.reported(driver, "NVML"), "memory": memory}
    return found.model_copy(update={"nodes": (node.model_copy(update=changed),)})


def written(folder: Path, texts: Iterable[str]) -> list[str]:
    paths = []
    for number, text in enumerate(texts):
        path = folder / f"{number:03}.json"
        path.write_text(text, encoding="utf-8")
        paths.append(str(path))
    return paths


def merged(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["merge", *argv])
    return code, *capsys.readouterr()


def report_of(folder: Path, machines: Iterable[Inventory], capsys: pytest.CaptureFixture[str]) -> CheckReport:
    paths = written(folder, [check(one).to_json() for one in machines])
    _, out, _ = merged(capsys, *paths, "--json")
    return CheckReport.model_validate_json(out)


def test_inventories_become_one_that_is_planned_as_a_fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = written(tmp_path, [to_json(machine(f"n{i}", "8xH100" if i % 2 else "8xH200")) for i in range(6)])
    target = tmp_path / "cluster.json"
    code, out, _ = merged(capsys, *paths, "--output", str(target))
    assert code == 0
    assert "6 nodes with 48 accelerators" in out
    assert main(["plan", "kimi-k2.5", "--inventory", str(target), "--json"]) == 0
    fleet = json.loads(capsys.readouterr().out)["fleet"]
    assert sorted(tuple(pool["node_names"]) for pool in fleet["pools"]) == [("n0", "n2", "n4"), ("n1", "n3", "n5")]


def test_listings_of_schedulers_are_planned_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slurm = "NodeName=d1 Gres=gpu:a100:8 RealMemory=1000000 Sockets=2 CoresPerSocket=32 State=IDLE\n"
    (path,) = written(tmp_path, [slurm])
    code, out, err = merged(capsys, path)
    assert (code, out) == (2, "")
    assert "--gpu-type a100=KEY" in err
    target = tmp_path / "cluster.json"
    assert merged(capsys, path, "--gpu-type", "A100=A100-80", "--output", str(target))[0] == 0
    assert main(["plan", "kimi-k2.5", "--inventory", str(target), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["hardware"]["gpus"] == ["a100-sxm-80"] * 8


def test_reports_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = [check(machine(f"n{i}")) for i in range(4)]
    report = report_of(tmp_path, [machine(f"n{i}") for i in range(4)], capsys)
    assert report.nodes == ("n0", "n1", "n2", "n3")
    own = [finding for one in alone for finding in one.findings]
    assert sorted(map(str, report.findings)) == sorted(map(str, own))
    assert sum(report.counts.values()) == len(report.findings)
    assert report.verdict == alone[0].verdict


def test_a_node_that_is_slower_than_its_peers_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machines = [machine(f"n{i}", ram_rate=400e9) for i in range(7)]
    machines += [
        machine("slow", ram_rate=352e9),
        machine("almost", ram_rate=365e9),
        machine("other", "8xH100", ram_rate=1e9),
    ]
    report = report_of(tmp_path, machines, capsys)
    (found,) = [finding for finding in report.findings if finding.code == "cluster_outlier"]
    assert (found.node, found.status, found.subject) == ("slow", "warn", "main memory")
    assert "12% slower" in found.actual


def test_two_nodes_cannot_say_which_is_the_odd_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(tmp_path, [machine("a", ram_rate=400e9), machine("b", ram_rate=100e9)], capsys)
    assert not [finding for finding in report.findings if finding.code.startswith("cluster_")]


def test_a_node_with_another_driver_or_fewer_gpus_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machines = [machine(f"n{i}") for i in range(5)] + [machine("old", driver="550.1"), machine("less", "7xH200")]
    report = report_of(tmp_path, machines, capsys)
    found = {(finding.code, finding.node) for finding in report.findings if finding.code.startswith("cluster_")}
    assert found == {("cluster_versions", "old"), ("cluster_gpus", "less")}


def test_merging_is_the_check_of_the_merged_inventory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machines = [machine(f"n{i}", ram_rate=400e9 - 20e9 * i) for i in range(5)]
    report = report_of(tmp_path, machines, capsys)
    at_once = check(Inventory(nodes=tuple([one.nodes[0] for one in machines])))
    assert sorted(map(str, report.findings)) == sorted(map(str, at_once.findings))
    assert report.verdict == at_once.verdict


def test_merged_reports_can_be_merged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machines = [machine(f"n{i}", ram_rate=rate) for i, rate in enumerate((400e9, 401e9, 402e9, 300e9))]
    at_once = report_of(tmp_path, machines, capsys)
    first, second = (report_of(tmp_path, machines[part], capsys) for part in (slice(0, 3), slice(3, 4)))
    _, out, _ = merged(capsys, *written(tmp_path, [first.to_json(), second.to_json()]), "--json")
    assert sorted(map(str, CheckReport.model_validate_json(out).findings)) == sorted(map(str, at_once.findings))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ((to_json(machine("a")), to_json(machine("a"))), "two files have a node a"),
        ((check(machine("a")).to_json(), check(machine("a")).to_json()), "two reports are of node a"),
        ((to_json(machine("a")), check(machine("b")).to_json()), "cannot be merged into one"),
        (('{"schema": "moeplan.plan/1"}',), "a moeplan.plan cannot be merged"),
        (('{"schema": "moeplan.check/1"}',), "not a moeplan.check/1"),
        (("hello",), "neither an inventory or check of moeplan"),
        (("",), "neither an inventory or check of moeplan"),
        (("\udcff",), "not UTF-8"),
    ],
)
def test_bad_files(texts: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.json"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        paths.append(str(path))
    code, out, err = merged(capsys, *paths)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_missing_file_and_wrong_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merged(capsys, str(tmp_path / "no.json"))[0] == 2
    (path,) = written(tmp_path, [to_json(machine("a"))])
    code, _, err = merged(capsys, path, "--gpu-type", "a100")
    assert code == 2
    assert "is not NAME=GPU" in err
    assert merged(capsys, path, "--gpu-type", "a100=zx81")[0] == 2
    assert merged(capsys, path, "--junit", str(tmp_path / "x.xml"))[0] == 2
    assert not (tmp_path / "x.xml").exists()
