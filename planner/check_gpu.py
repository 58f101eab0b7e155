"""Health of a node's accelerators: is the driver there, and does each GPU say that it is well?"""

from __future__ import annotations

from typing import Final

from hwdetect.accelerators import THROTTLE_FAULTS, Gpu
from hwdetect.facts import known
from hwdetect.inventory import Node
from planner.findings import NOT_SUPPORTED, Findings, Status, gib
from profiles.gpus import match_reported
from profiles.health import Thresholds

OK: Final[tuple[Status, str]] = ("pass", "")
AMPERE: Final = 8
"""Major compute capability."""


def check_driver(found: Findings, node: Node, *, needed: bool | None) -> None:
    """Whether GPUs answer at all. needed: whether a plan needs any; None without a plan."""
    status, expected = node.gpu_status, "a driver that answers, and GPUs"
    on_bus = known(node.bus_gpus)
    driver = known(node.driver_version)
    actual = status.detail + (f", driver {driver}" if driver else "")
    outcome: dict[str, tuple[Status, str]] = {
        "ok": OK,
        "driver_not_loaded": ("fail", "load the kernel module (modprobe nvidia); if that fails, install the driver"),
        "version_mismatch": ("fail", "restart the node: library and kernel module are of different driver versions"),
        "no_permission": ("not_run", "run as the user that will serve, and give the container its GPU devices"),
        "no_devices": ("fail", "give the container its GPUs; on a host look for them with lspci and in the kernel log"),
        "error": ("not_run", "run nvidia-smi and read what it says"),
    }
    if status.code == "no_library":
        if on_bus:
            verdict: tuple[Status, str] = ("fail", "install NVIDIA's driver: the GPUs are there, the library is not")
        elif needed:
            verdict = ("fail", "run this on the machine of the plan, or give the container its GPUs")
        else:
            verdict = ("not_run", "nothing to do on a machine without GPUs; give a plan that needs none to check it")
    else:
        verdict = outcome[status.code]
    if needed is False and verdict[0] != "pass":
        return
    evidence = "NVML" if node.bus_gpus is None else f"NVML; {node.bus_gpus.source}: {_shown(on_bus)} NVIDIA GPUs"
    found.add("gpu_driver", verdict[0], "node", expected=expected, actual=actual, evidence=evidence, action=verdict[1])


def _shown(count: int | None) -> str:
    return "unknown" if count is None else str(count)


def check_gpus(found: Findings, node: Node, thresholds: Thresholds, *, planned: bool, whole: bool) -> None:
    """The health of every GPU. planned: whether a plan says what memory must be free; whole: and wants whole GPUs."""
    _on_bus(found, node)
    for gpu in node.gpus:
        if not _reachable(found, gpu):
            continue
        _kind(found, gpu)
        _visible(found, gpu)
        if gpu.vendor != "nvidia":
            _unread_vendor(found, gpu)
            continue
        _memory_health(found, gpu, thresholds)
        _clocks(found, gpu, thresholds)
        _modes(found, gpu, whole=whole)
        if not planned:
            _others(found, gpu, thresholds)
    _alike(found, node)


def _on_bus(found: Findings, node: Node) -> None:
    """A card that the driver does not see at all. In a container the bus shows those of others too."""
    on_bus, counted = known(node.bus_gpus), sum(gpu.vendor == "nvidia" for gpu in node.gpus)
    inside = known(node.container) != "none" or "NVIDIA_VISIBLE_DEVICES" in node.environment
    if node.bus_gpus is None or not on_bus or inside:
        return
    found.add(
        "gpu_on_bus", "pass" if counted >= on_bus else "warn", "node", expected="every GPU of the bus has its driver",
        actual=f"{counted} of {on_bus}", evidence=node.bus_gpus.source,
        action="look for the missing one in the kernel's log, unless it was given to a virtual machine", required=False,
    )  # fmt: skip


def _reachable(found: Findings, gpu: Gpu) -> bool:
    expected = "the GPU answers"
    if gpu.status == "ok":
        found.add("gpu_reachable", "pass", gpu.index, expected=expected, actual="answers", evidence="NVML")
        return True
    detail = gpu.status_detail or gpu.status
    if gpu.status == "lost":
        action = (
            "drain the node, reset the GPU or restart; if it is lost again, check power and seating, then replace it"
        )
        found.add("gpu_reachable", "fail", gpu.index, expected=expected, actual=detail, evidence="NVML", action=action)
    else:
        action = "run nvidia-smi for this GPU as the user that will serve"
        found.add(
            "gpu_reachable", "not_run", gpu.index, expected=expected, actual=f"not known: {detail}", action=action
        )
    return False


