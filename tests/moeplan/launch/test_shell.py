"""The scripts: golden, accepted by bash and shellcheck, executed, and inert whatever the plan holds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplan.launch import BESIDE, launch_files
from moeplan.launch.deployment import Wish, deployment_of, remarks
from moeplan.launch.shell_text import assignments, command_lines
from moeplan.text import drawn
from moeplan.text_plan import plan_view
from planner.errors import BadRequest
from planner.plan import Download, Launch, Plan
from tests.moeplan.launch.launching import (
    HOSTILE,
    KINDS,
    called,
    commands,
    fake,
    planned,
    put,
    run,
    with_arguments,
    with_launch,
    written,
)

Golden = Callable[[str, str], None]
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def script(plan: Plan, host: str = "127.0.0.1") -> str:
    return launch_files(plan, plan.candidates[0], "shell", Wish(host))["launch.sh"]


def test_one_node(plan: Plan, golden: Golden) -> None:
    golden("launch_one_node.sh", script(plan))


def test_two_nodes_and_an_open_address(two_node_plan: Plan, golden: Golden) -> None:
    files = launch_files(two_node_plan, two_node_plan.candidates[0], "shell", Wish("0.0.0.0"))
    assert set(files) == {"launch-rank-0.sh", "launch-rank-1.sh", *BESIDE}
    golden("launch_two_nodes.sh", files["launch-rank-0.sh"] + files["launch-rank-1.sh"])


@pytest.mark.parametrize("form", ["shell", "slurm"])
@pytest.mark.parametrize("kind", KINDS)
def test_bash_and_shellcheck_accept_every_script(kind: str, form: str, tmp_path: Path) -> None:
    put(written(planned(kind), form), tmp_path)
    scripts = [str(path) for path in tmp_path.iterdir() if path.suffix in (".sh", ".sbatch")]
    assert scripts
    for path in scripts:
        assert subprocess.run(["bash", "-n", path], capture_output=True, check=False).returncode == 0
    checked = subprocess.run([SHELLCHECK, *scripts], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_starts_the_engine_with_the_plans_arguments(kind: str, tmp_path: Path) -> None:
    plan = planned(kind)
    files = written(plan, "shell")
    put(files, tmp_path)
    names = [name for name in files if name.startswith("launch")]
    assert len(names) == len(list(commands(plan)))
    for name, argv in zip(names, commands(plan), strict=True):
        place = fake(tmp_path, argv[0])
        done = run([f"./{name}"], tmp_path, place, HEAD_ADDRESS="10.0.0.1", MODEL_FOLDER="/my weights")
        assert done.returncode == 0, done.stderr
        release = plan.candidates[0].quantization.release
        folder = plan.candidates[0].engine.name == "ktransformers"
        wanted = [text.replace("HEAD_ADDRESS", "10.0.0.1") for text in argv]
        wanted = ["/my weights" if folder and text == release else text for text in wanted]
        assert called(tmp_path).argv == tuple(wanted)
        environment = called(tmp_path).environment
        assert {key: environment.get(key) for key in plan.candidates[0].launch.env} == plan.candidates[0].launch.env


def test_hostile_arguments_arrive_byte_for_byte(plan: Plan, tmp_path: Path) -> None:
    put(written(with_arguments(plan, *HOSTILE), "shell"), tmp_path)
    assert run(["./launch.sh"], tmp_path, fake(tmp_path, "engine")).returncode == 0
    assert called(tmp_path).argv == ("engine", *HOSTILE)
    assert not (tmp_path / "x").exists()


def test_hostile_variables_arrive_byte_for_byte(plan: Plan, tmp_path: Path) -> None:
    env = {f"V{number}": text for number, text in enumerate(HOSTILE)}
    put(written(with_launch(plan, ("engine",), env), "shell"), tmp_path)
    assert run(["./launch.sh"], tmp_path, fake(tmp_path, "engine")).returncode == 0
    environment = called(tmp_path).environment
    assert {name: environment[name] for name in env} == env


@pytest.mark.parametrize("key", ["", "a key's $value"])
def test_a_key_that_the_engine_takes_as_a_flag_comes_from_the_environment(plan: Plan, tmp_path: Path, key: str) -> None:
    keyed = with_arguments(plan, "--port", "8000", api_key_flag="--api-key", api_key_variable="A_KEY")
    put(written(keyed, "shell"), tmp_path)
    assert run(["./launch.sh"], tmp_path, fake(tmp_path, "engine"), A_KEY=key).returncode == 0
    assert called(tmp_path).argv == ("engine", "--port", "8000", *(("--api-key", key) if key else ()))


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), max_size=6))
def test_bash_reads_any_arguments_back_as_they_were(arguments: list[str]) -> None:
    text = "\n".join(command_lines(["printf", "%s\\0", "-", *arguments]))
    output = subprocess.run(["bash", "-c", text], capture_output=True, timeout=20, check=True).stdout
    assert [part.decode() for part in output.split(b"\0")[1:-1]] == arguments
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("variables", [{}, {"HEAD_ADDRESS": ""}])
def test_without_the_heads_address_nothing_starts(
    two_node_plan: Plan, tmp_path: Path, variables: dict[str, str]
) -> None:
    put(written(two_node_plan, "shell"), tmp_path)
    done = run(["./launch-rank-1.sh"], tmp_path, fake(tmp_path, "vllm"), **variables)
    assert done.returncode != 0
    assert "HEAD_ADDRESS: set it to the address of node 0 that the other nodes reach" in done.stderr
    assert not (tmp_path / "called-0").exists()


def test_address_port_and_revision_reach_the_command(plan: Plan) -> None:
    argv = (*plan.candidates[0].launch.argv, "--port", "8000")
    files = written(with_launch(plan, argv), "shell", host="::1", port=9000, revision="a1b2c3")
    assert "--host ::1 \\\n  --port 9000 \\\n  --revision a1b2c3\n" in files["launch.sh"]
    assert "hf download org/Model-A --revision a1b2c3\n" in files["README.md"]
    assert "http://[::1]:9000/health" in files["README.md"]


def test_remarks(plan: Plan, tight_plan: Plan) -> None:
    open_to_all = deployment_of(plan, plan.candidates[0], Wish("0.0.0.0"))
    assert [text.split()[0] for text in remarks(open_to_all)] == ["--trust-remote-code", "0.0.0.0:"]
    pinned = deployment_of(plan, plan.candidates[0], Wish(revision="a1b2c3"))
    assert remarks(pinned) == ()
    tight = deployment_of(tight_plan, tight_plan.candidates[0], Wish())
    assert [text.split()[2] for text in remarks(tight)] == ["is"]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        *((Wish(host=host), "is not an address; write 127.0.0.1") for host in ("", "a b", "a;b", "-x", "$(x)", "a\nb")),
        (Wish(port=0), "--port: 0 is not a port; 1 to 65535 are"),
        (Wish(port=65536), "--port: 65536 is not a port"),
        (Wish(image="a b"), "'a b' is not a container image; write registry/name:tag"),
        (Wish(image="a\nb"), "is not a container image"),
        (Wish(revision="-x"), "is not a commit, a tag or a branch"),
        (Wish(revision="a b"), "is not a commit"),
    ],
)
def test_wishes_are_checked(plan: Plan, wish: Wish, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        launch_files(plan, plan.candidates[0], "shell", wish)


def test_a_revision_of_weights_that_have_none_is_refused(tight_plan: Plan) -> None:
    with pytest.raises(BadRequest, match="--revision: this engine or these weights know no revision"):
        launch_files(tight_plan, tight_plan.candidates[0], "shell", Wish(revision="main"))


@pytest.mark.parametrize("name", ["", "1A", "A B", "A;B", "A=B", "é"])
def test_a_variable_is_checked(plan: Plan, name: str) -> None:
    with pytest.raises(BadRequest, match="is not an environment variable"):
        assignments({name: "x"})
    with pytest.raises(BadRequest, match="is not an environment variable"):
        script(with_arguments(plan, api_key_variable=name))


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/passwd", ".bashrc", "a\nb"])
def test_a_file_name_is_checked(plan: Plan, name: str) -> None:
    candidate = plan.candidates[0]
    launch = candidate.launch.model_copy(update={"files": {name: ""}})
    with pytest.raises(BadRequest, match="not a plain file name"):
        launch_files(plan, candidate.model_copy(update={"launch": launch}), "shell", Wish())


@pytest.mark.parametrize("argv", [(), ("x", "\0"), ("x", "two\nlines"), ("x", "\x1b[2J"), ("x", "\x85")])
@pytest.mark.parametrize("form", ["shell", "compose", "kubernetes", "slurm", "systemd"])
def test_a_command_is_checked(plan: Plan, form: str, argv: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest, match=r"no command|a control character"):
        written(with_launch(plan, argv), form)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("api_key_flag", "--key $(touch x)"),
        ("revision_flag", "; rm"),
        ("health", "/health`touch x`"),
        ("served_name", "a\nb"),
        ("local_path", "/a\nb"),
        ("packages", ("a\nb",)),
        ("image_program", ("a\x00b",)),
        ("download", Download(repository="a\nb")),
        ("download", Download(repository="a", include=("b\r",))),
    ],
)
def test_what_the_plan_says_of_serving_is_checked(plan: Plan, field: str, value: object) -> None:
    for form in ("shell", "compose", "kubernetes", "slurm", "systemd"):
        with pytest.raises(BadRequest, match=r"a control character|for a flag|which is not a path"):
            written(with_arguments(plan, **{field: value}), form)


def test_nodes_without_a_command_are_refused(two_node_plan: Plan) -> None:
    candidate = two_node_plan.candidates[0]
    for commands_of, message in (((("x",), ()), "no command"), ((("x",),) * 3, "3 commands for 2 nodes")):
        launch = candidate.launch.model_copy(update={"per_node_argv": commands_of})
        with pytest.raises(BadRequest, match=message):
            launch_files(two_node_plan, candidate.model_copy(update={"launch": launch}), "shell", Wish())


def test_a_plan_that_does_not_say_how_to_serve_it_is_refused(plan: Plan) -> None:
    old = plan.candidates[0].model_copy(update={"launch": Launch(argv=("vllm", "serve"))})
    with pytest.raises(BadRequest, match="does not say how to serve it; write it again"):
        launch_files(plan, old, "shell", Wish())


def test_weights_that_do_not_exist_are_not_started(plan: Plan) -> None:
    candidate = plan.candidates[0]
    release = candidate.quantization.model_copy(update={"status": "hypothetical", "release": ""})
    hypothetical = plan.model_copy(update={"candidates": (candidate.model_copy(update={"quantization": release}),)})
    with pytest.raises(BadRequest, match="nobody is known to publish 'int4'"):
        script(hypothetical)
    text = drawn(plan_view(hypothetical))
    assert "which nobody is known to publish" in text
    assert "vllm serve" not in text


@pytest.mark.parametrize("form", ["shell", "compose", "kubernetes", "slurm", "systemd"])
def test_names_in_the_plan_cannot_leave_the_comment(plan: Plan, form: str) -> None:
    model = plan.model.model_copy(update={"name": "a\nrm -rf x\u2028ls"})
    changed = plan.model_copy(update={"model": model, "generated_by": "b\r\x1b[2J\nls\x85rm"})
    for name, text in written(changed, form).items():
        assert all(part.isprintable() for part in text.split("\n")), name
        assert not any(part.startswith(("rm", "ls")) for part in text.splitlines())
