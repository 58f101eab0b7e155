"""The memory of a configuration for people: one row for devices that are alike, a bar, and the ledgers."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from moeplan.text import BAD, DOUBTFUL, FAINT, GOOD, cell, stacked, table
from moeplan.text_numbers import gib, gib_span, ranges
from moeplan.text_safe import printable
from moeplan.text_table import Packed
from planner.plan import DeviceMemory, LedgerEntry, Memory

BAR_WIDTH = 48
BAR_LEAST = 16
_PARTS = (
    ("w", "weights", "cyan"),
    ("k", "KV cache", "blue"),
    ("c", "compute", "magenta"),
    ("o", "overhead", "yellow"),
)
_LEGEND = (*(f"{letter} {name}" for letter, name, _ in _PARTS), ". free", "! too much")


def alike(memory: Memory) -> list[tuple[str, DeviceMemory]]:
    """One device of each kind that carries the same, with the name of all of them (``gpu 0-7``)."""
    groups: dict[DeviceMemory, list[DeviceMemory]] = {}
    for device in memory.devices:
        groups.setdefault(device.model_copy(update={"node": 0, "index": 0}), []).append(device)
    several = len({device.node for device in memory.devices}) > 1
    return [(_places(members, several), members[0]) for members in groups.values()]


def tightest(memory: Memory) -> DeviceMemory | None:
    """The device with the least left when everything goes badly."""
    return min(memory.devices, key=lambda device: device.free_low_bytes, default=None)


def free_style(device: DeviceMemory) -> str:
    """Whether what is left is surely enough, perhaps, or not."""
    return GOOD if device.free_low_bytes >= 0 else DOUBTFUL if device.free_high_bytes >= 0 else BAD


def memory_table(memory: Memory) -> RenderableType:
    """What every device holds, GiB, and a bar of what the engine may use of it."""
    rows: list[list[str | Text]] = []
    for place, device in alike(memory):
        free = Text(gib_span(device.free_low_bytes, device.free_high_bytes), style=free_style(device))
        sums = (device.weights_bytes, device.kv_cache_bytes, device.compute_bytes, device.overhead_bytes)
        rows.append(
            [
                place,
                gib(device.capacity_bytes),
                gib(device.engine_visible_bytes),
                gib(device.usable_bytes),
                *(gib(size) for size in sums),
                free,
            ]
        )
    columns = (
        "!GiB",
        ">has",
        ">engine sees",
        ">may use",
        ">weights",
        ">KV cache",
        ">compute",
        ">overhead",
        ">free",
    )
    return stacked(table(columns, rows), _Bars(memory), Packed(_LEGEND, FAINT))


def ledgers(memory: Memory) -> RenderableType:
    """Every entry of every ledger: its size, its formula, where that comes from, and how sure it is."""
    parts: list[RenderableType] = []
    for place, device in alike(memory):
        rows = [_entry_row(entry) for entry in device.ledger]
        total = sum(entry.bytes for entry in device.ledger)
        rows.append([Text("sum"), gib(total, 2), "", Text(f"of {gib(device.usable_bytes, 2)} that it may use")])
        name = printable(f"{place}, {device.name}")
        parts += [Text(""), table((name, ">GiB", "evidence", "formula, and its source"), rows)]
    return stacked(*parts[1:])


def _entry_row(entry: LedgerEntry) -> list[str | Text]:
    size: tuple[str, ...] = (gib(entry.bytes, 2),)
    if entry.low_bytes != entry.high_bytes:
        size = (*size, gib_span(entry.low_bytes, entry.high_bytes, 2))
    why = Text(printable(entry.formula))
    why.append(f"\n{printable(entry.source)}", style=FAINT)
    return [cell(entry.what, f"({entry.kind.replace('_', ' ')})"), cell(*size), entry.evidence, why]


class _Bars:
    """A bar for each group of devices, as wide as there is room, up to ``BAR_WIDTH``."""

    def __init__(self, memory: Memory) -> None:
        self.groups = alike(memory)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        places = max((len(place) for place, _ in self.groups), default=0)
        names = max((len(printable(device.name)) for _, device in self.groups), default=0)
        room = options.max_width - places - len("    []  ")
        named = room - names >= BAR_LEAST
        width = max(min(BAR_WIDTH, room - names if named else room), BAR_LEAST)
        for place, device in self.groups:
            yield _bar(place.ljust(places), device, width, device.name if named else "")


def _bar(place: str, device: DeviceMemory, length: int, name: str) -> Text:
    """``[wwwwkkco....]``: parts of what the engine may use, in letters for those who see no colours."""
    sizes = (device.weights_bytes, device.kv_cache_bytes, device.compute_bytes, device.overhead_bytes)
    whole = max(device.usable_bytes, 1)
    bar = Text(f"  {printable(place)}  [", no_wrap=True, overflow="ignore")
    end, drawn = 0, 0
    for (letter, _, style), size in zip(_PARTS, sizes, strict=True):
        end += max(size, 0)
        width = max(min(round(length * end / whole), length) - drawn, 0)
        bar.append(letter * width, style=style)
        drawn += width
    bar.append("." * (length - drawn), style=FAINT)
    bar.append("]! " if end > whole else "]  ")
    bar.append(printable(name), style=FAINT)
    return bar


def _places(devices: list[DeviceMemory], several_nodes: bool) -> str:
    kind = devices[0].kind
    indices = {node: [device.index for device in group] for node, group in groupby(devices, key=lambda one: one.node)}
    if len({tuple(found) for found in indices.values()}) == 1:
        where = "" if kind in ("host", "disk") else f" {ranges(next(iter(indices.values())))}"
        nodes = "nodes" if len(indices) > 1 else "node"
        return f"{nodes} {ranges(indices)} {kind}{where}" if several_nodes else f"{kind}{where}"
    return ", ".join(f"node {node} {kind} {ranges(found)}" for node, found in indices.items())
