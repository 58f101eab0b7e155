"""llama.cpp's own figures for what the planner launches: command parsed, file loaded, buffers compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from planner.engines.base import Config, Priced, Refusal
from planner.engines.llamacpp import ENGINE
from planner.engines.llamacpp_graph import Share, compute_bytes, without_repeats
from planner.engines.llamacpp_work import work_of
from planner.ledger import Device, Entry
from planner.machine import Machine
from planner.request import Demand, PricedRelease, Request, Settings
from planner.search import search
from profiles.mixtures import release_tensors
from profiles.model import Release
from tests.planner.launched import Buffer, Launch, Planned, parsed, planned
from tests.planner.planning import machine_from, request_of
from tests.planner.small_models import cases, types_by_name
from tests.support.gguf_writer import write_gguf

CASES = cases()
MIXTURES = {
    "latent": ("gguf:Q4_K_M", "gguf:IQ2_XXS", "experts:Q4_0,rest:Q8_0"),
    "grouped": ("gguf:Q4_K_M", "gguf:Q2_K"),
    "dense": ("gguf:Q5_K_M", "gguf:TQ1_0"),
    "tied": ("gguf:Q6_K",),
    "windowed": ("gguf:MXFP4_MOE",),
}
MACHINES: dict[str, dict[str, Any]] = {
    "no gpu": {"gpu": "none", "ram": "2TiB"},
    "1": {"gpu": "h200", "ram": "2TiB"},
    "2": {"gpu": "2xH200", "ram": "2TiB"},
    "3": {"gpu": "3xH200", "ram": "2TiB"},
}
SETTINGS = (
    (8192, Settings()),
    (131_072, Settings(ubatch=2048)),
    (1024, Settings(ubatch=1024, batch=256)),
    (10_000, Settings(sequences=3)),
    (32_768, Settings(sequences=4, kv_unified=True)),
    (32_768, Settings(sequences=4, flash_attention=False)),
    (16_384, Settings(cache_type_k="q8_0", cache_type_v="q8_0", sequences=16, kv_unified=True)),
    (16_384, Settings(cache_type_k="q4_0", cache_type_v="q4_0", ubatch=1024)),
    (8192, Settings(cache_type_k="f32", cache_type_v="f32")),
    (65_536, Settings(n_cpu_moe=3, ubatch=2048)),
    (8192, Settings(n_cpu_moe=6)),
)
SEARCHED: tuple[dict[str, Any], ...] = (
    {"gpu": "8xH200", "ram": "2TiB"},
    {"gpu": ["2xH200", "4xA100-80"], "ram": "1TiB", "context": "32k"},
    {"gpu": "rtx-4090", "ram": "512GiB", "disk": "2TB@7GB/s"},
    {"gpu": "2xMI300X", "ram": "1TiB", "concurrency": 300},
    {"gpu": "m3-ultra"},
    {"ram": "1TiB"},
)
COMMAND = ["llama-server", "--model", "x"]
MIB = 1 << 20
WHOLE_MIXTURE = "experts:Q4_0,rest:Q8_0"
WHOLE: dict[str, tuple[dict[str, Any], int, Settings]] = {
    "no gpu": ({"gpu": "none", "ram": "1TiB"}, 262_144, Settings()),
    "8xH200": ({"gpu": "8xH200", "ram": "1TiB"}, 131_072, Settings(sequences=8, kv_unified=True)),
    "8xH200, large micro-batch": ({"gpu": "8xH200", "ram": "1TiB"}, 262_144, Settings(ubatch=4096)),
    "experts in RAM": ({"gpu": "rtx-4090", "ram": "1TiB"}, 32_768, Settings(ubatch=2048)),
    "some experts in RAM": ({"gpu": "4xA100-80", "ram": "1TiB"}, 65_536, Settings(cache_type_k="q8_0")),
    "mixed GPUs": ({"gpu": ["2xH200", "2xA100-80", "rtx-4090"], "ram": "1TiB"}, 32_768, Settings()),
    "no room for copies": ({"gpu": "rtx-5080", "ram": "1TiB"}, 8192, Settings()),
}


class Question(NamedTuple):
    """A configuration as priced, and its launch."""

    name: str
    request: Request
    release: PricedRelease
    priced: Priced
    launch: Launch


class Answer(NamedTuple):
    """What the planner and llama.cpp say of one launch."""

    question: Question
    planned: Planned


def request_for(name: str, mixture: str, machine: Machine, context: int, settings: Settings) -> Request:
    release = Release("X", "someone", "someone/some-model-GGUF", "gguf", mixture)
    model = CASES[name].model
    return Request(
        model=model,
        machine=machine,
        demand=Demand("test", context, 1, 256, 256),
        releases=(PricedRelease(release, release_tensors(model, release)),),
        settings=settings,
        exact=True,
        workload_given=False,
    )


def configured(request: Request) -> Config | Refusal:
    (found,) = ENGINE.configurations(request, request.releases[0])
    return found


def question_of(name: str, request: Request, path: Path) -> Question:
    (release,) = request.releases
    config = configured(request)
    assert isinstance(config, Config), config
    priced = ENGINE.price(request, release, config)
    argv = ENGINE.launch(request, release, priced.config).argv
    return Question(name, request, release, priced, Launch(path, argv, len(config.placement)))


def written(folder: Path, model: str, mixture: str) -> Path:
    """The file of a model in the types of a mixture, its tensor data a hole."""
    tensors = release_tensors(CASES[model].model, Release("X", "x", "x/x", "gguf", mixture))
    path = folder / f"{model}-{mixture.replace(':', '-')}.gguf"
    write_gguf(path, CASES[model].file(types_by_name(tensors)), data="sparse")
    return path


def questions(folder: Path) -> Iterator[Question]:
    machines = {name: machine_from(**given) for name, given in MACHINES.items()}
    for model, mixtures in MIXTURES.items():
        for mixture in mixtures:
            path = written(folder, model, mixture)
            for machine, (context, settings) in product(machines, SETTINGS if mixture == mixtures[0] else SETTINGS[:1]):
                request = request_for(model, mixture, machines[machine], context, settings)
                given = [f"{name}={getattr(settings, name)}" for name in settings.__slots__ if getattr(settings, name)]
                yield question_of(f"{model} {mixture} on {machine}: {context} {' '.join(given)}", request, path)
    path = written(folder, "kimi-k2.5", WHOLE_MIXTURE)
    for name, (given_machine, context, settings) in WHOLE.items():
        request = request_for("kimi-k2.5", WHOLE_MIXTURE, machine_from(**given_machine), context, settings)
        yield question_of(f"kimi-k2.5 on {name}", request, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("xllamacpp", exc_type=ModuleNotFoundError)
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def answers(folder: Path) -> list[Answer]:
    asked = list(questions(folder))
    found = []
    for question, answer in zip(asked, planned([question.launch for question in asked]), strict=True):
        assert isinstance(answer, Planned), (question.name, answer, question.launch.argv)
        found.append(Answer(question, answer))
    return found


def devices_of(answer: Answer) -> Iterator[tuple[Device, Buffer]]:
    """Every device with a ledger, and what llama.cpp has there: on the host, all that is on no GPU."""
    for device in answer.question.priced.devices:
        if device.kind == "gpu":
            yield device, answer.planned.buffers[f"GPU{device.first_index}"]
        elif device.kind == "host":
            buffers = [buffer for name, buffer in answer.planned.buffers.items() if not name[3:].isdecimal()]
            yield device, Buffer(*map(sum, zip(*buffers, strict=True)))


def compute_entry(device: Device) -> Entry:
    """The compute buffer; the output buffer beside it is not in llama.cpp's breakdown."""
    (entry,) = [entry for entry in device.entries if entry.kind == "compute" and entry.what != "output buffer"]
    return entry


