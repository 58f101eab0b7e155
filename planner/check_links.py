"""Health of the links of a node's GPUs: PCI Express, NVLink, the NVSwitch fabric, and the kernel's log about them."""

from __future__ import annotations

import re
from typing import Final

from hwdetect.accelerators import Gpu, Pcie
from hwdetect.facts import known
from hwdetect.host_parts import KernelEvent
from hwdetect.inventory import Node
from planner.check_gpu import major_capability
from planner.findings import NOT_SUPPORTED, Findings, Status, spans
from profiles.gpus import GpuFacts, load_gpu, match_reported
from profiles.health import Thresholds

_FATAL: Final = re.compile(r"(?<!non-)\bfatal\b", re.IGNORECASE)
HOPPER: Final = 9
"""Major compute capability."""
_RESEAT: Final = "drain the node, reset the GPU, then check seating, riser and slot"
SLOWEST_AT_WORK: Final = 2
"""Performance state P2 is the slowest that computing runs in (NVML: P0 is maximum performance, P15 minimum)."""
_SWITCHED_AT_LEAST: Final = 2


def check_links(found: Findings, node: Node) -> None:
    """Every link of every NVIDIA GPU that answers."""
    gpus = [gpu for gpu in node.gpus if gpu.status == "ok" and gpu.vendor == "nvidia"]
    for gpu in gpus:
        if gpu.pcie is not None and gpu.kind != "unified":
            _pcie_width(found, gpu, gpu.pcie)
            _pcie_generation(found, gpu, gpu.pcie)
        _nvlink(found, gpu, alone=len(gpus) == 1)
        _fabric(found, gpu)
    _one_fabric(found, gpus)


def facts_of(gpu: Gpu) -> GpuFacts | None:
    """What the hardware table says of a GPU; None where its name and total are not in it."""
    name, total = known(gpu.name), known(gpu.memory.total_bytes) if gpu.memory else None
    key = gpu.key or (match_reported(name, total >> 20 if total else None) if name else None)
    return load_gpu(key) if key else None


def _pcie_width(found: Findings, gpu: Gpu, pcie: Pcie) -> None:
    code = "gpu_pcie_width"
    width, best, card, slot = (known(each) for each in (pcie.width, pcie.max_width, pcie.card_width, pcie.slot_width))
    expected = f"x{best}" if best else "the width of card and slot"
    virtual = known(gpu.vgpu_mode) == "vgpu"
    if width is None or best is None:
        missing = pcie.width if width is None else pcie.max_width
        found.unread(code, gpu.index, missing, expected=expected, required=not virtual)
    elif width < best:
        found.add(
            code, "fail", gpu.index, expected=expected, actual=f"x{width}",
            evidence=pcie.width.source if pcie.width else "", action=_RESEAT,
        )  # fmt: skip
    elif slot is not None and card is not None and slot < card:
        found.add(
            code, "warn", gpu.index, expected=f"x{card}, as the card", actual=f"x{slot}: the slot has no more",
            evidence=pcie.slot_width.source if pcie.slot_width else "",
            action="move the card to a wider slot, or plan with this one",
        )  # fmt: skip
    else:
        evidence = pcie.width.source if pcie.width else ""
        found.add(code, "pass", gpu.index, expected=expected, actual=f"x{width}", evidence=evidence)


def _pcie_generation(found: Findings, gpu: Gpu, pcie: Pcie) -> None:
    """Judged under load only: an idle link slows down to save power, and says so."""
    code = "gpu_pcie_generation"
    now, best, card = (known(each) for each in (pcie.generation, pcie.max_generation, pcie.card_generation))
    expected = f"generation {best}" if best else "the generation of card and slot"
    if now is None or best is None:
        missing = pcie.generation if now is None else pcie.max_generation
        found.unread(code, gpu.index, missing, expected=expected, required=False)
        return
    evidence = pcie.generation.source if pcie.generation else ""
    idle = _is_idle(gpu)
    if card is not None and best < card:
        action = "the slot or a BIOS setting holds the card back: plan with this generation, or change it"
        found.add(
            code, "warn", gpu.index, expected=f"generation {card}, as the card", actual=f"generation {best} at most",
            evidence=evidence, action=action,
        )  # fmt: skip
    elif now >= best:
        found.add(code, "pass", gpu.index, expected=expected, actual=f"generation {now}", evidence=evidence)
    elif idle is not False:
        found.add(
            code, "not_run", gpu.index, expected=expected, evidence=evidence, required=False,
            actual=f"not known: generation {now} while idle says nothing",
            action="measure the link under load (moeplan bench)",
        )  # fmt: skip
    else:
        found.add(
            code, "warn", gpu.index, expected=expected, actual=f"generation {now} while the GPU works",
            evidence=evidence, action=_RESEAT,
        )  # fmt: skip


