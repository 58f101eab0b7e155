"""Hardware from flags or an inventory: first into ``moeplan.inventory/1``, then into the search's plain numbers."""

from __future__ import annotations

import re
from typing import Final, Literal

from formulas.units import GIB
from hwdetect.inventory import (
    Cpu,
    Disk,
    FloatFact,
    Gpu,
    GpuMemory,
    GpuStatus,
    HostMemory,
    IntFact,
    Inventory,
    Node,
    Pcie,
    TextFact,
    TextsFact,
    described,
    known,
)
from planner import machine as plain
from planner.errors import BadRequest, Undetermined
from planner.options import Options
from planner.quantities import is_decimal_size, parse_bytes, parse_count, parse_rate, shown
from planner.usable_gpus import compute_share, usable_gpus
from profiles.cpus import load_cpu, parse_cpu
from profiles.gpus import GpuFacts, load_gpu, match_reported, resolve_gpu_name
from profiles.names import AmbiguousName, UnknownName

# Three digits at most: 7900XTX is a card.
_COUNTED: Final = re.compile(r"\s*([0-9]{1,3})\s*[x*\u00d7](.*)", re.IGNORECASE | re.ASCII | re.DOTALL)
MAX_GPUS_PER_NODE: Final = 128
MAX_NODES: Final = 4096
MAX_GPUS: Final = 4096
LINKS: Final = {"nvlink": None, "pcie3": 3, "pcie4": 4, "pcie5": 5}
"""Names of ``--link`` with their PCIe generation."""
PCIE_LANES: Final = 16
PCIE_BYTES_PER_S_PER_LANE: Final = {1: 0.25e9, 2: 0.5e9, 3: 0.984375e9, 4: 1.96875e9, 5: 3.9375e9, 6: 7.5625e9}
"""One direction, before packet overhead: PCI-SIG transfer rate x encoding / 8 (en.wikipedia.org/wiki/PCI_Express)."""
DEFAULT_PCIE_BYTES_PER_S: Final = 31.5e9


def describe(options: Options) -> Inventory:
    """The machine that the flags describe. Raises ``BadRequest`` with one line."""
    nodes = parse_count(options.nodes, "--nodes", high=MAX_NODES) if options.nodes is not None else 1
    notes: list[str] = []
    gpus = _described_gpus(options, notes)
    if nodes * len(gpus) > MAX_GPUS:
        raise BadRequest(f"--nodes {nodes} x {len(gpus)} GPUs are more than the {MAX_GPUS:,} that are planned for")
    ram = _described_ram(options, notes)
    cpu, bandwidth = _described_cpu(options)
    memory = HostMemory(
        total_bytes=described(ram, f"--ram {options.ram}") if ram else None,
        usable_bytes=described(ram, f"--ram {options.ram}") if ram else None,
        bandwidth_bytes_per_s=bandwidth,
    )
    network = (
        FloatFact(
            value=float(parse_rate(options.network, "--network")),
            source=f"--network {options.network}",
            provenance="assumed",
        )
        if options.network is not None
        else None
    )
    count = f"{len(gpus)} described" if gpus else "none described"
    members = tuple(
        Node(
            name=f"node{index}",
            gpus=gpus,
            gpu_status=GpuStatus(code="ok" if gpus else "no_devices", detail=count),
            cpu=cpu,
            memory=memory,
            disks=_described_disks(options),
            network_bytes_per_s=network,
        )
        for index in range(nodes)
    )
    return Inventory(nodes=members, notes=tuple(notes))


