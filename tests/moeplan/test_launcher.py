"""The start script: golden, accepted by bash and shellcheck, and inert whatever the plan holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplan.launcher import assignments, command_lines, launch_files, remarks
from moeplan.text import drawn
from moeplan.text_plan import plan_view
from planner.errors import BadRequest
from planner.plan import Candidate, Launch, Plan

Golden = Callable[[str, str], None]
WHO = {"model": "Model A", "generated_by": "moeplan 0.1.0"}


def script(candidate: Candidate, host: str = "127.0.0.1") -> str:
    return launch_files(candidate, host=host, **WHO)["launch.sh"]


def with_launch(plan: Plan, launch: Launch) -> Candidate:
    return plan.candidates[0].model_copy(update={"launch": launch})


def bash(text: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(
        ["bash", "-c", text, "launch.sh", *arguments], capture_output=True, text=True, timeout=20, env=environment
    )


def test_one_node(plan: Plan, golden: Golden) -> None:
    golden("launch_one_node.sh", script(plan.candidates[0]))


def test_two_nodes_and_an_open_address(two_node_plan: Plan, golden: Golden) -> None:
    golden("launch_two_nodes.sh", script(two_node_plan.candidates[0], "0.0.0.0"))


@pytest.mark.parametrize("name", ["launch_one_node.sh", "launch_two_nodes.sh"])
def test_bash_and_shellcheck_accept_it(name: str) -> None:
    path = Path(__file__).parent / "golden" / name
    assert subprocess.run(["bash", "-n", path], capture_output=True, check=False).returncode == 0
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if shellcheck is not None:
        checked = subprocess.run([shellcheck, path], capture_output=True, text=True, check=False)
        assert checked.stdout == ""


def test_the_script_starts_the_engine_with_exactly_the_plans_arguments(plan: Plan, tmp_path: Path) -> None:
    argv = ("show", "it's", "a b", "$(touch x)", "", "--flag", '"', "\\", "two\nlines", "\x1b[2J", "é", "-1")
    shown = run_with_stub(with_launch(plan, Launch(argv=argv)), tmp_path)
    assert shown == argv[1:]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), max_size=6))
def test_bash_reads_any_arguments_back_as_they_were(arguments: list[str]) -> None:
    text = "\n".join(command_lines(["printf", "%s\\0", "-", *arguments]))
    output = subprocess.run(["bash", "-c", text], capture_output=True, timeout=20, check=True).stdout
    assert [part.decode() for part in output.split(b"\0")[1:-1]] == arguments
    assert all(line.isprintable() for line in text.split("\n"))


def run_with_stub(candidate: Candidate, folder: Path, *arguments: str, **variables: str) -> tuple[str, ...]:
    """What the engine, here a stub on the PATH, is started with."""
    stub = folder / candidate.launch.argv[0]
    stub.write_text("#!/usr/bin/env bash\nprintf '%s\\0' \"$@\"\n")
    stub.chmod(0o755)
    done = bash(script(candidate), *arguments, PATH=f"{folder}:/usr/bin:/bin", **variables)
    assert done.returncode == 0, done.stderr
    return tuple(done.stdout.split("\0")[:-1])


def test_every_node_gets_its_own_arguments_and_the_heads_address(two_node_plan: Plan, tmp_path: Path) -> None:
    candidate = two_node_plan.candidates[0]
    head = run_with_stub(candidate, tmp_path, "0", HEAD_ADDRESS="10.0.0.1")
    other = run_with_stub(candidate, tmp_path, HEAD_ADDRESS="10.0.0.1", NODE_RANK="1")
    assert head[-4:] == ("--master-addr", "10.0.0.1", "--host", "127.0.0.1")
    assert other[-5:] == ("--node-rank", "1", "--dist-init-addr", "10.0.0.1:5000", "--headless")[-5:]


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ((), {"HEAD_ADDRESS": "a"}, "give the number of this node, 0 to 1"),
        (("0",), {}, "HEAD_ADDRESS: set it to the address of node 0"),
        (("2",), {"HEAD_ADDRESS": "a"}, "there is no node 2; 0 to 1 are allowed"),
    ],
)
def test_what_is_missing_is_said(
    two_node_plan: Plan, arguments: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    done = bash(script(two_node_plan.candidates[0]), *arguments, **variables)
    assert done.returncode != 0
    assert message in done.stderr


def test_the_address_replaces_the_plans_own(plan: Plan) -> None:
    assert "--host ::1\n" in script(plan.candidates[0], "::1")


def test_remarks(plan: Plan, tight_plan: Plan) -> None:
    assert [text.split()[0] for text in remarks(plan.candidates[0], "0.0.0.0")] == ["--trust-remote-code", "0.0.0.0:"]
    assert [text.split()[2] for text in remarks(tight_plan.candidates[0], "127.0.0.1")] == ["is"]


@pytest.mark.parametrize("host", ["", "a b", "a;b", "-x", "$(x)", "a\nb"])
def test_an_address_is_checked(plan: Plan, host: str) -> None:
    with pytest.raises(BadRequest, match="is not an address"):
        script(plan.candidates[0], host)


@pytest.mark.parametrize("name", ["", "1A", "A B", "A;B", "A=B", "é"])
def test_a_variable_is_checked(name: str) -> None:
    with pytest.raises(BadRequest, match="is not an environment variable"):
        assignments({name: "x"})


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/passwd", "launch.sh", ".bashrc", "a\nb"])
def test_a_file_name_is_checked(plan: Plan, name: str) -> None:
    with pytest.raises(BadRequest, match="not a plain file name"):
        script(with_launch(plan, Launch(argv=("x",), files={name: ""})))


@pytest.mark.parametrize(
    "launch", [Launch(argv=()), Launch(argv=("x",), per_node_argv=(("x",), ())), Launch(argv=("x", "\0"))]
)
def test_a_command_is_checked(plan: Plan, launch: Launch) -> None:
    with pytest.raises(BadRequest):
        script(with_launch(plan, launch))


def test_weights_that_do_not_exist_are_not_started(plan: Plan) -> None:
    candidate = plan.candidates[0]
    release = candidate.quantization.model_copy(update={"status": "hypothetical", "release": ""})
    hypothetical = candidate.model_copy(update={"quantization": release})
    with pytest.raises(BadRequest, match="nobody is known to publish 'int4'"):
        script(hypothetical)
    text = drawn(plan_view(plan.model_copy(update={"candidates": (hypothetical,)})))
    assert "which nobody is known to publish" in text
    assert "vllm serve" not in text


def test_names_in_the_plan_cannot_leave_the_comment(plan: Plan) -> None:
    text = launch_files(plan.candidates[0], host="::1", model="a\nrm -rf x", generated_by="b\r\x1b[2J\nls")["launch.sh"]
    assert all(part.isprintable() for part in text.splitlines())
    assert not any(part.startswith(("rm", "ls")) for part in text.splitlines())
