"""What NVML says of a GPU's health: memory errors, throttling, temperature, its own tables."""

from __future__ import annotations

from hwdetect.accelerators import EccErrors, RemappedRows
from hwdetect.facts import BoolFact, FloatFact, IntFact, TextsFact
from hwdetect.nvml_handle import Handle, NotGiven, not_zero

THROTTLE_BITS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""nvmlClocksEventReasons*, nvml.h."""

# nvmlMemoryErrorType_t, nvmlEccCounterType_t and nvmlPageRetirementCause_t, nvml.h.
_CORRECTED, _UNCORRECTED = 0, 1
_VOLATILE, _AGGREGATE = 0, 1
_RETIREMENT_CAUSES = (0, 1)
# NVML_TEMPERATURE_GPU and NVML_TEMPERATURE_THRESHOLD_SLOWDOWN.
_GPU_SENSOR, _SLOWDOWN = 0, 1
_SLOWEST_STATE = 15


def remapped_rows(handle: Handle) -> RemappedRows:
    """Rows of memory that spare ones replaced."""
    function = "nvmlDeviceGetRemappedRows"
    return RemappedRows(
        correctable=handle.fact(IntFact, function, lambda rows: rows[0]),
        uncorrectable=handle.fact(IntFact, function, lambda rows: rows[1]),
        pending=handle.fact(BoolFact, function, lambda rows: rows[2] != 0),
        failure=handle.fact(BoolFact, function, lambda rows: rows[3] != 0),
    )


def ecc_errors(handle: Handle) -> EccErrors:
    """Counts of memory errors, in all memories of the GPU together."""

    def count(error: int, counter: int) -> IntFact:
        function = "nvmlDeviceGetTotalEccErrors"
        try:
            return IntFact.reported(handle.ask(function, error, counter), function)
        except NotGiven as reason:
            return IntFact.missing(function, str(reason))

    return EccErrors(
        volatile_corrected=count(_CORRECTED, _VOLATILE),
        volatile_uncorrected=count(_UNCORRECTED, _VOLATILE),
        aggregate_corrected=count(_CORRECTED, _AGGREGATE),
        aggregate_uncorrected=count(_UNCORRECTED, _AGGREGATE),
    )


def throttle_reasons(handle: Handle) -> TextsFact:
    """Why the clocks are lower than they could be; drivers before 535 have the call under its old name."""
    reasons = handle.fact(TextsFact, "nvmlDeviceGetCurrentClocksEventReasons", _throttle_names)
    if reasons.reason is not None:
        return handle.fact(TextsFact, "nvmlDeviceGetCurrentClocksThrottleReasons", _throttle_names)
    return reasons


def _throttle_names(bits: int) -> tuple[str, ...]:
    unnamed = bits & ~sum(THROTTLE_BITS)
    names = tuple(name for bit, name in THROTTLE_BITS.items() if bits & bit)
    return (*names, f"unnamed_{unnamed:#x}") if unnamed else names


def performance_state(number: int) -> int:
    """P0 to P15. Raises NotGiven for the number that NVML gives where it does not know (32)."""
    if number > _SLOWEST_STATE:
        raise NotGiven("reported as unknown")
    return number


def retired_pages(handle: Handle) -> IntFact:
    """Pages of memory retired for either cause."""
    function = "nvmlDeviceGetRetiredPages"
    try:
        return IntFact.reported(sum(len(handle.ask(function, cause)) for cause in _RETIREMENT_CAUSES), function)
    except NotGiven as reason:
        return IntFact.missing(function, str(reason))


def temperature(handle: Handle) -> tuple[FloatFact, FloatFact]:
    """Degrees Celsius, and how many are left before the GPU slows itself down."""
    function = "nvmlDeviceGetTemperature"
    try:
        now = FloatFact.reported(float(not_zero(handle.ask(function, _GPU_SENSOR))), function)
    except NotGiven as reason:
        now = FloatFact.missing(function, str(reason))
    return now, _margin(handle, now)


def _margin(handle: Handle, now: FloatFact) -> FloatFact:
    function = "nvmlDeviceGetMarginTemperature"
    try:
        # Past the threshold the margin is negative, and none is left.
        return FloatFact.reported(max(0.0, float(handle.ask(function))), function)
    except NotGiven as reason:
        refused = str(reason)
    try:
        limit = not_zero(handle.ask("nvmlDeviceGetTemperatureThreshold", _SLOWDOWN))
    except NotGiven:
        return FloatFact.missing(function, refused)
    if now.value is None:
        return FloatFact.missing(function, refused)
    source = "nvmlDeviceGetTemperatureThreshold - nvmlDeviceGetTemperature"
    return FloatFact.reported(max(0.0, limit - now.value), source)


def inforom_valid(handle: Handle) -> BoolFact:
    """Whether the table of settings on the card has the checksum it should have."""
    function = "nvmlDeviceValidateInforom"
    try:
        handle.ask(function)
    except NotGiven as reason:
        if getattr(reason.__cause__, "value", None) == handle.nvml.NVML_ERROR_CORRUPTED_INFOROM:
            return BoolFact.reported(False, function)
        return BoolFact.missing(function, str(reason))
    return BoolFact.reported(True, function)


def compute_processes(handle: Handle) -> IntFact:
    """Processes of others that compute on the GPU now."""
    return handle.fact(IntFact, "nvmlDeviceGetComputeRunningProcesses", len)
