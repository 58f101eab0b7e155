"""Do the GPUs of a machine still hold the plan: their number, kind, memory, links and driver?"""

from __future__ import annotations

from typing import Final

from hwdetect.accelerators import Gpu
from hwdetect.facts import IntFact, known
from hwdetect.inventory import Node
from planner.check_gpu import OK
from planner.check_links import facts_of
from planner.check_plan_host import check_plan_host
from planner.check_plan_needs import REPLAN, Needs, high_bytes, low_bytes
from planner.findings import Findings, Status, gib
from planner.hardware import visible_bytes
from planner.plan import DeviceMemory
from planner.usable_gpus import usable_gpus
from profiles.engines import UnknownVersion, version_tuple
from profiles.gpus import load_gpu, match_reported
from profiles.health import Thresholds

CHECKS_FREE_MEMORY: Final = {
    "vllm": "vLLM refuses: Free memory on device ... on startup is less than desired GPU memory utilization",
}
"""Engines that refuse to start unless their whole share is free, and where that is written."""


def check_plan(found: Findings, node: Node, needs: Needs, thresholds: Thresholds) -> None:
    """Every need of the plan on one node: first of its GPUs, then of the host."""
    chosen = _chosen(found, node, needs)
    for device, gpu in chosen:
        _gpu_kind(found, device, gpu, thresholds)
        _gpu_memory(found, node, device, gpu, needs)
        _capability(found, device, gpu)
    _links(found, needs, [gpu for _, gpu in chosen])
    if any(gpu.vendor == "nvidia" for _, gpu in chosen):
        _driver(found, node, needs, thresholds)
    check_plan_host(found, node, needs, thresholds)


def _chosen(found: Findings, node: Node, needs: Needs) -> list[tuple[DeviceMemory, Gpu]]:
    """The plan's devices with the GPUs they would land on: those the launch names, or the first that can be used."""
    if not needs.gpus:
        return []
    usable = list(usable_gpus(node, []))
    if needs.indices is not None:
        by_index = {gpu.index: gpu for gpu in usable}
        usable = [by_index[index] for index in needs.indices if index in by_index]
    wanted = len(needs.gpus)
    enough = len(usable) >= wanted
    unread = sum(gpu.status == "error" for gpu in node.gpus) or node.gpu_status.code in ("no_permission", "error")
    named = f" (numbers {', '.join(map(str, needs.indices))})" if needs.indices is not None else ""
    status: Status = "pass" if enough else "not_run" if unread else "fail"
    found.add(
        "plan_gpu_count", status, "node", expected=f"{wanted} GPUs{named}",
        actual=f"{len(usable)} that answer and are visible", evidence="NVML, CUDA_VISIBLE_DEVICES",
        action=f"bring the missing GPUs back, or {REPLAN}",
    )  # fmt: skip
    return list(zip(needs.gpus, usable, strict=False))


def _gpu_kind(found: Findings, device: DeviceMemory, gpu: Gpu, thresholds: Thresholds) -> None:
    code, expected = "plan_gpu_kind", f"{device.name}, {gib(device.capacity_bytes)}"
    name, total = known(gpu.name), known(gpu.memory.total_bytes) if gpu.memory else None
    if name is None or total is None:
        missing = gpu.name if name is None else gpu.memory.total_bytes if gpu.memory else None
        found.unread(code, gpu.index, missing, expected=expected, excused=False)
        return
    planned = match_reported(device.name, device.capacity_bytes >> 20)
    facts = facts_of(gpu)
    tolerance = thresholds.limit("capacity_tolerance").value
    alike = abs(total - device.capacity_bytes) <= tolerance * device.capacity_bytes
    if device.kind == "unified":
        # What the system says it has is less than what was sold; the memory check judges the size.
        alike = True
    same = (facts is not None and facts.key == planned) or (name == device.name and alike)
    found.add(
        code, "pass" if same else "fail", gpu.index, expected=expected, actual=f"{name}, {gib(total)}",
        evidence="NVML name and total", action=REPLAN,
    )  # fmt: skip