def test_weights_and_kv_cache_of_every_device_to_the_byte(answers: list[Answer]) -> None:
    wrong = [
        (answer.question.name, device.kind, device.first_index, buffer)
        for answer in answers
        for device, buffer in devices_of(answer)
        if (device.total("weights"), device.total("kv_cache")) != (buffer.model, buffer.kv_cache)
    ]
    assert not wrong


def test_the_output_buffer_is_what_llama_cpp_logs(answers: list[Answer]) -> None:
    for answer in answers:
        (host,) = [device for device, _ in devices_of(answer) if device.kind == "host"]
        (size,) = [entry.bytes for entry in host.entries if entry.what == "output buffer"]
        assert round(size / MIB, 2) == pytest.approx(answer.planned.output_buffer_mib, abs=0.011), answer.question.name


def test_no_gpu_that_llama_cpp_uses_is_left_out(answers: list[Answer]) -> None:
    for answer in answers:
        counted = {f"GPU{device.first_index}" for device, _ in devices_of(answer) if device.kind == "gpu"}
        assert counted == {
            name for name, buffer in answer.planned.buffers.items() if name[3:].isdecimal() and any(buffer)
        }


def test_compute_buffers(answers: list[Answer]) -> None:
    """To the byte in 19 of 20, within 1 % in 99 of 100, and nowhere off by more than 5 % (or 1 MiB)."""
    errors = {
        (answer.question.name, device.kind, device.first_index): (compute_entry(device).bytes, buffer.compute)
        for answer in answers
        for device, buffer in devices_of(answer)
    }
    assert len(errors) > 400
    assert {place: error for place, error in errors.items() if off_by(*error) > 0.05} == {}
    assert sum(ours == theirs for ours, theirs in errors.values()) >= 0.95 * len(errors)
    assert sum(off_by(*error) <= 0.01 for error in errors.values()) >= 0.99 * len(errors)


