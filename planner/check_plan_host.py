"""Does the host still hold the plan: its memory, processors, disk, port and engine?"""

from __future__ import annotations

from typing import Final

from hwdetect.facts import known
from hwdetect.host_parts import Disk
from hwdetect.inventory import Node
from planner.check_gpu import OK
from planner.check_plan_needs import REPLAN, Needs, high_bytes, low_bytes
from planner.engines.ktransformers import CPU_METHODS
from planner.findings import Findings, Status, gib
from profiles.engines import UnknownVersion, version_tuple
from profiles.health import Thresholds

PACKAGES: Final = {
    "vllm": ("vllm",),
    "sglang": ("sglang",),
    "ktransformers": ("sglang-kt", "kt-kernel", "ktransformers"),
    "llama.cpp": ("llama.cpp", "llama-cpp-python"),
}
"""What has to be installed for an engine, the one whose version the plan means first."""


def check_plan_host(found: Findings, node: Node, needs: Needs, thresholds: Thresholds) -> None:
    """Every need of the plan that is not a GPU's."""
    _host_memory(found, node, needs)
    _instructions(found, node, needs)
    _disk(found, node, needs, thresholds)
    _port(found, node, needs)
    _engine(found, node, needs)


def _host_memory(found: Findings, node: Node, needs: Needs) -> None:
    if needs.host is None:
        return
    memory, low, high = node.memory, low_bytes(needs.host), high_bytes(needs.host)
    code, expected = "plan_host_memory", f"{gib(high)} available"
    usable, available = memory.usable_bytes, memory.available_bytes
    if usable is None or usable.value is None or available is None or available.value is None:
        found.unread(
            code,
            "host",
            usable if usable is None or usable.value is None else available,
            expected=expected,
            excused=False,
        )
        return
    free = min(usable.value, available.value)
    source = usable.source if usable.value < available.value else available.source
    action = "stop what holds the memory or raise the container's limit, or plan again with what is left"
    if free < low:
        verdict: tuple[Status, str] = ("fail", action)
    elif free < high:
        verdict = ("warn", f"it may not start: {action}")
    else:
        verdict = OK
    found.add(
        code, verdict[0], "host", expected=expected, actual=f"{gib(free)} available", evidence=source, action=verdict[1]
    )
    _numa(found, node, needs, high)


def _numa(found: Findings, node: Node, needs: Needs, need: int) -> None:
    """Engines that split experts over the memory of several nodes need each of them to hold its share."""
    pools = needs.argument("--kt-threadpool-count")
    parts = int(pools) if pools is not None and pools.isascii() and pools.isdigit() else 1
    if parts < 2:
        return
    code, share = "plan_numa_memory", need // parts
    sizes = [
        (numa.index, numa.memory_total_bytes) for numa in node.numa if known(numa.cpu_count) and numa.gpu_index is None
    ]
    expected = f"{parts} nodes with {gib(share)} each"
    unread = next((size for _, size in sizes if size is None or size.value is None), None)
    if unread is not None or not sizes:
        found.unread(code, "host", unread, expected=expected, excused=False)
        return
    able = [index for index, size in sizes if (known(size) or 0) >= share]
    found.add(
        code, "pass" if len(able) >= parts else "fail", "host", expected=expected,
        actual=", ".join(f"node {index}: {gib(known(size) or 0)}" for index, size in sizes),
        evidence="/sys/devices/system/node/node*/meminfo",
        action=f"spread the memory modules over the sockets, or {REPLAN}",
    )  # fmt: skip


def _instructions(found: Findings, node: Node, needs: Needs) -> None:
    method = needs.argument("--kt-method")
    wanted = next((flags for name, flags in CPU_METHODS.values() if name == method), None)
    if method is None or wanted is None:
        return
    found.judge(
        "plan_cpu_instructions",
        "host",
        node.cpu.flags,
        lambda flags: (
            OK if set(wanted) & set(flags) else ("fail", f"{method} has no kernel for this processor: {REPLAN}")
        ),
        expected=f"{' or '.join(wanted)}, for {method}",
        show=lambda flags: ", ".join(flags) or "none of those that matter",
    )


