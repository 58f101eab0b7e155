"""The command of every candidate asks for what the plan priced: the same ranks, settings and number of GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest

from planner.engines.base import Config, LaunchSpec
from planner.request import Request
from planner.search import Found, search
from tests.planner.planning import outcome_of, request_of

MACHINES: dict[str, dict[str, Any]] = {
    "8xH200": {"gpu": "8xH200", "ram": "2TiB"},
    "2 x 8xH100": {"gpu": "8xH100", "nodes": 2, "ram": "2TiB"},
    "3 x 8xB200": {"gpu": "8xB200", "nodes": 3},
    "4xA100 + 256 GiB": {"gpu": "4xA100-80", "ram": "256GiB"},
    "mixed": {"gpu": ["4xA100-80", "8xH200"], "ram": "1TiB"},
    "rtx-4090 + disk": {"gpu": "rtx-4090", "ram": "128GiB", "disk": "1TB@7GB/s"},
    "no gpu": {"ram": "1TiB"},
}
MODELS = ("kimi-k2.5", "deepseek-r1", "qwen3-235b-a22b", "llama-3.1-70b")


@cache
def searched(machine: str, model: str) -> tuple[Request, list[Found]]:
    request = request_of(model, **MACHINES[machine])
    return request, search(request).found


def launches(machine: str, model: str, engine: str) -> Iterator[tuple[Config, LaunchSpec]]:
    request, found = searched(machine, model)
    for item in found:
        if item.engine.name == engine:
            yield item.priced.config, item.engine.launch(request, item.release, item.priced.config)


def flags_of(argv: Sequence[str]) -> dict[str, str]:
    """Flags with their value, empty for a switch; each at most once."""
    found: dict[str, str] = {}
    for place, argument in enumerate(argv):
        if argument.startswith("--"):
            assert argument not in found, f"{argument} twice in {argv}"
            following = argv[place + 1] if place + 1 < len(argv) else "--"
            found[argument] = "" if following.startswith("--") else following
    return found


def nodes_of(spec: LaunchSpec) -> tuple[tuple[str, ...], ...]:
    return spec.per_node or (spec.argv,)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("machine", MACHINES)
def test_vllm_is_told_what_was_priced(machine: str, model: str) -> None:
    for config, spec in launches(machine, model, "vllm"):
        for argv in nodes_of(spec):
            flags = flags_of(argv)
            ranks = [int(flags.get(f"--{name}-parallel-size", "1")) for name in ("tensor", "pipeline", "data")]
            assert ranks == [config.tp, config.pp, config.dp]
            assert ranks[0] * ranks[1] * ranks[2] == config.world
            assert int(flags.get("--decode-context-parallel-size", "1")) == config.dcp
            assert ("--enable-expert-parallel" in flags) == (config.ep > 1)
            assert flags.get("--kv-cache-dtype", "bf16") == config.kv_dtype
            assert float(flags["--gpu-memory-utilization"]) == config.utilization
            assert int(flags["--max-model-len"]) == config.context
            assert int(flags["--max-num-seqs"]) == config.sequences
            assert int(flags["--max-num-batched-tokens"]) == config.batched_tokens


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("machine", MACHINES)
def test_sglang_is_told_what_was_priced(machine: str, model: str) -> None:
    for config, spec in launches(machine, model, "sglang"):
        for argv in nodes_of(spec):
            flags = flags_of(argv)
            ranks = [int(flags.get(f"--{name}-size", "1")) for name in ("tp", "pp", "dp", "ep", "dcp")]
            assert ranks == [config.tp, config.pp, config.dp, config.ep, config.dcp]
            # With attention data parallelism tp already counts every GPU; peers multiply by dp once more.
            inside = "--enable-dp-attention" in flags
            assert inside == config.attention_dp
            assert ranks[0] * ranks[1] * (1 if inside else ranks[2]) == config.world
            assert flags.get("--kv-cache-dtype", "bf16") == {"fp8": "fp8_e4m3"}.get(config.kv_dtype, config.kv_dtype)
            assert float(flags["--mem-fraction-static"]) == pytest.approx(config.utilization, abs=5e-4)
            assert int(flags["--context-length"]) == config.context
            assert int(flags["--max-running-requests"]) == config.sequences
            assert int(flags["--chunked-prefill-size"]) == config.batched_tokens


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("machine", MACHINES)
def test_one_command_a_node(machine: str, engine: str) -> None:
    for config, spec in launches(machine, "kimi-k2.5", engine):
        commands = nodes_of(spec)
        assert len(commands) == config.nodes_used
        assert config.world % len(commands) == 0
        if len(commands) > 1:
            flags = [flags_of(argv) for argv in commands]
            assert [int(found["--node-rank"]) for found in flags] == list(range(len(commands)))
            assert {found["--nnodes"] for found in flags} == {str(len(commands))}
            assert spec.argv == commands[0]
        else:
            assert "--nnodes" not in flags_of(commands[0])


@pytest.mark.parametrize("machine", MACHINES)
def test_ktransformers_is_told_what_was_priced(machine: str) -> None:
    for config, spec in launches(machine, "kimi-k2.5", "ktransformers"):
        flags = flags_of(spec.argv)
        assert int(flags["--tensor-parallel-size"]) == config.tp == config.world
        assert int(flags["--kt-num-gpu-experts"]) == config.gpu_experts_per_layer
        assert int(flags["--context-length"]) == config.context
        assert int(flags["--max-running-requests"]) == config.sequences
        assert float(flags["--mem-fraction-static"]) == config.utilization


@pytest.mark.parametrize("model", ["kimi-k2.5", "qwen3-235b-a22b"])
@pytest.mark.parametrize("machine", MACHINES)
def test_llama_cpp_is_told_what_was_priced(machine: str, model: str) -> None:
    for config, spec in launches(machine, model, "llama.cpp"):
        flags = flags_of(spec.argv)
        assert flags["--cache-type-k"] == flags["--cache-type-v"] == config.kv_dtype
        assert int(flags["--ubatch-size"]) == config.batched_tokens <= int(flags["--batch-size"])
        assert int(flags["--parallel"]) == config.sequences
        assert int(flags["--ctx-size"]) >= config.context
        assert int(flags.get("--n-cpu-moe", "0")) == (config.cpu_expert_layers if config.placement else 0)
        assert ("--no-repack" in flags) == bool(config.disk_bytes)
        assert int(flags["--n-gpu-layers"]) == (999 if config.placement else 0)
        if len(config.placement) > 1:
            layers = sum(config.placement)
            split = [float(share) for share in flags["--tensor-split"].split(",")]
            assert layers_by_llama_cpp(split, layers) == [*config.placement[:-1], config.placement[-1] + 1]


def layers_by_llama_cpp(split: Sequence[float], layers: int) -> list[int]:
    """Layers and, as one more, the output layer on each GPU.

    llama.cpp puts layer i on the first GPU whose cumulative share exceeds i / (layers + 1) (src/llama-model.cpp).
    """
    total = sum(split)
    counts = [0] * len(split)
    for layer in range(layers + 1):
        running = 0.0
        for gpu, share in enumerate(split):
            running += share
            if running / total > layer / (layers + 1):
                counts[gpu] += 1
                break
    return counts


def test_gpus_are_taken_in_order_unless_they_differ() -> None:
    for machine in ("8xH200", "2 x 8xH100", "4xA100 + 256 GiB"):
        for engine in ("vllm", "sglang", "ktransformers", "llama.cpp"):
            assert all(spec.env == {} for _, spec in launches(machine, "kimi-k2.5", engine))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_in_a_mixed_machine_the_planned_gpus_are_named(engine: str) -> None:
    """CUDA puts the fastest GPU first, so the driver's order is asked for as well."""
    found = list(launches("mixed", "kimi-k2.5", engine))
    assert found
    for config, spec in found:
        assert config.group is not None
        first = {"h200-sxm-141": 4, "a100-sxm-80": 0}[config.group.gpu.key]
        listed = ",".join(str(index) for index in range(first, first + config.world))
        assert spec.env == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": listed}