def _kind(found: Findings, gpu: Gpu) -> None:
    expected = "a name and a total that the hardware table knows"
    name, total = known(gpu.name), known(gpu.memory.total_bytes) if gpu.memory else None
    if name is None:
        found.unread("gpu_kind", gpu.index, gpu.name, expected=expected, required=False)
        return
    key = gpu.key or match_reported(name, total >> 20 if total else None)
    actual = f"{name}, {gib(total)}" if total else f"{name}, total unknown"
    if total is None and gpu.kind != "unified":
        found.unread(
            "gpu_kind", gpu.index, gpu.memory.total_bytes if gpu.memory else None, expected=expected, excused=False
        )
    elif key is None:
        action = "describe the GPU to the planner with --gpu; its speed and memory are not in the table"
        found.add("gpu_kind", "warn", gpu.index, expected=expected, actual=actual, evidence="NVML", action=action)
    else:
        found.add("gpu_kind", "pass", gpu.index, expected=expected, actual=f"{actual}: {key}", evidence="NVML")


def _visible(found: Findings, gpu: Gpu) -> None:
    if gpu.visible is None:
        return
    found.judge(
        "gpu_visible",
        gpu.index,
        gpu.visible,
        lambda seen: OK if seen else ("warn", "unset or correct CUDA_VISIBLE_DEVICES if the engine shall use this GPU"),
        expected="visible to CUDA",
        show=lambda seen: "visible" if seen else "hidden",
        required=False,
    )


def _unread_vendor(found: Findings, gpu: Gpu) -> None:
    found.add(
        "gpu_health",
        "not_run",
        gpu.index,
        expected="memory, clocks and links are healthy",
        actual=f"not known: health of {gpu.vendor or 'unknown'} GPUs is not read",
        action="use the vendor's own tool (rocm-smi, amd-smi)",
        required=False,
    )


def _memory_health(found: Findings, gpu: Gpu, thresholds: Thresholds) -> None:
    found.judge(
        "gpu_ecc",
        gpu.index,
        gpu.ecc,
        lambda on: OK if on else ("warn", "turn it on (nvidia-smi --ecc-config=1) and reset the GPU"),
        expected="on",
        show=lambda on: "on" if on else "off: memory errors go unnoticed",
        required=False,
    )
    pending = known(gpu.ecc_pending)
    if pending is not None and known(gpu.ecc) is not None and pending != known(gpu.ecc):
        found.add(
            "gpu_ecc_pending", "warn", gpu.index, expected="no change waits for a reset",
            actual=f"{'on' if pending else 'off'} after the next reset", evidence="nvmlDeviceGetEccMode",
            action="reset the GPU, or take the change back",
        )  # fmt: skip
    _ecc_errors(found, gpu, thresholds)
    _repair(found, gpu)
    found.judge(
        "gpu_inforom",
        gpu.index,
        gpu.inforom_valid,
        lambda valid: OK if valid else ("fail", "reset the GPU; if the table is still corrupt, replace it"),
        expected="the card's own table is sound",
        show=lambda valid: "sound" if valid else "corrupt",
        required=False,
    )


def _ecc_errors(found: Findings, gpu: Gpu, thresholds: Thresholds) -> None:
    errors, code, expected = gpu.ecc_errors, "gpu_ecc_errors", "no uncorrectable error"
    fact = errors.volatile_uncorrected if errors else None
    if errors is None or fact is None or fact.value is None:
        found.unread(code, gpu.index, fact, expected=expected)
        return
    ever, corrected = known(errors.aggregate_uncorrected), known(errors.volatile_corrected)
    many = thresholds.limit("ecc_corrected_errors")
    if fact.value:
        verdict: tuple[Status, str] = "fail", "drain the node and reset the GPU; if they come back, replace it"
        actual = f"{fact.value} since the driver was loaded"
    elif ever:
        verdict, actual = ("warn", "watch this GPU: it had them before"), f"{ever} over its life, none since loading"
    elif corrected is not None and corrected > many.value:
        verdict = ("warn", "watch this GPU, and replace it if the count goes on rising")
        actual = f"{corrected:,} corrected"
    else:
        verdict, actual = OK, "none"
    found.add(code, verdict[0], gpu.index, expected=expected, actual=actual, evidence=fact.source, action=verdict[1])