def _disk(found: Findings, node: Node, needs: Needs, thresholds: Thresholds) -> None:
    release = needs.candidate.quantization
    folder = node.model_folder
    code, expected = "plan_disk_space", f"{gib(release.bytes)} for {release.release or release.name}"
    if folder is None or folder.disk is None:
        where = folder.path if folder else "the folder of models"
        found.add(
            code, "not_run", "disk", expected=expected, actual=f"not known: the file system of {where} does not answer",
            action="name the folder with --model-folder, and look at its mount",
        )  # fmt: skip
        return
    held = next((one for one in folder.checkpoints if one.repository == release.release), None)
    size = known(held.bytes) if held else 0
    if held is not None and size is not None and size >= release.bytes and known(held.complete):
        found.add(
            code, "pass", f"disk {folder.path}", expected=expected, actual=f"{gib(size)} are there already",
            evidence=held.bytes.source,
        )  # fmt: skip
        return
    if held is not None and size is not None and size >= release.bytes:
        found.add(
            code, "warn", f"disk {folder.path}", expected=expected, actual=f"{gib(size)}, a part of it unfinished",
            evidence=held.bytes.source, action="finish the download, or remove what is left of it",
        )  # fmt: skip
        return
    missing = max(0, release.bytes - (size or 0))
    free = folder.disk.free_bytes
    there = f" ({gib(size)} are there)" if size else ""
    found.judge(
        code,
        f"disk {folder.path}",
        free,
        lambda room: (
            OK if room >= missing else ("fail", "free space, or keep models elsewhere (HF_HOME, --model-folder)")
        ),
        expected=f"{gib(missing)} more for {release.release or release.name}{there}",
        show=lambda room: f"{gib(room)} free",
    )
    _disk_kind(found, folder.disk, folder.path, known(folder.writable))
    inodes, least = folder.disk.free_inodes, thresholds.limit("free_inodes")
    if inodes is not None and inodes.value is not None:
        enough = inodes.value >= least.value
        found.add(
            "plan_disk_inodes", "pass" if enough else "fail", f"disk {folder.path}",
            expected=f"at least {least.value:,.0f} free inodes", actual="enough" if enough else f"{inodes.value:,}",
            evidence=f"{inodes.source}; {least.source}", action="remove small files, or keep models elsewhere",
        )  # fmt: skip


def _disk_kind(found: Findings, disk: Disk, path: str, writable: bool | None) -> None:
    code, expected = "plan_disk_kind", "a local disk that can be written"
    what = f"{disk.fstype or 'unknown'} on {disk.mount or '?'}"
    if known(disk.read_only) or writable is False:
        verdict: tuple[Status, str] = ("fail", "keep models where they can be written (HF_HOME, --model-folder)")
        what += ", not writable"
    elif disk.read_only is None or disk.read_only.value is None or writable is None:
        verdict = ("not_run", "look at the mount, and whether this user may write there")
        what = f"not known: whether {what} can be written"
    elif disk.kind == "memory":
        verdict = ("fail", "this is memory, not a disk: keep models elsewhere")
    elif disk.kind == "network":
        verdict = ("warn", "loading goes over the network: measure it, or copy the model to a local disk")
    elif disk.kind == "overlay":
        verdict = ("warn", "the model is lost with the container: mount a volume for it")
    else:
        verdict = OK
    found.add(
        code, verdict[0], f"disk {path}", expected=expected, actual=what, evidence="mount table", action=verdict[1],
        required=False,
    )  # fmt: skip


def _port(found: Findings, node: Node, needs: Needs) -> None:
    text = needs.argument("--port")
    if text is None or not text.isascii() or not text.isdigit():
        return
    port = int(text)
    found.judge(
        "plan_port",
        "host",
        node.network.listening_ports if node.network else None,
        lambda taken: (
            ("fail", f"stop what listens there (ss -ltnp 'sport = :{port}'), or serve on another port")
            if port in taken
            else OK
        ),
        expected=f"nothing listens on {port}",
        show=lambda taken: "something listens" if port in taken else "free",
    )


def _engine(found: Findings, node: Node, needs: Needs) -> None:
    engine = needs.candidate.engine
    names = PACKAGES.get(engine.name, (engine.name,))
    there = [one for name in names for one in node.software if one.name == name]
    code, expected = "plan_engine", f"{engine.name} {engine.version}"
    if not there:
        found.add(
            code, "warn", "node", expected=expected, actual="not found in this environment nor on PATH",
            evidence="importlib.metadata, PATH",
            action="install it, or name its interpreter with --engine-python; in a container image it is not seen",
            required=False,
        )  # fmt: skip
        return
    first = there[0]
    versions = {known(one.version) for one in there if one.name == first.name}

    def verdict(version: str) -> tuple[Status, str]:
        if engine.version in versions or _same_release(version, engine.version):
            return OK
        return "warn", f"install {engine.version}, or plan again with --engine-version {version}"

    found.judge(
        code, "node", first.version, verdict, expected=expected,
        show=lambda version: f"{first.name} {version} ({first.place})", required=False,
    )  # fmt: skip


def _same_release(one: str, other: str) -> bool:
    try:
        return version_tuple(one) == version_tuple(other)
    except UnknownVersion:
        return one == other
