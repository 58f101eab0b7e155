"""A small HTTP client for one server: bounded in time and bytes, follows no redirect, keeps no key.

Only the address given is ever asked. The key, if any, is a header of the request and is in no message and no result.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

MAX_BODY_BYTES: Final = 8 << 20
MAX_LINE_BYTES: Final = 1 << 20
CONNECT_S: Final = 10.0
READ_BYTES: Final = 1 << 16


class BadAddress(ValueError):
    """No address of an HTTP server; one line."""


class Unreachable(OSError):
    """Nothing answers at the address; one line."""


class Broken(RuntimeError):
    """An answer that is none: wrong status, no HTTP, too long, too late, cut off. ``kind`` names which.

    ``status`` is the HTTP status where there was one.
    """

    def __init__(self, kind: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


class Server(NamedTuple):
    """An address, parsed: ``path`` is what stands before ``/v1``."""

    scheme: str
    host: str
    port: int
    path: str
    key: str | None

    @property
    def url(self) -> str:
        """The address without anything secret."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{name}:{self.port}{self.path}"

    def __repr__(self) -> str:
        # A key in a traceback would be a key in a log.
        return f"Server({self.url!r})"


def server_at(url: str, key: str | None = None) -> Server:
    """The server of ``http://host:port``, with or without ``/v1``. Raises ``BadAddress``."""
    try:
        parts: SplitResult = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise BadAddress("not an address; write http://127.0.0.1:8000") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadAddress("not an address; write http://127.0.0.1:8000")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise BadAddress("an address has no user, password or query; a key goes to the environment")
    if key is not None and (not key.isascii() or not key.isprintable() or not key):
        raise BadAddress("the key in the environment has characters that no header takes")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    if any(character <= " " or character == "\x7f" for character in path + parts.hostname):
        raise BadAddress("not an address; write http://127.0.0.1:8000")
    return Server(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), path, key)


def get_text(server: Server, path: str, timeout_s: float) -> str:
    """Body of a GET as text. Raises ``Unreachable`` and ``Broken``."""
    with _asked(server, "GET", path, None, timeout_s) as response:
        return _whole(response).decode("utf-8", "replace")


def get_json(server: Server, path: str, timeout_s: float) -> Any:  # noqa: ANN401
    """Body of a GET as JSON. Raises ``Unreachable`` and ``Broken``."""
    return _json(get_text(server, path, timeout_s))


def post_json(server: Server, path: str, body: dict[str, Any], timeout_s: float) -> Any:  # noqa: ANN401
    """Answer to a POST as JSON. Raises ``Unreachable`` and ``Broken``."""
    with _asked(server, "POST", path, body, timeout_s) as response:
        return _json(_whole(response).decode("utf-8", "replace"))


def post_events(server: Server, path: str, body: dict[str, Any], timeout_s: float) -> Generator[str, None, None]:
    """Data of the server-sent events of a POST, as they come. Raises ``Unreachable`` and ``Broken``."""
    with _asked(server, "POST", path, body, timeout_s) as response:
        kind = response.headers.get_content_type()
        if kind != "text/event-stream":
            raise Broken("not a stream", f"the answer is {kind[:60]}, not a stream of events")
        read, pending = 0, b""
        while chunk := response.read1(READ_BYTES):
            read += len(chunk)
            pending += chunk
            if read > MAX_BODY_BYTES or len(pending) > MAX_LINE_BYTES:
                raise Broken("endless", f"the stream is longer than {MAX_BODY_BYTES >> 20} MiB")
            *lines, pending = pending.split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip().decode("utf-8", "replace")


@contextmanager
def _asked(
    server: Server, method: str, path: str, body: dict[str, Any] | None, timeout_s: float
) -> Iterator[http.client.HTTPResponse]:
    """The response to a request; every failure becomes one of two errors, and the time is bounded as a whole."""
    started = time.monotonic()
    connection = _connected(server, min(CONNECT_S, timeout_s))
    ended = threading.Event()

    sock = connection.sock

    def end() -> None:
        ended.set()
        # Wakes whoever waits in a read; a timeout of the socket begins anew with every byte.
        with _quiet():
            sock.shutdown(socket.SHUT_RDWR)

    watch = threading.Timer(max(0.01, timeout_s - (time.monotonic() - started)), end)
    watch.daemon = True
    watch.start()
    try:
        headers = {"Accept": "application/json, text/event-stream, text/plain", "Connection": "close"}
        if server.key is not None:
            headers["Authorization"] = f"Bearer {server.key}"
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        connection.request(method, f"{server.path}{path}", data, headers)
        response = connection.getresponse()
        if not 200 <= response.status < 300:
            raise _refused(response)
        yield response
        if ended.is_set():
            raise Broken("too late", f"no complete answer within {timeout_s:.0f} s")
    except (http.client.HTTPException, OSError, ValueError) as error:
        if ended.is_set():
            raise Broken("too late", f"no complete answer within {timeout_s:.0f} s") from None
        raise Broken("cut off", f"the connection broke: {_plain(error)}") from None
    finally:
        watch.cancel()
        connection.close()


@contextmanager
def _quiet() -> Iterator[None]:
    try:
        yield
    except OSError:
        return


def _connected(server: Server, timeout_s: float) -> http.client.HTTPConnection:
    connection: http.client.HTTPConnection
    if server.scheme == "https":
        connection = http.client.HTTPSConnection(server.host, server.port, timeout=timeout_s)
    else:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=timeout_s)
    try:
        connection.connect()
    except ssl.SSLError as error:
        raise Unreachable(f"{server.url}: no trusted TLS: {_plain(error)}") from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{server.url}: {_plain(error)}") from None
    connection.sock.settimeout(None)
    return connection


def _refused(response: http.client.HTTPResponse) -> Broken:
    status = response.status
    if 300 <= status < 400:
        return Broken("redirect", f"HTTP {status}: it points elsewhere, which is not followed", status)
    said = _message(response.read(4096).decode("utf-8", "replace"))
    return Broken(f"HTTP {status}", f"HTTP {status}{': ' + said if said else ''}", status)


def _message(text: str) -> str:
    """What an error's body says, on one short line."""
    try:
        value: Any = json.loads(text)
        error = value.get("error", value) if isinstance(value, dict) else value
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, RecursionError):
        pass
    return " ".join(text.split())[:160]


def _whole(response: http.client.HTTPResponse) -> bytes:
    data = response.read(MAX_BODY_BYTES + 1)
    if len(data) > MAX_BODY_BYTES:
        raise Broken("endless", f"the answer is longer than {MAX_BODY_BYTES >> 20} MiB")
    return data


def _json(text: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Broken("wrong JSON", "the answer is not JSON") from None


def _plain(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:120]