def off_by(ours: int, theirs: int) -> float:
    """Share by which a size misses, 0 below 1 MiB."""
    return abs(ours - theirs) / theirs if abs(ours - theirs) > MIB else 0.0


def test_compute_buffers_lie_within_their_range(answers: list[Answer]) -> None:
    for answer in answers:
        for device, buffer in devices_of(answer):
            entry = compute_entry(device)
            assert entry.low <= buffer.compute <= entry.high + MIB, (answer.question.name, device)


def test_the_machines_show_what_they_are_for(answers: list[Answer]) -> None:
    whole = {answer.question.name: answer.question.priced.config for answer in answers}
    assert whole["kimi-k2.5 on 8xH200"].cpu_expert_layers == 0
    assert whole["kimi-k2.5 on experts in RAM"].cpu_expert_layers > 50
    assert 0 < whole["kimi-k2.5 on some experts in RAM"].cpu_expert_layers < 50
    assert all(whole["kimi-k2.5 on mixed GPUs"].placement)
    by_cpu = [name for name, config in whole.items() if ("op_offload", "off") in config.options]
    assert by_cpu == ["kimi-k2.5 on no room for copies"]


@pytest.mark.parametrize("model", ["latent", "grouped", "dense", "windowed"])
@pytest.mark.parametrize("flash", [True, False])
def test_compute_when_every_token_gives_logits(folder: Path, model: str, flash: bool) -> None:
    """What llama.cpp's library does unless told otherwise, in the whole range of micro-batches."""
    mixture = MIXTURES[model][0]
    path = written(folder, model, mixture)
    asked, expected = [], []
    for machine, ubatch, context in product(("no gpu", "1"), (64, 512, 2048), (2048, 65_536)):
        settings = Settings(ubatch=ubatch, flash_attention=flash)
        request = request_for(model, mixture, machine_from(**MACHINES[machine]), context, settings)
        question = question_of("", request, path)
        asked.append(question.launch._replace(outputs=0))
        work = work_of(request, question.release, question.priced.config, ENGINE.facts)
        batch = work.cpu_batch._replace(outputs=work.cpu_batch.tokens)
        layers = without_repeats(work.weights.layers)
        expected.append(compute_bytes(work.weights.shape, batch, Share(layers, alone=machine == "no gpu")))
    found = []
    for answer in planned(asked):
        assert isinstance(answer, Planned)
        found.append(answer.buffers["GPU0" if "GPU0" in answer.buffers else "CPU"].compute)
    assert found == expected