def _gpu_memory(found: Findings, node: Node, device: DeviceMemory, gpu: Gpu, needs: Needs) -> None:
    code, low, high = "plan_gpu_memory", low_bytes(device), high_bytes(device)
    expected = f"{gib(high)} free"
    memory = gpu.memory
    total = memory.total_bytes if memory else None
    others = memory.used_by_others_bytes if memory else None
    available = node.memory.available_bytes
    if others is None and gpu.kind == "unified" and total is not None and total.value is not None and available:
        used = max(0, total.value - available.value) if available.value is not None else None
        others = IntFact.reported(used, available.source) if used is not None else available
    if total is None or total.value is None or others is None or others.value is None:
        missing = total if total is None or total.value is None else others
        found.unread(code, gpu.index, missing, expected=expected, excused=False)
        return
    facts = facts_of(gpu)
    if facts is not None:
        visible, least, _, how = visible_bytes(facts, total.value)
    else:
        reserve = known(memory.reserved_bytes) if memory else None
        visible = least = total.value - (reserve or 0)
        how = "total less the driver's reserve"
    free, free_low = visible - others.value, least - others.value
    evidence = f"{total.source}; {others.source}; engine sees {gib(visible)} ({how})"
    share = needs.candidate.settings.get("memory_utilization")
    engine = needs.candidate.engine.name
    action = "stop what holds the memory (nvidia-smi shows it), or plan again with what is left"
    verdict: tuple[Status, str] = OK
    if engine in CHECKS_FREE_MEMORY and isinstance(share, int | float) and 0 < share <= 1:
        whole = int(share * visible)
        expected = f"{gib(max(whole, high))} free"
        evidence += f"; {CHECKS_FREE_MEMORY[engine]}"
        if free < whole:
            verdict = ("fail", f"{action}; or start with a --gpu-memory-utilization that leaves it out")
    if free < low:
        verdict = ("fail", action)
    elif free_low < high and verdict[0] == "pass":
        verdict = ("warn", f"it may not start: {action}")
    found.add(
        code, verdict[0], gpu.index, expected=expected, actual=f"{gib(free)} free", evidence=evidence, action=verdict[1]
    )


def _capability(found: Findings, device: DeviceMemory, gpu: Gpu) -> None:
    """Kernels were chosen for the planned kind; a lower capability may have none of them."""
    planned = match_reported(device.name, device.capacity_bytes >> 20)
    if planned is None or gpu.vendor != "nvidia":
        return
    wanted = load_gpu(planned).compute_capability
    code, expected = "plan_compute_capability", f"{wanted} or later"

    def verdict(value: str) -> tuple[Status, str]:
        try:
            enough = tuple(map(int, value.split("."))) >= tuple(map(int, wanted.split(".")))
        except ValueError:
            return "warn", "compare the two by hand"
        return OK if enough else ("fail", REPLAN)

    found.judge(code, gpu.index, gpu.compute_capability, verdict, expected=expected, excused=False)


def _links(found: Findings, needs: Needs, gpus: list[Gpu]) -> None:
    if not needs.joined or len(gpus) < 2:
        return
    kinds = {gpu.link_kind for gpu in gpus}
    code, expected = "plan_gpu_link", "NVLink between the GPUs"
    if None in kinds:
        found.add(
            code, "not_run", "node", expected=expected, actual="not known: neither link could be read",
            evidence="NVML", action="look with nvidia-smi topo -m",
        )  # fmt: skip
        return
    joined = kinds <= {"nvlink", "xgmi"}
    found.add(
        code, "pass" if joined else "fail", "node", expected=expected,
        actual=", ".join(sorted(kind or "" for kind in kinds)), evidence="NVML link states",
        action=f"bring NVLink up, or {REPLAN}: the planned speed does not hold over PCIe",
    )  # fmt: skip


def _driver(found: Findings, node: Node, needs: Needs, thresholds: Thresholds) -> None:
    engine, code = needs.candidate.engine, "plan_driver"
    try:
        need = thresholds.driver_need(engine.name, engine.version)
    except UnknownVersion:
        need = None
    driver = node.driver_version
    if need is None:
        found.add(
            code, "not_run", "node", expected=f"a driver for {engine.name} {engine.version}",
            actual=f"not known: which CUDA {engine.name} {engine.version} is built with; driver {known(driver)}",
            evidence="profiles/health/thresholds.toml",
            action="compare the CUDA release of your build with what nvidia-smi prints", required=False,
        )  # fmt: skip
        return
    expected = f"{need.minimum} or later, for CUDA {need.cuda_major}"
    cuda = known(node.cuda_driver_version) or ""
    if cuda.partition(".")[0].isdecimal() and int(cuda.partition(".")[0]) >= need.cuda_major:
        # Also where a container brings a newer libcuda for an older driver (CUDA forward compatibility).
        source = node.cuda_driver_version.source if node.cuda_driver_version else ""
        found.add(
            code, "pass", "node", expected=expected, actual=f"CUDA {cuda}, driver {known(driver)}",
            evidence=f"{source}; {need.source}",
        )  # fmt: skip
        return

    def verdict(version: str) -> tuple[Status, str]:
        try:
            enough = version_tuple(version) >= version_tuple(need.minimum)
        except UnknownVersion:
            return "warn", "compare the two by hand"
        return OK if enough else ("fail", f"install driver {need.minimum} or later, or an engine built for this one")

    found.judge(code, "node", driver, verdict, expected=expected, evidence=need.source, excused=False)