def test_settings_of_an_estimate_reach_the_command() -> None:
    request = request_of(
        exact=True, gpu="8xH200", engine="vllm", tp=8, max_model_len=8192, max_num_seqs=64, max_num_batched_tokens=4096,
        gpu_memory_utilization=0.95, kv_dtype="fp8", text_only=True, enforce_eager=True,
    )  # fmt: skip
    (found,) = search(request).found
    flags = flags_of(found.engine.launch(request, found.release, found.priced.config).argv)
    assert flags["--max-model-len"] == "8192"
    assert flags["--max-num-seqs"] == "64"
    assert flags["--max-num-batched-tokens"] == "4096"
    assert flags["--gpu-memory-utilization"] == "0.95"
    assert flags["--kv-cache-dtype"] == "fp8"
    assert "--enforce-eager" in flags and "--language-model-only" in flags
    assert "--mm-encoder-tp-mode" not in flags


def test_settings_of_llama_cpp_reach_the_command() -> None:
    request = request_of(
        "qwen3-235b-a22b", exact=True, gpu="8xH200", ram="1TiB", engine="llama.cpp", quant="Q4_K_M", context=16_384,
        batch=4096, ubatch=1024, cache_type_k="f16", cache_type_v="bf16", sequences=2, flash_attention="off",
        n_cpu_moe=7,
    )  # fmt: skip
    (found,) = search(request).found
    flags = flags_of(found.engine.launch(request, found.release, found.priced.config).argv)
    wanted = {
        "--ctx-size": "16384", "--batch-size": "4096", "--ubatch-size": "1024", "--cache-type-k": "f16",
        "--cache-type-v": "bf16", "--parallel": "2", "--flash-attn": "off", "--n-cpu-moe": "7",
    }  # fmt: skip
    assert {name: flags.get(name) for name in wanted} == wanted


def test_remote_code_and_parsers_follow_the_model() -> None:
    for engine in ("vllm", "sglang"):
        with_code = next(launches("8xH200", "kimi-k2.5", engine))[1].argv
        assert "--trust-remote-code" in with_code
        assert flags_of(with_code)["--tool-call-parser"] == "kimi_k2"
        assert "--trust-remote-code" not in next(launches("8xH200", "llama-3.1-70b", engine))[1].argv


def test_servers_listen_on_loopback() -> None:
    for machine in MACHINES:
        request, found = searched(machine, "kimi-k2.5")
        for item in found:
            spec = item.engine.launch(request, item.release, item.priced.config)
            assert flags_of(spec.argv)["--host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("engine", "version", "given", "reason"),
    [
        ("vllm", "0.10", {"tp": 8, "dcp": 8}, "vllm 0.10 has no flag for decode context parallelism"),
        ("vllm", "0.11", {"tp": 8, "pp": 2, "nodes": 2}, "vllm 0.11 has no flag for several nodes"),
        ("sglang", "0.5.6", {"tp": 8, "dcp": 8}, "sglang 0.5.6 has no flag for decode context parallelism"),
    ],
)
def test_a_version_without_the_flag_is_refused(engine: str, version: str, given: dict[str, Any], reason: str) -> None:
    outcome = outcome_of("deepseek-r1", exact=True, gpu="8xH200", engine=engine, engine_version=version, **given)
    assert [(miss.reason, miss.remedy) for miss in outcome.missed] == [(reason, "use a newer --engine-version")]
