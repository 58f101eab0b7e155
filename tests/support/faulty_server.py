"""An OpenAI-compatible server on the loopback that answers as an engine does, or fails in one chosen way."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


@dataclass
class Behaviour:
    """How it answers. ``fault`` is what goes wrong with a chat completion; ``asked`` are the requests that came.

    ``metrics``: SGLang has them only with ``--enable-metrics``. ``counts_tokens``: vLLM tells the tokens of its cache,
    as 0.33 does and 0.19 does not. ``engines`` are vLLM's data-parallel ones, each with a block more than the one
    before. ``server_info`` is where SGLang tells its arguments.
    """

    fault: str = ""
    engine: str = "vllm"
    kv_blocks: int = 10_000
    token_s: float = 0.002
    reasoning: bool = True
    reads_tools: bool = True
    thoughts: bool = False
    listing: str = ""
    redirect: str = ""
    version: str = ""
    metrics: bool = True
    counts_tokens: bool = True
    engines: int = 1
    server_info: str = "/server_info"
    asked: list[tuple[str, str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


_UNSEEN = ("no token", "no text")
"""Faults whose stream carries nothing to see; with ``no text`` the server counts tokens all the same."""


def metrics_text(about: Behaviour) -> str:
    """``/metrics`` as vLLM 0.33.0 and SGLang 0.5.23 word it, some series of many; tests/conformance keeps the names."""
    if about.engine == "sglang":
        labels = 'engine_type="unified",model_name="kimi-k2.5",moe_ep_rank="0",pp_rank="0",tp_rank="0"'
        return (
            "# HELP sglang:num_running_reqs The number of running requests.\n"
            "# TYPE sglang:num_running_reqs gauge\n"
            f"sglang:num_running_reqs{{{labels}}} 0.0\n"
            "# HELP sglang:max_total_num_tokens Maximum total number of tokens in the KV cache pool.\n"
            "# TYPE sglang:max_total_num_tokens gauge\n"
            f"sglang:max_total_num_tokens{{{labels}}} {float(about.kv_blocks * 16)}\n"
        )
    text = (
        "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
        "# TYPE vllm:num_requests_running gauge\n"
        'vllm:num_requests_running{engine="0",model_name="kimi-k2.5"} 0.0\n'
        "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n"
        "# TYPE vllm:cache_config_info gauge\n"
    )
    for engine in range(about.engines):
        blocks = about.kv_blocks + engine
        own = f'kv_cache_size_tokens="{blocks * 16}",' if about.counts_tokens else ""
        text += (
            'vllm:cache_config_info{_block_size_resolved="True",block_size="16",cache_dtype="auto",'
            f'enable_prefix_caching="True",engine="{engine}",gpu_memory_utilization="0.92",hash_block_size="None",'
            f'kv_cache_dtype_skip_layers="[]",kv_cache_max_concurrency="None",{own}num_cpu_blocks="None",'
            f'num_gpu_blocks="{blocks}",num_gpu_blocks_override="None",prefix_caching_hash_algo="sha256",'
            'sliding_window="None",user_specified_block_size="True"} 1.0\n'
        )
    return text


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: ClassVar[Behaviour]

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self._note({})
        about = self.behaviour
        if self.path == "/v1/models":
            if about.listing == "wrong JSON":
                self._send(200, b"{not json", "application/json")
            elif about.listing == "no list":
                self._json({"data": 3})
            else:
                card = {"id": "kimi-k2.5", "object": "model", "created": 1795000000, "owned_by": about.engine,
                        "root": "moonshotai/Kimi-K2.5", "parent": None, "max_model_len": 32768}  # fmt: skip
                self._json({"object": "list", "data": [card]})
        elif self.path == "/metrics" and about.engine in ("vllm", "sglang") and about.metrics:
            self._send(200, metrics_text(about).encode(), "text/plain; version=1.0.0; charset=utf-8")
        elif self.path == "/version" and about.engine == "vllm":
            self._json({"version": about.version or "0.33.0"})
        elif self.path == about.server_info and about.engine == "sglang":
            told = {"model_path": "moonshotai/Kimi-K2.5", "tp_size": 8, "status": "ready", "max_req_input_len": 32762}
            internal = [{"last_gen_throughput": 0.0}]
            self._json(told | {"max_total_num_tokens": about.kv_blocks * 16, "internal_states": internal,
                               "version": about.version or "0.5.23"})  # fmt: skip
        else:
            self._json({"error": {"message": "not here"}}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        self._note(body)
        with suppress(BrokenPipeError, ConnectionResetError):
            self._answer(body)

    def _note(self, body: dict[str, Any]) -> None:
        with self.behaviour.lock:
            self.behaviour.asked.append((self.command, self.path, dict(self.headers), body))

    def _answer(self, body: dict[str, Any]) -> None:
        about, prompt = self.behaviour, len(str(body["messages"][0]["content"]).split()) + 7
        if not body.get("stream"):
            self._json({"choices": [{"message": self._message(body)}], "usage": {"prompt_tokens": prompt}})
        elif about.fault in ("429", "500", "503"):
            self._json({"error": {"message": "too much"}}, int(about.fault))
        elif about.fault == "redirect":
            self._send(307, b"", "text/plain", {"Location": about.redirect})
        elif about.fault == "silent":
            time.sleep(30)
        elif about.fault == "not a stream":
            self._json({"choices": []})
        else:
            self._stream(body, prompt)

    def _message(self, body: dict[str, Any]) -> dict[str, Any]:
        about = self.behaviour
        if body["messages"][-1]["role"] == "tool":
            return {"role": "assistant", "content": "It is sunny.", "reasoning_content": "the tool says so"}
        if "tools" in body:
            if not about.reads_tools:
                return {"content": "<|tool_calls_section_begin|>get_weather"}
            function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
            call = {"id": "functions.get_weather:0", "type": "function", "function": function}
            return {"role": "assistant", "content": None, "reasoning_content": "a tool", "tool_calls": [call]}
        thinking = body.get("chat_template_kwargs", {}).get("thinking", True)
        if body.get("thinking") == {"type": "disabled"}:
            thinking = False
        if not thinking:
            return {"content": "51"}
        return (
            {"content": "51", "reasoning_content": "17 x 3"} if about.reasoning else {"content": "<think>17</think>51"}
        )

    def _stream(self, body: dict[str, Any], prompt: int) -> None:
        about, tokens = self.behaviour, body["max_tokens"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if about.fault == "drip":
            while True:
                self._write(b":")
                time.sleep(0.02)
        if about.fault == "endless":
            while True:
                self._write(b"data: " + b'{"choices": [{"delta": {"content": "a"}}]}' + b" " * 60_000 + b"\n\n")
        if about.fault == "endless line":
            while True:
                self._write(b"x" * 100_000)
        for number in range(tokens):
            if about.fault == "cut" and number == tokens // 2:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if about.fault == "wrong JSON" and number == 1:
                self._write(b"data: {oops\n\n")
            if about.fault == "error event" and number == 1:
                self._write(b'data: {"error": {"message": "out of memory"}}\n\n')
            time.sleep(0.2 if about.fault == "slow" else about.token_s)
            field = "reasoning_content" if about.thoughts and number < tokens // 2 else "content"
            self._event({"choices": [{"delta": {field: "" if about.fault in _UNSEEN else "a "}}]})
        counted = 0 if about.fault == "no token" else tokens
        self._event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": counted}})
        self._write(b"data: [DONE]\n\n")

    def _event(self, value: dict[str, Any]) -> None:
        self._write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        return


@contextmanager
def served(behaviour: Behaviour) -> Iterator[str]:
    """The address of such a server."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = _Quiet(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
