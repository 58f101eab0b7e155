"""``moeplan launch`` from outside: what it prints and writes, and what it refuses in one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
from pathlib import Path

import pytest

from moeplan.cli import main
from moeplan.launch import BESIDE
from planner.plan import Plan
from tests.moeplan.launch.launching import planned

GOLDEN = Path(__file__).parents[1] / "golden"


def call(*argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``moeplan launch``."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["launch", *argv])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def plan_file(plan: Plan, tmp_path: Path) -> str:
    """A plan on disk."""
    return saved(plan, tmp_path)


def saved(plan: Plan, folder: Path) -> str:
    path = folder / "plan.json"
    path.write_text(plan.to_json())
    return str(path)


def test_one_file_is_printed(plan_file: str) -> None:
    code, out, err = call(plan_file)
    assert code == 0
    assert out == (GOLDEN / "launch_one_node.sh").read_text()
    assert err.count("--trust-remote-code") == 1
    assert call(plan_file, "--format", "compose")[1].startswith("# Model A, int4 by org, on vllm 0.18.0: node 0 of 1")


def test_several_files_want_a_folder_or_one_node(two_node_plan: Plan, tmp_path: Path) -> None:
    path = saved(two_node_plan, tmp_path)
    code, out, err = call(path)
    assert (code, out) == (2, "")
    assert err.endswith("moeplan: this takes 5 files: give a folder with -o, or one node with --node\n")
    code, out, _ = call(path, "--node", "1")
    assert code == 0
    assert "--node-rank 1" in out


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ("shell", {"launch-rank-1.sh", *BESIDE}),
        ("compose", {"compose-rank-1.yaml", *BESIDE}),
        ("systemd", {"model-a-rank-1.service", "model-a.env", *BESIDE}),
    ],
)
def test_one_node_gets_its_own_files_only(two_node_plan: Plan, tmp_path: Path, form: str, files: set[str]) -> None:
    folder = tmp_path / "out"
    assert call(saved(two_node_plan, tmp_path), "--format", form, "--node", "1", "-o", str(folder))[0] == 0
    assert {path.name for path in folder.iterdir()} == files


def test_the_rank_that_is_asked_for(plan_file: str) -> None:
    assert "exec llama-server" in call(plan_file, "--rank", "2")[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format", "helm"), "--format: 'helm' is not allowed; shell, compose, kubernetes, slurm, systemd are"),
        (("--rank", "3"), "--rank: '3' is no candidate of the plan; 1, 2 are (--node chooses a node)"),
        (("--node", "1"), "--node: there is no node 1; 0 to 0 are allowed"),
        (("--node", "-1"), "--node: '-1' is not a number"),
        (("--node", "0", "--format", "kubernetes"), "--node: --format kubernetes starts every node from one place"),
        (("--node", "0", "--format", "slurm"), "--node: --format slurm starts every node from one place"),
        (("--port", "http"), "--port: 'http' is not a number"),
        (("--port", "0"), "--port: 0 is not a port; 1 to 65535 are"),
        (("--image", ""), "--image: '' is not a container image; write registry/name:tag"),
        (("--host", "my host"), "--host: 'my host' is not an address; write 127.0.0.1, 0.0.0.0 or a host name"),
        (("--rank", "2", "--format", "compose"), "the plan's weights 'a b.gguf' are not named by an absolute path"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    plan_file: str, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    folder = tmp_path / "out"
    code, out, err = call(plan_file, *flags, "-o", str(folder))
    assert (code, out, err) == (2, "", f"moeplan: {message}\n")
    assert not folder.exists()


def test_an_engine_without_an_image_says_what_to_do(tmp_path: Path) -> None:
    path = saved(planned("ktransformers"), tmp_path)
    for form in ("compose", "kubernetes"):
        code, _, err = call(path, "--format", form)
        assert (code, err.count("\n")) == (2, 1)
        assert "no container image of ktransformers" in err and "give one with --image" in err
        code, out, _ = call(path, "--format", form, "--image", "registry.example:5000/kt@sha256:0123")
        assert code == 0
        assert 'image: "registry.example:5000/kt@sha256:0123"' in out


def test_a_folder_is_written_and_never_over_a_file(plan_file: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert call(plan_file, "-o", str(folder))[0] == 0
    script = folder / "launch.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    first = script.read_text()
    code, _, err = call(plan_file, "-o", str(folder), "--rank", "2")
    assert (code, script.read_text()) == (2, first)
    assert "exists; --force overwrites it" in err
    assert call(plan_file, "-o", str(folder), "--rank", "2", "--force")[0] == 0
    assert script.read_text() != first
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "a"}
    assert {path.name for path in folder.parent.iterdir()} == {"b"}


def test_what_an_earlier_launch_left_is_told(two_node_plan: Plan, plan_file: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    other = tmp_path / "other"
    other.mkdir()
    assert call(saved(two_node_plan, other), "-o", str(folder))[0] == 0
    code, _, err = call(plan_file, "-o", str(folder), "--force")
    assert code == 0
    for rank in (0, 1):
        assert f"launch-rank-{rank}.sh is of an earlier launch and still there" in err


def test_nothing_is_written_where_one_file_cannot_be(plan_file: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "README.md").mkdir(parents=True)
    code, _, err = call(plan_file, "-o", str(folder), "--force")
    assert (code, err.splitlines()[-1].endswith("README.md: not a regular file")) == (2, True)
    assert [path.name for path in folder.iterdir()] == ["README.md"]
    a_file = tmp_path / "file"
    a_file.write_text("")
    code, _, err = call(plan_file, "-o", str(a_file))
    assert (code, "Not a directory" in err) == (2, True)
    assert call(plan_file, "-o", str(a_file / "below"))[0] == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written(plan_file: str, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    code, _, err = call(plan_file, "-o", str(folder / "out"))
    assert (code, "Permission denied" in err) == (2, True)


def test_as_json(plan_file: str) -> None:
    value = json.loads(call(plan_file, "--json", "--host", "0.0.0.0", "--format", "systemd")[1])
    assert value["schema"] == "moeplan.launch/1"
    assert (value["rank"], value["format"], value["host"]) == (1, "systemd", "0.0.0.0")
    assert set(value["files"]) == {"model-a.service", "model-a.env", *BESIDE}
    assert "--host 0.0.0.0" in value["files"]["model-a.service"]


def test_a_plan_in_which_nothing_fits(empty_plan: Plan, tmp_path: Path) -> None:
    code, out, err = call(saved(empty_plan, tmp_path))
    assert (code, out) == (1, "")
    assert "nothing to launch" in err


def test_a_tight_plan_is_launched_with_a_warning(tight_plan: Plan, tmp_path: Path) -> None:
    code, out, err = call(saved(tight_plan, tmp_path))
    assert code == 0
    assert "this configuration is tight" in err and "this configuration is tight" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "not a moeplan.plan/1; its schema is 'None'"),
        ('{"schema": "moeplan.plan/2"}', "its schema is 'moeplan.plan/2'"),
        ('{"schema": "moeplan.plan/1"}', "not a moeplan.plan/1: generated_by: Field required"),
        ('{"schema": 1, "schema": 2}', "appears twice"),
        ("[" * 100_000, "nested"),
        ("", "not JSON"),
    ],
)
def test_what_is_no_plan(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    code, out, err = call(str(path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    code, out, err = call(str(tmp_path / "no.json"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "No such file" in err
