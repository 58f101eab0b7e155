"""A hub on the loopback interface: the part of its API that reading a model needs, and the ways in which it fails.

Listings, ``resolve`` with the hub's headers, and a second origin for large files, to which ``resolve`` redirects as the
real one does. Files may claim any size: only the bytes that are asked for are made.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODIFIED = "2026-01-29T08:15:00.000Z"
CHUNK_BYTES = 1 << 16

_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")


class File(NamedTuple):
    """``head``, then zeros up to ``size`` bytes (None: no more). A ``large`` one is served by the other origin."""

    head: bytes
    size: int | None = None
    large: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.head) if self.size is None else self.size

    def part(self, start: int, end: int) -> bytes:
        return self.head[start:end].ljust(end - start, b"\0")


@dataclass
class Repo:
    """``refused`` is the status and the headers of every ``resolve``; ``extra`` goes into the listing."""

    files: dict[str, File] = field(default_factory=dict)
    extra: dict[str, object] = field(default_factory=dict)
    branches: tuple[str, ...] = ("main",)
    refused: tuple[int, Mapping[str, str]] | None = None


class Answer(NamedTuple):
    """What a path is answered with, whatever is there."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Request(NamedTuple):
    """``origin`` is ``hub`` or ``files``; ``headers`` have lower-case names."""

    origin: str
    method: str
    path: str
    headers: dict[str, str]


class HubServer:
    """Both origins. Set ``repos`` and the failures, then read ``requests`` and ``sent_bytes``."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.answers: dict[str, Answer] = {}
        self.ignores_ranges = False
        self.truncates_ranges = False
        self.drips = False
        self.delay_s = 0.0
        self.requests: list[Request] = []
        self.sent_bytes = 0
        self.stopping = threading.Event()
        self._servers = [self._serve("hub"), self._serve("files")]
        self.url, self.files_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def _serve(self, origin: str) -> ThreadingHTTPServer:
        hub = self

        class Handler(_Handler):
            server_of = hub
            name = origin

        server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def stop(self) -> None:
        self.stopping.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def paths(self, method: str = "GET") -> list[str]:
        """Of the requests with that method, in order."""
        return [request.path for request in self.requests if request.method == method]

    def weights_read(self) -> list[str]:
        """Names of the weight files of which anything was asked for."""
        names = {request.path.rpartition("/")[2] for request in self.requests}
        return sorted(name for name in names if name.endswith((".safetensors", ".gguf")))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what many tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: HubServer
    name: str

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the screen of the tests."""

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def _respond(self) -> None:
        hub = self.server_of
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        hub.requests.append(Request(self.name, self.command, path, headers))
        hub.stopping.wait(hub.delay_s)
        if path in hub.answers:
            self._send(*hub.answers[path])
        elif hub.drips:
            self._drip()
        elif path.startswith("/api/models/"):
            self._listing(path.removeprefix("/api/models/"))
        else:
            self._resolve(urlsplit(self.path).path)

    def _listing(self, path: str) -> None:
        name, _, revision = path.partition("/revision/")
        repo = self.server_of.repos.get(name)
        if repo is not None and revision not in ("", COMMIT, *repo.branches):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
            return
        if repo is None:
            self._send(401, {"X-Error-Code": "RepoNotFound"}, b'{"error":"Repository not found"}')
            return
        siblings = [{"rfilename": path, "size": file.size_bytes} for path, file in repo.files.items()]
        listing = {"id": name, "sha": COMMIT, "lastModified": MODIFIED, "siblings": siblings, **repo.extra}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(listing).encode())

    def _resolve(self, path: str) -> None:
        parts = (*map(unquote, path.lstrip("/").split("/", 4)), "", "", "", "")
        organization, name, kind, revision, file_path = parts[:5]
        repo = self.server_of.repos.get(f"{organization}/{name}")
        if repo is None or kind != "resolve":
            self._send(404, {"X-Error-Code": "RepoNotFound"})
        elif repo.refused is not None:
            self._send(*repo.refused)
        elif revision not in (COMMIT, *repo.branches):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif file_path not in repo.files:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif repo.files[file_path].large and self.name == "hub":
            # The entity tag of a large file is that of its contents, stated by the hub itself.
            self._send(
                302, {"Location": self.server_of.files_url + path, **self._facts(repo.files[file_path], "X-Linked-")}
            )
        else:
            self._send_file(repo.files[file_path])

    def _facts(self, file: File, prefix: str = "") -> dict[str, str]:
        tag = hashlib.sha256(file.head).hexdigest()
        facts = {f"{prefix}ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
        return {**facts, "X-Linked-Size": str(file.size_bytes)} if prefix else facts

    def _send_file(self, file: File) -> None:
        hub, size = self.server_of, file.size_bytes
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        start, end, status, place = 0, size, 200, {}
        if wanted and not hub.ignores_ranges:
            start, end = int(wanted[1]), min(int(wanted[2]) + 1, size)
            status, place = 206, {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
            if hub.truncates_ranges:
                end -= 1
        self.send_response(status)
        for name, value in {**self._facts(file), **place, "Content-Length": str(end - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        while start < end and not hub.stopping.is_set():
            data = file.part(start, min(start + CHUNK_BYTES, end))
            self.wfile.write(data)
            hub.sent_bytes += len(data)
            start += len(data)

    def _send(self, status: int, headers: Mapping[str, str] = {}, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _drip(self) -> None:
        """A byte now and then: too often for a timeout between bytes, too seldom to come to an end."""
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.server_of.stopping.is_set():
            self.wfile.write(b" ")
            time.sleep(0.1)
