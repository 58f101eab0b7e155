"""Memory by device: a bar of what every device holds, the table, and the ledgers."""

from __future__ import annotations

from typing import Any, Final

from moeplan.report.figures import BLUE, GREEN, GREY, ORANGE, PINK, RED, Chart, Key, drawn, figure, label
from moeplan.report.markup import Html, columns, details, el, joined, linked, table, text
from moeplan.text_ledger import alike
from moeplan.text_numbers import gib, gib_span, plural
from planner.plan import DeviceMemory, LedgerEntry, Memory

KINDS: Final = (
    ("weights", "weights", BLUE, "#ffffff"),
    ("kv_cache", "KV cache", ORANGE, "#1b1b1b"),
    ("compute", "compute buffers", GREEN, "#ffffff"),
    ("overhead", "overhead", PINK, "#1b1b1b"),
)
FREE: Final = "rgba(128,138,148,0.22)"
FULL: Final = {
    "type": "line", "x0": 100, "x1": 100, "yref": "paper", "y0": 0, "y1": 1,
    "line": {"color": RED, "width": 2, "dash": "dash"},
}  # fmt: skip
"""All that the engine may use, drawn where the ledger may exceed it."""
ROW_PX: Final = 58
MOST_SAID: Final = 3
LABELLED: Final = 6.0
"""Percent of the bar from which a part has room for its size."""


def memory_body(memory: Memory) -> Html:
    """The section's body."""
    return joined(
        [
            el(
                "p",
                "Every device with the same load is one row. The bar is what the engine may use of the device; what is "
                "left of it is free. GiB is 2^30 bytes.",
            ),
            drawn(memory_chart(memory)),
            *[
                details(
                    f"Ledger of {place}: {device.name}, {plural(len(device.ledger), 'entry')}".replace(
                        "entrys", "entries"
                    ),
                    ledger(place, device),
                )
                for place, device in alike(memory)
            ],
        ]
    )


def memory_chart(memory: Memory) -> Chart:
    """Stacked bars, percent of the usable memory, GiB written in."""
    rows = [(place, device) for place, device in alike(memory) if device.usable_bytes > 0]
    names = [label(place, _short(device.name)) for place, device in rows]
    traces: list[dict[str, Any]] = []
    ends = [0.0 for _ in rows]
    for kind, name, colour, ink in KINDS:
        sizes = [_size(device, kind) for _, device in rows]
        shares = [_percent(size, device) for size, (_, device) in zip(sizes, rows, strict=True)]
        hover = [
            label(f"{place}: {name}", f"{gib(size, 2)} GiB of {gib(device.usable_bytes, 1)} GiB")
            for size, (place, device) in zip(sizes, rows, strict=True)
        ]
        middles = [end + share / 2 for end, share in zip(ends, shares, strict=True)]
        ends = [end + share for end, share in zip(ends, shares, strict=True)]
        texts = [
            gib(size) if share >= LABELLED and middle + LABELLED / 2 <= _least(device) else ""
            for size, share, middle, (_, device) in zip(sizes, shares, middles, rows, strict=True)
        ]
        traces.append(
            _bars(name, names, shares, hover, texts, {"color": colour, "line": {"color": "#ffffff", "width": 1}}, ink)
        )
    free = [max(device.free_bytes, 0) for _, device in rows]
    spans = [gib_span(device.free_low_bytes, device.free_high_bytes) for _, device in rows]
    traces.append(
        _bars(
            "free", names, [_percent(size, device) for size, (_, device) in zip(free, rows, strict=True)],
            [label(f"{place}: free", f"{span} GiB") for (place, _), span in zip(rows, spans, strict=True)],
            [""] * len(rows), {"color": FREE, "line": {"color": GREY, "width": 1}}, GREY,
        )
    )  # fmt: skip
    traces += [_uncertainty(names, [device for _, device in rows]), _free_labels(names, [device for _, device in rows])]
    widest = max([100.0, *[_percent(device.usable_bytes - device.free_low_bytes, device) for _, device in rows]])
    drawing = figure(
        traces,
        76 + ROW_PX * len(rows),
        {"title": "share of the memory that the engine may use, %", "range": [0, widest * 1.02]},
        {"autorange": "reversed"},
        barmode="stack",
        bargap=0.35,
        shapes=[FULL] if widest > 100 else [],
    )
    drawing["narrow"]["yaxis"] |= {"tickvals": names, "ticktext": [label(place) for place, _ in rows]}
    keys = [Key(name, colour) for _, name, colour, _ in KINDS]
    keys += [Key("free", FREE), Key("range of the sum", GREY, "whisker")]
    return Chart("memory", "Memory of every device", _said(rows), drawing, memory_table(memory), tuple(keys))