def _repair(found: Findings, gpu: Gpu) -> None:
    """Spare rows on newer cards, retired pages on older ones; a card has one of the two."""
    rows, pages = gpu.remapped_rows, gpu.retired_pages_pending
    pending, failure = (rows.pending, rows.failure) if rows else (None, None)
    if known(failure) is None and known(pending) is None and known(pages) is not None:
        found.judge(
            "gpu_retired_pages",
            gpu.index,
            pages,
            lambda waits: ("fail", "reset the GPU or restart the node: a bad page is still in use") if waits else OK,
            expected="none waits for a restart",
            show=lambda waits: "one waits" if waits else "none waits",
        )
        return
    code, expected = "gpu_row_remap", "no row waits for a reset, none failed"
    if known(failure):
        action = "replace the GPU: it has no spare row for a bad one"
        actual, evidence = "a remapping failed", failure.source if failure else ""
        found.add(code, "fail", gpu.index, expected=expected, actual=actual, evidence=evidence, action=action)
    elif known(pending):
        action = "drain the node and reset the GPU (nvidia-smi --gpu-reset): the spare row is used from then on"
        actual, evidence = "a row waits for a reset", pending.source if pending else ""
        found.add(code, "fail", gpu.index, expected=expected, actual=actual, evidence=evidence, action=action)
    elif known(failure) is None or known(pending) is None:
        # Cards with ECC remap rows from Ampere on; there, "not supported" is no answer.
        excused = not known(gpu.ecc) or major_capability(gpu) < AMPERE
        unread = failure if known(failure) is None else pending
        found.unread(code, gpu.index, unread, expected=expected, excused=excused)
    else:
        found.add(code, "pass", gpu.index, expected=expected, actual="none", evidence=failure.source if failure else "")


def major_capability(gpu: Gpu) -> int:
    """The first number of the compute capability; 0 where it is not known."""
    text = (known(gpu.compute_capability) or "").partition(".")[0]
    return int(text) if text.isascii() and text.isdigit() else 0


def _clocks(found: Findings, gpu: Gpu, thresholds: Thresholds) -> None:
    found.judge(
        "gpu_throttle", gpu.index, gpu.throttle_reasons, _throttle_verdict,
        expected="clocks not held back by a fault",
        show=lambda reasons: ", ".join(reasons) or "none",
    )  # fmt: skip
    margin = thresholds.limit("temperature_margin_c")
    found.judge(
        "gpu_temperature",
        gpu.index,
        gpu.temperature_margin_c,
        lambda left: OK if left > margin.value else ("warn", "check fans, airflow and what the GPU is doing"),
        expected=f"more than {margin.value:g} degrees below slowdown",
        # Single degrees come and go; the same GPU at work shall not be another finding each time.
        show=lambda left: "cool enough" if left > margin.value else f"{left:g} degrees left",
        required=False,
    )
    _power(found, gpu, thresholds)


def _throttle_verdict(reasons: tuple[str, ...]) -> tuple[Status, str]:
    if THROTTLE_FAULTS & set(reasons):
        return "fail", "check cooling and power supply of the node (nvidia-smi -q -d PERFORMANCE)"
    if "sw_thermal_slowdown" in reasons or any(reason.startswith("unnamed_") for reason in reasons):
        return "warn", "check cooling; run nvidia-smi -q -d PERFORMANCE for what holds the clocks back"
    return OK


def _power(found: Findings, gpu: Gpu, thresholds: Thresholds) -> None:
    limit, default = gpu.power_limit_w, gpu.default_power_limit_w
    code, expected = "gpu_power_limit", "not below the card's default"
    if limit is None or limit.value is None or default is None or default.value is None:
        missing = limit if limit is None or limit.value is None else default
        found.unread(code, gpu.index, missing, expected=expected, required=False)
        return
    capped = limit.value < thresholds.limit("power_limit_fraction").value * default.value
    action = f"raise it (nvidia-smi --power-limit={default.value:.0f}), or expect less speed than planned"
    actual = f"{limit.value:.0f} W of {default.value:.0f} W"
    found.add(
        code, "warn" if capped else "pass", gpu.index, expected=expected, actual=actual, evidence=limit.source,
        action=action,
    )  # fmt: skip


