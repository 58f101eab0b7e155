"""Engines that are installed, what they stand on, and container runtimes: asked for their version, never imported.

An engine usually lives in an environment of its own. Its start script on PATH names that environment's interpreter in
its first line, and the interpreter says which packages it has.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from hwdetect.facts import TextFact, printable
from hwdetect.host_parts import Software

PACKAGES = (
    *("vllm", "sglang", "sglang-kt", "kt-kernel", "ktransformers", "llama-cpp-python", "tensorrt-llm"),
    *("torch", "transformers", "flashinfer-python", "ray"),
)
"""Engines first, then what decides whether they run."""
SCRIPTS = ("vllm", "sglang", "kt")
"""Start scripts whose first line names the interpreter of an engine's environment."""
PROGRAMS = ("llama-server", "docker", "podman", "nerdctl", "apptainer", "enroot", "nvidia-ctk")
"""Programs that print a version when asked with --version."""
ANSWER_TIMEOUT_S = 5.0
_MAX_OUTPUT = 64 << 10
_VERSION = re.compile(r"\bv?([0-9]+(?:\.[0-9A-Za-z]+)+(?:[-+.][0-9A-Za-z.]+)?)")
_LLAMA_BUILD = re.compile(r"\bversion: ([0-9]+) \(([0-9a-f]+)\)")
_ASK = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except Exception:
        pass
print(json.dumps(found))
"""


class _Interpreter(NamedTuple):
    path: str
    found_by: str


def software(engine_python: str | None = None) -> tuple[Software, ...]:
    """Engines and runtimes, each with the place it was found in. engine_python: a further interpreter to ask.

    Programs that do not answer within `ANSWER_TIMEOUT_S` are listed without a version.
    """
    asked = [_Interpreter(engine_python, "--engine-python")] if engine_python else []
    interpreters = dict.fromkeys(path for path, _ in [*asked, *_interpreters()])
    tasks: list[Callable[[], list[Software]]] = [_own_packages]
    tasks += [lambda path=path: _packages_of(path) for path in interpreters]  # type: ignore[misc]
    tasks += [lambda name=name: _program(name) for name in PROGRAMS]  # type: ignore[misc]
    with ThreadPoolExecutor(len(tasks)) as pool:
        found = [one for part in pool.map(lambda task: task(), tasks) for one in part]
    return tuple(found)


def _own_packages() -> list[Software]:
    found = []
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(_package(name, version, sys.executable))
    return found


def _package(name: str, version: str, interpreter: str) -> Software:
    source = printable(f"importlib.metadata of {interpreter}")
    return Software(name=name, version=TextFact.reported(printable(version), source), place=printable(interpreter))


def _interpreters() -> Iterable[_Interpreter]:
    for name in SCRIPTS:
        script = shutil.which(name)
        interpreter = _shebang(Path(script)) if script else None
        if interpreter and Path(interpreter).resolve() != Path(sys.executable).resolve():
            yield _Interpreter(interpreter, name)


def _shebang(script: Path) -> str | None:
    try:
        with script.open("rb") as file:
            first = file.readline(4096)
    except OSError:
        return None
    words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
    if not words or "python" not in Path(words[0]).name:
        return None
    return words[0]


def _packages_of(interpreter: str) -> list[Software]:
    command = [interpreter, "-I", "-c", _ASK, *PACKAGES]
    output, refused = _output(command)
    try:
        versions = json.loads(output) if not refused else None
    except ValueError:
        versions, refused = None, "its answer is not what was asked for"
    if not isinstance(versions, dict):
        source = printable(f"importlib.metadata of {interpreter}")
        version = TextFact.missing(source, refused or "its answer is not what was asked for")
        return [Software(name="python", version=version, place=printable(interpreter))]
    return [_package(name, str(versions[name]), interpreter) for name in PACKAGES if name in versions]


def _program(name: str) -> list[Software]:
    path = shutil.which(name)
    if path is None:
        return []
    source = f"{name} --version"
    output, refused = _output([path, "--version"])
    found = _LLAMA_BUILD.search(output) or _VERSION.search(output)
    if found is None:
        version = TextFact.missing(source, refused or "printed no version")
    else:
        text = f"b{found[1]}" if found.re is _LLAMA_BUILD else found[1]
        version = TextFact.reported(printable(text), source, printable(output.strip().splitlines()[0]))
    return [Software(name="llama.cpp" if name == "llama-server" else name, version=version, place=printable(path))]


def _output(command: list[str]) -> tuple[str, str]:
    """What a command prints, and why there is nothing. llama-server prints its version on stderr."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=ANSWER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer within {ANSWER_TIMEOUT_S:g} s"
    except (OSError, ValueError) as error:
        return "", printable(getattr(error, "strerror", None) or str(error))
    text = done.stdout[:_MAX_OUTPUT].decode("utf-8", "replace")
    return text, "" if done.returncode == 0 else f"exit status {done.returncode}"
