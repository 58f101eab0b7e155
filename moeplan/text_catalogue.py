"""The built-in models and the known hardware for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from formulas.units import GB, GIB
from moeplan.text import heading, stacked, table
from profiles.cpus import CpuFacts
from profiles.gpus import GpuFacts
from profiles.model import ModelSpec, active_parameters

TERA = 10**12


def models_view(models: Sequence[ModelSpec]) -> RenderableType:
    """One row for each model; the size is that of the weights as their maker published them."""
    columns = (
        "!id", ">billion\nweights", ">billion\nactive", "native", ">weights\nGB", ">context\ntokens",
        ">releases", "repository",
    )  # fmt: skip
    rows = [
        [
            model.id,
            f"{model.parameters / 1e9:,.1f}",
            f"{active_parameters(model, with_embedding=True) / 1e9:,.1f}",
            model.native_quantization,
            f"{sum(group.bytes for group in model.tensors) / GB:,.1f}",
            f"{model.max_context:,}",
            str(sum(release.status == "published" for release in model.releases)),
            model.repository,
        ]
        for model in models
    ]
    return table(columns, rows)


def hardware_view(gpus: Sequence[GpuFacts], cpus: Sequence[CpuFacts]) -> RenderableType:
    """Accelerators with their memory and dense rates, then CPU memory systems with their rated bandwidth."""
    return stacked(
        heading(f"{len(gpus)} accelerators (--gpu)"),
        _gpus(gpus),
        heading(f"{len(cpus)} CPU memory systems (--cpu)"),
        _cpus(cpus),
    )


def _gpus(gpus: Sequence[GpuFacts]) -> RenderableType:
    columns = (
        "!key", ">memory\nGiB", "!memory\nis", ">memory\nGB/s", ">TFLOP/s\n16-bit", ">dense\nFP8", ">\nFP4",
        "!compute\ncapability", ">link, GB/s\none way",
    )  # fmt: skip
    rows = [
        [
            gpu.key,
            f"{gpu.capacity_bytes / GIB:,.1f}",
            gpu.capacity_evidence,
            f"{gpu.bandwidth_bytes_per_s / GB:,.0f}",
            _rate(gpu, "bf16") or _rate(gpu, "fp16"),
            _rate(gpu, "fp8"),
            _rate(gpu, "fp4"),
            gpu.compute_capability,
            _link(gpu),
        ]
        for gpu in gpus
    ]
    return table(columns, rows)


def _rate(gpu: GpuFacts, kind: str) -> str:
    rate = gpu.dense_flops_per_s.get(kind)
    return "" if rate is None else f"{rate / TERA:,.0f}"


def _link(gpu: GpuFacts) -> str:
    if gpu.link is not None:
        return f"{gpu.link.bytes_per_s_per_direction / GB:,.0f}"
    return "" if gpu.pcie is None else f"PCIe {gpu.pcie.bytes_per_s_per_direction / GB:,.0f}"


def _cpus(cpus: Sequence[CpuFacts]) -> RenderableType:
    columns = ("!key", "family", ">rated GB/s\na socket", ">sockets\nat most", "memory", "PCIe")
    rows = [
        [
            cpu.key,
            cpu.family,
            f"{cpu.bandwidth_bytes_per_s_per_socket / GB:,.0f}",
            str(cpu.max_sockets),
            cpu.memory or "",
            "" if cpu.pcie_generation is None else str(cpu.pcie_generation),
        ]
        for cpu in cpus
    ]
    return table(columns, rows)
