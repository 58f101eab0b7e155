"""The page in the output folder: its commands name files that are there, its requests are what they should be."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from moeplan.launch import FORMATS
from planner.plan import Plan
from tests.moeplan.launch.launching import KINDS, called, fake, planned, run, with_arguments, written
from tests.planner.test_fleet import fleet_plan, inventory_of

Golden = Callable[[str, str], None]
NAMES = re.compile(r"(?:(?<![\w./-])|(?<=\./))([a-z0-9-]+\.(?:sh|py|yaml|sbatch|service|env))\b")


@pytest.mark.parametrize("form", FORMATS)
def test_the_page_is_golden(plan: Plan, form: str, golden: Golden) -> None:
    golden(f"launch_{form}.md", written(plan, form)["README.md"])


@pytest.mark.parametrize("form", FORMATS)
def test_the_files_are_golden(plan: Plan, form: str, golden: Golden) -> None:
    """One file of each format as an operator reads it; the others are read back elsewhere."""
    for name, text in written(plan, form).items():
        if name.endswith((".yaml", ".sbatch", ".service", ".env")):
            golden(f"launch_{form}_{name}", text)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_named_and_every_named_file_is_there(kind: str, form: str) -> None:
    files = written(planned(kind), form)
    named = set(NAMES.findall(files["README.md"]))
    # Slurm's job names the scripts of the nodes itself.
    own = {name for name in files if name != "README.md" and not (form == "slurm" and name.startswith("launch"))}
    assert named == own, (named, own)


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_left_to_fill_in_that_would_start_silently(form: str) -> None:
    for kind in ("vllm on 2 x 8xH100", "sglang on 2 x 8xH100", "ktransformers"):
        for name, text in written(planned(kind), form).items():
            assert not re.search(r"<[A-Za-z_ -]+>|\bYOUR_|\bTODO\b|x\.x\.x\.x", text), name


def test_of_a_fleet_one_replica_is_started() -> None:
    plan = fleet_plan(inventory_of((6, "8xH100", "2TiB")))
    page = written(plan, "shell")["README.md"]
    nodes = max(len(plan.candidates[0].launch.per_node_argv), 1)
    assert f"This starts one of {6 // nodes} replicas on " in page


def requests(page: str, folder: Path, **variables: str) -> list[tuple[list[str], dict[str, Any]]]:
    """Headers and body of every request of the page, as curl is given them."""
    found = []
    for text in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        assert run(["bash", "-c", text], folder, fake(folder, "curl"), **variables).returncode == 0
        argv = list(called(folder).argv)
        headers = [argv[place + 1] for place, flag in enumerate(argv) if flag == "-H"]
        found.append((headers, json.loads(argv[argv.index("-d") + 1])))
    return found


@pytest.mark.parametrize("kind", ["vllm on 8xH200", "sglang on 8xH200", "llama.cpp on 4xA100", "ktransformers"])
def test_a_request_chooses_between_thinking_and_instant(kind: str, tmp_path: Path) -> None:
    page = written(planned(kind), "shell")["README.md"]
    (_, thinking), (_, instant) = requests(page, tmp_path)
    assert thinking["model"] == instant["model"] == "kimi-k2.5"
    assert (thinking["temperature"], thinking["top_p"]) == (1.0, 0.95)
    assert "chat_template_kwargs" not in thinking
    assert (instant["temperature"], instant["chat_template_kwargs"]) == (0.6, {"thinking": False})


def test_the_key_comes_from_the_environment(plan: Plan, tmp_path: Path) -> None:
    page = written(plan, "compose")["README.md"]
    assert requests(page, tmp_path)[0][0][1] == "Authorization: Bearer none"
    assert requests(page, tmp_path, VLLM_API_KEY="a key")[0][0][1] == "Authorization: Bearer a key"


def test_the_python_example_runs(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Client:
        """As the package's client, which has no field for the template."""

        def __init__(self, *, base_url: str, api_key: str) -> None:
            asked.update(base_url=base_url, api_key=api_key)
            self.chat = self.completions = self

        def create(
            self, *, model: str, messages: object, max_tokens: int, temperature: float, extra_body: object = None
        ) -> ModuleType:
            asked.update(model=model, extra_body=extra_body, temperature=temperature)
            answer = ModuleType("answer")
            answer.message = ModuleType("message")  # type: ignore[attr-defined]
            answer.message.content = "Because."
            answer.choices = [answer]  # type: ignore[attr-defined]
            return answer

    package = ModuleType("openai")
    package.OpenAI = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openai", package)
    monkeypatch.setenv("VLLM_API_KEY", "a key")
    (text,) = re.findall(r"```python\n(.*?)```", written(plan, "shell")["README.md"], re.DOTALL)
    exec(compile(text, "README.md", "exec"), {})
    assert asked == {
        "base_url": "http://127.0.0.1:8000/v1", "api_key": "a key", "model": "model-a", "temperature": 0.6,
        "extra_body": {"chat_template_kwargs": {"thinking": False}},
    }  # fmt: skip


def test_only_the_files_of_the_quantization_are_downloaded() -> None:
    plan = planned("llama.cpp on 4xA100")
    release = plan.candidates[0].quantization
    wanted = f"hf download {release.release} --include '*-{release.name}.gguf' --include '*-{release.name}-*.gguf'"
    assert f"    {wanted}\n" in written(plan, "shell")["README.md"]
    assert "--include" not in written(planned("vllm on 8xH200"), "shell")["README.md"]


def test_an_engine_that_wants_a_folder_gets_one() -> None:
    page = written(planned("ktransformers"), "shell")["README.md"]
    assert 'hf download moonshotai/Kimi-K2.5 --local-dir "$MODEL_FOLDER"\n' in page
    assert "export MODEL_FOLDER=  #" in page


def test_a_page_cannot_be_written_by_a_name(plan: Plan) -> None:
    page = written(with_arguments(plan, served_name='a"; rm -rf /; "'), "shell")["README.md"]
    (command, *_) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    assert "rm -rf" in command and "'{" in command