CACHE_PAIRS = [("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "f16"), ("f16", "q4_0"), ("bf16", "bf16"), ("f32", "iq4_nl")]


@pytest.mark.parametrize("model", ["latent", "grouped", "windowed"])
def test_cache_types_are_refused_where_llama_cpp_refuses_them(folder: Path, model: str) -> None:
    mixture = MIXTURES[model][0]
    path, machine = written(folder, model, mixture), machine_from(**MACHINES["1"])
    refused, asked = [], []
    for (keys, values), flash in product(CACHE_PAIRS, (True, False)):
        settings = Settings(cache_type_k=keys, cache_type_v=values, flash_attention=flash)
        refused.append(isinstance(configured(request_for(model, mixture, machine, 8192, settings)), Refusal))
        asked.append(
            Launch(path, [*COMMAND, "-ctk", keys, "-ctv", values, "-fa", "on" if flash else "off", "-np", "1"], 1)
        )
    assert refused == [found == "context" for found in planned(asked)]
    assert True in refused
    assert False in refused


@pytest.mark.parametrize(("sequences", "taken"), [(256, True), (257, False)])
def test_more_sequences_than_llama_cpp_takes(folder: Path, sequences: int, taken: bool) -> None:
    mixture = MIXTURES["dense"][0]
    path, machine = written(folder, "dense", mixture), machine_from(**MACHINES["1"])
    settings = Settings(sequences=sequences, kv_unified=True)
    assert isinstance(configured(request_for("dense", mixture, machine, 8192, settings)), Config) == taken
    (found,) = planned([Launch(path, [*COMMAND, "--parallel", str(sequences), "--kv-unified"], 1)])
    assert isinstance(found, Planned) == taken


@pytest.mark.parametrize("model", ["kimi-k2.5", "qwen3-235b-a22b"])
def test_every_command_passes_llama_cpps_own_parser(model: str) -> None:
    pytest.importorskip("xllamacpp", exc_type=ModuleNotFoundError)
    expected, commands = [], []
    for given in SEARCHED:
        request = request_of(model, engine="llama.cpp", **given)
        for found in search(request).found:
            release = found.release.release
            commands.append(found.engine.launch(request, found.release, found.priced.config).argv)
            expected.append({"model": ["", f"{release.release}:{release.quantization}"], "projector": False})
    assert len(commands) > 30
    assert parsed(commands) == expected


def test_a_local_file_is_named_as_it_lies(folder: Path) -> None:
    path = written(folder, "dense", MIXTURES["dense"][0])
    release = Release("Q5_K_M", "local", str(path), "gguf", MIXTURES["dense"][0])
    model = CASES["dense"].model
    request = replace(
        request_for("dense", MIXTURES["dense"][0], machine_from(**MACHINES["1"]), 8192, Settings()),
        releases=(PricedRelease(release, release_tensors(model, release)),),
    )
    assert parsed([question_of("", request, path).launch.argv]) == [{"model": [str(path), ""], "projector": True}]


@pytest.mark.parametrize("wrong", [["--no-mmap"], ["--mlock"], ["-fa"], ["--tensor-parallel-size", "2"]])
def test_the_parser_refuses_what_llama_cpp_does_not_have(wrong: list[str]) -> None:
    pytest.importorskip("xllamacpp", exc_type=ModuleNotFoundError)
    assert parsed([[*COMMAND, *wrong], COMMAND]) == [{"refused": "arguments"}, {"model": ["x", ""], "projector": True}]
