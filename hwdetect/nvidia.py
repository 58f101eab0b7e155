"""The one door to NVML, the NVIDIA management library.

Only here is nvidia-ml-py imported, and only when asked. Starting NVML can fail in ways that call for
different repairs, and `GpuStatus` keeps them apart; after that, one bad GPU does not end the scan.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeVar

from hwdetect.facts import BoolFact, Fact, IntFact, TextFact, known, printable
from hwdetect.host_system import nvidia_on_bus
from hwdetect.inventory import Gpu, GpuStatus, GpuStatusCode, MigDevice
from hwdetect.nvidia_device import read_gpu
from hwdetect.nvidia_health import throttle_reasons
from hwdetect.nvml_handle import Handle, NotGiven
from hwdetect.visible_devices import Device, Visibility, visibility

# WSL2 keeps the driver's libraries here, and a container may lack the linker's entry for it.
WSL_LIBRARY = "/usr/lib/wsl/lib/libnvidia-ml.so.1"

F = TypeVar("F", bound=Fact[Any])


class Scan(NamedTuple):
    """All that NVML says of one machine."""

    status: GpuStatus
    gpus: tuple[Gpu, ...] = ()
    driver_version: TextFact | None = None
    cuda_driver_version: TextFact | None = None


def scan(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Scan:
    """Every NVIDIA GPU of this machine, or why there is none.

    root: the directory that stands for "/" when sysfs and /proc are read. environment: where
    CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are looked up.
    """
    try:
        nvml = _binding()
        _start(nvml)
    except _Unavailable as failure:
        return Scan(GpuStatus(code=failure.code, detail=printable(failure.detail + _present(root))))
    try:
        return _scan(nvml, root, environment)
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


class ClockState(NamedTuple):
    """What a GPU says of its speed at a moment; None and empty where it says nothing."""

    sm_mhz: int | None
    throttle: tuple[str, ...]


@contextlib.contextmanager
def clocks(index: int = 0) -> Iterator[Callable[[], ClockState] | None]:
    """Yields what reads the clock of a GPU and why it is held back, as often as asked; None where NVML is absent."""
    try:
        nvml = _binding()
        _start(nvml)
    except _Unavailable:
        yield None
        return
    try:
        handle = Handle(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
    except nvml.NVMLError:
        nvml.nvmlShutdown()
        yield None
        return

    def read() -> ClockState:
        try:
            clock: int | None = handle.ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
        except NotGiven:
            clock = None
        return ClockState(clock, known(throttle_reasons(handle)) or ())

    try:
        yield read
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


class _Unavailable(Exception):
    def __init__(self, code: GpuStatusCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def _binding() -> ModuleType:
    try:
        import pynvml
    except ImportError as error:
        raise _Unavailable("error", f"the Python package nvidia-ml-py cannot be imported: {error}") from error
    # The deprecated package "pynvml" up to 11 is a folder of that name and hides nvidia-ml-py's single file.
    if Path(pynvml.__file__ or "").name != "pynvml.py":
        raise _Unavailable("error", "the deprecated Python package pynvml hides nvidia-ml-py: uninstall pynvml")
    binding: ModuleType = pynvml
    return binding


def _start(nvml: ModuleType) -> None:
    """Load the library and initialise it. Raises _Unavailable with the class of the failure."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            _start_after_loading(nvml)
            return
        raise _refused(nvml, error.value, str(error)) from error


def _start_after_loading(nvml: ModuleType) -> None:
    """The binding gives one error for a library that is absent and one that is broken; the linker tells."""
    try:
        # Once loaded from its path, the library is found by its name.
        ctypes.CDLL(WSL_LIBRARY if Path(WSL_LIBRARY).exists() else "libnvidia-ml.so.1")
    except OSError as error:
        absent = "No such file" in str(error)
        raise _Unavailable("no_library" if absent else "error", f"NVML: {error}") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise _refused(nvml, error.value, str(error)) from error


def _refused(nvml: ModuleType, code: int, text: str) -> _Unavailable:
    codes: dict[int, GpuStatusCode] = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no_library",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "driver_not_loaded",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "version_mismatch",
        nvml.NVML_ERROR_NO_PERMISSION: "no_permission",
    }
    return _Unavailable(codes.get(code, "error"), f"nvmlInit: {text}")


def _present(root: Path) -> str:
    """Whether the bus shows NVIDIA GPUs all the same: a missing driver is not a missing card."""
    count = known(nvidia_on_bus(root))
    return f"; {count} NVIDIA GPU(s) on the PCI bus" if count else ""