def _described_gpus(options: Options, notes: list[str]) -> tuple[Gpu, ...]:
    if options.link is not None and options.link.strip().lower() not in LINKS:
        raise BadRequest(f"--link: {shown(options.link)} is not a link; {', '.join(LINKS)} are allowed")
    if [text.strip().lower() for text in options.gpu] == ["none"]:
        return ()
    gpus: list[Gpu] = []
    for text in options.gpu:
        if text.strip().lower() == "none":
            raise BadRequest("--gpu none cannot be combined with another --gpu")
        count, key = parse_gpu(text)
        facts = load_gpu(key)
        if key.upper() not in text.upper():
            notes.append(f"--gpu {text.strip()} is read as {key} ({facts.reported_name})")
        if len(gpus) + count > MAX_GPUS_PER_NODE:
            raise BadRequest(f"--gpu: more than {MAX_GPUS_PER_NODE} GPUs in a node is not allowed")
        gpus += [_described_gpu(facts, len(gpus) + i, count, options) for i in range(count)]
    if len(gpus) > 1 and (unified := next((gpu.key for gpu in gpus if gpu.kind == "unified"), None)):
        raise BadRequest(f"--gpu: {unified} shares the memory of its node, so a node has one GPU; use --nodes")
    return tuple(gpus)


def parse_gpu(text: str) -> tuple[int, str]:
    """``8xH200`` as (8, "h200-sxm-141"). Raises ``BadRequest``."""
    counted = _COUNTED.fullmatch(text)
    count, name = (parse_count(counted[1], "--gpu", high=MAX_GPUS_PER_NODE), counted[2]) if counted else (1, text)
    try:
        return count, resolve_gpu_name(name.strip())
    except (UnknownName, AmbiguousName) as error:
        raise BadRequest(f"--gpu: {error}") from None


def _described_gpu(facts: GpuFacts, index: int, count: int, options: Options) -> Gpu:
    link = facts.link
    joined = link is not None and (link.max_gpus is None or count <= link.max_gpus)
    wanted = options.link.strip().lower() if options.link is not None else None
    if wanted == "nvlink" and link is None:
        raise BadRequest(f"--link nvlink: {facts.key} has no NVLink")
    kind: Literal["nvlink", "pcie", "none"] = (
        "nvlink" if (wanted == "nvlink" or (wanted is None and joined)) else "pcie"
    )
    source = f"profiles/hardware/gpu/{facts.key}.toml"
    capacity = facts.capacity_bytes
    if facts.unified and options.ram:
        capacity = parse_bytes(options.ram, "--ram")
    provenance: Literal["table", "assumed"] = "assumed" if facts.capacity_evidence == "assumed" else "table"
    return Gpu(
        index=index,
        name=TextFact(value=facts.reported_name, source=source, provenance="table"),
        vendor=facts.vendor,
        key=facts.key,
        kind="unified" if facts.unified else "gpu",
        memory=GpuMemory(total_bytes=IntFact(value=capacity, source=source, provenance=provenance)),
        bandwidth_bytes_per_s=FloatFact(value=float(facts.bandwidth_bytes_per_s), source=source, provenance="table"),
        compute_capability=TextFact(value=facts.compute_capability, source=source, provenance="table"),
        link_kind=kind if count > 1 else "none",
        pcie=_described_pcie(wanted),
    )


def _described_pcie(link: str | None) -> Pcie | None:
    """The slot that ``--link pcie4`` describes; None leaves it to the card."""
    generation = LINKS[link] if link is not None else None
    if generation is None:
        return None
    source = f"--link {link}"
    return Pcie(
        max_generation=IntFact(value=generation, source=source, provenance="assumed"),
        max_width=IntFact(value=PCIE_LANES, source=source, provenance="assumed"),
    )


def _described_ram(options: Options, notes: list[str]) -> int | None:
    if options.ram is None:
        return None
    size = parse_bytes(options.ram, "--ram")
    if is_decimal_size(options.ram):
        notes.append(
            f"--ram {options.ram.strip()} is taken as {size / GIB:.1f} GiB; memory modules are sold in GiB, "
            "write GiB if you meant that"
        )
    return size