def _bars(
    name: str, names: list[str], shares: list[float], hover: list[str], texts: list[str], marker: dict[str, Any],
    ink: str,
) -> dict[str, Any]:  # fmt: skip
    return {
        "type": "bar", "orientation": "h", "name": name, "x": shares, "y": names, "marker": marker, "text": texts,
        "textposition": "inside", "insidetextanchor": "middle", "textangle": 0, "constraintext": "none",
        "textfont": {"color": ink},
        "hovertext": hover, "hoverinfo": "text",
    }  # fmt: skip


def _uncertainty(names: list[str], devices: list[DeviceMemory]) -> dict[str, Any]:
    """Whiskers from the least to the most that the ledger may take."""
    middle = [_percent(device.usable_bytes - device.free_bytes, device) for device in devices]
    least = [_least(device) for device in devices]
    most = [_percent(device.usable_bytes - device.free_low_bytes, device) for device in devices]
    return {
        "type": "scatter", "mode": "markers", "name": "range of the sum", "x": middle, "y": names,
        "marker": {"symbol": "line-ns-open", "size": 11, "color": GREY},
        "error_x": {
            "type": "data", "symmetric": False, "color": GREY, "thickness": 2, "width": 6,
            "array": [high - at for high, at in zip(most, middle, strict=True)],
            "arrayminus": [at - low for low, at in zip(least, middle, strict=True)],
        },
        "hoverinfo": "skip",
    }  # fmt: skip


def _free_labels(names: list[str], devices: list[DeviceMemory]) -> dict[str, Any]:
    """What is free, written on the free part where there is room: beside bars, text has the page's colour."""
    shares = [_percent(max(device.free_low_bytes, 0), device) for device in devices]
    texts = [f"{gib_span(device.free_low_bytes, device.free_high_bytes)} free" for device in devices]
    return {
        "type": "scatter", "mode": "text", "meta": "wide", "y": names, "x": [100 - share / 2 for share in shares],
        "text": [said if share >= 3 * LABELLED else "" for said, share in zip(texts, shares, strict=True)],
        "hoverinfo": "skip",
    }  # fmt: skip


def _said(rows: list[tuple[str, DeviceMemory]]) -> str:
    """The fullest devices in words."""
    fullest = sorted(rows, key=lambda row: row[1].free_low_bytes)[:MOST_SAID]
    parts = [
        f"{place} holds {gib(device.weights_bytes)} GiB of weights"
        + (f" and {gib(device.kv_cache_bytes)} GiB of KV cache" if device.kv_cache_bytes else "")
        + f", {_left(device)}"
        for place, device in fullest
    ]
    others = f"; {len(rows) - len(fullest)} others have more left" if len(rows) > len(fullest) else ""
    return "; ".join(parts) + f"{others}."


def _left(device: DeviceMemory) -> str:
    usable = gib(device.usable_bytes)
    if device.free_high_bytes < 0:
        return f"which is {gib_span(-device.free_high_bytes, -device.free_low_bytes)} GiB more than its {usable}"
    return f"with {gib_span(device.free_low_bytes, device.free_high_bytes)} of {usable} GiB free"


def memory_table(memory: Memory) -> Html:
    """What every device has, in GiB."""
    heads = columns("device", ">has", ">engine sees", ">may use", *[f">{name}" for _, name, _, _ in KINDS], ">free")
    rows = [
        (
            f"{place}, {device.name}",
            gib(device.capacity_bytes),
            gib(device.engine_visible_bytes),
            gib(device.usable_bytes),
            *[gib(_size(device, kind)) for kind, *_ in KINDS],
            gib_span(device.free_low_bytes, device.free_high_bytes),
        )
        for place, device in alike(memory)
    ]
    return table("Memory of every device, GiB", heads, rows)


def ledger(place: str, device: DeviceMemory) -> Html:
    """Every entry with its formula, its source and how sure it is."""
    rows = [
        (
            joined([entry.what, el("br"), el("span", entry.kind.replace("_", " "), class_="faint")]),
            entry_size(entry),
            el("span", entry.evidence, class_=f"evidence {entry.evidence}"),
            joined([entry.formula, el("br"), el("span", linked(entry.source), class_="faint")]),
        )
        for entry in device.ledger
    ]
    return table(
        f"Ledger of {place}, GiB", columns("entry", ">GiB", "evidence", "formula, and its source"), rows, stack=True
    )


def entry_size(entry: LedgerEntry) -> Html:
    """Its bytes, and their range where they are not exact."""
    if entry.low_bytes == entry.high_bytes:
        return text(gib(entry.bytes, 2))
    return joined(
        [gib(entry.bytes, 2), el("br"), el("span", gib_span(entry.low_bytes, entry.high_bytes, 2), class_="faint")]
    )


def _size(device: DeviceMemory, kind: str) -> int:
    size: int = getattr(device, f"{kind}_bytes")
    return size


def _least(device: DeviceMemory) -> float:
    """Percent of its memory that the ledger takes when everything uncertain goes well."""
    return _percent(device.usable_bytes - device.free_high_bytes, device)


def _percent(size: int, device: DeviceMemory) -> float:
    return round(100 * size / device.usable_bytes, 3)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:22]}..."