def _scan(nvml: ModuleType, root: Path, environment: Mapping[str, str]) -> Scan:
    driver = _system_fact(TextFact, "nvmlSystemGetDriverVersion", lambda: nvml.nvmlSystemGetDriverVersion())
    cuda = _system_fact(TextFact, "nvmlSystemGetCudaDriverVersion", lambda: _cuda_version(nvml))
    count = _system_fact(IntFact, "nvmlDeviceGetCount_v2", nvml.nvmlDeviceGetCount)
    if count.value is None:
        return Scan(GpuStatus(code="error", detail=f"{count.source}: {count.reason}"), (), driver, cuda)
    gpus: list[Gpu] = []
    refusals: set[int] = set()
    for index in range(count.value):
        try:
            handle = Handle(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
        except nvml.NVMLError as error:
            refusals.add(error.value)
            gone = (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED)
            status: Literal["lost", "error"] = "lost" if error.value in gone else "error"
            gpus.append(_unread_gpu(index, status, f"nvmlDeviceGetHandleByIndex_v2: {error}"))
            continue
        try:
            gpus.append(read_gpu(handle, index, root))
        except Exception as error:  # an answer nobody foresaw costs one GPU, not all of them
            gpus.append(_unread_gpu(index, "error", f"{type(error).__name__}: {error}"))
    denied = refusals == {nvml.NVML_ERROR_NO_PERMISSION}
    return Scan(_status(gpus, denied), _with_visibility(gpus, environment), driver, cuda)


def _system_fact(kind: type[F], source: str, ask: Callable[[], Any]) -> F:
    try:
        return kind.reported(ask(), source)
    except Exception as error:  # whatever an unknown driver does, the scan goes on
        return kind.missing(source, printable(str(error)))


def _cuda_version(nvml: ModuleType) -> str:
    try:
        number = nvml.nvmlSystemGetCudaDriverVersion_v2()
    except nvml.NVMLError_FunctionNotFound:
        number = nvml.nvmlSystemGetCudaDriverVersion()
    return f"{number // 1000}.{number % 1000 // 10}"


def _unread_gpu(index: int, status: Literal["lost", "error"], detail: str) -> Gpu:
    return Gpu(index=index, vendor="nvidia", status=status, status_detail=printable(detail))


def _status(gpus: Sequence[Gpu], denied: bool) -> GpuStatus:
    """denied: whether lack of permission is the only reason for which GPUs could not be opened."""
    if not gpus:
        return GpuStatus(code="no_devices", detail="NVML runs and counts no GPU")
    bad = [gpu for gpu in gpus if gpu.status != "ok"]
    if denied and len(bad) == len(gpus):
        return GpuStatus(code="no_permission", detail=bad[0].status_detail or "")
    detail = f"{len(gpus)} GPU(s)" + (f", {len(bad)} of them not usable" if bad else "")
    return GpuStatus(code="ok", detail=detail)


def _with_visibility(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    variable = environment.get("CUDA_VISIBLE_DEVICES")
    devices = [Device(known(gpu.uuid) or "", tuple(_mig_names(gpu, each) for each in gpu.mig_devices)) for gpu in gpus]
    answers = visibility(variable, devices, _ordinals_are_nvml(gpus, environment))
    return tuple(_see(gpu, answer, variable) for gpu, answer in zip(gpus, answers, strict=True))


def _ordinals_are_nvml(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> bool:
    """CUDA counts fastest first unless told otherwise, skips GPUs that do not answer, counts MIG apart."""
    if any(gpu.status != "ok" or known(gpu.mig) for gpu in gpus):
        return False
    return environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({known(gpu.name) for gpu in gpus}) == 1


def _mig_names(gpu: Gpu, device: MigDevice) -> frozenset[str]:
    """Drivers up to 450 named a MIG device by its GPU and instances, and CUDA still takes that."""
    instances = known(device.gpu_instance_id), known(device.compute_instance_id)
    names = {known(device.uuid), f"MIG-{known(gpu.uuid)}/{instances[0]}/{instances[1]}"}
    return frozenset(name for name in names if name and "None" not in name)


def _see(gpu: Gpu, answer: Visibility, variable: str | None) -> Gpu:
    migs = tuple(
        device.model_copy(update={"visible": _visible(seen, variable)})
        for device, seen in zip(gpu.mig_devices, answer.mig, strict=True)
    )
    return gpu.model_copy(update={"visible": _visible(answer.gpu, variable), "mig_devices": migs})


def _visible(seen: bool | None, variable: str | None) -> BoolFact:
    source = "CUDA_VISIBLE_DEVICES"
    if variable is None:
        return BoolFact.reported(True, f"{source} is not set")
    if seen is None:
        return BoolFact.missing(source, "only CUDA knows which device its numbers mean here", printable(variable))
    return BoolFact.reported(seen, source, printable(variable))
