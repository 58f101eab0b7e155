"""Workers beside the real ones, each with a fault of its own, and small settings."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hwdetect.bench.worker as worker
from hwdetect.bench.case import KernelCase, kernel_case
from hwdetect.bench.providers import PROVIDERS, Provider
from hwdetect.bench.suite import Settings

SMALL = Settings(pythons=(sys.executable,), seconds=0.0, cache_bytes=1 << 20, memory_bytes=256 << 20)
WORKING = """
from .serve import CannotRun, Provider
from .timing import Prepared
def build(kernel, quantization, dims, options):
    return lambda batch, context: Prepared(lambda: lambda: sum(range(1000 * batch)), lambda: {error}, 0.5)
PROVIDER = Provider(lambda options: "1", build, lambda: "a device")
"""
FAULTS = {
    "works": WORKING.format(error="0.0"),
    "wrong": WORKING.format(error="0.7"),
    "not_a_number": WORKING.format(error="float('nan')"),
    "raises": WORKING.format(error="1 / 0"),
    "crashes": WORKING.format(error="__import__('os').abort()"),
    "killed": WORKING.format(error="__import__('os').kill(__import__('os').getpid(), 9)"),
    "exits": WORKING.format(error="__import__('os')._exit(3)"),
    "hangs": WORKING.format(error="__import__('time').sleep(1000)"),
    "chatters": WORKING.format(error="print('noise on stdout') or 0.0"),
    "answers_nonsense": "import os\nos.write(1, b'[]\\n')\nimport time\ntime.sleep(1000)\n",
    "greedy": WORKING.format(error="limited()")
    + """
import resource
import numpy
def limited():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return float(numpy.ones(1 << 28)[0])
""",
    "full_gpu": WORKING.format(error="full()")
    + """
class OutOfMemoryError(RuntimeError):
    pass
def full():
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\\nGPU 0 has 79 GiB.")
""",
    "no_compiler": WORKING.format(error="compile_()")
    + """
def compile_():
    raise RuntimeError("Failed to find C compiler.\\nPlease specify via CC environment variable.")
""",
    "other_gpu": WORKING.format(error="launch()")
    + """
def launch():
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\\nCompile with TORCH")
""",
    "absent": "import a_module_that_nobody_has\n",
}


@pytest.fixture
def small() -> Settings:
    """Settings with which a case takes a moment."""
    return SMALL


@pytest.fixture
def case() -> KernelCase:
    """A case that every worker of FAULTS would run."""
    return kernel_case("memory_read", "bf16", bytes=1 << 20)


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Makes the named workers the providers of ``memory_read``, in that order."""
    folder = tmp_path / "workers"
    shutil.copytree(worker.WORKERS.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FAULTS.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(worker, "WORKERS", folder / "__main__.py")

    def use(*names: str) -> None:
        monkeypatch.setitem(PROVIDERS, "memory_read", tuple(Provider(name, "cpu") for name in names))

    return use
