"""What a real llama-server prints while it starts, from the wheel `xllamacpp`."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

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
os._exit(0)
"""


def server_log(path: Path, **parameters: int) -> bytes:
    """Stderr of a server of `path` until it listens, on the loopback; `parameters` by llama.cpp's own names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", _START, str(path), str(port), *(f"{k}={v}" for k, v in parameters.items())]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace")[-2000:])
    return done.stderr