def _described_cpu(options: Options) -> tuple[Cpu, FloatFact | None]:
    rate = parse_rate(options.ram_bandwidth, "--ram-bandwidth") if options.ram_bandwidth is not None else None
    cores = parse_count(options.cores, "--cores", high=100_000) if options.cores is not None else None
    bandwidth = (
        FloatFact(value=float(rate), source=f"--ram-bandwidth {options.ram_bandwidth}", provenance="assumed")
        if rate
        else None
    )
    core_fact = (
        FloatFact(value=float(cores), source=f"--cores {options.cores}", provenance="assumed") if cores else None
    )
    if options.cpu is None:
        return Cpu(usable_cores=core_fact), bandwidth
    try:
        sockets, key = parse_cpu(options.cpu)
    except ValueError as error:
        raise BadRequest(f"--cpu: {error}") from None
    facts = load_cpu(key)
    source = f"profiles/hardware/cpu/{key}.toml"
    if bandwidth is None:
        total = float(sockets * facts.bandwidth_bytes_per_s_per_socket)
        bandwidth = FloatFact(value=total, source=source, provenance="table")
    return (
        Cpu(
            model=TextFact(value=facts.family, source=source, provenance="table"),
            sockets=IntFact(value=sockets, source=f"--cpu {options.cpu}", provenance="assumed"),
            usable_cores=core_fact,
            flags=TextsFact(value=tuple(facts.flags), source=source, provenance="table"),
        ),
        bandwidth,
    )


def _described_disks(options: Options) -> tuple[Disk, ...]:
    if options.disk is None:
        return ()
    size, separator, rate = options.disk.partition("@")
    free = parse_bytes(size, "--disk")
    source = f"--disk {options.disk}"
    return (
        Disk(
            free_bytes=IntFact(value=free, source=source, provenance="assumed"),
            read_bytes_per_s=FloatFact(value=float(parse_rate(rate, "--disk")), source=source, provenance="assumed")
            if separator
            else None,
        ),
    )


def machine_of(inventory: Inventory, source: Literal["flags", "detected", "file"]) -> plain.Machine:
    """The plain machine of an inventory. Raises ``Undetermined`` where a GPU's kind or memory is not known."""
    notes: list[str] = list(inventory.notes)
    nodes = tuple(_plain_node(node, source, notes) for node in inventory.nodes)
    rates = [known(node.network_bytes_per_s) for node in inventory.nodes]
    network = min([rate for rate in rates if rate is not None], default=None)
    return plain.Machine(nodes, network, source, tuple(dict.fromkeys(notes)))


def _plain_node(node: Node, source: Literal["flags", "detected", "file"], notes: list[str]) -> plain.Node:
    gpus = [_plain_gpu(node, gpu) for gpu in usable_gpus(node, notes)]
    memory, cpu = node.memory, node.cpu
    ram = known(memory.usable_bytes) or known(memory.total_bytes)
    available = known(memory.available_bytes)
    if available is not None and ram is not None:
        ram = min(ram, available)
    bandwidth = memory.bandwidth_bytes_per_s
    if known(bandwidth) is None and node.memory_modules is not None:
        bandwidth = node.memory_modules.nominal_bytes_per_s
    cores = known(cpu.usable_cores) or known(cpu.physical_cores)
    host = plain.Host(
        ram,
        "flags" if source == "flags" else "reported",
        known(bandwidth),
        # What a person says the memory delivers was measured by somebody; a table knows only modules.
        "nominal" if bandwidth is None or bandwidth.value is None or bandwidth.provenance == "table" else "measured",
        int(cores) if cores else None,
        known(cpu.sockets) or 1,
        frozenset(known(cpu.flags) or ()),
        known(cpu.model) or "host memory",
    )
    disks = [
        disk for disk in node.disks if known(disk.free_bytes) and not known(disk.read_only) and disk.kind != "memory"
    ]
    best = max(disks, key=lambda disk: known(disk.free_bytes) or 0, default=None)
    disk = plain.Disk(
        known(best.free_bytes) if best else None,
        known(best.read_bytes_per_s) if best else None,
        (best.mount or "described") if best else "none",
    )
    return plain.Node(tuple(gpus), host, disk)