def _is_idle(gpu: Gpu) -> bool | None:
    """None where neither the clocks nor the performance state tell."""
    reasons, state = known(gpu.throttle_reasons), known(gpu.performance_state)
    if state is not None and state > SLOWEST_AT_WORK:
        return True
    return None if reasons is None else "gpu_idle" in reasons


def _nvlink(found: Findings, gpu: Gpu, *, alone: bool) -> None:
    """Links that are down, and links that the kind of GPU has and this one does not show."""
    facts, nvlink, code = facts_of(gpu), gpu.nvlink, "gpu_nvlink"
    link = facts.link if facts else None
    # A bridge between two cards is bought apart; links to switches are there or broken.
    wanted = link.links if link is not None and link.max_gpus is None else None
    if nvlink is None or (not nvlink.links and (wanted is None or alone)):
        return
    if alone and all(one.active is False for one in nvlink.links):
        # The only GPU of a virtual machine has nobody to talk to.
        return
    expected = f"{wanted} links up" if wanted else f"all {len(nvlink.links)} links up"
    down = [one.index for one in nvlink.links if one.active is False]
    fact = nvlink.active_count
    if down or (fact is not None and fact.value is not None and wanted is not None and fact.value < wanted):
        absent = (wanted or 0) - len(nvlink.links)
        shown = [f"down: {spans(down)}"] if down else []
        shown += [f"{absent} not there"] if absent > 0 else []
        # Links from GPU to GPU are down too where a virtual machine was not given the peer.
        direct = {one.remote_type for one in nvlink.links if one.active} == {"gpu"}
        status: Status = "warn" if alone or direct else "fail"
        found.add(
            code, status, gpu.index, expected=expected, actual="; ".join(shown) or f"{known(fact)} up",
            evidence=fact.source if fact else "nvmlDeviceGetNvLinkState",
            action="drain the node, reset all GPUs of the node; if the links stay down, have the board looked at",
        )  # fmt: skip
    elif fact is None or fact.value is None:
        found.unread(code, gpu.index, fact, expected=expected)
    else:
        found.add(code, "pass", gpu.index, expected=expected, actual=f"{fact.value} up", evidence=fact.source)


def _fabric(found: Findings, gpu: Gpu) -> None:
    fabric, code, expected = gpu.fabric, "gpu_fabric", "the NVSwitch fabric is ready"
    state = fabric.state if fabric else None
    switched = gpu.nvlink is not None and any(link.remote_type == "switch" for link in gpu.nvlink.links)
    # Before Hopper the GPUs behind switches know nothing of a fabric.
    reports = major_capability(gpu) >= HOPPER
    if fabric is None or state is None or state.value is None:
        lacks = state is not None and state.reason in NOT_SUPPORTED
        if switched or (not lacks and _is_switched_kind(gpu)):
            found.unread(code, gpu.index, state, expected=expected, required=reports, excused=False)
        return
    if state.value == "not_supported":
        if switched:
            found.add(
                code, "not_run", gpu.index, expected=expected, evidence=state.source, required=reports,
                actual="not known: the driver does not report the fabric of this system",
                action="look at the fabric manager (systemctl status nvidia-fabricmanager)",
            )  # fmt: skip
        return
    status = known(fabric.status)
    action = "start nvidia-fabricmanager in the driver's own version and read its log; on NVL72 racks look at IMEX"
    if state.value == "completed" and status == "success":
        found.add(code, "pass", gpu.index, expected=expected, actual="ready", evidence=state.source)
    else:
        actual = f"{state.value}" if state.value != "completed" else f"completed with an error: {status}"
        found.add(code, "fail", gpu.index, expected=expected, actual=actual, evidence=state.source, action=action)