def _modes(found: Findings, gpu: Gpu, *, whole: bool) -> None:
    found.judge(
        "gpu_persistence",
        gpu.index,
        gpu.persistence,
        lambda on: OK if on else ("warn", "start nvidia-persistenced: without it each start waits for the driver"),
        expected="on",
        show=lambda on: "on" if on else "off",
        required=False,
    )
    exclusive = ("warn", "set it back (nvidia-smi --compute-mode=0) unless one process per GPU is meant")
    outcome: dict[str, tuple[Status, str]] = {
        "default": OK,
        "exclusive_process": ("warn", exclusive[1]),
        "exclusive_thread": ("warn", exclusive[1]),
        "prohibited": ("fail", "set it back (nvidia-smi --compute-mode=0): no program may compute on this GPU"),
    }
    found.judge(
        "gpu_compute_mode",
        gpu.index,
        gpu.compute_mode,
        lambda mode: outcome.get(mode, ("warn", exclusive[1])),
        expected="default",
    )
    _mig(found, gpu, whole=whole)
    mode = known(gpu.vgpu_mode)
    if mode in ("vgpu", "host_vgpu", "host_vsga"):
        found.add(
            "gpu_vgpu", "warn", gpu.index, expected="a whole GPU", actual=mode or "",
            evidence=gpu.vgpu_mode.source if gpu.vgpu_mode else "",
            action="a part of a GPU is shared with others and licensed: use a whole one, or measure before you promise",
        )  # fmt: skip


def _mig(found: Findings, gpu: Gpu, *, whole: bool) -> None:
    if gpu.mig is None or (gpu.mig.value is None and gpu.mig.reason in NOT_SUPPORTED):
        return
    action = "turn it off (nvidia-smi --multi-instance-gpu=0) and reset the GPU, or plan on its parts"
    count = len(gpu.mig_devices)
    found.judge(
        "gpu_mig",
        gpu.index,
        gpu.mig,
        lambda on: ("fail" if whole else "warn", action) if on else OK,
        expected="not split",
        show=lambda on: f"split into {count} MIG devices" if on else "not split",
    )


def _others(found: Findings, gpu: Gpu, thresholds: Thresholds) -> None:
    limit = thresholds.limit("used_by_others_bytes")
    used = gpu.memory.used_by_others_bytes if gpu.memory else None
    reserve = gpu.memory.reserved_bytes if gpu.memory else None
    count, code = known(gpu.compute_processes), "gpu_used_by_others"
    expected = f"less than {gib(limit.value)} in use"
    if used is None or used.value is None:
        found.unread(code, gpu.index, used, expected=expected)
        return
    busy = f", {count} process{'es' if count > 1 else ''}" if count else ""
    action = "stop what runs there (nvidia-smi shows it), or plan with what is left"
    if used.value < limit.value:
        status: Status = "pass"
    elif gpu.kind == "unified" or (reserve is not None and reserve.value is None):
        # Of unified memory the host has its share, and an old driver counts its own reserve as used.
        status = "pass" if not count else "warn"
    else:
        status = "warn"
    actual = "idle" if status == "pass" and not count else f"{gib(used.value)} in use{busy}"
    found.add(code, status, gpu.index, expected=expected, actual=actual, evidence=used.source, action=action)


def _alike(found: Findings, node: Node) -> None:
    usable = [gpu for gpu in node.gpus if gpu.status == "ok"]
    if len(usable) < 2:
        return
    kinds: dict[str, int] = {}
    for gpu in usable:
        size = gpu.memory.total_bytes if gpu.memory else None
        name, total = known(gpu.name), known(size)
        if name is None or total is None:
            missing = gpu.name if name is None else size
            found.unread("gpus_alike", "node", missing, expected="GPUs of one kind", required=False)
            return
        kind = f"{name} {round(total / 2**30)} GiB"
        kinds[kind] = kinds.get(kind, 0) + 1
    found.add(
        "gpus_alike", "pass" if len(kinds) == 1 else "warn", "node", expected="GPUs of one kind",
        actual=", ".join(f"{count}x {kind}" for kind, count in kinds.items()), evidence="NVML",
        action="tensor parallelism wants equals: use the GPUs of one kind for one engine",
        required=False,
    )  # fmt: skip