def _plain_gpu(node: Node, gpu: Gpu) -> plain.Gpu:
    memory = gpu.memory
    total = known(memory.total_bytes) if memory else None
    name = known(gpu.name) or "unknown GPU"
    key = gpu.key or match_reported(name, total // (1 << 20) if total else None)
    if key is None:
        raise Undetermined(
            f"{node.name}: no facts are known for GPU {gpu.index}, {shown(name)}; describe it with --gpu"
        )
    facts = load_gpu(key)
    capacity = total or facts.capacity_bytes
    visible, low, high, source = visible_bytes(facts, capacity)
    limit = known(memory.wired_limit_bytes) if memory else None
    if limit is not None:
        visible = low = high = min(limit, capacity)
        source = "iogpu.wired_limit_mb"
    others = known(memory.used_by_others_bytes) if memory else None
    if others:
        visible, low, high = visible - others, low - others, high - others
    pcie = pcie_bytes_per_s(gpu.pcie, facts)
    nvlink = gpu.link_kind in ("nvlink", "xgmi") and facts.link is not None
    share = compute_share(gpu)
    flops = {name: rate * share for name, rate in facts.dense_flops_per_s.items()}
    if "bf16" not in flops and "fp16" in flops:
        flops["bf16"] = flops["fp16"]
    return plain.Gpu(
        key, name, facts.vendor, capacity, visible, low, high, source,
        float(known(gpu.bandwidth_bytes_per_s) or facts.bandwidth_bytes_per_s), flops,
        known(gpu.compute_capability) or facts.compute_capability,
        "nvlink" if nvlink else "pcie",
        facts.link.bytes_per_s_per_direction if nvlink and facts.link else pcie,
        pcie, facts.unified, facts.capacity_evidence, gpu.index, others or 0,
    )  # fmt: skip


def pcie_bytes_per_s(slot: Pcie | None, facts: GpuFacts) -> float:
    """One direction between GPU and host: the card's own link, or the slot it sits in where that is slower."""
    card = facts.pcie.bytes_per_s_per_direction if facts.pcie else DEFAULT_PCIE_BYTES_PER_S
    generation = known(slot.max_generation) if slot else None
    lanes = known(slot.max_width) if slot else None
    if generation not in PCIE_BYTES_PER_S_PER_LANE or not lanes:
        return card
    return min(card, PCIE_BYTES_PER_S_PER_LANE[generation] * lanes)


def visible_bytes(facts: GpuFacts, capacity: int) -> tuple[int, int, int, str]:
    """What an engine's runtime sees of a GPU: expected, low, high, and how that is known.

    Where no start-up log shows it, the driver's share is taken from the GPUs that have one: 0.35 GiB and 0.22 % of
    the capacity (24 to 268 GiB), with the largest and smallest share seen as range.
    """
    if facts.unified:
        fraction = facts.working_set_fraction or 0.94
        return (
            int(capacity * fraction),
            int(capacity * fraction * 0.97),
            capacity,
            "fraction that the GPU may use",
        )
    if facts.engine_visible_bytes is not None and abs(capacity - facts.capacity_bytes) < GIB // 4:
        seen = facts.engine_visible_bytes
        return seen, seen, seen, facts.engine_visible_source or "start-up log"
    if facts.vendor != "nvidia":
        return capacity, int(capacity * 0.998), capacity, "reported total"
    expected = capacity - int(0.35 * GIB + 0.0022 * capacity)
    return (
        expected,
        capacity - int(0.35 * GIB + 0.006 * capacity),
        capacity - int(0.3 * GIB),
        "modelled on GPUs with logs",
    )


def summary_text(machine: plain.Machine) -> str:
    """The hardware in one line.

    >>> summary_text(plain.Machine((), None, "flags"))
    'nothing'
    """
    if not machine.nodes:
        return "nothing"
    node = machine.nodes[0]
    counts: dict[str, int] = {}
    for gpu in node.gpus:
        counts[gpu.key] = counts.get(gpu.key, 0) + 1
    parts = [f"{count}x {key}" for key, count in counts.items()] or ["no GPU"]
    if node.host.ram and not any(gpu.unified for gpu in node.gpus):
        parts.append(f"{node.host.ram / GIB:,.0f} GiB RAM")
    if node.disk.free:
        parts.append(f"{node.disk.free / 1e12:,.1f} TB disk")
    text = ", ".join(parts)
    return f"{len(machine.nodes)} nodes of {text}" if len(machine.nodes) > 1 else text