def _is_switched_kind(gpu: Gpu) -> bool:
    """Whether GPUs of this kind are joined by switches, as far as the number of their links can say."""
    return gpu.nvlink is not None and len(gpu.nvlink.links) > _SWITCHED_AT_LEAST and facts_of(gpu) is not None


def _one_fabric(found: Findings, gpus: list[Gpu]) -> None:
    cliques = {
        (known(gpu.fabric.cluster_uuid), known(gpu.fabric.clique))
        for gpu in gpus
        if gpu.fabric is not None and known(gpu.fabric.clique) is not None
    }
    if not cliques:
        return
    found.add(
        "gpu_fabric_clique", "pass" if len(cliques) == 1 else "fail", "node", expected="all GPUs in one clique",
        actual="one clique" if len(cliques) == 1 else f"{len(cliques)} cliques", evidence="nvmlDeviceGetGpuFabricInfoV",
        action="restart nvidia-fabricmanager: GPUs of different cliques do not reach each other over NVLink",
    )  # fmt: skip


def check_kernel_log(found: Findings, node: Node, thresholds: Thresholds) -> None:
    """Xid and SXid of the kernel's log: a recent grave one is a failure, an old or a light one a warning."""
    if not any(gpu.vendor == "nvidia" for gpu in node.gpus) and not known(node.bus_gpus):
        return
    log, code, expected = node.kernel_log, "gpu_xid", "no error of the driver in the kernel's log"
    if log is None or log.read is None or log.read.value is None:
        fact = log.read if log else None
        found.add(
            code, "not_run", "node", expected=expected, evidence=fact.source if fact else "",
            actual=f"not known: {(fact.reason if fact else None) or 'not looked at'}",
            action="run as root or as a member of the group that may read the log (adm, systemd-journal)",
            required=False,
        )  # fmt: skip
        return
    places = {known(gpu.pcie.bus_id): gpu.index for gpu in node.gpus if gpu.pcie and known(gpu.pcie.bus_id)}
    for event in log.events:
        _event(found, event, places, thresholds, expected, log.read.source)
    if not log.events:
        covers = known(log.covers_s)
        reach = "" if covers is None else f" in the last {covers / 3600:.1f} h"
        found.add(code, "pass", "node", expected=expected, actual=f"none{reach}", evidence=log.read.source)


def _event(
    found: Findings,
    event: KernelEvent,
    places: dict[str | None, int],
    thresholds: Thresholds,
    expected: str,
    source: str,
) -> None:
    window = thresholds.limit("xid_window_s")
    if event.kind == "sxid":
        grave = _FATAL.search(event.text) is not None
        status: Status = "fail" if grave else "warn"
        meaning = "an NVSwitch reported an error"
        action = "restart the node, and look at the switch in the fabric manager's log" if grave else "watch the switch"
    else:
        entry = thresholds.xid(event.code)
        status, meaning, action = entry.status, entry.meaning, entry.action
    old = event.age_s is not None and event.age_s > window.value
    if old and status == "fail":
        status, action = "warn", f"unless it was done since: {action}"
    when = "at an unknown time" if event.age_s is None else f"{_ago(event.age_s)} ago"
    times = f", {event.count} times" if event.count > 1 else ""
    subject: str | int = places.get(event.bus_id, event.bus_id or "node")
    if event.kind == "sxid":
        subject = f"NVSwitch {event.bus_id}"
    elif isinstance(subject, str) and event.bus_id:
        subject = f"GPU at {event.bus_id}"
    found.add(
        "nvswitch_sxid" if event.kind == "sxid" else "gpu_xid", status, subject, expected=expected,
        actual=f"{'SXid' if event.kind == 'sxid' else 'Xid'} {event.code} {when}{times}: {meaning}",
        evidence=f"{source}: {event.text}", action=action,
    )  # fmt: skip


def _ago(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
