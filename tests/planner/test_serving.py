"""What a candidate's launch says beside its command."""

from __future__ import annotations

from functools import cache
from typing import Any

from planner.assemble import make_plan
from planner.plan import Launch, Serving
from planner.search import search
from tests.planner.planning import request_of

MACHINES: dict[str, dict[str, Any]] = {
    "vllm": {"gpu": "8xH200"},
    "sglang": {"gpu": "8xH100", "nodes": 2},
    "llama.cpp": {"gpu": "4xA100-80", "ram": "512GiB"},
    "ktransformers": {"gpu": "4xRTX-PRO-6000", "ram": "1TiB"},
}


@cache
def launched(engine: str) -> tuple[Launch, Serving]:
    """The launch of the engine's best candidate."""
    request = request_of("kimi-k2.5", engine=engine, **MACHINES[engine])
    launch = make_plan(request, search(request), {}, "test").candidates[0].launch
    assert launch.serving is not None
    return launch, launch.serving


def test_vllm_waits_as_long_as_a_slow_download() -> None:
    launch, serving = launched("vllm")
    # 595.15 GB at 50 MB/s and half an hour: its own limit is 600 seconds.
    assert launch.env == {"VLLM_ENGINE_READY_TIMEOUT_S": "13800"}
    assert serving.startup_s == 13800


def test_ports_are_those_of_the_commands() -> None:
    for engine in MACHINES:
        launch, serving = launched(engine)
        assert launch.argv[launch.argv.index("--port") + 1] == str(serving.port)
        assert launch.argv[launch.argv.index("--host") + 1] == "127.0.0.1"
        assert serving.gpu_vendor == "nvidia"
        assert serving.served_name in launch.argv
    launch, serving = launched("sglang")
    assert f"HEAD_ADDRESS:{serving.head_port}" in launch.per_node_argv[1]


def test_kimi_thinks_unless_a_request_says_otherwise() -> None:
    _, serving = launched("vllm")
    modes = {mode.mode: mode for mode in serving.chat}
    assert modes["thinking"].chat_template_kwargs == {}
    assert modes["instant"].chat_template_kwargs == {"thinking": False}
    assert all(mode.source for mode in serving.chat)


def test_only_the_quantization_of_a_gguf_repository_is_downloaded() -> None:
    _, serving = launched("llama.cpp")
    assert serving.download is not None
    assert all(pattern.endswith(".gguf") for pattern in serving.download.include)
    _, serving = launched("vllm")
    assert serving.download is not None
    assert (serving.download.repository, serving.download.include) == ("moonshotai/Kimi-K2.5", ())
