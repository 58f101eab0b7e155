"""`scontrol show node`, as text (one line a node with -o, or in paragraphs) and as JSON.

A type in Gres is the administrator's own word, without memory. Sources: slurm.schedmd.com/scontrol.html and
/gres.html; RealMemory is in MiB, CPUTot counts threads.
"""

from __future__ import annotations

import re
from typing import Any, Final

from hwdetect.cluster.listing import Described, Listing, count, distinct, node_of, quantity, rows, text
from hwdetect.inventory import Node

USABLE_STATES: Final = frozenset({"IDLE", "MIXED", "ALLOCATED", "COMPLETING", "PLANNED", "RESERVED"})
FATAL_FLAGS: Final = ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "POWERED_DOWN", "MAINT", "UNKNOWN", "INVAL", "ERROR")
_MEBI: Final = 1 << 20
_GRES = re.compile(r"gpu(?::([A-Za-z0-9_.+-]{1,64}))?:([0-9]{1,4})(?:\([^)]*\))?", re.ASCII)
_PAIR = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z0-9_/:]{0,40})=", re.ASCII)


def is_listing(document: dict[str, Any]) -> bool:
    """Whether this is what ``scontrol show node --json`` prints."""
    nodes = rows(document.get("nodes"))
    return "schema" not in document and bool(nodes) and all("gres" in node and "name" in node for node in nodes)


def read(document: dict[str, Any]) -> Listing:
    """Nodes of the JSON form."""
    nodes: list[Node] = []
    notes: list[str] = []
    for number, row in enumerate(rows(document.get("nodes"))):
        state = row.get("state")
        states = [text(part) for part in state] if isinstance(state, list) else [text(state)]
        name = text(row.get("name")) or f"node{number}"
        _add(nodes, notes, name, states, text(row.get("gres")), row.get("real_memory"), row.get("cores"), row)
    return distinct(nodes, notes)


def read_text(listing: str) -> Listing:
    """Nodes of the text form."""
    nodes: list[Node] = []
    notes: list[str] = []
    for number, paragraph in enumerate(_paragraphs(listing)):
        row = _pairs(paragraph)
        name = row.get("NodeName") or f"node{number}"
        states = re.split(r"[+*~#!%$@^-]+", row.get("State", ""))
        _add(nodes, notes, name, states, row.get("Gres", ""), row.get("RealMemory"), row.get("CoresPerSocket"), row)
    return distinct(nodes, notes)


def _add(
    nodes: list[Node],
    notes: list[str],
    name: str,
    states: list[str],
    gres: str,
    mebibytes: object,
    per_socket: object,
    row: dict[str, Any],
) -> None:
    named = [state.upper() for state in states if state]
    fatal = [state for state in named if any(state.startswith(flag) for flag in FATAL_FLAGS)]
    if fatal or not any(state in USABLE_STATES for state in named):
        notes.append(f"{name} is left out: its state is {'+'.join(named)[:60] or 'not given'}")
        return
    gpus = _gpus(name, gres, notes)
    size = quantity(mebibytes)
    sockets = quantity(row.get("Sockets") or row.get("sockets"))
    cores = quantity(per_socket)
    nodes.append(
        node_of(
            name,
            gpus,
            source="Slurm RealMemory and Gres",
            cores=float(min(cores * sockets, 1 << 20)) if cores and sockets else None,
            memory_bytes=size * _MEBI if size and size < 1 << 40 else None,
        )
    )


def _gpus(name: str, gres: str, notes: list[str]) -> list[Described]:
    """GPUs of ``gpu:h100:8(S:0-1)``; those without a type are left out, since nobody could say what they are."""
    found: dict[str, int] = {}
    for kind, number in _GRES.findall(gres):
        if not kind:
            notes.append(f"{name}: {number} GPUs without a type in Gres are left out")
        else:
            found[kind] = found.get(kind, 0) + count(number)
    return [Described(kind, many, many, None, f"Slurm Gres {kind}") for kind, many in found.items() if many]


def _paragraphs(listing: str) -> list[str]:
    """A paragraph begins with a line that begins with NodeName=."""
    found: list[list[str]] = []
    for line in listing.splitlines():
        if line.startswith("NodeName="):
            found.append([])
        if found:
            found[-1].append(line.strip())
    return [" ".join(lines) for lines in found]


def _pairs(paragraph: str) -> dict[str, str]:
    """Keys and values; a value may hold blanks, and ends where the next key begins."""
    places = list(_PAIR.finditer(paragraph))
    ends = [place.start() for place in places[1:]] + [len(paragraph)]
    found: dict[str, str] = {}
    for place, end in zip(places, ends, strict=True):
        found.setdefault(place[1], text(paragraph[place.end() : end]))
    return found
