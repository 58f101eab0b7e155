"""CPU memory systems: one TOML file of facts each in `hardware/cpu`, and what such systems delivered."""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.names import NameIndex, Speller, UnknownName

_HARDWARE = Path(__file__).parent / "hardware"
_SPELLER = Speller(
    brands=("amd", "intel", "apple", "nvidia"),
    noise=re.compile(r"@.*|\bw/ radeon.*|\b1[234]th gen\b|\b[0-9]+-cores?\b|\b(?:processor|cpu)\b"),
)
_OMISSIBLE = re.compile(r"ddr5|mrdimm|6[04]00")
_COUNTED = re.compile(r"\s*([0-9]{1,4})\s*[x*\u00d7]\s*(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """The memory system of one CPU family.

    `bandwidth_bytes_per_s_per_socket` is the rated peak with every channel populated, never what a program
    gets: see `load_cpu_measurements`. `flags` are the instruction sets to expect, as /proc/cpuinfo spells
    them. None is unknown.
    """

    key: str
    family: str
    channels_per_socket: int | None
    mt_per_s: int | None
    bandwidth_bytes_per_s_per_socket: float
    max_sockets: int
    memory: str | None
    flags: tuple[str, ...]
    pcie_generation: int | None
    note: str | None
    source: str


@dataclass(frozen=True, slots=True)
class BandwidthFractions:
    """Achieved over rated memory bandwidth, for a machine not measured; `low` to `high` is the band."""

    low: float
    typical: float
    full: float
    high: float
    source: str


@dataclass(frozen=True, slots=True)
class MeasuredBandwidth:
    """One published measurement; a pair of figures is a range, `cpu` the system's key where it is clear."""

    system: str
    sockets: int
    measured_bytes_per_s: tuple[float, ...]
    fraction_of_rated: tuple[float, ...]
    source: str
    cpu: str | None = None
    rated_bytes_per_s: float | None = None
    tool: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class DecodeAnchor:
    """One published decode speed with the experts in RAM; several figures are several runs or machines."""

    model: str
    quantization: str
    system: str
    engine: str
    decode_tokens_per_s: tuple[float, ...]
    source: str
    prefill_tokens_per_s: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class CpuMeasurements:
    planning: BandwidthFractions
    bandwidth: tuple[MeasuredBandwidth, ...]
    decode: tuple[DecodeAnchor, ...]


@functools.cache
def cpu_keys() -> tuple[str, ...]:
    """Every key, sorted; read from the file names alone."""
    return tuple(sorted(path.stem for path in (_HARDWARE / "cpu").glob("*.toml")))


def load_cpu(key: str) -> CpuFacts:
    """The facts under an exact key (see `resolve_cpu_name`); raises `UnknownName`."""
    if key not in cpu_keys():
        raise UnknownName("CPU", key)
    raw = _read(f"cpu/{key}.toml")
    return CpuFacts(
        key=key,
        family=raw["family"],
        channels_per_socket=raw.get("channels_per_socket"),
        mt_per_s=raw.get("mt_per_s"),
        bandwidth_bytes_per_s_per_socket=raw["bandwidth_bytes_per_s_per_socket"],
        max_sockets=raw["max_sockets"],
        memory=raw.get("memory"),
        flags=tuple(raw.get("flags", ())),
        pcie_generation=raw.get("pcie_generation"),
        note=raw.get("note"),
        source=raw["source"],
    )


def load_cpu_measurements() -> CpuMeasurements:
    """The planning fractions and the published measurements behind them."""
    raw = _read("cpu_measured.toml")
    return CpuMeasurements(
        planning=BandwidthFractions(**raw["planning"]),
        bandwidth=tuple(MeasuredBandwidth(**_lists_as_tuples(row)) for row in raw["bandwidth"]),
        decode=tuple(DecodeAnchor(**_lists_as_tuples(row)) for row in raw["decode"]),
    )


def resolve_cpu_name(text: str) -> str:
    """The key that a person or /proc/cpuinfo means by `text`.

    Accepts keys, family words (`Genoa`, `EPYC 9004`) and whole model names (`AMD EPYC 9354 32-Core
    Processor`); case, spaces, dashes and underscores are ignored. Raises `AmbiguousName` where the name
    leaves the memory speed open (EPYC 9005, Xeon 6900P), `UnknownName` otherwise.
    """
    return text if text in cpu_keys() else _index().resolve(text)


def parse_cpu(text: str) -> tuple[int, str]:
    """`2xepyc-9004` -> (2, "epyc-9004"); without a count, one socket.

    Raises `UnknownName` or `AmbiguousName` for the name, and `ValueError` for a number of sockets that no
    board has.
    """
    counted = _COUNTED.fullmatch(text)
    sockets, name = (int(counted[1]), counted[2]) if counted else (1, text)
    key = resolve_cpu_name(name)
    most = load_cpu(key).max_sockets
    if not 1 <= sockets <= most:
        allowed = "one socket" if most == 1 else f"1 to {most} sockets"
        raise ValueError(f"{key} takes {allowed}, not {sockets}")
    return sockets, key


def _read(path: str) -> dict[str, Any]:
    return tomllib.loads((_HARDWARE / path).read_text(encoding="utf-8"))


def _lists_as_tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


@functools.cache
def _index() -> NameIndex:
    aliases = _read("cpu_aliases.toml")
    models = tuple((re.compile(row["pattern"]), tuple(row["keys"])) for row in aliases["models"])
    return NameIndex.build("CPU", _SPELLER, cpu_keys(), (aliases["short"],), _OMISSIBLE, models)
