"""An inventory for people: every fact, its provenance and its source; GPUs that say the same share a row."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from formulas.units import GB, GIB
from hwdetect.facts import Fact, Model, known
from hwdetect.inventory import Inventory, Node
from moeplan.text import BAD, DOUBTFUL, FAINT, bullets, heading, pairs, stacked, table
from moeplan.text_numbers import ranges
from moeplan.text_safe import printable

_UNIT_SUFFIXES = ("_bytes_per_s", "_mt_per_s", "_bytes", "_w", "_c", "_s")


def inventory_view(inventory: Inventory) -> RenderableType:
    """Every node of an inventory."""
    parts: list[RenderableType] = []
    for node in inventory.nodes:
        parts += [_node_head(node), _facts_table(node)]
    if inventory.notes:
        parts += [heading("Notes"), bullets(inventory.notes, DOUBTFUL)]
    return stacked(*parts)


def _node_head(node: Node) -> RenderableType:
    system = " ".join(part for part in (node.os.distribution, node.os.kernel, node.os.architecture) if part)
    gpus = f"{len(node.gpus)} ({node.gpu_status.detail})" if node.gpus else f"none ({node.gpu_status.detail})"
    rows = [("node", node.name), ("system", system), ("GPUs", gpus)]
    rows.append(("environment", ", ".join(f"{name}={value}" for name, value in node.environment.items())))
    for event in node.kernel_log.events if node.kernel_log else ():
        name = "SXid" if event.kind == "sxid" else "Xid"
        rows.append(("kernel log", f"{name} {event.code} at {event.bus_id}, {event.count}x: {event.text}"))
    for held in node.model_folder.checkpoints if node.model_folder else ():
        rows.append(("model here", f"{held.repository}, {(known(held.bytes) or 0) / GB:,.1f} GB"))
    return pairs(rows)


def _facts_table(node: Node) -> RenderableType:
    rows: list[list[str | Text]] = []
    for place, name, fact in _facts(node):
        missing = fact.value is None and not fact.unlimited
        value = Text(printable(_value(name, fact)), style=BAD if missing else "")
        rows.append([place, _label(name), value, fact.provenance, Text(printable(fact.source), style=FAINT)])
    return table(("!where", "!what", "value", "provenance", "source"), rows)


def _facts(node: Node) -> Iterator[tuple[str, str, Fact[object]]]:
    for name in ("driver_version", "cuda_driver_version", "network_bytes_per_s", "bus_gpus", "container"):
        fact = getattr(node, name)
        if fact is not None:
            yield "node", name, fact
    same: dict[tuple[str, Fact[object]], list[int]] = {}
    for gpu in node.gpus:
        for name, fact in _walk(gpu, ""):
            same.setdefault((name, fact), []).append(gpu.index)
    names = list(dict.fromkeys(name for name, _ in same))
    for (name, fact), indices in sorted(same.items(), key=lambda item: names.index(item[0][0])):
        yield f"GPU {ranges(indices)}", name, fact
    for rate in node.gpu_rates:
        yield f"one {rate.device}", f"{rate.kernel}_bytes_per_s", rate.bytes_per_s
    yield from _of(("CPU", node.cpu), ("memory", node.memory))
    for numa in node.numa:
        yield from ((f"NUMA {numa.index}", name, fact) for name, fact in _walk(numa, ""))
    for disk in node.disks:
        yield from ((f"disk {disk.mount or ''}", name, fact) for name, fact in _walk(disk, ""))
    yield from _of(("network", node.network), ("modules", node.memory_modules), ("kernel log", node.kernel_log))
    yield from _of(("models", node.model_folder))
    for one in node.software:
        if one.version is not None:
            yield "software", one.name, one.version


def _of(*parts: tuple[str, Model | None]) -> Iterator[tuple[str, str, Fact[object]]]:
    for place, part in parts:
        if part is not None:
            yield from ((place, name, fact) for name, fact in _walk(part, ""))


def _walk(part: Model, prefix: str) -> Iterator[tuple[str, Fact[object]]]:
    """Every fact of a part and of what it holds."""
    for name, value in part:
        if isinstance(value, Fact):
            yield f"{prefix}{name}", value
        elif isinstance(value, Model):
            yield from _walk(value, f"{prefix}{name} ")
        elif isinstance(value, tuple):
            for number, member in enumerate(value):
                if isinstance(member, Model):
                    yield from _walk(member, f"{prefix}{name} {number} ")


def _label(name: str) -> str:
    for suffix in _UNIT_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.replace("_", " ")


def _value(name: str, fact: Fact[object]) -> str:
    value = fact.value
    if fact.unlimited:
        return "no limit"
    if value is None:
        return f"not known: {fact.reason}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(str(one) for one in value) or "none"
    if isinstance(value, int | float):
        if name.endswith("_bytes_per_s"):
            return f"{value / GB:,.1f} GB/s"
        if name.endswith("_bytes"):
            return f"{value / GIB:,.2f} GiB" if value >= GIB // 100 or value == 0 else f"{value:,} bytes"
        if name.endswith("_mt_per_s"):
            return f"{value:,} MT/s"
        if name.endswith("_c"):
            return f"{value:,.0f} °C"
        if name.endswith("_s"):
            return f"{value:,} s"
        return f"{value:,.0f} W" if name.endswith("_w") else f"{value:,g}" if isinstance(value, float) else f"{value:,}"
    return str(value)
