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
    """How it answers. ``fault`` is what goes wrong with a chat completion; ``asked`` are the requests that came."""

    fault: str = ""
    engine: str = "vllm"
    kv_blocks: int = 10_000
    token_s: float = 0.002
    reasoning: bool = True
    reads_tools: bool = True
    thoughts: bool = False
    listing: str = ""
    redirect: str = ""
    asked: list[tuple[str, str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


_UNSEEN = ("no token", "no text")
"""Faults whose stream carries nothing to see; with ``no text`` the server counts tokens all the same."""


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
                self._json({"data": [{"id": "kimi-k2.5", "max_model_len": 32768, "owned_by": about.engine}]})
        elif self.path == "/metrics" and about.engine in ("vllm", "sglang"):
            text = (
                f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="{about.kv_blocks}"}} 1.0\n'
                if about.engine == "vllm"
                else f"sglang:max_total_num_tokens {about.kv_blocks * 16}.0\n"
            )
            self._send(200, b"# HELP x y\n" + text.encode(), "text/plain")
        elif self.path == "/version" and about.engine == "vllm":
            self._json({"version": "0.33.0"})
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
