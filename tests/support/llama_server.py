"""What a real llama-server prints while it starts, from the wheel `xllamacpp`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

TIMEOUT_S = 60
_START = """
import os, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.warmup = sys.argv[1], int(sys.argv[2]), False
params.cpuparams.n_threads = 1
# The level that `-lv` sets: from 4 on the library's own lines are printed.
params.verbosity = 4
for argument in sys.argv[3:]:
    name, _, value = argument.partition("=")
    setattr(params, name, type(getattr(params, name))(int(value)))
server = xllamacpp.Server(params)
sys.stderr.flush()
if os.environ.get("SERVE_UNTIL_CLOSED"):
    sys.stdin.read()
os._exit(0)
"""


@contextmanager
def running(path: Path, **parameters: int) -> Iterator[str]:
    """The address of a server of `path` that is ready, on the loopback; `parameters` by llama.cpp's own names."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", _START, str(path), str(port), *(f"{k}={v}" for k, v in parameters.items())]
    environment = {**os.environ, "SERVE_UNTIL_CLOSED": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as server:
        try:
            _wait(server, url)
            yield url
        finally:
            assert server.stdin is not None
            server.stdin.close()
            try:
                server.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        with suppress(OSError), urlopen(f"{url}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.05)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def server_log(path: Path, **parameters: int) -> bytes:
    """Stderr of a server of `path` until it listens, on the loopback; `parameters` by llama.cpp's own names."""
    port = free_port()
    command = [sys.executable, "-c", _START, str(path), str(port), *(f"{k}={v}" for k, v in parameters.items())]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace")[-2000:])
    return done.stderr
