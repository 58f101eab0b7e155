"""First requests of the launch folder, really sent to a server on the loopback: by curl and by the `openai` package."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from moeplan.launch import FORMATS
from moeplan.launch.quick_start import PICTURE
from planner.plan import Plan
from profiles.hosted import hosted_apis
from tests.moeplan.launch.launching import called, fake, planned, put, with_arguments, written
from tests.support.faulty_server import Behaviour, served

KIND = "vllm on 8xH200"
PROGRAMS = (["./ask.sh"], [sys.executable, "ask.py"])
BOTH = pytest.mark.parametrize("program", PROGRAMS, ids=["curl", "python"])


def ask(folder: Path, program: list[str], *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The program with nothing of this process's environment but a PATH."""
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"} | variables
    return subprocess.run(
        [*program, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False, env=environment
    )


def answered(tmp_path: Path, program: list[str], *words: str, **variables: str) -> tuple[str, Behaviour]:
    """What the program prints of an imitation's answer, and what the imitation was asked."""
    put(written(planned(KIND), "shell"), tmp_path)
    about = Behaviour(thoughts=True, token_s=0.0)
    with served(about) as url:
        name = f"{words[0].upper()}_BASE_URL" if words else "LOCAL_BASE_URL"
        done = ask(tmp_path, program, *words, **{name: f"{url}/v1"}, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout, about


def bodies(about: Behaviour) -> list[dict[str, Any]]:
    assert {path for _, path, _, _ in about.asked} == {"/v1/chat/completions"}
    return [body for _, _, _, body in about.asked]


@BOTH
def test_without_words_the_deployment_is_asked_in_its_default_mode(tmp_path: Path, program: list[str]) -> None:
    out, about = answered(tmp_path, program)
    (body,) = bodies(about)
    assert (body["model"], body["temperature"], body["top_p"]) == ("kimi-k2.5", 1.0, 0.95)
    assert "chat_template_kwargs" not in body
    assert "51" in out and "17 x 3" in out


@BOTH
@pytest.mark.parametrize(
    ("where", "key", "switch"),
    [
        ("local", {}, {"chat_template_kwargs": {"thinking": False}}),
        ("moonshot", {"MOONSHOT_API_KEY": "a key"}, {"thinking": {"type": "disabled"}}),
    ],
)
def test_instant_mode_is_chosen_as_each_endpoint_wants_it(
    tmp_path: Path, program: list[str], where: str, key: dict[str, str], switch: dict[str, Any]
) -> None:
    out, about = answered(tmp_path, program, where, "instant", **key)
    (body,) = bodies(about)
    assert {name: body.get(name) for name in ("chat_template_kwargs", "thinking")} == {
        "chat_template_kwargs": None, "thinking": None, **switch,
    }  # fmt: skip
    # The official API fixes the sampling itself.
    assert ("temperature" in body) == (where == "local")
    assert "51" in out and "17 x 3" not in out


@BOTH
def test_a_stream_brings_thoughts_before_the_answer(tmp_path: Path, program: list[str]) -> None:
    out, about = answered(tmp_path, program, "local", "stream")
    (body,) = bodies(about)
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
    if program[0] == "./ask.sh":
        events = [line.removeprefix("data: ") for line in out.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        fields = [next(iter(json.loads(event)["choices"][0]["delta"])) for event in events[:-2]]
        assert fields == sorted(fields, reverse=True) and set(fields) == {"reasoning_content", "content"}
    else:
        assert out.startswith("a a ") and out.splitlines()[-1] == "tokens: 14 in, 1024 out"


def test_python_answers_a_call_of_the_tool_and_sends_the_thoughts_back(tmp_path: Path) -> None:
    out, about = answered(tmp_path, PROGRAMS[1], "local", "tools")
    first, second = bodies(about)
    assert first["tools"] == second["tools"] and first["tool_choice"] == "auto"
    _, call, result = second["messages"]
    assert call["reasoning_content"] == "a tool"
    assert (result["role"], result["tool_call_id"]) == ("tool", call["tool_calls"][0]["id"])
    assert json.loads(result["content"])["city"] == "Paris"
    assert 'call: get_weather({"city": "Paris"})' in out and "answer: It is sunny." in out


def test_curl_shows_the_call_of_the_tool(tmp_path: Path) -> None:
    out, about = answered(tmp_path, PROGRAMS[0], "local", "tools")
    (body,) = bodies(about)
    assert body["tools"][0]["function"]["name"] == "get_weather"
    assert json.loads(out)["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


@BOTH
def test_a_picture_is_sent_as_a_data_url(tmp_path: Path, program: list[str]) -> None:
    _, about = answered(tmp_path, program, "local", "image")
    # Far more than an argument of a command can be.
    photo = bytes(range(256)) * 4096
    (tmp_path / "it's a photo.jpg").write_bytes(photo)
    _, other = answered(tmp_path, program, "local", "image", "it's a photo.jpg")
    urls = [bodies(one)[0]["messages"][0]["content"][1]["image_url"]["url"] for one in (about, other)]
    assert urls[0] == PICTURE
    kind, _, data = urls[1].partition(";base64,")
    assert kind == "data:image/jpeg" and base64.b64decode(data) == photo


def test_the_picture_is_a_png() -> None:
    data = base64.b64decode(PICTURE.partition(",")[2], validate=True)
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data[16:24] == (112).to_bytes(4, "big") * 2
    packed = data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8]
    assert zlib.decompress(packed) == (b"\0" + b"\xd0\x20\x20" * 112) * 112


@BOTH
@pytest.mark.parametrize("kind", ["llama.cpp on 4xA100"])
def test_a_start_that_serves_no_pictures_offers_none(tmp_path: Path, program: list[str], kind: str) -> None:
    files = written(planned(kind), "shell")
    put(files, tmp_path)
    done = ask(tmp_path, program, "local", "image")
    assert done.returncode != 0 and "no request named image" in done.stderr
    assert "This start serves no pictures." in files["README.md"]


@BOTH
def test_a_key_goes_into_the_header(tmp_path: Path, program: list[str]) -> None:
    _, about = answered(tmp_path, program, "local", VLLM_API_KEY="sk-of-the-server")
    _, other = answered(tmp_path, program, "deepinfra", DEEPINFRA_API_KEY="sk-of-the-provider")
    headers = [
        next(value for name, value in one.asked[0][2].items() if name.lower() == "authorization")
        for one in (about, other)
    ]
    assert headers == ["Bearer sk-of-the-server", "Bearer sk-of-the-provider"]
    assert bodies(other)[0]["model"] == "moonshotai/Kimi-K2.5"


def test_a_key_is_on_no_command_line(tmp_path: Path) -> None:
    put(written(planned(KIND), "shell"), tmp_path)
    place = fake(tmp_path, "curl")
    done = ask(tmp_path, PROGRAMS[0], "moonshot", MOONSHOT_API_KEY="sk-secret", PATH=f"{place}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    argv = called(tmp_path).argv
    assert argv[-1] == "https://api.moonshot.ai/v1/chat/completions"
    assert "sk-secret" not in " ".join(argv)


@BOTH
@pytest.mark.parametrize("where", [one.name for one in hosted_apis("kimi-k2.5")])
def test_without_its_key_a_provider_is_not_asked(tmp_path: Path, program: list[str], where: str) -> None:
    put(written(planned(KIND), "shell"), tmp_path)
    about = Behaviour()
    with served(about) as url:
        done = ask(tmp_path, program, where, **{f"{where.upper()}_BASE_URL": f"{url}/v1", "VLLM_API_KEY": "other"})
    assert done.returncode != 0 and f"{where.upper()}_API_KEY" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert about.asked == []


@BOTH
@pytest.mark.parametrize("words", [("nowhere",), ("local", "nothing")])
def test_words_that_mean_nothing_are_one_line(tmp_path: Path, program: list[str], words: tuple[str, ...]) -> None:
    put(written(planned(KIND), "shell"), tmp_path)
    done = ask(tmp_path, program, *words)
    assert done.returncode != 0 and words[-1] in done.stderr and len(done.stderr.splitlines()) == 1


@BOTH
def test_an_error_of_the_server_is_an_exit_status(tmp_path: Path, program: list[str]) -> None:
    put(written(planned(KIND), "shell"), tmp_path)
    with served(Behaviour(fault="500")) as url:
        done = ask(tmp_path, program, "local", "stream", LOCAL_BASE_URL=f"{url}/v1")
    assert done.returncode != 0 and "500" in done.stderr


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_asks_the_address_that_it_serves(form: str) -> None:
    files = written(planned(KIND), form, port=9123)
    for name in ("ask.sh", "ask.py"):
        assert "http://127.0.0.1:9123/v1" in files[name]
    assert "moonshot" in files["README.md"] and "MOONSHOT_API_KEY" in files["README.md"]


def test_a_model_that_nobody_hosts_has_the_deployment_alone(plan: Plan) -> None:
    files = written(plan, "shell")
    assert "MOONSHOT" not in files["ask.sh"] + files["ask.py"] + files["README.md"]


@BOTH
def test_a_hostile_name_is_only_a_name(plan: Plan, tmp_path: Path, program: list[str]) -> None:
    name = "a'\"; touch x; $(touch y) `touch z`\\"
    put(written(with_arguments(plan, served_name=name), "shell"), tmp_path)
    about = Behaviour(token_s=0.0)
    with served(about) as url:
        done = ask(tmp_path, program, LOCAL_BASE_URL=f"{url}/v1")
    assert done.returncode == 0, done.stderr
    assert bodies(about)[0]["model"] == name
    assert not any((tmp_path / made).exists() for made in "xyz")


def test_every_hosted_fact_is_whole() -> None:
    for model in ("kimi-k2.5", "kimi-k2.6", "kimi-k3"):
        for one in hosted_apis(model):
            assert one.base_url.startswith("https://") and not one.base_url.endswith("/")
            assert one.modes and one.source.startswith("https://") and one.key_variable.endswith("_API_KEY")
