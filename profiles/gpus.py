"""Accelerators: one TOML file of facts each in `hardware/gpu`, found by forgiving names."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from formulas.units import GIB, MIB
from profiles.names import NameIndex, Speller, UnknownName

_HARDWARE = Path(__file__).parent / "hardware"
# Totals of one device differ by driver and ECC reserve (an A100 by 0.8 %, a T4 by 1.6 %); the variants that
# share a name differ by far more.
_TOTAL_TOLERANCE = 0.02
_SPELLER = Speller(
    brands=(
        *("nvidia", "geforce", "tesla", "rtx", "amd", "instinct", "radeon", "rx"),
        *("intel", "arc", "apple", "huawei", "ascend"),
    ),
    noise=re.compile(r"(?<=[0-9])\s*gi?b\b"),
)
_OMISSIBLE = re.compile(r"[0-9]{1,3}|sxm|pcie|nvl|mod|ws|server|maxq")


@dataclass(frozen=True, slots=True)
class Link:
    """A GPU's own interconnect; the rate is one GPU's over all its links, one way.

    `max_gpus` is how many GPUs it can join; None where that is the whole node.
    """

    generation: str
    bytes_per_s_per_direction: float
    links: int | None = None
    max_gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Pcie:
    generation: int
    lanes: int
    bytes_per_s_per_direction: float


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What is known of one kind of accelerator, as the system shows it (a die where dies are devices).

    `reported_total_bytes` is what NVML or the vendor's tool prints, with `reported_total_evidence` "seen" (in
    such output), "datasheet", "inferred" (from a sibling) or "nominal". `alternative_totals_bytes` are totals
    under other settings (`ecc_on`, `ecc_off`, `older_driver`). `engine_visible_bytes` is what an engine's
    runtime sees of it. `dense_flops_per_s` holds the matrix-unit rates without sparsity by input type (bf16,
    or fp16 where the device has no bf16; fp8, int8, fp4); a type without a known rate is absent. `link` joins
    GPUs, `cpu_link` the GPU and its CPU. `working_set_fraction` is the part of unified memory that the GPU
    may use by default. `evidence` says where the figures that are not simply in `sources` come from.
    """

    key: str
    reported_name: str
    vendor: str
    nominal_gb: int
    reported_total_bytes: int | None
    reported_total_evidence: str | None
    alternative_totals_bytes: Mapping[str, int]
    engine_visible_bytes: int | None
    engine_visible_source: str | None
    bandwidth_bytes_per_s: float
    dense_flops_per_s: Mapping[str, float]
    compute_capability: str
    link: Link | None
    cpu_link: Link | None
    pcie: Pcie | None
    tdp_w: int | None
    unified: bool
    working_set_fraction: float | None
    evidence: Mapping[str, str]
    sources: tuple[str, ...]
    note: str | None

    @property
    def capacity_bytes(self) -> int:
        """The reported total, else the nominal size read as GiB."""
        return self.reported_total_bytes if self.reported_total_bytes is not None else self.nominal_gb * GIB

    @property
    def capacity_evidence(self) -> Literal["reported", "assumed"]:
        """`reported` only where a device was seen printing the total."""
        return "reported" if self.reported_total_evidence == "seen" else "assumed"


@functools.cache
def gpu_keys() -> tuple[str, ...]:
    """Every hardware key, sorted; read from the file names alone."""
    return tuple(sorted(path.stem for path in (_HARDWARE / "gpu").glob("*.toml")))


@functools.cache
def load_gpu(key: str) -> GpuFacts:
    """The facts under an exact key (see `resolve_gpu_name`); raises `UnknownName`."""
    if key not in gpu_keys():
        raise UnknownName("GPU", key)
    raw: dict[str, Any] = tomllib.loads((_HARDWARE / "gpu" / f"{key}.toml").read_text(encoding="utf-8"))
    return GpuFacts(
        key=key,
        reported_name=raw["reported_name"],
        vendor=raw["vendor"],
        nominal_gb=raw["nominal_gb"],
        reported_total_bytes=raw.get("reported_total_bytes"),
        reported_total_evidence=raw.get("reported_total_evidence"),
        alternative_totals_bytes=raw.get("alternative_totals_bytes", {}),
        engine_visible_bytes=raw.get("engine_visible_bytes"),
        engine_visible_source=raw.get("engine_visible_source"),
        bandwidth_bytes_per_s=raw["bandwidth_bytes_per_s"],
        dense_flops_per_s=raw["dense_flops_per_s"],
        compute_capability=raw["compute_capability"],
        link=Link(**raw["link"]) if "link" in raw else None,
        cpu_link=Link(**raw["cpu_link"]) if "cpu_link" in raw else None,
        pcie=Pcie(**raw["pcie"]) if "pcie" in raw else None,
        tdp_w=raw.get("tdp_w"),
        unified=raw.get("unified", False),
        working_set_fraction=raw.get("working_set_fraction"),
        evidence=raw["evidence"],
        sources=tuple(raw["sources"]),
        note=raw.get("note"),
    )


def resolve_gpu_name(text: str) -> str:
    """The hardware key that a person means by `text`.

    Accepts keys, reported names and short forms; case, spaces, dashes and underscores are ignored. `H100`,
    `H200`, `H800`, `A100-80` and `B200` mean SXM, `RTX4090` the 24 GB card, `RTX-PRO-6000` the workstation
    card. Raises `AmbiguousName` for what fits several keys or goes on after a known name, `UnknownName`
    otherwise.
    """
    return text if text in gpu_keys() else _index().resolve(text)


@functools.lru_cache(maxsize=4096)
def match_reported(name: str, total_mib: int | None) -> str | None:
    """The key of a detected device from the name and total that its driver reports; None where not clear.

    A name alone (no total read, or none known for the device) is enough only if one key has it; a total that
    does not fit the name (a vGPU, an unknown variant) gives None.
    """
    meaning = _reported_names().get(_SPELLER.bare(name), ())
    fitting = [key for key in meaning if _total_fits(load_gpu(key), total_mib)]
    return fitting[0] if len(fitting) == 1 else None


def _total_fits(facts: GpuFacts, total_mib: int | None) -> bool:
    if total_mib is None or facts.reported_total_bytes is None:
        return True
    totals = (facts.reported_total_bytes, *facts.alternative_totals_bytes.values())
    return any(abs(total_mib * MIB - total) <= _TOTAL_TOLERANCE * total for total in totals)


@functools.cache
def _aliases() -> dict[str, dict[str, str | list[str]]]:
    return tomllib.loads((_HARDWARE / "gpu_aliases.toml").read_text(encoding="utf-8"))


@functools.cache
def _index() -> NameIndex:
    tables = (_aliases()["short"], _aliases()["reported"])
    return NameIndex.build("GPU", _SPELLER, gpu_keys(), tables, _OMISSIBLE)


@functools.cache
def _reported_names() -> Mapping[str, tuple[str, ...]]:
    return {
        _SPELLER.bare(name): (meaning,) if isinstance(meaning, str) else tuple(meaning)
        for name, meaning in _aliases()["reported"].items()
    }
