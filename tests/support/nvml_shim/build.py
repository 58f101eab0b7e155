"""Builds the NVML shim with gcc against the header of the PyPI package nvidia-nvml-dev-cu12."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import files
from pathlib import Path

from tests.support.nvml_shim.scenario import load

HERE = Path(__file__).parent


def header_folder() -> Path:
    """The folder with nvml.h. Raises PackageNotFoundError where the package is not installed."""
    header = next(path for path in files("nvidia-nvml-dev-cu12") or () if path.name == "nvml.h")
    return Path(str(header.locate())).parent


def build_shim(folder: Path, old_driver: bool = False) -> Path:
    """Compile libnvidia-ml.so.1 into `folder` (about half a second) and return it.

    old_driver: without the functions that drivers of the 470 series lack. Raises CalledProcessError with the
    compiler's words in `stderr`.
    """
    library = folder / "libnvidia-ml.so.1"
    command = ["gcc", "-shared", "-fPIC", "-O0", "-Wall", "-Wextra", "-Werror"]
    command += [f"-I{header_folder()}", "-Wl,-soname,libnvidia-ml.so.1", "-o", str(library)]
    command += ["-DOLD_DRIVER"] if old_driver else []
    subprocess.run([*command, str(HERE / "nvml_shim.c")], check=True, capture_output=True, text=True)
    return library


def shim_environment(library: Path, scenario: str | None = None, **variables: str) -> dict[str, str]:
    """The environment in which the linker finds the shim, and the shim the scenario of this name.

    The variables that choose GPUs are taken out first, so that a test says all that it means.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")
    }
    if scenario is not None:
        inherited["NVML_SHIM_SCENARIO"] = str(load(scenario).write(library.parent))
    return {**inherited, "LD_LIBRARY_PATH": str(library.parent), **variables}
